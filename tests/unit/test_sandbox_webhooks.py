"""The sandbox sends every family of bodies, and does to each webhook what it was told to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from paystate.errors import SignatureRejected
from paystate.flutterwave import exact
from paystate.flutterwave.payloads import parse_event
from paystate.flutterwave.sandbox import Form, RunningSandbox, SandboxConfig, open_sandbox
from paystate.flutterwave.sandbox.bodies import SECRET_MARK
from paystate.flutterwave.sandbox.families import OTHERS, PAYMENTS, REFUNDS, Family
from paystate.flutterwave.sandbox.fates import LIES, Fate, Mishap
from paystate.flutterwave.sandbox.teller import Manner
from paystate.flutterwave.signatures import SignatureVerifier
from paystate.status import Status
from paystate.updates import Api, Event, Ignored, Kind, Overlay, OverlayType, PaymentUpdate

NGN = {"amount": Decimal("1500.25"), "currency": "NGN"}
CALM = {"duplicate_rate": 0.0, "delay_rate": 0.0, "reorder_rate": 0.0}
CURRENT, PREVIOUS = "the-current-secret", "the-previous-secret"


@dataclass
class Hook:
    """A webhook endpoint that knows the current secret only."""

    url: str = ""
    code: int = 200
    raws: list[bytes] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.raws.append(raw)
        self.types.append(request.content_type)
        try:
            api = SignatureVerifier([CURRENT]).verify(raw, request.headers)
        except SignatureRejected as rejected:
            self.refused.append(rejected.reason)
            return web.Response(status=401)
        body = exact.read_body(raw, request.headers["Content-Type"])
        self.events.append(parse_event(api, body, raw))
        return web.Response(status=self.code)

    @property
    def updates(self) -> list[PaymentUpdate]:
        return [e.subject for e in self.events if isinstance(e.subject, PaymentUpdate)]


@asynccontextmanager
async def hook_and_sandbox(**config: Any) -> AsyncIterator[tuple[Hook, RunningSandbox]]:
    """A sandbox and the endpoint it sends to, each on a port."""
    hook = Hook()
    app = web.Application()
    app.router.add_post("/hook", hook.handle)
    async with TestServer(app) as server:
        hook.url = str(server.make_url("/hook"))
        told: dict[str, Any] = {
            "receiver_url": hook.url,
            "secret_hash": CURRENT,
            "previous_secret_hash": PREVIOUS,
            "seed": 1,
            "retry_interval_s": 0.0,
            **CALM,
            **config,
        }
        async with open_sandbox(SandboxConfig(**told)) as running:
            yield hook, running


def outcomes(running: RunningSandbox) -> list[tuple[str, int | None]]:
    return [(d.outcome, d.code) for d in running.sandbox.sender.deliveries]


@pytest.mark.parametrize("form_encoded", [False, True])
@pytest.mark.parametrize("family", list(Family))
async def test_the_parser_reads_every_family_that_is_sent(
    family: Family, form_encoded: bool
) -> None:
    async with hook_and_sandbox() as (hook, running):
        manner = Manner(form_encoded=form_encoded)
        payment = running.sandbox.send(family, status="failed", manner=manner)
        await running.sandbox.sender.idle()
        assert outcomes(running) == [("acknowledged", 200)]
        (delivery,) = running.sandbox.sender.deliveries
        assert (delivery.family, delivery.form_encoded) == (family.value, form_encoded)
        (event,) = hook.events
        subject = event.subject
        if payment is None:
            assert isinstance(subject, Ignored)
            sensitive = family in (Family.VIRTUAL_CARD_DEBIT, Family.VIRTUAL_CARD_OTP)
            assert subject.stored is not sensitive
        elif family in PAYMENTS:
            assert isinstance(subject, PaymentUpdate)
            assert (subject.payment_id, subject.status) == (str(payment.id), Status.FAILED)
            assert (subject.amount, subject.currency) == (payment.amount, "NGN")
            assert (subject.tx_ref, subject.flaws) == (payment.tx_ref, ())
        else:
            assert isinstance(subject, Overlay)
            reversal = family is Family.V4_REVERSAL
            assert subject.type is (OverlayType.REVERSAL if reversal else OverlayType.REFUND)
            assert (subject.payment_id, subject.amount) == (str(payment.id), payment.amount)
        says_form = hook.types == ["application/x-www-form-urlencoded"]
        assert says_form is form_encoded


@pytest.mark.parametrize("family", [f for f in OTHERS if f is not Family.SINGLE_BILL_PAYMENT])
async def test_what_must_not_be_kept_is_marked_in_every_other_family(family: Family) -> None:
    async with hook_and_sandbox() as (hook, running):
        running.sandbox.send(family)
        await running.sandbox.sender.idle()
        assert SECRET_MARK in hook.raws[0].decode()
        assert SECRET_MARK not in repr(hook.events[0])


async def test_the_truth_and_the_webhook_agree_on_refund_and_reversal() -> None:
    async with hook_and_sandbox() as (_, running):
        for family in (*REFUNDS, Family.V4_REVERSAL):
            payment = running.sandbox.send(family)
            assert payment is not None
            truth = payment.to_truth()
            assert truth["status"] == "successful"
            assert (truth["refunded"], truth["reversed"]) == (
                ("0", True) if family is Family.V4_REVERSAL else ("1500.25", False)
            )


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "lie",
    [Mishap.CONTRADICT, Mishap.WRONG_AMOUNT, Mishap.WRONG_CURRENCY, Mishap.WRONG_REFERENCE],
)
async def test_a_lie_changes_one_thing_and_not_the_truth(
    form: Form, kind: Kind, lie: Mishap
) -> None:
    async with hook_and_sandbox() as (hook, running):
        sandbox = running.sandbox
        payment = sandbox.create(form=form, kind=kind, **NGN)
        before = payment.to_json()
        manner = Manner(faults=frozenset({lie}))
        sandbox.settle(payment, "successful", manner=manner)
        await sandbox.sender.idle()
        (seen,) = hook.updates
        assert {
            Mishap.CONTRADICT: seen.status is not payment.status,
            Mishap.WRONG_AMOUNT: seen.amount != payment.amount,
            Mishap.WRONG_CURRENCY: seen.currency != payment.currency,
            Mishap.WRONG_REFERENCE: seen.tx_ref != payment.tx_ref,
        } == {m: m is lie for m in LIES}
        assert payment.status is Status.SUCCESSFUL
        assert payment.to_json()["amount"] == before["amount"]
        assert sandbox.sender.deliveries[0].faults == (lie.value,)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("mishap", [Mishap.OLD_SECRET, Mishap.BAD_SIGNATURE])
async def test_a_wrong_secret_is_refused_and_tried_three_more_times(
    form: Form, mishap: Mishap
) -> None:
    async with hook_and_sandbox() as (hook, running):
        payment = running.sandbox.create(form=form, **NGN)
        running.sandbox.announce(payment, Manner(faults=frozenset({mishap})))
        await running.sandbox.sender.idle()
        assert hook.refused == ["mismatch"] * 4
        assert [d.attempt for d in running.sandbox.sender.deliveries] == [1, 2, 3, 4]
        assert len(set(hook.raws)) == 1


async def test_the_old_secret_is_good_where_it_still_counts() -> None:
    async with hook_and_sandbox(previous_secret_hash=CURRENT) as (hook, running):
        payment = running.sandbox.create(**NGN)
        old = frozenset({Mishap.OLD_SECRET})
        running.sandbox.announce(payment, Manner(faults=old))
        await running.sandbox.sender.idle()
        assert len(hook.updates) == 1


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_it_is_sent_again_as_often_as_the_account_is_set(retries: int) -> None:
    async with hook_and_sandbox(retries=retries) as (hook, running):
        hook.code = 204
        running.sandbox.create(announce=True, **NGN)
        await running.sandbox.sender.idle()
        assert outcomes(running) == [("refused", 204)] * (retries + 1)


async def test_rates_hit_their_share_and_the_seed_says_whom() -> None:
    rates = {
        "duplicate_rate": 0.2,
        "drop_rate": 0.1,
        "contradict_rate": 0.3,
        "wrong_amount_rate": 0.05,
        "old_secret_rate": 0.1,
        "bad_signature_rate": 0.02,
    }
    counts = []
    for _ in range(2):
        async with hook_and_sandbox(retries=0, **rates) as (_, running):
            sandbox = running.sandbox
            for _ in range(1000):
                sandbox.create(announce=True, **NGN)
            await sandbox.sender.idle()
            first = [d for d in sandbox.sender.deliveries if d.copy == 1]
            assert len(first) == 1000
            counts.append(Counter(fault for d in first for fault in d.faults))
    assert counts[0] == counts[1]
    assert counts[0] == {
        "duplicate": 204,
        "drop": 94,
        "contradict": 294,
        "wrong_amount": 45,
        "old_secret": 110,
        "bad_signature": 24,
    }


async def test_what_is_foretold_comes_first_and_shifts_no_draw() -> None:
    async with hook_and_sandbox(drop_rate=0.5) as (_, running):
        for _ in range(20):
            running.sandbox.create(announce=True, **NGN)
        await running.sandbox.sender.idle()
        drawn = [bool(d.faults) for d in sorted_by_payment(running)]
    async with hook_and_sandbox(drop_rate=0.5) as (_, running):
        running.sandbox.sender.foretell(Fate.of([Mishap.DUPLICATE]), count=2)
        for _ in range(19):
            running.sandbox.create(announce=True, **NGN)
        await running.sandbox.sender.idle()
        told = [d.faults for d in sorted_by_payment(running) if d.copy == 1]
        assert told[:2] == [("duplicate",)] * 2
        assert [bool(faults) for faults in told[2:]] == drawn[2:19]


def sorted_by_payment(running: RunningSandbox) -> list[Any]:
    return sorted(running.sandbox.sender.deliveries, key=lambda d: (int(d.payment_id), d.number))


async def test_forms_can_be_the_accounts_setting() -> None:
    async with hook_and_sandbox() as (hook, running):
        sandbox = running.sandbox
        sandbox.sender.policy = replace(sandbox.sender.policy, form_encoded=True)
        payment = sandbox.create(announce=True, **NGN)
        await sandbox.sender.idle()
        assert hook.types == ["application/x-www-form-urlencoded"]
        assert hook.updates[0].payment_id == str(payment.id)


async def test_no_secret_stands_in_the_list_of_deliveries() -> None:
    async with hook_and_sandbox() as (_, running):
        for family in Family:
            running.sandbox.send(family)
        await running.sandbox.sender.idle()
        listed = json.dumps([d.to_json() for d in running.sandbox.sender.deliveries])
        assert CURRENT not in listed
        assert SECRET_MARK not in listed


async def test_v4_is_signed_and_v3_is_not() -> None:
    async with hook_and_sandbox() as (hook, running):
        for family in Family:
            running.sandbox.send(family)
        await running.sandbox.sender.idle()
        v4 = {e.api for e in hook.events if e.type.startswith(("order.", "refund."))}
        assert v4 == {Api.V4}
