"""The provider under strain: limits that all processes keep, a slow merchant, an outage."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from paystate.connections import connect
from paystate.errors import ProviderUnavailable
from paystate.flutterwave.breaker import FAILURES
from paystate.flutterwave.client import Credentials, FlutterwaveClient
from paystate.flutterwave.gate import Purpose
from paystate.flutterwave.shared_gate import RedisGate
from paystate.flutterwave.transport import provider_session
from paystate.keys import Keys
from paystate.payments.confirming import CONFIRMATIONS_OF_ONE_MERCHANT
from paystate.updates import Kind
from tests.conftest import Opener
from tests.harness import new_id, open_world
from tests.unit import bodies

# Half past an hour.
START = 1_760_000_400 - 1_760_000_400 % 3600 + 1800.0
NOT_FOUND = {"status": "error", "message": "No transaction was found for this id", "data": None}
# Not a measure of speed: it ends a test that would wait for ever.
HANGS_S = 30

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def provider(handler: Handler) -> AsyncIterator[str]:
    """Run a provider that is one function; yield its address."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


class Clock:
    """Epoch seconds that stand still until they are moved."""

    now = START

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def processes(count: int, cache: str, url: str, clock: Clock, **budget: int) -> Any:
    """Open what `count` processes would have: a client each, with connections of its own."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            redis = connect(cache, timeout_s=5)
            stack.push_async_callback(redis.aclose)
            gate = RedisGate(redis, Keys(), "default", clock=clock, **budget)
            session = await stack.enter_async_context(provider_session())
            credentials = Credentials(secret_key="k", base_url=url)
            clients.append(FlutterwaveClient(credentials, session, gate, timeout_s=HANGS_S))
        yield clients


async def ask_all(clients: list[FlutterwaveClient], times: int, purpose: Purpose) -> Counter[str]:
    """Ask `times` questions of each client at once; return how many came to what."""

    async def one(client: FlutterwaveClient) -> str:
        try:
            await client.payment(Kind.CHARGE, "1", purpose=purpose)
        except ProviderUnavailable as e:
            return e.reason
        return "answered"

    return Counter(await asyncio.gather(*(one(c) for c in clients for _ in range(times))))


async def test_no_number_of_processes_goes_over_a_budget(valkey_url: str) -> None:
    """What reaches Flutterwave is counted there: the hour's budget and not one call more."""
    seen = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        return web.json_response(NOT_FOUND)

    clock = Clock()
    async with (
        provider(answer) as url,
        processes(5, valkey_url, url, clock, hourly_budget=30, per_minute=1000) as clients,
    ):
        outcomes = Counter[str]()
        for purpose in Purpose:
            outcomes += await ask_all(clients, 9, purpose)
        assert seen == outcomes["answered"] == 30
        assert outcomes["budget_spent"] == 4 * 45 - 30


