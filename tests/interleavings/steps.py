"""A scheduler for real code: it decides whose next input or output goes ahead.

Processes run the product's own coroutines. Everything they send to Redis, to the database or to the
provider stops at a gate (`world` puts one in front of each) until the scheduler lets it through.
Between two gates a process runs alone, so a schedule is a list of choices, and the same choices
give the same run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["HANG_S", "Crashed", "Move", "Outcome", "Process", "Schedule", "Step", "dependent"]

# A step that takes this long hangs: the run ends with a traceback instead of never.
HANG_S = 60


class Crashed(Exception):
    """The process has died; nothing it still tries has any effect."""


class Outcome(Enum):
    """What becomes of a step that is let through."""

    DONE = "done"
    REFUSED = "refused"  # the other side cannot be reached: no effect, an error
    UNANSWERED = "unanswered"  # the effect is there, its answer is lost


@dataclass(frozen=True, slots=True)
class Step:
    """One input or output: what it is called, where it goes, whether it changes anything there.

    `begins` marks the first step of a lookup: what was acknowledged before it depends on when it
    is taken, so its order with any write matters.
    """

    name: str
    resource: str
    writes: bool
    begins: bool = False


# Where a write can change what a lookup must know of.
_VISIBLE = frozenset({"cache", "database"})
# Payments and changes, the rows of the inbox, and the lock that a transaction takes.
_DATABASE = frozenset({"database", "inbox", "lock"})


def dependent(one: Step, other: Step) -> bool:
    """Say whether the order of two steps of different processes can matter."""
    resources = {one.resource, other.resource}
    if "time" in resources:
        return True
    if one.begins or other.begins:
        return (one.writes or other.writes) and resources <= _VISIBLE
    if len(resources) == 1:
        return one.writes or other.writes
    return resources <= _DATABASE and one.writes and other.writes


@dataclass(frozen=True, slots=True)
class Move:
    """A step that can be taken now. `key` names it alike in every run with the same choices."""

    process: Process
    step: Step
    future: asyncio.Future[Outcome]

    @property
    def key(self) -> str:
        """The process and the step, as text."""
        return f"{self.process.name}: {self.step.name}"


class Process:
    """One process: what it does, at which gates it stands, whether it lives."""

    def __init__(self, schedule: Schedule, name: str) -> None:
        self.schedule = schedule
        self.name = name
        self.crashed = False
        self.call_failed = False  # one of its own calls was refused, or got no answer
        self.marks_refused = False  # its connections break whenever it marks
        self.waiting: list[Move] = []
        self.begun: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def done(self) -> bool:
        """Whether everything it was given to do has ended."""
        return all(task.done() for task in self._tasks)

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Begin `work`; it runs up to its first gate when the schedule next settles."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._guard(work)))

    async def _guard(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except Crashed:
            pass
        except Exception as e:
            if not self.crashed:
                self.schedule.failures.append(e)

    @asynccontextmanager
    async def gate(self, step: Step) -> AsyncIterator[Outcome]:
        """Wait until the scheduler lets `step` through; the body is the step. Raises Crashed."""
        outcome = await self.arrive(step)
        try:
            yield outcome
        finally:
            self.schedule.over()

    async def arrive(self, step: Step) -> Outcome:
        """Wait until the scheduler lets `step` through; who calls says when it is over."""
        if self.crashed:
            raise Crashed(self.name)
        outcome = Outcome.DONE
        if not self.schedule.free:
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self.waiting.append(Move(self, step, future))
            outcome = await future
        self.schedule.busy += 1
        return outcome

    def begin(self) -> None:
        """Tell the lookups that have been put that a read for them goes out now."""
        begun, self.begun = self.begun, []
        for hook in begun:
            hook()

    def crash(self) -> None:
        """Die where it stands; what it has begun in the database is rolled back."""
        self.crashed = True
        waiting, self.waiting = self.waiting, []
        for move in waiting:
            move.future.set_exception(Crashed(self.name))


class Schedule:
    """The processes of one run, and which task holds the database's lock for writing.

    All of them work on the same payment, for whose row PostgreSQL would make them wait, and SQLite
    has one writer: so a transaction is begun only while no other is open. While `free` is set the
    gates are open, for what is done before and after the run.
    """

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.free = True
        self.calls_failed = False
        self.writer: asyncio.Task[Any] | None = None
        self.trace: list[str] = []
        self.failures: list[BaseException] = []
        self.busy = 0  # steps let through and not over
        self._over = asyncio.Event()

    def process(self, name: str) -> Process:
        """Return a new process."""
        made = Process(self, name)
        self.processes.append(made)
        return made

    async def settle(self) -> None:
        """Wait until every process stands at a gate or has ended."""
        # With no step under way, what is left are callbacks that the event loop has in hand. Once
        # it has none, nothing moves any more. (No public name says so; uvloop has none at all.)
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(HANG_S):
                while self.busy or ready:
                    if self.busy and not ready:
                        self._over.clear()
                        await self._over.wait()
                    await asyncio.sleep(0)
        except TimeoutError as e:
            e.add_note("\n".join(["a step does not end; taken until then:", *self.trace]))
            raise

    def over(self) -> None:
        """Say that a step has come to its end."""
        self.busy -= 1
        assert self.busy >= 0
        self._over.set()

    def moves(self) -> list[Move]:
        """Return the steps that can be taken now."""
        free = self.writer is None
        return [
            move
            for process in self.processes
            for move in process.waiting
            if free or move.step.name != "begin"
        ]

    async def take(self, move: Move, outcome: Outcome = Outcome.DONE) -> None:
        """Let one step through, and wait until everybody stands again."""
        ending = "" if outcome is Outcome.DONE else f" ({outcome.value})"
        if outcome is not Outcome.DONE:
            self.calls_failed = move.process.call_failed = True
        self.trace.append(f"{move.key}{ending}")
        move.process.waiting.remove(move)
        move.future.set_result(outcome)
        await self.settle()

    async def crash(self, process: Process) -> None:
        """End a process where it stands."""
        self.trace.append(f"{process.name}: dies")
        process.crash()
        await self.settle()

    async def finish(self) -> None:
        """Let everybody run to the end."""
        self.free = True
        while any(process.waiting for process in self.processes):
            for process in self.processes:
                if process.waiting:
                    await self.take(process.waiting[0])
        await self.settle()
