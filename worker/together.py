"""Jobs that are waiting together are settled together: one claim, one commit, one pipeline.

Each webhook has a job of its own when few come, and shares one with the rest of its commit when
many do. Here the worker makes up for the first: what has come while it was busy is one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from paystate.payments.settling import Settler

__all__ = ["Batch", "Together"]

# Rows in a batch. More save little, and each waits for all of them.
MOST_ROWS = 400
# Batches under way; most of them wait for answers of the provider.
BATCHES_AT_ONCE = 8


@dataclass(eq=False)
class Batch:
    """Inbox rows that are settled together, and how many have ended once they were."""

    ids: list[int] = field(default_factory=list)
    ended: int = 0
    done: asyncio.Future[None] = field(default_factory=asyncio.Future)


class Together:
    """Settles the rows of jobs; one for each worker process."""

    def __init__(self, settler: Settler) -> None:
        self._settler = settler
        self._turns = asyncio.Semaphore(BATCHES_AT_ONCE)
        self._forming: Batch | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def crowded(self) -> bool:
        """Whether jobs wait for others to be settled."""
        return self._turns.locked()

    async def settle(self, inbox_ids: Sequence[int]) -> Batch:
        """Settle `inbox_ids` with whatever else is waiting, and return the batch they were in.

        Raises what `Settler.settle` raises. A job that is cancelled leaves its rows in the batch.
        """
        batch = self._forming
        if batch is None or len(batch.ids) + len(inbox_ids) > MOST_ROWS:
            batch = self._forming = Batch()
            batch.done = task = asyncio.get_running_loop().create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._over)
        batch.ids.extend(inbox_ids)
        await asyncio.shield(batch.done)
        return batch

    async def _run(self, batch: Batch) -> None:
        async with self._turns:
            if self._forming is batch:
                self._forming = None
            batch.ended = await self._settler.settle(batch.ids)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # every job that wanted to see it may have gone

    async def finish(self, grace_s: float) -> None:
        """Cancel batches that nobody waits for any more, and wait until they have ended."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
