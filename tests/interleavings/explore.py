"""Run schedules: every one of a small story, or many of large ones by chance.

The exhaustive search runs the story again from its start for each schedule; `search` says which
schedules can make a difference.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from tests.interleavings.scenarios import Scenario, compose
from tests.interleavings.search import Search
from tests.interleavings.steps import Move, Outcome
from tests.interleavings.world import LEASE_MS, Servers, World, take_new, take_pending

__all__ = ["Run", "every_schedule", "random_schedule"]


@dataclass(slots=True)
class Run:
    """One schedule that was run: what happened in it, and what was wrong with it."""

    name: str
    trace: list[str]
    lookups: int
    violations: list[str]

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"  {line}" for line in self.trace + self.violations)])


async def _open(servers: Servers, scenario: Scenario) -> World:
    number, states = await (take_pending if scenario.pending else take_new)(servers)
    lease_ms = LEASE_MS if scenario.lease else 0
    world = World(servers, number, lease_ms=lease_ms, confirming=scenario.confirming)
    world.oracle.committed(states)
    await servers.load_scripts()
    await scenario.before(world)
    world.schedule.trace.clear()
    world.schedule.free = False
    scenario.at_once(world)
    await world.schedule.settle()
    return world


async def _close(world: World, name: str) -> Run:
    await world.quiesce()
    wrong = world.oracle.violations + [
        f"broke: {type(e).__name__}: {e}" for e in world.schedule.failures
    ]
    return Run(name, world.schedule.trace, world.oracle.lookups, wrong)


async def every_schedule(servers: Servers, scenario: Scenario) -> AsyncIterator[Run]:
    """Run `scenario` under every schedule that can make a difference."""
    search, number = Search(), 0
    while search.unfinished:
        world = await _open(servers, scenario)
        search.restart()
        while moves := dict(_named(world.schedule.moves())):
            key = search.choose({key: move.step for key, move in moves.items()})
            if key is None:  # whatever comes from here has been seen in another order
                break
            await world.schedule.take(moves[key])
        else:
            number += 1
            yield await _close(world, f"{scenario.name}, schedule {number}")
            search.learn()
            continue
        await world.abandon()
        search.learn()


def _named(moves: list[Move]) -> Iterator[tuple[str, Move]]:
    """Number the moves of one process that look alike."""
    seen: dict[str, int] = {}
    for move in moves:
        seen[move.key] = seen.get(move.key, 0) + 1
        yield f"{move.key}#{seen[move.key]}", move


async def random_schedule(servers: Servers, seed: int) -> Run:
    """Run one large story under one schedule, both made from `seed`, with faults around it."""
    try:
        return await _random_schedule(servers, seed)
    except BaseException as e:
        e.add_note(f"in seed {seed}")
        raise


async def _random_schedule(servers: Servers, seed: int) -> Run:
    draw = random.Random(seed)
    scenario = compose(draw)
    world = await _open(servers, scenario)
    faults = draw.random() < 0.7
    for _ in range(400):
        moves = world.schedule.moves()
        if not moves:
            break
        move = draw.choice(moves)
        if faults and draw.random() < 0.15:
            await _disturb(world, move, draw)
            continue
        outcome = Outcome.DONE
        if faults and move.step.resource == "cache" and draw.random() < 0.04:
            outcome = draw.choice([Outcome.REFUSED, Outcome.UNANSWERED])
        await world.schedule.take(move, outcome)
    return await _close(world, f"seed {seed}")


async def _disturb(world: World, move: Move, draw: random.Random) -> None:
    """Let something happen around the processes."""
    what = draw.choice(
        ["evict", "evict", "evict", "evict all", "crash", "snapshot", "fail over", "time", "claims",
         "provider", "flush"]
    )  # fmt: skip
    if what == "crash":
        await world.schedule.crash(move.process)
        return
    if what == "claims" and world.schedule.writer is not None:
        return  # SQLite has one writer
    world.schedule.trace.append(f"({what})")
    lease_s = LEASE_MS / 1000

    async def advance() -> None:
        for payment_id in world.provider.script:
            world.provider.advance(payment_id)

    await {
        "evict": lambda: world.evict(draw),
        "evict all": world.evict,
        "flush": world.flush,
        "snapshot": world.snapshot,
        "fail over": world.fail_over,
        "time": lambda: world.pass_time(lease_s * draw.choice([0.5, 1.1])),
        "claims": world.let_go,
        "provider": advance,
    }[what]()
