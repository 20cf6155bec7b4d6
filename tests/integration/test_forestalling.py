"""Who would tell a version marks it first; who cannot waits until nobody tells an earlier one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paystate.cache.answers import Miss
from paystate.flutterwave.exact import read_body
from paystate.flutterwave.payloads import parse_event
from paystate.keys import Entity, EntityKind
from paystate.payments.answers import StatusAnswer
from paystate.payments.recording import new_event
from paystate.store import Store
from paystate.updates import Api
from tests.conftest import Opener
from tests.harness import World, new_id, open_world
from tests.unit import bodies

LEASE_MS = "2000"
RUN_OUT_S = 3.0  # one and a half leases


class Time:
    """A clock of seconds that only sleeping moves on; `meanwhile` happens during the next sleep."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []
        self.trying_s = 0.0  # how long it takes to find out that a mark cannot be made
        self.meanwhile: Any = None

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        self.now_s += seconds


async def _acknowledged(world: World) -> Entity:
    """Acknowledge a success that nobody has settled."""
    number = new_id()
    await world.v3(bodies.v3_charge(id=number, status="successful"))
    return Entity("default", EntityKind.CHARGE, str(number))


def _cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[Time, list[int]]:
    """Let this process mark nothing, though others may reach the cache; note what it tries."""
    time, tried = Time(), list[int]()

    async def mark_each(states: Any) -> list[bool]:
        tried.extend(state.version for state in states)
        time.now_s += time.trying_s
        return [False] * len(states)

    monkeypatch.setattr(world.resources.cache, "mark_each", mark_each)
    monkeypatch.setattr(world.resources.lookups, "_clock", time.clock)
    monkeypatch.setattr(world.resources.lookups, "_sleep", time.sleep)
    return time, tried


async def _settled_meanwhile(
    world: World, entity: Entity, time: Time, monkeypatch: pytest.MonkeyPatch
) -> StatusAnswer:
    """Ask for `entity`, which is settled while the question waits; return the answer."""

    async def settled() -> None:
        monkeypatch.undo()
        await world.settle()

    time.meanwhile = settled
    return await world.resources.lookups.status(entity)


async def test_what_cannot_be_marked_is_told_once_every_lease_has_run_out(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each version: from then on nobody can be told an earlier one."""
    async with open_world(open_process, PENDING_LEASE_MS=LEASE_MS) as world:
        entity = await _acknowledged(world)
        time, tried = _cut_off(world, monkeypatch)
        for _ in range(3):
            answer = await world.resources.lookups.status(entity)
            assert (answer.status, answer.version) == ("processing", 1)
        assert (time.slept, tried) == ([RUN_OUT_S], [1])


async def test_who_comes_while_somebody_waits_waits_no_longer_than_they(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(open_process, PENDING_LEASE_MS=LEASE_MS) as world:
        entity = await _acknowledged(world)
        time, tried = _cut_off(world, monkeypatch)

        async def another_comes() -> None:
            time.now_s += 1.0
            await world.resources.lookups.status(entity)

        time.meanwhile = another_comes
        await world.resources.lookups.status(entity)
        assert (time.slept, tried) == ([RUN_OUT_S, RUN_OUT_S - 1.0], [1])


async def test_what_has_come_during_the_wait_is_what_is_told(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(open_process, PENDING_LEASE_MS=LEASE_MS) as world:
        entity = await _acknowledged(world)
        time, _ = _cut_off(world, monkeypatch)
        answer = await _settled_meanwhile(world, entity, time, monkeypatch)
        assert (answer.status, answer.version) == ("successful", 2)


async def test_what_has_come_while_the_mark_was_tried_is_what_is_told(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that took: the row of before is not told as that of now."""
    async with open_world(open_process, PENDING_LEASE_MS=LEASE_MS) as world:
        entity = await _acknowledged(world)
        time, _ = _cut_off(world, monkeypatch)
        time.trying_s = 2 * RUN_OUT_S
        answer = await _settled_meanwhile(world, entity, time, monkeypatch)
        assert (answer.status, time.slept) == ("successful", [0.0])


async def test_a_crowd_marks_once(open_process: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one batch, and one who goes away takes it from nobody."""
    async with open_world(open_process, PENDING_LEASE_MS=LEASE_MS) as world:
        entities = [await _acknowledged(world) for _ in range(3)]
        batches: list[int] = []
        mark_each = world.resources.cache.mark_each

        async def noted(states: Any) -> list[bool]:
            batches.append(len(states))
            leaving.cancel()
            return await mark_each(states)

        monkeypatch.setattr(world.resources.cache, "mark_each", noted)
        status = world.resources.lookups.status
        leaving = asyncio.create_task(status(entities[0]))
        crowd = [status(entity) for entity in entities * 20]
        answers = await asyncio.gather(leaving, *crowd, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert {getattr(answer, "status", answer) for answer in answers[1:]} == {"processing"}
        assert batches == [3]


async def test_a_success_with_an_event_open_is_told_at_once(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event does not change what is shown of it, so there is no earlier version to be told."""
    async with open_world(open_process, PENDING_LEASE_MS=LEASE_MS) as world:
        entity = await _acknowledged(world)
        await world.settle()
        await world.resources.redis.flushall()
        body = bodies.v3_charge(id=int(entity.id), status="failed")
        await world.v3(body)
        await world.resources.redis.flushall()
        time, tried = _cut_off(world, monkeypatch)
        answer = await world.resources.lookups.status(entity)
        assert (answer.status, answer.source) == ("successful", "database")
        assert (time.slept, tried) == ([], [])


async def test_in_strict_mode_nobody_waits(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but a success is ever told from the cache, so there is nothing to fear from it."""
    async with open_world(open_process, PENDING_LEASE_MS="0") as world:
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="successful"))
        time, tried = _cut_off(world, monkeypatch)
        entity = Entity("default", EntityKind.CHARGE, str(number))
        assert (await world.resources.lookups.status(entity)).status == "processing"
        assert (time.slept, tried) == ([], [])


async def test_a_token_that_was_forgotten_forestalls_nothing(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds one marks as well: it may have been evicted, and another reader have the next."""
    async with open_world(open_process, PENDING_LEASE_MS=LEASE_MS) as world:
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="pending"))
        await world.settle()
        entity = Entity("default", EntityKind.CHARGE, str(number))
        cache, store, states = world.resources.cache, world.resources.store, Store.states
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def paused(self: Store, entities: Any) -> Any:
            asked.set()
            await go_on.wait()
            return await states(self, entities)

        monkeypatch.setattr(Store, "states", paused)
        first = asyncio.create_task(world.resources.lookups.status(entity))
        await asked.wait()  # it has the token, and not read yet
        monkeypatch.undo()
        await world.resources.redis.flushall()
        missed = await cache.read(entity)
        assert isinstance(missed, Miss)
        token, pending = missed.take_token(), (await store.states([entity]))[entity]
        success = bodies.v3_charge(id=number, status="successful")
        raw = bodies.encode(success)
        event = parse_event(Api.V3, read_body(raw, "application/json"), raw)
        await store.acknowledge([new_event("default", event)])  # committed, and not marked yet
        go_on.set()
        told = await first
        assert (told.status, told.version) == ("processing", pending.version + 1)
        assert token is not None
        assert await cache.fill(pending, token) != "stored"
        assert isinstance(await cache.read(entity), Miss)
