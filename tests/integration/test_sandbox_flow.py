"""What the sandbox's worst webhooks come to in a whole paystate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from paystate.flutterwave.sandbox import Form, Payment, RunningSandbox
from paystate.flutterwave.sandbox.bodies import SECRET_MARK
from paystate.flutterwave.sandbox.families import OTHERS, Family
from paystate.flutterwave.sandbox.fates import Mishap
from paystate.flutterwave.sandbox.teller import Manner
from paystate.keys import Entity, EntityKind
from paystate.updates import Kind
from tests.conftest import Opener
from tests.harness import SECRET, World, open_provider, open_world, provider_settings

CALM = {"duplicate_rate": 0.0, "delay_rate": 0.0, "reorder_rate": 0.0, "retry_interval_s": 0.0}
NGN = {"amount": Decimal("1500.25"), "currency": "NGN"}
PREVIOUS = "previous-hash"


@asynccontextmanager
async def _flow(
    open_process: Opener, **settings: str
) -> AsyncIterator[tuple[World, RunningSandbox]]:
    """A paystate, and a sandbox that sends to it."""
    async with (
        open_provider(secret_hash=SECRET, previous_secret_hash=PREVIOUS, **CALM) as running,
        open_world(open_process, **provider_settings(running), **settings) as world,
    ):
        sender = running.sandbox.sender
        sender.receiver = replace(sender.receiver, url=f"{world.url}/webhooks/flutterwave")
        yield world, running


async def _succeed(running: RunningSandbox, form: Form, *mishaps: Mishap) -> Payment:
    payment = running.sandbox.create(form=form, **NGN)
    manner = Manner(faults=frozenset(mishaps))
    running.sandbox.settle(payment, "successful", manner=manner)
    await running.sandbox.sender.idle()
    return payment


def _codes(running: RunningSandbox) -> list[int | None]:
    return [d.code for d in running.sandbox.sender.deliveries]


async def _ends(world: World, payment: Payment) -> list[tuple[str, str | None]]:
    kind = EntityKind.CHARGE if payment.kind is Kind.CHARGE else EntityKind.TRANSFER
    entity = Entity("default", kind, str(payment.id))
    return [(row["state"], row["reason"]) for row in await world.resources.store.history(entity)]


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (Mishap.WRONG_AMOUNT, "amount_mismatch"),
        (Mishap.WRONG_CURRENCY, "currency_mismatch"),
        (Mishap.WRONG_REFERENCE, "reference_mismatch"),
    ],
)
async def test_what_does_not_match_is_held_until_a_matching_event_settles_it(
    open_process: Opener, form: Form, lie: Mishap, reason: str
) -> None:
    async with _flow(open_process) as (world, running):
        payment = await _succeed(running, form, lie)
        assert _codes(running) == [200]
        await world.settle()
        assert await _ends(world, payment) == [("held", reason)]
        shown = await world.status(payment.id)
        assert (shown["status"], shown["held"], shown["fresh"]) == ("processing", True, False)
        running.sandbox.announce(payment, Manner(faults=frozenset()))
        await running.sandbox.sender.idle()
        await world.settle()
        assert (await world.status(payment.id))["status"] == "successful"


@pytest.mark.parametrize("form", list(Form))
async def test_a_success_that_the_provider_denies_is_contradicted(
    open_process: Opener, form: Form
) -> None:
    """It is asked again for 15 minutes, then the provider's word is taken."""
    async with _flow(open_process) as (world, running):
        payment = running.sandbox.create(form=form, **NGN)
        contradict = Manner(faults=frozenset({Mishap.CONTRADICT}))
        running.sandbox.settle(payment, "failed", manner=contradict)
        await running.sandbox.sender.idle()
        assert running.sandbox.sender.deliveries[0].status in ("successful", "succeeded")
        await world.settle()
        assert (await world.status(payment.id))["status"] == "processing"
        await world.age("inbox", "received_ms", 16 * 60 * 1000)
        await world.make_due()
        await world.settle()
        assert await _ends(world, payment) == [("contradicted", "provider_says_failed")]
        assert (await world.status(payment.id))["status"] == "failed"


@pytest.mark.parametrize("form", list(Form))
async def test_a_failure_that_the_provider_denies_is_a_success(
    open_process: Opener, form: Form
) -> None:
    async with _flow(open_process) as (world, running):
        payment = await _succeed(running, form, Mishap.CONTRADICT)
        await world.settle()
        assert (await world.status(payment.id))["status"] == "successful"


@pytest.mark.parametrize("form", list(Form))
async def test_the_old_secret_is_good_during_a_rotation_and_not_after(
    open_process: Opener, form: Form
) -> None:
    async with _flow(open_process, FLW_SECRET_HASH=f"{SECRET},{PREVIOUS}") as (world, running):
        payment = await _succeed(running, form, Mishap.OLD_SECRET)
        assert _codes(running) == [200]
        await world.settle()
        assert (await world.status(payment.id))["status"] == "successful"
    async with _flow(open_process, FLW_SECRET_HASH=SECRET) as (world, running):
        running.sandbox.truth.create(at=0.0, **NGN)  # so that the next id is another one
        payment = await _succeed(running, form, Mishap.OLD_SECRET)
        assert _codes(running) == [401] * 4


@pytest.mark.parametrize("form", list(Form))
async def test_a_bad_signature_changes_nothing_however_often_it_is_sent(
    open_process: Opener, form: Form
) -> None:
    async with _flow(open_process) as (world, running):
        payment = await _succeed(running, form, Mishap.BAD_SIGNATURE)
        assert _codes(running) == [401] * 4
        assert await world.settle() == 0
        assert await _ends(world, payment) == []


async def test_every_family_is_acknowledged_as_json_and_as_a_form(open_process: Opener) -> None:
    async with _flow(open_process) as (world, running):
        for form_encoded in (False, True):
            for family in Family:
                running.sandbox.send(
                    family, manner=Manner(faults=frozenset(), form_encoded=form_encoded)
                )
        await running.sandbox.sender.idle()
        assert _codes(running) == [200] * (2 * len(Family))
        await world.settle()
        for payment in running.sandbox.truth:
            shown = await world.status(payment.id, f"?kind={payment.kind.value}")
            assert shown["status"] == payment.status.value, payment
        about_payments = 2 * (len(Family) - len(OTHERS))
        assert len(running.sandbox.truth) == about_payments
        keys = [key async for key in world.resources.redis.scan_iter()]
        assert keys
        for key in keys:
            assert SECRET_MARK.encode() not in key
