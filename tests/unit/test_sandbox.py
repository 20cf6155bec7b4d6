"""The sandbox is a Flutterwave to rely on: true to its truth, its shapes and its seed."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from paystate.errors import SettingsInvalid
from paystate.flutterwave import exact
from paystate.flutterwave.payloads import parse_event
from paystate.flutterwave.sandbox import (
    Form,
    Payment,
    Rates,
    RunningSandbox,
    Sandbox,
    SandboxConfig,
    Sender,
    Truth,
    TruthRefused,
    bodies,
    open_sandbox,
    traffic,
)
from paystate.flutterwave.sandbox.sender import Fate, Webhook, draw_fate
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, SignatureVerifier
from paystate.status import Status
from paystate.updates import Api, Kind, Overlay, OverlayStatus, PaymentUpdate

NGN = {"amount": Decimal("1500.25"), "currency": "NGN"}
CALM = {"duplicate_rate": 0.0, "delay_rate": 0.0, "reorder_rate": 0.0, "drop_rate": 0.0}
SECRET = "a-secret-hash"


@dataclass
class Receiver:
    """A webhook endpoint that verifies, records, and answers what it is told to."""

    url: str = ""
    codes: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    raws: list[bytes] = field(default_factory=list)
    apis: list[Api] = field(default_factory=list)
    open_requests: int = 0
    most_open: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.open_requests += 1
        self.most_open = max(self.most_open, self.open_requests)
        raw = await request.read()
        self.apis.append(SignatureVerifier([SECRET]).verify(raw, request.headers))
        self.raws.append(raw)
        self.bodies.append(json.loads(raw))
        await asyncio.sleep(0)
        self.open_requests -= 1
        return web.Response(status=self.codes.pop(0) if self.codes else 200)

    @property
    def statuses(self) -> list[str]:
        return [body["data"]["status"] for body in self.bodies]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


MakeSandbox = Callable[..., Sandbox]


@pytest.fixture
async def make_sandbox(
    receiver: Receiver, session: aiohttp.ClientSession
) -> AsyncIterator[MakeSandbox]:
    """Make a sandbox that sends to `receiver` and does not wait between its tries."""
    async with AsyncExitStack() as stack:

        def make(rates: Rates | None = None, **sender_options: Any) -> Sandbox:
            sender = Sender(
                session,
                receiver_url=receiver.url,
                secret_hash=SECRET,
                rng=random.Random(1),
                rates=rates,
                sleep=sender_options.pop("sleep", no_sleep),
                **sender_options,
            )
            stack.push_async_callback(sender.close)
            return Sandbox(SandboxConfig(seed=1), sender)

        yield make


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture
async def running(receiver: Receiver) -> AsyncIterator[RunningSandbox]:
    config = SandboxConfig(receiver_url=receiver.url, secret_hash=SECRET, seed=1, **CALM)
    async with open_sandbox(config) as running:
        yield running


def payment_of(form: Form, kind: Kind = Kind.CHARGE, **options: Any) -> Payment:
    return Truth(1).create(at=1_760_000_000.0, form=form, kind=kind, **NGN, **options)


# Truth


def test_a_seed_gives_the_same_payments() -> None:
    def story(seed: int) -> list[dict[str, Any]]:
        truth = Truth(seed)
        return [truth.create(at=1.0, form=form, **NGN).to_json() for form in Form]

    assert story(1) == story(1)
    assert story(1) != story(2)


def test_the_truth_keeps_its_history_and_never_regresses() -> None:
    truth = Truth(1)
    payment = truth.create(at=1.0, **NGN)
    truth.settle(payment, "failed", at=2.0)
    truth.settle(payment, "failed", at=3.0)
    with pytest.raises(TruthRefused, match="already"):
        truth.settle(payment, "pending", at=4.0)
    truth.settle(payment, "SUCCESSFUL", at=5.0)
    with pytest.raises(TruthRefused, match="already"):
        truth.settle(payment, "failed", at=6.0)
    assert [(c.at, c.status.value) for c in payment.history] == [
        (1.0, "pending"),
        (2.0, "failed"),
        (5.0, "successful"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"amount": Decimal(0)},
        {"amount": Decimal(-1)},
        {"amount": Decimal("NaN")},
        {"amount": Decimal("1e400")},
        {"amount": Decimal("0.12345678901234567890")},
        {"currency": "naira"},
        {"tx_ref": ""},
        {"tx_ref": "x" * 101},
        {"payment_id": "chg_1"},
        {"payment_id": "5", "form": Form.V4},
    ],
)
def test_what_the_real_one_could_not_have_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TruthRefused):
        Truth(1).create(at=1.0, **{**NGN, **options})


def test_a_charge_and_a_transfer_may_have_the_same_id() -> None:
    truth = Truth(1)
    charge = truth.create(at=1.0, payment_id="5", **NGN)
    transfer = truth.create(at=1.0, payment_id="5", kind=Kind.TRANSFER, **NGN)
    assert truth.find("5") is charge
    assert truth.find("5", Kind.TRANSFER) is transfer
    with pytest.raises(TruthRefused, match="there is a charge"):
        truth.create(at=1.0, payment_id="5", **NGN)


def test_the_oldest_payments_are_forgotten() -> None:
    truth = Truth(1, max_payments=2)
    refs = [truth.create(at=1.0, tx_ref="r", **NGN).id for _ in range(3)]
    assert [p.id for p in truth] == refs[1:]
    assert [p.id for p in truth.attempts("r")] == refs[1:]


def test_no_more_is_refunded_than_was_paid() -> None:
    truth = Truth(1)
    payment = truth.create(at=1.0, **NGN)
    with pytest.raises(TruthRefused, match="successful"):
        truth.refund(payment, at=2.0)
    truth.settle(payment, "successful", at=2.0)
    truth.refund(payment, at=3.0, amount=Decimal("1500.00"))
    assert truth.refund(payment, at=4.0).amount == Decimal("0.25")
    with pytest.raises(TruthRefused):
        truth.refund(payment, at=5.0)


# Bodies


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("status", [Status.PENDING, Status.FAILED, Status.SUCCESSFUL])
def test_the_parser_reads_every_webhook_as_what_is_true(
    form: Form, kind: Kind, status: Status
) -> None:
    payment = payment_of(form, kind)
    Truth(1).settle(payment, status.value, at=2.0)
    body = bodies.webhook(payment, webhook_id="wbk_1", at=1_760_000_001.5)
    raw = json.dumps(body).encode()
    api = Api.V4 if form is Form.V4 else Api.V3
    event = parse_event(api, exact.loads(raw), raw)
    seen = event.subject
    assert isinstance(seen, PaymentUpdate)
    assert (seen.kind, seen.payment_id, seen.status) == (kind, str(payment.id), status)
    assert (seen.amount, seen.currency) == (payment.amount, "NGN")
    assert (seen.tx_ref, seen.flaws) == (payment.tx_ref, ())
    assert bodies.SECRET_MARK in raw.decode()
    assert bodies.SECRET_MARK not in json.dumps(seen.to_json())


@pytest.mark.parametrize("form", list(Form))
def test_the_parser_reads_every_refund(form: Form) -> None:
    truth = Truth(1)
    payment = truth.create(at=1.0, form=form, **NGN)
    truth.settle(payment, "successful", at=2.0)
    refund = truth.refund(payment, at=3.0, amount=Decimal(100))
    body = bodies.refund_webhook(payment, refund, webhook_id="wbk_1", at=4.0)
    event = parse_event(Api.V4 if form is Form.V4 else Api.V3, body, b"")
    assert isinstance(event.subject, Overlay)
    assert event.subject.payment_id == str(payment.id)
    assert event.subject.status is OverlayStatus.COMPLETED
    assert event.subject.amount == 100


def test_a_cancelled_transfer_and_a_voided_charge_have_v4_words() -> None:
    truth = Truth(1)
    charge, transfer = (truth.create(at=1.0, form=Form.V4, kind=kind, **NGN) for kind in Kind)
    for payment in (charge, transfer):
        truth.settle(payment, "voided", at=2.0)
    assert bodies.provider_word(charge) == "voided"
    assert bodies.provider_word(transfer) == "CANCELLED"
    with pytest.raises(TruthRefused, match="v3 has no word"):
        truth.settle(truth.create(at=1.0, **NGN), "voided", at=2.0)


# Sender


async def test_each_form_is_signed_as_its_api_signs(
    make_sandbox: MakeSandbox, receiver: Receiver
) -> None:
    sandbox = make_sandbox()
    for form in (Form.V3, Form.FLAT, Form.V4):
        sandbox.create(form=form, announce=True, **NGN)
    await sandbox.sender.idle()
    assert Counter(receiver.apis) == {Api.V3: 2, Api.V4: 1}
    assert [d.outcome for d in sandbox.sender.deliveries] == ["acknowledged"] * 3


def test_v3_sends_the_secret_and_v4_never_does() -> None:
    common = {"kind": Kind.CHARGE, "payment_id": "1", "tx_ref": "r", "type": "t", "status": "s"}
    v3 = Webhook(form=Form.V3, raw=b"{}", **common).headers(SECRET)
    v4 = Webhook(form=Form.V4, raw=b"{}", **common).headers(SECRET)
    assert v3[V3_HEADER] == SECRET
    assert len(v4[V4_HEADER]) == 44
    assert V3_HEADER not in v4


@pytest.mark.parametrize("code", [201, 202, 302, 400, 500])
async def test_only_200_acknowledges_and_a_retry_has_the_same_bytes(
    make_sandbox: MakeSandbox, receiver: Receiver, code: int
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    receiver.codes = [code, code]
    sandbox = make_sandbox(sleep=sleep, retry_interval_s=2.0)
    sandbox.create(form=Form.V4, announce=True, **NGN)
    await sandbox.sender.idle()
    tries = [(d.attempt, d.outcome, d.code) for d in sandbox.sender.deliveries]
    assert tries == [(1, "refused", code), (2, "refused", code), (3, "acknowledged", 200)]
    assert len(set(receiver.raws)) == 1
    assert waits == [2.0, 2.0]


async def test_after_three_retries_it_is_given_up(
    make_sandbox: MakeSandbox, receiver: Receiver
) -> None:
    receiver.codes = [500] * 10
    sandbox = make_sandbox()
    sandbox.create(announce=True, **NGN)
    await sandbox.sender.idle()
    assert [d.attempt for d in sandbox.sender.deliveries] == [1, 2, 3, 4]


async def test_a_receiver_that_is_not_there_is_tried_again(
    session: aiohttp.ClientSession,
) -> None:
    async with TestServer(web.Application()) as gone:
        url = str(gone.make_url("/hook"))
    sender = Sender(
        session, receiver_url=url, secret_hash=SECRET, rng=random.Random(1), sleep=no_sleep
    )
    Sandbox(SandboxConfig(), sender).create(announce=True, **NGN)
    await sender.idle()
    assert [d.outcome for d in sender.deliveries] == ["unreachable"] * 4


async def test_a_duplicate_is_the_same_webhook_again(
    make_sandbox: MakeSandbox, receiver: Receiver
) -> None:
    sandbox = make_sandbox(Rates(duplicate=1.0))
    sandbox.create(form=Form.V4, announce=True, **NGN)
    await sandbox.sender.idle()
    assert len(receiver.raws) == 2
    assert len(set(receiver.raws)) == 1
    assert sorted(d.copy for d in sandbox.sender.deliveries) == [1, 2]


async def test_a_held_pending_is_overtaken_by_the_success(
    make_sandbox: MakeSandbox, receiver: Receiver
) -> None:
    sandbox = make_sandbox(Rates(reorder=1.0))
    payment = sandbox.create(form=Form.V4, announce=True, **NGN)
    sandbox.settle(payment, "successful")
    await sandbox.sender.idle()
    assert receiver.statuses == ["succeeded", "pending"]


async def test_what_nothing_overtakes_goes_out_all_the_same(
    make_sandbox: MakeSandbox, receiver: Receiver
) -> None:
    sandbox = make_sandbox(Rates(reorder=1.0, duplicate=1.0), hold_s=0.001)
    sandbox.create(form=Form.V4, announce=True, **NGN)
    await sandbox.sender.idle()
    assert receiver.statuses == ["pending", "pending"]


async def test_a_dropped_webhook_is_never_sent_and_listed(
    make_sandbox: MakeSandbox, receiver: Receiver
) -> None:
    sandbox = make_sandbox(Rates(drop=1.0))
    sandbox.create(announce=True, **NGN)
    await sandbox.sender.idle()
    assert receiver.bodies == []
    assert [d.outcome for d in sandbox.sender.deliveries] == ["dropped"]


async def test_no_more_requests_are_open_than_allowed(
    make_sandbox: MakeSandbox, receiver: Receiver
) -> None:
    sandbox = make_sandbox(concurrency=3)
    for _ in range(30):
        sandbox.create(announce=True, **NGN)
    await sandbox.sender.idle()
    assert len(receiver.bodies) == 30
    assert receiver.most_open <= 3


def test_fates_follow_the_seed_and_the_rates() -> None:
    rates = Rates(duplicate=0.2, delay=0.3, reorder=0.1, drop=0.05)

    def fates(seed: int) -> list[Fate]:
        rng = random.Random(seed)
        return [draw_fate(rng, rates, max_delay_s=5.0) for _ in range(5000)]

    assert fates(1) == fates(1)
    drawn = fates(2)
    assert 0.03 < sum(f.copies == 0 for f in drawn) / 5000 < 0.07
    assert 0.16 < sum(f.copies == 2 for f in drawn) / 5000 < 0.24
    assert 0.25 < sum(f.delay_s > 0 for f in drawn) / 5000 < 0.35
    assert all(f.delay_s <= 5.0 for f in drawn)


def test_a_rate_is_a_share() -> None:
    with pytest.raises(ValueError, match="drop"):
        Rates(drop=1.5)


# Traffic


async def test_traffic_ends_as_the_truth_says(
    make_sandbox: MakeSandbox, receiver: Receiver
) -> None:
    sandbox = make_sandbox()
    await traffic.run(sandbox, 100.0, stories=300, sleep=no_sleep)
    await sandbox.sender.idle()
    made = list(sandbox.truth)
    assert {p.form for p in made} == set(Form)
    assert {p.kind for p in made} == set(Kind)
    assert {p.status for p in made} == {Status.SUCCESSFUL, Status.FAILED}
    assert len(receiver.bodies) == 2 * len(made)
    retried = [p for p in made if len(sandbox.truth.attempts(p.tx_ref)) == 2]
    assert retried
    for payment in retried:
        first, second = sandbox.truth.attempts(payment.tx_ref)
        assert (first.status, second.status) == (Status.FAILED, Status.SUCCESSFUL)


async def test_a_story_that_somebody_else_ended_does_not_end_the_traffic(
    make_sandbox: MakeSandbox,
) -> None:
    sandbox = make_sandbox()

    async def settle_all(_: float) -> None:
        for payment in sandbox.truth:
            if payment.status is Status.PENDING:
                sandbox.settle(payment, "successful", announce=False)

    await traffic.run(sandbox, 1.0, stories=50, sleep=settle_all)
    assert len(sandbox.truth) == 50


async def test_a_quiet_sandbox_makes_no_payments(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    await traffic.run(sandbox, 0.0)
    assert len(sandbox.truth) == 0


# Routes


async def call(
    session: aiohttp.ClientSession, method: str, url: str, body: Any = None
) -> tuple[int, Any]:
    async with session.request(method, url, json=body) as response:
        return response.status, await response.json()


async def test_the_control_api_creates_settles_refunds_and_lists(
    running: RunningSandbox, receiver: Receiver, session: aiohttp.ClientSession
) -> None:
    payments = f"{running.url}/sandbox/payments"
    wanted = {"tx_ref": "order-1", "amount": "1500.25", "currency": "NGN", "api": "v4"}
    status, made = await call(session, "POST", payments, wanted)
    assert (status, made["status"], made["tx_ref"]) == (201, "pending", "order-1")
    await running.sandbox.sender.idle()
    assert receiver.bodies == []
    at = f"{payments}/{made['id']}"
    assert (await call(session, "POST", f"{at}/settle", {"status": "successful"}))[0] == 200
    status, refunded = await call(session, "POST", f"{at}/refund", {"amount": 100})
    assert refunded["refunds"][0]["amount"] == "100"
    await running.sandbox.sender.idle()
    assert sorted(b["type"] for b in receiver.bodies) == ["charge.completed", "refund.completed"]
    status, shown = await call(session, "GET", at)
    assert [c["status"] for c in shown["history"]] == ["pending", "successful"]
    assert (await call(session, "GET", payments))[1] == {"payments": [shown]}
    assert (await call(session, "GET", f"{payments}?status=failed"))[1] == {"payments": []}
    listed = (await call(session, "GET", f"{running.url}/sandbox/deliveries"))[1]["deliveries"]
    assert [(d["payment_id"], d["outcome"], d["code"]) for d in listed] == [
        (made["id"], "acknowledged", 200)
    ] * 2
    assert SECRET not in json.dumps(listed)


async def test_a_lost_webhook_can_be_made_on_purpose(
    running: RunningSandbox, receiver: Receiver, session: aiohttp.ClientSession
) -> None:
    payment = running.sandbox.create(**NGN)
    at = f"{running.url}/sandbox/payments/{payment.id}/settle"
    await call(session, "POST", at, {"status": "successful", "announce": False})
    await running.sandbox.sender.idle()
    assert payment.status is Status.SUCCESSFUL
    assert receiver.bodies == []


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "payments/1", None, 404),
        ("POST", "payments/1/settle", {"status": "successful"}, 404),
        ("POST", "payments/5/settle", {}, 400),
        ("POST", "payments/5/settle", {"status": "wonderful"}, 400),
        ("POST", "payments/5/refund", {}, 409),
        ("POST", "payments", [], 400),
        ("POST", "payments", {"amount": "much"}, 400),
        ("POST", "payments", {"amount": True}, 400),
        ("POST", "payments", {"api": "v5"}, 400),
        ("POST", "payments", {"id": 5}, 409),
        ("POST", "faults", {"mode": "gremlins"}, 400),
        ("GET", "payments?limit=x", None, 400),
    ],
)
async def test_a_control_request_without_sense_is_refused(
    running: RunningSandbox,
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    body: Any,
    expected: int,
) -> None:
    running.sandbox.create(payment_id="5", **NGN)
    status, answer = await call(session, method, f"{running.url}/sandbox/{path}", body)
    assert status == expected
    assert answer["error"]


async def test_a_fault_lasts_as_long_as_it_was_told(
    running: RunningSandbox, session: aiohttp.ClientSession
) -> None:
    sandbox = running.sandbox
    now = sandbox.clock()
    sandbox.clock = lambda: now
    faults, verify = f"{running.url}/sandbox/faults", f"{running.base_url}/transactions/1/verify"
    fault = {"mode": "429", "seconds": 10, "retry_after_s": 3}
    await call(session, "POST", faults, fault)
    async with session.get(verify) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3")
    sandbox.clock = lambda: now + 10
    async with session.get(verify) as response:
        assert response.status == 401  # itself again, and this request has no key
    await call(session, "POST", faults, {"mode": "html"})
    async with session.get(verify) as response:
        assert response.content_type == "text/html"


async def test_a_slow_answer_is_let_go_when_the_fault_ends(
    running: RunningSandbox, session: aiohttp.ClientSession
) -> None:
    faults = f"{running.url}/sandbox/faults"
    await call(session, "POST", faults, {"mode": "slow", "delay_s": 600})
    waiting = asyncio.create_task(call(session, "GET", f"{running.base_url}/transfers/1"))
    await running.sandbox.faults.held_back.wait()
    await call(session, "POST", faults, {"mode": "none"})
    assert (await waiting)[0] == 401


async def test_both_apis_check_their_credentials(
    running: RunningSandbox, session: aiohttp.ClientSession
) -> None:
    running.sandbox.create(payment_id="5", **NGN)
    key = running.sandbox.config.secret_key
    verify = f"{running.base_url}/transactions/5/verify"
    for header, expected in (
        (f"Bearer {key}", 200),
        (f"Basic {key}", 401),
        ("Bearer", 401),
        ("Bearer \udcff", 401),
    ):
        async with session.get(verify, headers={"Authorization": header}) as response:
            assert response.status == expected
    assert (await call(session, "GET", f"{running.v4_base_url}/charges/chg_1"))[0] == 401
    for form in ({"grant_type": "client_credentials"}, {"grant_type": "password"}):
        async with session.post(running.token_url, data=form) as response:
            assert response.status in (400, 401)


# Configuration and process


def test_the_environment_is_read_and_every_problem_named() -> None:
    config = SandboxConfig.from_env(
        {
            "SANDBOX_PORT": "8123",
            "SANDBOX_RECEIVER": "http://127.0.0.1:1/hook",
            "SANDBOX_SEED": "42",
            "SANDBOX_RATE": "2.5",
            "SANDBOX_DROP": "0.25",
            "FLW_SECRET_HASH": " first , second",
            "FLW_SECRET_KEY": "a-key",
        }
    )
    assert (config.host, config.port, config.seed) == ("127.0.0.1", 8123, 42)
    assert (config.rate_per_s, config.rates.drop) == (2.5, 0.25)
    assert (config.secret_hash, config.secret_key) == ("first", "a-key")
    assert "a-key" not in repr(config)
    with pytest.raises(SettingsInvalid) as invalid:
        SandboxConfig.from_env(
            {"SANDBOX_PORT": "x", "SANDBOX_DROP": "nan", "FLW_SECRET_HASH": ",b"}
        )
    assert len(invalid.value.problems) == 3


def test_without_a_seed_each_run_has_its_own() -> None:
    assert SandboxConfig.from_env({}).seed != SandboxConfig.from_env({}).seed


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_the_process_says_where_it_is_and_stops_when_told(signum: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "paystate.flutterwave.sandbox",
        stdout=asyncio.subprocess.PIPE,
        env={"SANDBOX_RATE": "50", "SANDBOX_SEED": "3"},
    )
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    assert (ready["event"], ready["seed"]) == ("sandbox_ready", 3)
    async with aiohttp.ClientSession() as session:
        assert (await call(session, "GET", f"{ready['url']}/sandbox/deliveries"))[0] == 200
    process.send_signal(signum)
    assert await process.wait() == 0
