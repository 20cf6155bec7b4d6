"""The worker's jobs that wait together are settled together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from paystate.metrics import Metrics
from worker.sweep import Sweeper
from worker.together import BATCHES_AT_ONCE, MOST_ROWS, Together


class SlowSettler:
    """Settles nothing before it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.failure: Exception | None = None

    async def settle(self, inbox_ids: Sequence[int]) -> int:
        """Note the batch, and say that all of it has ended."""
        self.batches.append(list(inbox_ids))
        await self.go_on.wait()
        if self.failure:
            raise self.failure
        return len(inbox_ids)


async def begin(together: Together, jobs: Sequence[Sequence[int]]) -> list[asyncio.Task[Any]]:
    """Begin jobs, and let each come as far as it can."""
    tasks = [asyncio.create_task(together.settle(job)) for job in jobs]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def test_jobs_that_come_at_once_are_one_claim_up_to_a_number_of_rows() -> None:
    settler: Any = SlowSettler()
    settler.go_on.set()
    jobs = [[1], [2, 3], list(range(10, 10 + MOST_ROWS))]
    one, two, three = await asyncio.gather(*await begin(Together(settler), jobs))
    assert settler.batches == [[1, 2, 3], jobs[2]]
    assert one is two
    assert (one.ended, three.ended) == (3, MOST_ROWS)


async def test_what_comes_while_all_turns_are_taken_is_one_batch() -> None:
    settler: Any = SlowSettler()
    together = Together(settler)
    waiting = [task for n in range(BATCHES_AT_ONCE) for task in await begin(together, [[n]])]
    waiting += await begin(together, [[100], [101]])
    assert len(settler.batches) == BATCHES_AT_ONCE
    settler.go_on.set()
    await asyncio.gather(*waiting)
    assert settler.batches[-1] == [100, 101]


async def test_a_job_that_is_cancelled_takes_nothing_from_the_others() -> None:
    settler: Any = SlowSettler()
    first, second = await begin(Together(settler), [[1], [2]])
    first.cancel()
    await asyncio.wait([first])
    settler.go_on.set()
    assert (await second).ended == 2


async def test_a_failure_reaches_every_job_of_the_batch_and_none_of_the_next() -> None:
    settler: Any = SlowSettler()
    settler.failure = OSError("away")
    together = Together(settler)
    jobs = await begin(together, [[1], [2]])
    settler.go_on.set()
    for job in jobs:
        with pytest.raises(OSError, match="away"):
            await job
    settler.failure = None
    assert (await together.settle([3])).ended == 1


class FullSettler:
    """Has as much to sweep as it is asked for."""

    async def sweep(self, *, grace_ms: int, most: int) -> tuple[int, int]:
        """Say that all of it has been taken and has ended."""
        return most, most


async def test_a_sweep_follows_the_last_at_once_unless_jobs_wait_for_each_other() -> None:
    """They are at what is due longest: to claim it as well would be work for nothing."""
    settler: Any = SlowSettler()
    sweeping: Any = FullSettler()
    together, stop = Together(settler), asyncio.Event()
    sweeper = Sweeper(sweeping, sweeping, Metrics(), stop, crowded=lambda: together.crowded)
    await sweeper.work()
    waiting = [task for n in range(BATCHES_AT_ONCE) for task in await begin(together, [[n]])]
    round_ = asyncio.create_task(sweeper.work())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not round_.done()
    stop.set()
    await round_
    settler.go_on.set()
    await asyncio.gather(*waiting)
    assert not together.crowded
