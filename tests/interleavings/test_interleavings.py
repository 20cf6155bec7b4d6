"""No promise is broken under any schedule of the small stories, nor by chance in larger ones.

And each mechanism is needed: without it the same search finds the schedule that breaks a promise.
More of it: ``python -m tests.interleavings --schedules 50000``.
"""

from __future__ import annotations

from contextlib import aclosing

import pytest

from bench.without import MECHANISMS, ON_POSTGRESQL, without
from tests.interleavings.explore import Run, every_schedule, random_schedule
from tests.interleavings.scenarios import SCENARIOS, TELLING
from tests.interleavings.world import Servers

# Of each story; five have more, all of which `make proof` runs. With those by chance, over 3,000.
MOST = 350
BY_CHANCE = 400


@pytest.mark.parametrize("name", SCENARIOS)
async def test_no_schedule_of_the_story_breaks_a_promise(servers: Servers, name: str) -> None:
    runs = 0
    async with aclosing(every_schedule(servers, SCENARIOS[name])) as schedules:
        async for run in schedules:
            runs += 1
            assert not run.violations, str(run)
            if runs == MOST:
                break
    assert runs > 1


@pytest.mark.parametrize("first", range(0, BY_CHANCE, 100))
async def test_no_schedule_made_by_chance_breaks_a_promise(servers: Servers, first: int) -> None:
    for seed in range(first, first + 100):
        run = await random_schedule(servers, seed)
        assert not run.violations, str(run)


# What only PostgreSQL has takes a search of many seconds there: `make proof` leaves it out.
@pytest.mark.parametrize("mechanism", sorted(set(MECHANISMS) - ON_POSTGRESQL))
async def test_without_a_mechanism_a_promise_is_broken(servers: Servers, mechanism: str) -> None:
    broken: list[Run] = []
    with without(mechanism):
        async with aclosing(every_schedule(servers, SCENARIOS[TELLING[mechanism]])) as runs:
            async for run in runs:
                if run.violations:
                    broken.append(run)
                    break
    assert broken
    assert broken[0].violations[0].startswith(("stale", "step back"))


async def test_the_same_seed_is_the_same_schedule(servers: Servers) -> None:
    first = await random_schedule(servers, 4711)
    again = await random_schedule(servers, 4711)
    assert first.trace == again.trace
