"""The worker's loop over arq's queue, where the queue goes away under it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from paystate.connections import REDIS_FAILURES
from paystate.keys import Keys
from paystate.queue import open_queue
from tests.servers import OwnValkey
from worker.queue_loop import QueueLoop

JOBS = 5
HANGS_S = 30


class HeldSettler:
    """Ends nothing before it is told to."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self.all_in_hand = asyncio.Event()
        self.go_on = asyncio.Event()

    async def settle(self, inbox_ids: Sequence[int]) -> int:
        """Say that all of them have ended, once it may."""
        self._ids.update(inbox_ids)
        if len(self._ids) == JOBS:
            self.all_in_hand.set()
        await self.go_on.wait()
        return len(inbox_ids)


async def test_jobs_that_end_while_the_queue_is_away_are_told_of_by_the_loop_alone(
    own_valkey: OwnValkey,
) -> None:
    """Each has the same to say, and none of them says it once more as nobody's error."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    settler: Any = HeldSettler()
    stop = asyncio.Event()
    async with open_queue(own_valkey.url, Keys(), timeout_s=5) as queue:
        loop = QueueLoop(queue, settler, Keys(), stop, jobs=JOBS)
        for number in range(JOBS):
            await queue.settle([number])
        working = asyncio.create_task(loop.work())
        async with asyncio.timeout(HANGS_S):
            await settler.all_in_hand.wait()
        worker = loop._worker
        assert worker is not None
        own_valkey.kill()
        settler.go_on.set()
        loop.wake()
        with pytest.raises(REDIS_FAILURES):
            await working
        jobs = list(worker.tasks.values())
        await asyncio.wait(jobs, timeout=HANGS_S)
        assert sum(task.done() and not task.cancelled() for task in jobs) >= JOBS - 1
        await loop.finish(grace_s=HANGS_S)
    del loop, worker, jobs, working
    gc.collect()
    assert unheard == []
