"""Many callers, one round trip: requests that are waiting together are sent together.

The one rule that makes this safe for freshness: a caller joins a batch that has *not been sent
yet*, never one in flight. A read that is already under way may have been overtaken by a write that
this caller knows of; the next read cannot have been.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

__all__ = ["Batcher", "Coalescer"]

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


class Batcher(Generic[T, R]):
    """Collects items and hands them to `send` in batches of at most `most`.

    While `in_flight` batches are under way the next one fills up: under load batches grow, at rest
    an item leaves in the same turn of the event loop. `send` returns one result or exception for
    each item, in order; if it raises, every item of the batch gets that exception. A caller that is
    cancelled does not disturb the others.
    """

    def __init__(
        self,
        send: Callable[[Sequence[T]], Awaitable[Sequence[R | BaseException]]],
        *,
        most: int,
        in_flight: int = 1,
    ) -> None:
        self._send = send
        self._most = most
        self._free = in_flight
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def submit(self, item: T) -> asyncio.Future[R]:
        """Put `item` into the next batch and return the future of its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, future))
        if not self._scheduled and self._free:
            self._scheduled = True
            loop.call_soon(self._start)
        return future

    async def __call__(self, item: T) -> R:
        """Send `item` with the next batch and return its result."""
        return await self.submit(item)

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and self._free:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            batch = [(item, future) for item, future in batch if not future.done()]
            if not batch:
                continue
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._send([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        except BaseException as e:
            for _, future in batch:
                if not future.done():
                    future.set_exception(e)
            if not isinstance(e, Exception):
                raise
        finally:
            self._free += 1
            self._start()

    async def drain(self) -> None:
        """Wait until nothing is under way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def _retrieve(future: asyncio.Future[R]) -> None:
    """Mark a failure as seen even if every caller that wanted to see it has gone."""
    if not future.cancelled():
        future.exception()


class Coalescer(Generic[K, R]):
    """A `Batcher` for reads: callers that ask for the same key share one place in the batch.

    `load` returns what it found; a key it leaves out is answered with None.
    """

    def __init__(
        self,
        load: Callable[[Sequence[K]], Awaitable[dict[K, R]]],
        *,
        most: int,
        in_flight: int = 1,
    ) -> None:
        self._load = load
        self._batches: Batcher[K, R | None] = Batcher(self._send, most=most, in_flight=in_flight)
        self._unsent: dict[K, asyncio.Future[R | None]] = {}

    async def __call__(self, key: K) -> R | None:
        """Return what the next read, not yet sent, finds for `key`."""
        future = self._unsent.get(key)
        if future is None:
            future = self._batches.submit(key)
            future.add_done_callback(_retrieve)
            self._unsent[key] = future
        return await asyncio.shield(future)

    async def _send(self, keys: Sequence[K]) -> Sequence[R | None]:
        # From here on the read is in flight: whoever comes now belongs to the next one.
        for key in keys:
            self._unsent.pop(key, None)
        found = await self._load(keys)
        return [found.get(key) for key in keys]
