"""Asking Flutterwave: what counts as an answer, and what each way of not answering becomes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.client import Credentials, FlutterwaveClient
from paystate.flutterwave.gate import LocalGate, Purpose
from paystate.flutterwave.oauth import LAST_USE_S, TokenSource
from paystate.flutterwave.sandbox import Form, Sandbox, SandboxConfig, Sender, make_app
from paystate.flutterwave.sandbox.faults import Fault, FaultMode
from paystate.flutterwave.transport import MAX_ANSWER_BYTES, retry_after_s
from paystate.status import Status
from paystate.updates import Kind

NGN = {"amount": Decimal("1500.25"), "currency": "NGN"}
ASKING = {"purpose": Purpose.CONFIRM}
CONFIG = SandboxConfig(seed=7)


class Clock:
    """A clock that stands still until it is moved; epoch seconds."""

    def __init__(self, now: float = 1_760_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class CountingSandbox(Sandbox):
    """A sandbox that counts the tokens it was asked for."""

    tokens_asked = 0

    def grant_token(self, client_id: str, client_secret: str) -> str | None:
        self.tokens_asked += 1
        return super().grant_token(client_id, client_secret)


class World:
    """A sandbox behind a port, and a client that asks it."""

    def __init__(
        self, sandbox: CountingSandbox, url: str, session: aiohttp.ClientSession, clock: Clock
    ) -> None:
        self.sandbox = sandbox
        self.session = session
        self.clock = clock
        self.gate = LocalGate(hourly_budget=1000, clock=clock)
        self.credentials = credentials_at(url)
        self.client = self.client_with(self.credentials)

    def client_with(
        self, credentials: Credentials, *, timeout_s: float = 10.0
    ) -> FlutterwaveClient:
        return FlutterwaveClient(
            credentials,
            self.session,
            self.gate,
            timeout_s=timeout_s,
            now=self.clock,
            clock=self.clock,
        )


def credentials_at(url: str) -> Credentials:
    return Credentials(
        secret_key=CONFIG.secret_key,
        client_id=CONFIG.client_id,
        client_secret=CONFIG.client_secret,
        base_url=f"{url}/v3",
        v4_base_url=f"{url}/v4",
        token_url=f"{url}/token",
    )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock = Clock()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        sender = Sender(session, receiver_url=None, secret_hash="x", rng=random.Random(1))
        sandbox = CountingSandbox(CONFIG, sender, clock=clock)
        server = await stack.enter_async_context(TestServer(make_app(sandbox)))
        yield World(sandbox, str(server.make_url("")).rstrip("/"), session, clock)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[FlutterwaveClient]:
    """A client whose provider is one function; it grants tokens in any case."""

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return web.json_response({"access_token": "synthetic", "expires_in": 600})
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", serve)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        gate = LocalGate(hourly_budget=1000)
        yield FlutterwaveClient(credentials_at(url), session, gate)


def saying(body: Any, *, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    return handler


async def reason_of(question: Awaitable[object]) -> str:
    with pytest.raises((ProviderUnavailable, ProviderRejected)) as raised:
        await question
    return f"{type(raised.value).__name__}: {raised.value.reason}"


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("kind", list(Kind))
async def test_a_payment_is_what_its_own_api_says(world: World, form: Form, kind: Kind) -> None:
    payment = world.sandbox.create(form=form, kind=kind, tx_ref="order 1/2&x=ü", **NGN)
    seen = await world.client.payment(kind, str(payment.id), **ASKING)
    assert seen is not None
    assert (seen.payment_id, seen.kind, seen.status) == (str(payment.id), kind, Status.PENDING)
    assert (seen.amount, seen.currency, seen.tx_ref) == (
        payment.amount,
        "NGN",
        "order 1/2&x=ü",
    )
    world.sandbox.settle(payment, "successful")
    seen = await world.client.payment(kind, str(payment.id), **ASKING)
    assert seen is not None
    assert seen.status is Status.SUCCESSFUL


@pytest.mark.parametrize("form", list(Form))
async def test_a_reference_finds_its_charge_whatever_characters_it_has(
    world: World, form: Form
) -> None:
    payment = world.sandbox.create(form=form, tx_ref="a/../b?c=d&e#f %2F+ü", **NGN)
    world.sandbox.create(form=form, tx_ref="a", **NGN)
    seen = await world.client.by_reference(payment.tx_ref, **ASKING)
    assert seen is not None
    assert seen.payment_id == str(payment.id)


async def test_of_several_attempts_the_successful_one_is_returned(world: World) -> None:
    attempts = [world.sandbox.create(form=Form.V4, tx_ref="order-1", **NGN) for _ in range(3)]
    for payment, word in zip(attempts, ("failed", "successful", "failed"), strict=True):
        world.sandbox.settle(payment, word)
    seen = await world.client.by_reference("order-1", **ASKING)
    assert seen is not None
    assert (seen.payment_id, seen.status) == (str(attempts[1].id), Status.SUCCESSFUL)


async def test_of_several_attempts_one_under_way_comes_before_a_failed_one(world: World) -> None:
    first = world.sandbox.create(form=Form.V4, tx_ref="order-1", **NGN)
    world.sandbox.settle(first, "failed")
    second = world.sandbox.create(form=Form.V4, tx_ref="order-1", **NGN)
    seen = await world.client.by_reference("order-1", **ASKING)
    assert seen is not None
    assert seen.payment_id == str(second.id)


async def test_a_list_is_read_page_by_page_until_a_success() -> None:
    asked: list[str] = []

    def charge(number: int, status: str) -> dict[str, Any]:
        return {"id": f"chg_{number}", "reference": "r", "status": status, "amount": 1}

    async def handler(request: web.Request) -> web.Response:
        if request.path.startswith("/v3"):
            return web.json_response(
                {"status": "error", "message": "No transaction was found", "data": None}
            )
        page = request.query.get("page", "1")
        asked.append(page)
        data = [charge(int(page), "succeeded" if page == "3" else "failed")]
        meta = {"page_info": {"total_pages": 9, "current_page": int(page)}}
        return web.json_response({"status": "success", "data": data, "meta": meta})

    async with answering(handler) as client:
        seen = await client.by_reference("r", **ASKING)
    assert seen is not None
    assert seen.payment_id == "chg_3"
    assert asked == ["1", "2", "3"]


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("payment_id", ["123456", "chg_none"])
async def test_not_found_is_none_and_not_a_failure(
    world: World, kind: Kind, payment_id: str
) -> None:
    assert await world.client.payment(kind, payment_id, **ASKING) is None
    assert await world.client.by_reference("nobody", **ASKING) is None


@pytest.mark.parametrize("status", [200, 400, 404])
@pytest.mark.parametrize(
    "message",
    ["No transaction was found for this id", "Transfer not found", "Transaction does not exist"],
)
async def test_not_found_is_read_from_the_body_whatever_the_code(status: int, message: str) -> None:
    body = {"status": "error", "message": message, "data": None}
    async with answering(saying(body, status=status)) as client:
        assert await client.payment(Kind.CHARGE, "1", **ASKING) is None


async def test_the_status_of_the_envelope_is_not_the_payments() -> None:
    data = {"id": 1, "tx_ref": "r", "status": "failed", "amount": 1, "currency": "NGN"}
    for envelope in ("success", "error", "successful"):
        async with answering(saying({"status": envelope, "data": data})) as client:
            seen = await client.payment(Kind.CHARGE, "1", **ASKING)
            assert seen is not None
            assert seen.status is Status.FAILED


async def test_amounts_keep_every_digit() -> None:
    raw = '{"status":"success","data":{"id":1,"status":"pending","amount":1500.2500000000000001}}'

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=raw)

    async with answering(handler) as client:
        seen = await client.payment(Kind.CHARGE, "1", **ASKING)
    assert seen is not None
    assert seen.amount is None  # too fine for money: a flaw, not a rounded number
    assert seen.flaws == ("amount",)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"status": "error", "message": "try later", "data": None}, 200, "no_data"),
        ({"status": "success"}, 200, "no_data"),
        ([], 200, "unreadable"),
        ({"status": "success", "data": {"status": "successful"}}, 200, "unreadable"),
        ({"data": {"id": 2, "status": "successful"}}, 200, "wrong_payment"),
        ({"data": {"id": "01", "status": "successful"}}, 200, "wrong_payment"),
        ({"data": {"id": 1, "status": "successful"}}, 500, "http_5xx"),
        ({"status": "error", "message": "not found", "data": None}, 503, "http_5xx"),
        ({}, 408, "timeout"),
    ],
)
async def test_an_answer_that_says_nothing_of_the_payment_is_no_answer(
    body: Any, status: int, reason: str
) -> None:
    async with answering(saying(body, status=status)) as client:
        question = client.payment(Kind.CHARGE, "1", **ASKING)
        assert await reason_of(question) == f"ProviderUnavailable: {reason}"


@pytest.mark.parametrize("path", ["/v3", "/v4"])
async def test_an_answer_about_another_reference_is_refused(path: str) -> None:
    charge = {"id": 1, "tx_ref": "other", "reference": "other", "status": "successful"}

    async def handler(request: web.Request) -> web.Response:
        if request.path.startswith(path):
            return web.json_response({"data": charge if path == "/v3" else [charge]})
        return web.json_response({"status": "error", "message": "not found", "data": None})

    async with answering(handler) as client:
        question = client.by_reference("mine", **ASKING)
        assert await reason_of(question) == "ProviderUnavailable: wrong_payment"


@pytest.mark.parametrize("status", [400, 404, 409, 422])
async def test_a_refusal_that_is_not_not_found_is_permanent(status: int) -> None:
    body = {"status": "error", "message": "Request is not valid", "data": None}
    async with answering(saying(body, status=status)) as client:
        for payment_id in ("1", "chg_1"):
            question = client.payment(Kind.CHARGE, payment_id, **ASKING)
            assert await reason_of(question) == "ProviderRejected: http_4xx"


async def test_a_refusal_without_json_is_permanent_too() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=404, text="Cannot GET /v3")

    async with answering(handler) as client:
        question = client.payment(Kind.CHARGE, "1", **ASKING)
        assert await reason_of(question) == "ProviderRejected: http_4xx"


@pytest.mark.parametrize("status", [200, 403, 404, 502])
async def test_a_page_of_a_gateway_is_no_answer(status: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<html></html>", content_type="text/html")

    async with answering(handler) as client:
        reason = await reason_of(client.payment(Kind.CHARGE, "1", **ASKING))
    expected = "http_5xx" if status >= 500 else "html"
    assert reason == f"ProviderUnavailable: {expected}"


async def test_an_answer_that_is_no_json_is_no_answer() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b'{"data": {"id": 1, ')

    async with answering(handler) as client:
        question = client.payment(Kind.CHARGE, "1", **ASKING)
        assert await reason_of(question) == "ProviderUnavailable: unreadable"


async def test_a_huge_answer_is_not_read_to_its_end() -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            for _ in range(64):
                await response.write(b" " * MAX_ANSWER_BYTES)
                sent += 1
        except ConnectionResetError:
            pass
        return response

    async with answering(handler) as client:
        question = client.payment(Kind.CHARGE, "1", **ASKING)
        assert await reason_of(question) == "ProviderUnavailable: too_large"
    assert sent < 64


async def test_a_redirect_is_not_followed() -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with answering(handler) as client:
        question = client.payment(Kind.CHARGE, "1", **ASKING)
        assert await reason_of(question) == "ProviderUnavailable: redirected"
    assert paths == ["/v3/transactions/1/verify"]


async def test_an_id_cannot_change_the_path(world: World) -> None:
    for hostile in (
        "..",
        ".",
        "../transfers/1",
        "1/verify?x=",
        "a/b",
        "",
        "x" * 201,
        "\ud800",
        "٣",
    ):
        assert not world.client.can_verify(Kind.CHARGE, hostile)
        question = world.client.payment(Kind.CHARGE, hostile, **ASKING)
        assert await reason_of(question) == "ProviderRejected: unverifiable"


async def test_what_can_be_asked_depends_on_the_credentials(world: World) -> None:
    v3 = world.client_with(replace(world.credentials, client_secret=None))
    v4 = world.client_with(replace(world.credentials, secret_key=""))
    for kind in Kind:
        assert (v3.can_verify(kind, "1"), v3.can_verify(kind, "chg_1")) == (True, False)
        assert (v4.can_verify(kind, "1"), v4.can_verify(kind, "trf_1")) == (False, True)
    nobody = world.client_with(replace(world.credentials, secret_key=None, client_id=None))
    question = nobody.by_reference("r", **ASKING)
    assert await reason_of(question) == "ProviderRejected: unverifiable"


async def test_a_429_cools_off_and_a_success_forgets_it(world: World) -> None:
    world.sandbox.faults.set(Fault(FaultMode.RATE_LIMITED))

    async def ask() -> object:
        return await world.client.payment(Kind.CHARGE, "1", **ASKING)

    for wait_s in (2, 4, 8):
        with pytest.raises(ProviderUnavailable) as limited:
            await ask()
        assert (limited.value.reason, limited.value.retry_after_s) == ("rate_limited", None)
        with pytest.raises(ProviderUnavailable) as cooling:
            await ask()
        assert (cooling.value.reason, cooling.value.retry_after_s) == ("cooling_off", wait_s)
        world.clock.now += wait_s
    world.sandbox.faults.set(Fault())
    assert await ask() is None
    world.sandbox.faults.set(Fault(FaultMode.RATE_LIMITED, retry_after_s=77))
    with pytest.raises(ProviderUnavailable) as limited:
        await ask()
    assert (limited.value.reason, limited.value.retry_after_s) == ("rate_limited", 77)
    with pytest.raises(ProviderUnavailable) as cooling:
        await ask()
    assert (cooling.value.reason, cooling.value.retry_after_s) == ("cooling_off", 77)


async def test_a_slow_provider_times_out(world: World) -> None:
    world.sandbox.faults.set(Fault(FaultMode.SLOW, delay_s=60))
    client = world.client_with(world.credentials, timeout_s=0.05)
    question = client.payment(Kind.CHARGE, "1", **ASKING)
    assert await reason_of(question) == "ProviderUnavailable: timeout"


async def test_a_503_passes_on_when_to_come_back(world: World) -> None:
    world.sandbox.faults.set(Fault(FaultMode.UNAVAILABLE, retry_after_s=9))
    with pytest.raises(ProviderUnavailable) as down:
        await world.client.payment(Kind.CHARGE, "1", **ASKING)
    assert (down.value.reason, down.value.retry_after_s) == ("http_5xx", 9)


async def test_a_provider_that_is_not_there_is_unreachable(world: World) -> None:
    async with TestServer(web.Application()) as gone:
        url = str(gone.make_url("")).rstrip("/")
    client = world.client_with(credentials_at(url))
    for payment_id in ("1", "chg_1"):
        with pytest.raises(ProviderUnavailable) as unreachable:
            await client.payment(Kind.CHARGE, payment_id, **ASKING)
        assert unreachable.value.reason == "unreachable"
        assert unreachable.value.__cause__ is None
        assert url.removeprefix("http://") not in str(unreachable.value)


async def test_wrong_credentials_are_rejected_by_both_apis(world: World) -> None:
    wrong = replace(world.credentials, secret_key="wrong-key", client_secret="wrong-secret")
    client = world.client_with(wrong)
    for payment_id in ("1", "chg_1"):
        with pytest.raises(ProviderRejected) as rejected:
            await client.payment(Kind.CHARGE, payment_id, **ASKING)
        assert rejected.value.reason == "credentials"
        assert "wrong" not in str(rejected.value)


async def test_credentials_are_mute(world: World) -> None:
    shown = repr(world.credentials)
    assert CONFIG.secret_key not in shown
    assert CONFIG.client_secret not in shown


async def test_many_questions_share_one_token(world: World) -> None:
    payment = world.sandbox.create(form=Form.V4, **NGN)
    ask = [world.client.payment(Kind.CHARGE, str(payment.id), **ASKING) for _ in range(20)]
    seen = await asyncio.gather(*ask)
    assert all(update is not None for update in seen)
    assert world.sandbox.tokens_asked == 1


async def test_a_token_is_renewed_a_minute_before_it_runs_out(world: World) -> None:
    await world.client.payment(Kind.CHARGE, "chg_1", **ASKING)
    world.clock.now += 539
    await world.client.payment(Kind.CHARGE, "chg_1", **ASKING)
    assert world.sandbox.tokens_asked == 1
    world.clock.now += 1
    await world.client.payment(Kind.CHARGE, "chg_1", **ASKING)
    assert world.sandbox.tokens_asked == 2


class Granting:
    """A provider of tokens that knows of nothing else, and can be made to wait or to fail."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked = 0
        self.granting = asyncio.Event()
        self.granting.set()
        self.renewing = asyncio.Event()
        self.code = 200

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        self.renewing.set()
        await self.granting.wait()
        body = {"access_token": f"token-{self.asked}", "expires_in": 600}
        return web.json_response(body, status=self.code)

    @asynccontextmanager
    async def source(self) -> AsyncIterator[TokenSource]:
        """Give the source that asks it."""
        app = web.Application()
        app.router.add_post("/token", self.answer)
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            yield TokenSource(
                session, token_url=str(server.make_url("/token")), client_id="i",
                client_secret="s", timeout_s=10, clock=self.clock, now=self.clock,
            )  # fmt: skip


