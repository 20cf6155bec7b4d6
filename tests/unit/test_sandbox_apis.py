"""The sandbox's APIs answer as Flutterwave's do, and the client reads every answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.client import Credentials, FlutterwaveClient
from paystate.flutterwave.gate import LocalGate, Purpose
from paystate.flutterwave.sandbox import (
    Form,
    RunningSandbox,
    Sandbox,
    SandboxConfig,
    open_sandbox,
)
from paystate.flutterwave.sandbox.faults import Fault, FaultMode, Limit, Limiter
from paystate.status import Status
from paystate.updates import Kind, OverlayStatus

NGN = {"amount": Decimal("1500.25"), "currency": "NGN"}
ASKING = {"purpose": Purpose.CONFIRM}


class Clock:
    """A clock that stands still until it is moved; epoch seconds."""

    now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """A sandbox on a port whose clock is ours, and two who ask: a client and plain HTTP."""

    running: RunningSandbox
    session: aiohttp.ClientSession
    client: FlutterwaveClient
    clock: Clock

    @property
    def sandbox(self) -> Sandbox:
        return self.running.sandbox

    async def v3(self, path: str, method: str = "GET") -> tuple[int, Any]:
        return await self.call(method, self.running.base_url + path, self.sandbox.config.secret_key)

    async def v4(self, path: str) -> tuple[int, Any]:
        return await self.call("GET", self.running.v4_base_url + path, await self.token())

    async def token(self) -> str:
        config = self.sandbox.config
        form = {
            "grant_type": "client_credentials",
            "client_id": config.client_id,
            "client_secret": config.client_secret,
        }
        async with self.session.post(self.running.token_url, data=form) as response:
            return str((await response.json())["access_token"])

    async def call(self, method: str, url: str, bearer: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {bearer}"}
        async with self.session.request(method, url, headers=headers) as response:
            return response.status, await response.json()

    async def control(self, path: str, body: Any) -> Any:
        async with self.session.post(f"{self.running.url}/sandbox/{path}", json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock = Clock()
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(open_sandbox(SandboxConfig(seed=1)))
        running.sandbox.clock = clock
        session = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        config = running.sandbox.config
        credentials = Credentials(
            secret_key=config.secret_key,
            client_id=config.client_id,
            client_secret=config.client_secret,
            base_url=running.base_url,
            v4_base_url=running.v4_base_url,
            token_url=running.token_url,
        )
        gate = LocalGate(hourly_budget=1000, clock=clock)
        client = FlutterwaveClient(credentials, session, gate, now=clock, clock=clock)
        yield World(running, session, client, clock)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("kind", list(Kind))
async def test_the_client_reads_payments_of_both_apis(world: World, form: Form, kind: Kind) -> None:
    payment = world.sandbox.create(form=form, kind=kind, **NGN)
    world.sandbox.settle(payment, "successful")
    seen = await world.client.payment(kind, str(payment.id), **ASKING)
    assert seen is not None
    assert (seen.status, seen.amount, seen.tx_ref) == (
        Status.SUCCESSFUL,
        payment.amount,
        payment.tx_ref,
    )


@pytest.mark.parametrize("form", [Form.V3, Form.V4])
async def test_the_client_reads_refunds_of_both_apis(world: World, form: Form) -> None:
    payment = world.sandbox.create(form=form, **NGN)
    world.sandbox.settle(payment, "successful")
    refund = world.sandbox.refund(payment)
    seen = await world.client.refund(str(refund.id), **ASKING)
    assert seen is not None
    assert (seen.payment_id, seen.status) == (str(payment.id), OverlayStatus.COMPLETED)


@pytest.mark.parametrize("code", [None, 200, 400, 404])
@pytest.mark.parametrize("payment_id", ["123", "chg_none"])
async def test_not_found_is_read_from_the_body_whatever_its_code(
    world: World, code: int | None, payment_id: str
) -> None:
    await world.control("api", {"not_found_code": code})
    for kind in Kind:
        assert await world.client.payment(kind, payment_id, **ASKING) is None
    assert await world.client.refund(payment_id, **ASKING) is None
    assert await world.client.by_reference("nobody's", **ASKING) is None
    status, body = await world.v3("/transactions/123/verify")
    assert (status, body["status"], body["data"]) == (code or 400, "error", None)
    status, body = await world.v4("/charges/chg_none")
    assert (status, body["error"]["code"]) == (code or 404, "1110404")


async def test_v3_lists_its_transactions_page_by_page(world: World) -> None:
    made = [world.sandbox.create(tx_ref=f"r-{n}", **NGN) for n in range(25)]
    world.sandbox.create(form=Form.V4, **NGN)
    world.sandbox.create(kind=Kind.TRANSFER, **NGN)
    seen = []
    for number in (1, 2, 3, 4):
        status, body = await world.v3(f"/transactions?page={number}")
        assert status == 200
        assert body["meta"]["page_info"] == {
            "total": 25,
            "current_page": number,
            "total_pages": 3,
        }
        seen += [item["id"] for item in body["data"]]
    assert seen == [str(p.id) for p in reversed(made)]


async def test_v3_lists_what_it_is_asked_for(world: World) -> None:
    sandbox = world.sandbox
    old = sandbox.create(tx_ref="Old", amount=Decimal(5), currency="GHS")
    world.clock.now += 86_400
    new = sandbox.create(tx_ref="new", **NGN)
    sandbox.settle(new, "successful")

    async def found(query: str) -> list[str]:
        status, body = await world.v3(f"/transactions?{query}")
        assert status == 200, body
        return [item["id"] for item in body["data"]]

    assert await found("tx_ref=Old") == [str(old.id)]
    assert await found("tx_ref=old") == []
    assert await found("status=successful") == [str(new.id)]
    assert await found("currency=GHS") == [str(old.id)]
    assert await found(f"customer_email={new.customer.email}&tx_ref=new") == [str(new.id)]
    day = "2026-09-21"
    assert await found(f"from={day}&to={day}") == [str(old.id)]
    assert await found("from=2026-09-22") == [str(new.id)]
    assert await found("from=2026-09-23") == []
    for query in ("page=0", "page=x", "from=yesterday"):
        status, body = await world.v3(f"/transactions?{query}")
        assert (status, body["status"]) == (400, "error")


async def test_v4_lists_charges_and_the_client_finds_the_one_that_decides(world: World) -> None:
    attempts = [world.sandbox.create(form=Form.V4, tx_ref="cart", **NGN) for _ in range(13)]
    for attempt in attempts[1:]:
        world.sandbox.settle(attempt, "failed")
    world.sandbox.settle(attempts[0], "successful")
    world.sandbox.create(tx_ref="cart-3", **NGN)
    seen = await world.client.by_reference("cart", **ASKING)
    assert seen is not None
    assert (seen.payment_id, seen.status) == (attempts[0].id, Status.SUCCESSFUL)
    status, body = await world.v4("/charges?size=5&page=3")
    assert (status, len(body["data"])) == (200, 3)
    assert body["meta"]["page_info"] == {"total": 13, "current_page": 3, "total_pages": 3}
    assert (await world.v4("/charges?status=succeeded"))[1]["data"][0]["id"] == attempts[0].id
    status, body = await world.v4("/charges?size=51")
    assert (status, body["status"]) == (400, "failed")


async def test_v4_knows_its_customers(world: World) -> None:
    status, first = await world.v4("/customers?page=1")
    assert (status, first["meta"]["page_info"]["total"]) == (200, 40)
    ids = [c["id"] for c in first["data"]]
    for number in (2, 3, 4):
        ids += [c["id"] for c in (await world.v4(f"/customers?page={number}"))[1]["data"]]
    assert len(set(ids)) == 40
    payment = world.sandbox.create(form=Form.V4, **NGN)
    status, one = await world.v4(f"/customers/{payment.customer.v4_id}")
    assert (status, one["data"]["id"]) == (200, payment.customer.v4_id)
    assert (await world.v4("/customers/cus_nobody"))[0] == 404


async def test_a_hook_is_sent_again_when_asked_for(world: World) -> None:
    payment = world.sandbox.create(**NGN)
    status, body = await world.v3(f"/transactions/{payment.id}/resend-hook", "POST")
    assert (status, body["status"]) == (200, "success")
    assert [d.payment_id for d in world.sandbox.sender.deliveries] == [str(payment.id)]
    assert (await world.v3("/transactions/1/resend-hook", "POST"))[0] == 400


async def test_over_the_limit_everything_is_refused_until_the_cool_off_is_over(
    world: World,
) -> None:
    limit = {"calls_per_minute": 3, "cool_off_s": 100}
    assert (await world.control("api", limit))["calls_per_minute"] == 3
    world.sandbox.create(payment_id="5", **NGN)
    verify = "/transactions/5/verify"
    assert [(await world.v3(verify))[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    world.clock.now += 99.5
    assert (await world.v3("/transfers/1"))[0] == 429
    with pytest.raises(ProviderUnavailable) as refused:
        await world.client.payment(Kind.CHARGE, "5", **ASKING)
    assert (refused.value.reason, refused.value.retry_after_s) == ("rate_limited", 1.0)
    world.clock.now += 0.5
    assert (await world.v3(verify))[0] == 200


async def test_a_cool_off_may_keep_its_length_to_itself(world: World) -> None:
    await world.control("api", {"calls_per_minute": 1, "cool_off_s": 9, "retry_after": False})
    await world.v3("/transfers/1")
    with pytest.raises(ProviderUnavailable) as refused:
        await world.client.payment(Kind.CHARGE, "5", **ASKING)
    assert (refused.value.reason, refused.value.retry_after_s) == ("rate_limited", None)
    await world.control("api", {"calls_per_minute": None})
    assert (await world.v3("/transfers/1"))[0] == 404


def test_a_limit_counts_the_last_minute() -> None:
    limiter = Limiter(Limit(calls_per_minute=2, cool_off_s=5))
    assert [limiter.admit(t) for t in (0, 30, 61, 62, 66.9, 67)] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"mode": "503"}, "http_5xx"),
        ({"mode": "503", "html": True, "retry_after_s": 7}, "http_5xx"),
        ({"mode": "503", "delay_s": 0.01, "html": True}, "http_5xx"),
        ({"mode": "429", "html": True}, "rate_limited"),
        ({"mode": "html"}, "html"),
        ({"mode": "html", "code": 404}, "html"),
        ({"mode": "html", "code": 502}, "http_5xx"),
    ],
)
async def test_the_client_knows_each_fault_for_what_it_is(
    world: World, fault: dict[str, Any], reason: str
) -> None:
    payment = world.sandbox.create(**NGN)
    await world.control("faults", fault)
    with pytest.raises(ProviderUnavailable) as raised:
        await world.client.payment(Kind.CHARGE, str(payment.id), **ASKING)
    assert raised.value.reason == reason
    wants_html = fault.get("html") or fault["mode"] == "html"
    async with world.session.get(f"{world.running.base_url}/transfers/1") as response:
        assert ("html" in response.content_type) is bool(wants_html)


async def test_a_503_may_come_after_a_while(world: World) -> None:
    world.sandbox.faults.set(Fault(FaultMode.UNAVAILABLE, delay_s=600))
    waiting = asyncio.create_task(world.v3("/transfers/1"))
    await world.sandbox.faults.held_back.wait()
    assert not waiting.done()
    world.sandbox.faults.set(Fault())
    assert (await waiting)[0] == 503


async def test_a_fault_may_meet_some_calls_only(world: World) -> None:
    await world.control("faults", {"mode": "503", "share": 0.3})
    codes = [(await world.v3("/transfers/1"))[0] for _ in range(200)]
    assert codes.count(503) == 60
    assert codes.count(404) == 140


async def test_a_token_runs_out_after_600_s_and_can_be_revoked(world: World) -> None:
    payment = world.sandbox.create(form=Form.V4, **NGN)
    token = await world.token()
    url = f"{world.running.v4_base_url}/charges/{payment.id}"
    world.clock.now += 599
    assert (await world.call("GET", url, token))[0] == 200
    world.clock.now += 1
    assert (await world.call("GET", url, token))[0] == 401
    assert await world.client.payment(Kind.CHARGE, str(payment.id), **ASKING) is not None
    await world.control("api", {"revoke_tokens": True})
    assert await world.client.payment(Kind.CHARGE, str(payment.id), **ASKING) is not None
    await world.control("api", {"token_lifetime_s": 5})
    token = await world.token()
    world.clock.now += 5
    assert (await world.call("GET", url, token))[0] == 401


async def test_wrong_credentials_get_no_token(world: World) -> None:
    url = f"{world.running.url}/realms/flutterwave/protocol/openid-connect/token"
    form = {"grant_type": "client_credentials", "client_id": "x", "client_secret": "y"}
    async with world.session.post(url, data=form) as response:
        assert response.status == 401
    credentials = Credentials(
        client_id="x", client_secret="y", token_url=url, v4_base_url=world.running.v4_base_url
    )
    client = FlutterwaveClient(credentials, world.session, LocalGate(hourly_budget=10))
    with pytest.raises(ProviderRejected, match="401"):
        await client.payment(Kind.CHARGE, "chg_1", **ASKING)


@pytest.mark.parametrize(
    "settings",
    [
        {"not_found_code": 500},
        {"calls_per_minute": 0},
        {"cool_off_s": -1, "calls_per_minute": 3},
        {"token_lifetime_s": 0},
    ],
)
async def test_a_setting_without_sense_changes_nothing(
    world: World, settings: dict[str, Any]
) -> None:
    url = f"{world.running.url}/sandbox/api"
    async with world.session.get(url) as response:
        before = await response.json()
    async with world.session.post(url, json=settings) as response:
        assert response.status == 400
    async with world.session.get(url) as response:
        assert await response.json() == before