async def test_a_429_keeps_every_process_away_and_one_call_finds_out_when_it_is_over(
    valkey_url: str,
) -> None:
    """What was under way when the first came is all; then there is one call after each cool-off."""
    seen = 0

    async def refuse(_: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        return web.json_response({}, status=429, headers={"Retry-After": "10"})

    clock = Clock()
    async with (
        provider(refuse) as url,
        processes(5, valkey_url, url, clock, hourly_budget=60, per_minute=1000) as clients,
    ):
        first = await ask_all(clients, 8, Purpose.CONFIRM)
        assert 1 <= seen <= 40
        assert first["rate_limited"] == seen
        for wait_s, calls in ((0, 0), (9, 0), (1, 1), (19, 0), (1, 1), (39, 0), (1, 1)):
            clock.now += wait_s
            before = seen
            outcomes = await ask_all(clients, 4, Purpose.CONFIRM)
            assert seen - before == calls
            assert outcomes == Counter(rate_limited=calls, cooling_off=20 - calls)


async def test_questions_share_a_connection(valkey_url: str) -> None:
    """One after another they need one, for whatever merchant and purpose."""
    peers = set()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response(NOT_FOUND)

    async with (
        provider(answer) as url,
        processes(1, valkey_url, url, Clock(), hourly_budget=100) as clients,
    ):
        for purpose in Purpose:
            await ask_all(clients, 1, purpose)
    assert len(peers) == 1


async def test_a_slow_merchant_leaves_room_for_the_confirmations_of_the_others(
    open_process: Opener, tmp_path: Path
) -> None:
    under_way = most = 0
    release, other_asked = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal under_way, most
        if request.headers["Authorization"] == "Bearer fast":
            other_asked.set()
        else:
            under_way += 1
            most = max(most, under_way)
            await release.wait()
            under_way -= 1
        return web.json_response(NOT_FOUND)

    merchants = tmp_path / "merchants.toml"
    merchants.write_text('[slow]\nsecret_hash = "slow-hash"\nsecret_key = "slow"\n', "utf-8")
    async with (
        provider(answer) as url,
        open_world(
            open_process, FLW_BASE_URL=url, FLW_SECRET_KEY="fast", MERCHANTS_FILE=str(merchants)
        ) as world,
    ):
        for _ in range(CONFIRMATIONS_OF_ONE_MERCHANT + 4):
            await world.v3(bodies.v3_charge(id=new_id()), secret="slow-hash", merchant="slow")
        await world.v3(bodies.v3_charge(id=new_id()))
        sweep = asyncio.create_task(world.resources.settler.sweep(grace_ms=0, most=100))
        try:
            async with asyncio.timeout(HANGS_S):
                await other_asked.wait()
        finally:
            release.set()
            await sweep
        assert most <= CONFIRMATIONS_OF_ONE_MERCHANT


async def _old_pending(world: Any, count: int) -> list[int]:
    """Have payments that have been pending for so long that the provider must be asked."""
    numbers = [new_id() for _ in range(count)]
    for number in numbers:
        body = bodies.v3_charge(id=number, status="pending", tx_ref=f"ref-{number}")
        await world.v3(body)
    await world.settle()
    await world.age("entities", "changed_ms", 120_000)
    await world.resources.redis.flushall()
    return numbers


@pytest.mark.parametrize("cause", ["breaker_open", "cooling_off", "budget_spent"])
async def test_who_cannot_be_asked_about_gets_the_last_known_state_and_when_to_come_back(
    open_process: Opener, cause: str
) -> None:
    """Nothing is asked, nothing is guessed, and it is no error."""
    seen = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        if cause == "budget_spent":
            return web.json_response(NOT_FOUND)
        code = 429 if cause == "cooling_off" else 503
        headers = {"Retry-After": "1200"} if code == 429 else {}
        return web.json_response({}, status=code, headers=headers)

    async with provider(answer) as url:
        settings = {"FLW_BASE_URL": url, "FLW_SECRET_KEY": "k", "CONFIRM": "never"}
        budget = {"PROVIDER_CALLS_PER_HOUR": "5"} if cause == "budget_spent" else {}
        async with open_world(open_process, **settings, **budget) as world:
            *before, last = await _old_pending(world, FAILURES + 1)
            for number in before:
                await world.get(f"/api/payments/{number}/status")
            asked = seen
            for _ in range(2):  # the one who may ask now, and the one who comes after
                answer_ = await world.get(f"/api/payments/{last}/status")
                shown = answer_.body
                assert (answer_.status, shown["status"], shown["fresh"]) == (200, "pending", False)
                assert 1 <= int(answer_.headers["Retry-After"]) <= 30
            assert seen == asked
            details = await world.get(f"/api/payments/{last}")
            body = {"ids": [str(last), "404404"]}
            many = await world.post("/api/payments/status", body)
            (shown,) = many.body["statuses"]
            assert (details.body["fresh"], shown["fresh"]) == (False, False)
            for told in (details, many):
                assert 1 <= int(told.headers["Retry-After"]) <= 30
            calls = world.resources.metrics.registry.get_sample_value(
                "paystate_provider_calls_total", {"purpose": "lookup", "outcome": cause}
            )
            assert calls