async def test_while_one_renews_a_token_the_others_go_on_with_it() -> None:
    granting = Granting()
    async with granting.source() as source:
        assert await source.token() == "token-1"
        granting.clock.now += 541
        granting.granting.clear()
        granting.renewing.clear()
        renewal = asyncio.create_task(source.token())
        await granting.renewing.wait()
        assert [await source.token() for _ in range(5)] == ["token-1"] * 5
        granting.granting.set()
        assert await renewal == await source.token() == "token-2"
        assert granting.asked == 2


async def test_a_token_that_cannot_be_renewed_is_used_while_it_is_good() -> None:
    granting = Granting()
    async with granting.source() as source:
        await source.token()
        granting.clock.now += 541
        granting.code = 503
        assert [await source.token() for _ in range(3)] == ["token-1"] * 3
        assert granting.asked == 2  # and again in five seconds, not for each question
        granting.clock.now += 5
        assert await source.token() == "token-1"
        assert granting.asked == 3
        granting.clock.now += 600 - LAST_USE_S - 546
        with pytest.raises(ProviderUnavailable):
            await source.token()


async def test_a_revoked_token_is_thrown_away_and_asked_for_once_more(world: World) -> None:
    payment = world.sandbox.create(form=Form.V4, **NGN)
    await world.client.payment(Kind.CHARGE, str(payment.id), **ASKING)
    world.sandbox.revoke_tokens()
    assert await world.client.payment(Kind.CHARGE, str(payment.id), **ASKING) is not None
    assert world.sandbox.tokens_asked == 2


