"""Entries of a cluster for code without an event loop: read on a loop in a thread of their own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from paystate.connections import connect
from paystate.keys import Entity, Keys
from paystate.reader.answers import PaymentStatus
from paystate.reader.entries import Entries

__all__ = ["ClusterEntries"]

T = TypeVar("T")

CLOSE_S = 5.0


class _LoopThread:
    """An event loop that turns in a daemon thread until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="paystate-cluster", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there and return or raise what comes of it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._loop.close()


class ClusterEntries:
    """Reads entries; many threads may share one. Nothing starts before the first read.

    A process that was forked since then begins anew: threads do not come along.
    """

    def __init__(self, url: str, keys: Keys, *, lease_ms: int, timeout_s: float) -> None:
        self._url = url
        self._keys = keys
        self._lease_ms = lease_ms
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._pid = 0

    def read(self, entities: Sequence[Entity]) -> dict[Entity, PaymentStatus]:
        """Return what is there. Raises CacheUnavailable if a server could not be asked."""
        with self._lock:
            if self._pid != os.getpid():
                self._open()
        return self._thread.run(self._read(entities))

    def _open(self) -> None:
        self._thread = _LoopThread()
        self._redis = connect(self._url, timeout_s=self._timeout_s)
        self._entries = Entries(self._redis, self._keys, lease_ms=self._lease_ms)
        self._pid = os.getpid()

    async def _read(self, entities: Sequence[Entity]) -> dict[Entity, PaymentStatus]:
        answers = await asyncio.gather(*map(self._entries, entities))
        pairs = zip(entities, answers, strict=True)
        return {entity: answer for entity, answer in pairs if answer is not None}

    def close(self) -> None:
        """Close the connections and end the thread."""
        with self._lock:
            if self._pid == os.getpid():
                self._thread.run(self._redis.aclose())
                self._thread.close()
            self._pid = 0
