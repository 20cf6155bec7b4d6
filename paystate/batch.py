"""Many callers, one round trip: requests that are waiting together are sent together.

The one rule that makes this safe for freshness: a caller joins a batch that has *not been sent
yet*, never one in flight. A read that is already under way may have been overtaken by a write that
this caller knows of; the next read cannot have been.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Generic, Protocol, TypeVar

__all__ = ["Batcher", "Coalescer", "Receiver"]

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
R_contra = TypeVar("R_contra", contravariant=True)


class Receiver(Protocol[R_contra]):
    """Who is given a result, or why there is none; a future is one.

    One that is no future is told in the same turn of the event loop, without a callback of its own.
    """

    def done(self) -> bool:
        """Say whether nothing is waited for any more."""

    def set_result(self, result: R_contra, /) -> None:
        """Take the result."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Take what went wrong."""


class Batcher(Generic[T, R]):
    """Collects items and hands them to `send` in batches of at most `most`.

    While `in_flight` batches are under way the next one fills up: under load batches grow, at rest
    an item leaves in the same turn of the event loop. `send` returns one result or exception for
    each item, in order; if it raises, every item of the batch gets that exception. A caller that is
    cancelled does not disturb the others.

    `then` is given the items and the results that are no exceptions, and is waited for before they
    are handed out; the next batch need not wait for it.
    """

    def __init__(
        self,
        send: Callable[[Sequence[T]], Awaitable[Sequence[R | BaseException]]],
        *,
        most: int,
        in_flight: int = 1,
        then: Callable[[Sequence[T], Sequence[R]], Awaitable[None]] | None = None,
    ) -> None:
        self._send = send
        self._then = then
        self._most = most
        self._free = in_flight
        self._waiting: list[tuple[T, Receiver[R]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """How many items wait to be sent."""
        return len(self._waiting)

    def submit(self, item: T) -> asyncio.Future[R]:
        """Put `item` into the next batch and return the future of its result."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.put(item, future)
        return future

    def put(self, item: T, receiver: Receiver[R]) -> None:
        """Put `item` into the next batch; `receiver` is given what comes of it, not before then."""
        self._waiting.append((item, receiver))
        if not self._scheduled and self._free:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    async def __call__(self, item: T) -> R:
        """Send `item` with the next batch and return its result."""
        return await self.submit(item)

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and self._free:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            batch = [(item, receiver) for item, receiver in batch if not receiver.done()]
            if not batch:
                continue
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[tuple[T, Receiver[R]]]) -> None:
        items = [item for item, _ in batch]
        try:
            try:
                results = list(await self._send(items))
            finally:
                self._free += 1
                self._start()
            if self._then is not None:
                pairs = zip(items, results, strict=True)
                done = [(i, r) for i, r in pairs if not isinstance(r, BaseException)]
                await self._then([i for i, _ in done], [r for _, r in done])
        except BaseException as e:
            for _, receiver in batch:
                _give(receiver, e)
            if not isinstance(e, Exception):
                raise
        else:
            for (_, receiver), result in zip(batch, results, strict=False):
                _give(receiver, result)
            for _, receiver in batch[len(results) :]:
                _give(receiver, ValueError("fewer results than items"))

    async def drain(self) -> None:
        """Wait until nothing is under way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def _give(receiver: Receiver[R], result: R | BaseException) -> None:
    """Give `receiver` a result, if it waits. What it fails at is its own, and takes from nobody."""
    if receiver.done():
        return
    try:
        if isinstance(result, BaseException):
            receiver.set_exception(result)
        else:
            receiver.set_result(result)
    except Exception as e:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a result could not be received", "exception": e}
        )


class Coalescer(Generic[K, R]):
    """A `Batcher` for reads: callers that ask for the same key share one place in the batch.

    `load` returns what it found, or why a key could not be looked for, which is raised to those who
    asked for that key; a key it leaves out is answered with None.

    `pace_s`: a read begins at the earliest so many seconds after the one before it began. At rest
    nobody waits; under load there are fewer reads of more keys.
    """

    def __init__(
        self,
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, R | BaseException]]],
        *,
        most: int,
        in_flight: int = 1,
        pace_s: float = 0.0,
    ) -> None:
        self._pace_s = pace_s
        self._next_at = 0.0
        self._load = load
        self._most = most
        self._free = in_flight
        # Who waits for a read of a key that has not been sent, in the order in which they came.
        self._unsent: dict[K, list[asyncio.Future[R | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def __call__(self, key: K) -> asyncio.Future[R | None]:
        """Return the future of what the next read, not yet sent, finds for `key`.

        Each caller has a future of its own, so that one who is cancelled takes nothing from others.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R | None] = loop.create_future()
        waiting = self._unsent.get(key)
        if waiting is None:
            self._unsent[key] = [future]
            if not self._scheduled and self._free:
                self._scheduled = True
                loop.call_soon(self._start)
        else:
            waiting.append(future)
        return future

    def _start(self) -> None:
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while self._unsent and self._free:
            if self._pace_s:
                now = loop.time()
                if now < self._next_at:
                    self._scheduled = True
                    loop.call_at(self._next_at, self._start)
                    return
                self._next_at = now + self._pace_s
            batch = self._take()
            if not batch:
                continue
            self._free -= 1
            task = loop.create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> dict[K, list[asyncio.Future[R | None]]]:
        """Return what is sent next. It is in flight now: who comes later belongs to the next."""
        taken, self._unsent = self._unsent, {}
        if len(taken) > self._most:
            items = iter(taken.items())
            taken = dict(islice(items, self._most))
            self._unsent = dict(items)
        gone = [k for k, waiting in taken.items() if waiting[0].done() and _all_done(waiting)]
        for key in gone:
            del taken[key]
        return taken

    async def _run(self, batch: dict[K, list[asyncio.Future[R | None]]]) -> None:
        try:
            found = await self._load(list(batch))
            for key, waiting in batch.items():
                _hand_out(waiting, found.get(key))
        except BaseException as e:
            for waiting in batch.values():
                _hand_out(waiting, e)
            if not isinstance(e, Exception):
                raise
        finally:
            self._free += 1
            if not self._scheduled:
                self._start()

    async def drain(self) -> None:
        """Wait until nothing is under way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def _all_done(waiting: list[asyncio.Future[R | None]]) -> bool:
    return all(future.done() for future in waiting)


def _hand_out(waiting: list[asyncio.Future[R | None]], result: R | BaseException | None) -> None:
    """Give everyone who still waits the result, or raise it to them."""
    failed = isinstance(result, BaseException)
    for future in waiting:
        if future.done():
            continue
        if failed:
            future.set_exception(result)  # type: ignore[arg-type]
        else:
            future.set_result(result)  # type: ignore[arg-type]