async def test_a_token_that_is_refused_again_is_not_asked_for_for_ever() -> None:
    calls: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.json_response({"status": "failed"}, status=401)

    async with answering(handler) as client:
        question = client.payment(Kind.CHARGE, "chg_1", **ASKING)
        assert await reason_of(question) == "ProviderRejected: credentials"
    assert calls == ["/v4/charges/chg_1"] * 2


async def test_those_who_wait_for_a_token_share_its_failure() -> None:
    asked = 0
    release = asyncio.Event()

    async def token(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        await release.wait()
        return web.json_response({}, status=503)

    app = web.Application()
    app.router.add_post("/token", token)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        gate = LocalGate(hourly_budget=100)
        client = FlutterwaveClient(credentials_at(url), session, gate)
        questions = [
            asyncio.create_task(client.payment(Kind.CHARGE, "chg_1", **ASKING)) for _ in range(5)
        ]
        await asyncio.sleep(0)  # all of them have begun, and wait
        release.set()
        failures = await asyncio.gather(*questions, return_exceptions=True)
    assert [getattr(f, "reason", f) for f in failures] == ["http_5xx"] * 5
    assert asked == 1


@pytest.mark.parametrize(
    ("granted", "status", "reason"),
    [
        ({"error": "unauthorized_client"}, 400, "ProviderRejected: credentials"),
        ({}, 403, "ProviderRejected: credentials"),
        ({}, 429, "ProviderUnavailable: rate_limited"),
        ({"expires_in": 600}, 200, "ProviderUnavailable: unreadable"),
        ({"access_token": "a\r\nX-Forged: 1"}, 200, "ProviderUnavailable: unreadable"),
        ([], 200, "ProviderUnavailable: unreadable"),
    ],
)
async def test_without_a_token_nothing_is_asked(granted: Any, status: int, reason: str) -> None:
    app = web.Application()
    app.router.add_post("/token", saying(granted, status=status))
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        gate = LocalGate(hourly_budget=100)
        url = str(server.make_url("")).rstrip("/")
        client = FlutterwaveClient(credentials_at(url), session, gate)
        assert await reason_of(client.payment(Kind.CHARGE, "chg_1", **ASKING)) == reason
    assert gate.strikes == (1 if status == 429 else 0)


async def test_every_call_passes_the_gate(world: World) -> None:
    world.gate.spending.turn(world.clock.now)
    world.gate.spending.of_hour = [1000, 0, 0, 0]
    for question in (
        world.client.payment(Kind.CHARGE, "1", **ASKING),
        world.client.payment(Kind.TRANSFER, "trf_1", **ASKING),
        world.client.by_reference("r", **ASKING),
    ):
        assert await reason_of(question) == "ProviderUnavailable: budget_spent"
    assert world.sandbox.tokens_asked == 0


@pytest.mark.parametrize(("status", "asked"), [(429, "86400"), (503, "999999999")])
async def test_nobody_is_kept_away_for_longer_than_half_an_hour(status: int, asked: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({}, status=status, headers={"Retry-After": asked})

    async with answering(handler) as client:
        with pytest.raises(ProviderUnavailable) as away:
            await client.payment(Kind.CHARGE, "1", **ASKING)
    assert away.value.retry_after_s == 1800


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("Thu, 09 Oct 2025 08:53:30 GMT", 10.0),
        ("Thu, 09 Oct 2025 08:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("inf", None),
        ("9" * 5000, 999_999_999.0),
        ("Thu, 99 Oct 99999 08:00:00 GMT", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, 1_760_000_000.0) == seconds
