"""When deliveries happen: each when its time comes, or strictly one after the other.

Real webhooks overlap, and whichever answer is quicker comes first. A script is to give the same
sequence each time, so it has a clock of its own: what is due first happens first, alone, and time
goes on when it has ended. Waiting follows the wall clock; the order never does.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Freely", "InTurn", "Schedule", "Scheduled", "Sleep", "Work"]

Work = Callable[[], Coroutine[Any, Any, None]]
Sleep = Callable[[float], Awaitable[object]]


class Scheduled(Protocol):
    """Work whose time may not have come yet."""

    def cancel(self) -> object:
        """Let it never happen, if it has not begun."""


class Schedule(Protocol):
    """What has work done later."""

    def after(self, delay_s: float, work: Work) -> Scheduled:
        """Do `work` in `delay_s` seconds."""

    async def idle(self) -> None:
        """Return once nothing is left to do."""

    @property
    def size(self) -> int:
        """Return how much is left to do."""


class Freely:
    """Everything at its time, side by side; `sleep` is what waits."""

    def __init__(self, sleep: Sleep = asyncio.sleep) -> None:
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def size(self) -> int:
        """Return how much is left to do."""
        return len(self._tasks)

    def after(self, delay_s: float, work: Work) -> Scheduled:
        """Do `work` in `delay_s` seconds, beside everything else."""
        task = asyncio.create_task(self._run(delay_s, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def idle(self) -> None:
        """Return once nothing is left to do."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, delay_s: float, work: Work) -> None:
        if delay_s > 0:
            await self._sleep(delay_s)
        await work()


@dataclass(order=True, slots=True)
class _Turn:
    """Work and when it is due; what is due at the same time happens in the order it was given."""

    due_s: float
    number: int
    work: Work = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class InTurn:
    """One thing at a time, by the time it is due; `run` does it all.

    What takes long makes the rest late and never changes its order. `now_s` is the time that the
    work under way was due at, from 0; what is given meanwhile counts from there.
    """

    def __init__(
        self, sleep: Sleep = asyncio.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.now_s = 0.0
        self._sleep = sleep
        self._clock = clock
        self._turns: list[_Turn] = []
        self._numbers = itertools.count()
        self._given = asyncio.Event()
        self._over = asyncio.Event()

    @property
    def size(self) -> int:
        """Return how much is left to do."""
        return sum(not turn.cancelled for turn in self._turns)

    def after(self, delay_s: float, work: Work) -> Scheduled:
        """Do `work` when `delay_s` seconds more have gone by on this clock."""
        turn = _Turn(self.now_s + max(0.0, delay_s), next(self._numbers), work)
        heapq.heappush(self._turns, turn)
        self._given.set()
        return turn

    async def run(self) -> None:
        """Do all there is, and all that comes of it, then return."""
        began = self._clock()
        try:
            while self._turns:
                turn = self._turns[0]
                if not turn.cancelled and not await self._come(began + turn.due_s - self._clock()):
                    continue  # something was given that may be due before it
                heapq.heappop(self._turns)
                if not turn.cancelled:
                    self.now_s = turn.due_s
                    await turn.work()
        finally:
            self._turns.clear()
            self._over.set()

    async def idle(self) -> None:
        """Return once `run` has."""
        await self._over.wait()

    async def _come(self, wait_s: float) -> bool:
        """Wait so long; return False as soon as more work is given."""
        if wait_s <= 0:
            return True
        self._given.clear()
        sleeping = asyncio.ensure_future(self._sleep(wait_s))
        disturbed = asyncio.ensure_future(self._given.wait())
        try:
            await asyncio.wait({sleeping, disturbed}, return_when=asyncio.FIRST_COMPLETED)
            return not self._given.is_set()
        finally:
            sleeping.cancel()
            disturbed.cancel()
