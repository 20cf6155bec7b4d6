"""Who would tell a version marks it first; who cannot waits until nobody tells an earlier one."""

from __future__ import annotations

from typing import Any

import pytest

from paystate.cache.answers import Miss
from paystate.errors import CacheUnavailable
from paystate.keys import Entity, EntityKind
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
    """Acknowledge a success that nobody has settled, and let another reader hold the token."""
    number = new_id()
    await world.v3(bodies.v3_charge(id=number, status="successful"))
    entity = Entity("default", EntityKind.CHARGE, str(number))
    held = await world.resources.cache.read(entity)
    assert isinstance(held, Miss)
    assert held.take_token()
    return entity


def _cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[Time, list[int]]:
    """Let this process mark nothing, though others may reach the cache; note what it tries."""
    time, tried = Time(), list[int]()

    async def mark(states: Any) -> None:
        tried.extend(state.version for state in states)
        raise CacheUnavailable("mark_failed")

    monkeypatch.setattr(world.resources.cache, "mark", mark)
    monkeypatch.setattr(world.resources.lookups, "_clock", time.clock)
    monkeypatch.setattr(world.resources.lookups, "_sleep", time.sleep)
    return time, tried


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

        async def settled() -> None:
            monkeypatch.undo()
            await world.settle()

        time.meanwhile = settled
        answer = await world.resources.lookups.status(entity)
        assert (answer.status, answer.version) == ("successful", 2)


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
