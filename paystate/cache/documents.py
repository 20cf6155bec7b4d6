"""JSON documents: what is read from the database and costs more than one row to put together.

No document holds a status that anybody is told (those are in `statuses`). Each carries the version
and the revision that it was read under, and counts only if the database says that these are the
latest: so whatever is left behind by a crash, a failover or a lost write is never told to anyone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis.exceptions import ResponseError

from paystate.cache.scripts import KEEP, Call, run
from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import CacheUnavailable
from paystate.logs import logger
from paystate.metrics import Metrics

__all__ = ["Document", "DocumentCache", "Slip"]

log = logger()


@dataclass(frozen=True, slots=True)
class Slip:
    """Where a document lies and what it must say of itself to count. `kind` labels the metrics."""

    kind: str
    key: str
    version: int
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """What is to be kept, and for how many seconds (before the spread of a crowd)."""

    slip: Slip
    content: dict[str, Any]
    ttl_s: int


class DocumentCache:
    """The documents on one Redis or cluster. `jitter` and `draw` are as in `TtlPolicy`."""

    def __init__(
        self,
        redis: CacheClient,
        metrics: Metrics,
        *,
        jitter: float = 0.1,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._redis = redis
        self._metrics = metrics
        self._jitter = jitter
        self._draw = draw

    async def read(self, slips: Sequence[Slip]) -> list[dict[str, Any] | None]:
        """Return the content of each document that counts, None for the others, in one round trip.

        Never raises for a cache that cannot be reached. A value that does not decode is deleted.
        """
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for slip in slips:
                    pipe.get(slip.key)
                replies: list[Any] = await pipe.execute(raise_on_error=False)
        except REDIS_FAILURES as e:
            replies = [e] * len(slips)
        found = []
        corrupt = []
        for slip, reply in zip(slips, replies, strict=True):
            result, content = _judge(slip, reply)
            self._metrics.documents.labels(slip.kind, result).inc()
            if result == "corrupt":
                corrupt.append(slip.key)
            found.append(content)
        if corrupt:
            await self._drop(corrupt)
        return found

    async def _drop(self, keys: Sequence[str]) -> None:
        log.warning("documents_corrupt", documents=len(keys))
        try:
            await self._redis.delete(*keys)
        except REDIS_FAILURES:
            self._metrics.cache_errors.labels("documents").inc()

    async def keep(self, documents: Sequence[Document]) -> None:
        """Keep documents as well as it can be done: what is not kept is read again."""
        try:
            await self.replace(documents)
        except CacheUnavailable:
            log.info("documents_not_kept", documents=len(documents))

    async def replace(self, documents: Sequence[Document]) -> None:
        """Keep documents in place of earlier ones. Raises CacheUnavailable if that is not sure."""
        calls: list[Call] = [(KEEP, one.slip.key, self._arguments(one)) for one in documents]
        try:
            replies = await run(self._redis, calls)
        except REDIS_FAILURES as e:
            replies = [e]
        self._check(replies)

    def _arguments(self, document: Document) -> tuple[Any, ...]:
        slip = document.slip
        value = {"version": slip.version, "revision": slip.revision, "content": document.content}
        ttl_ms = int(document.ttl_s * 1000 * (1 + self._jitter * self._draw()))
        return slip.version + slip.revision, orjson.dumps(value), ttl_ms

    async def forget(self, keys: Sequence[str]) -> None:
        """Delete documents, whatever they are. Raises CacheUnavailable if that is not sure."""
        if not keys:
            return
        try:
            await self._redis.delete(*keys)
        except REDIS_FAILURES as e:
            self._check([e])

    def _check(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                self._metrics.cache_errors.labels("documents").inc()
                raise CacheUnavailable("documents_failed") from reply


def _judge(slip: Slip, reply: Any) -> tuple[str, dict[str, Any] | None]:
    """Return what has become of a read, and the content if it counts."""
    if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
        return "corrupt", None
    if isinstance(reply, Exception):
        return "unreachable", None
    if reply is None:
        return "miss", None
    try:
        held = orjson.loads(reply)
        stamp, content = (held["version"], held["revision"]), held["content"]
    except (ValueError, TypeError, KeyError):
        return "corrupt", None
    if not isinstance(content, dict):
        return "corrupt", None
    if stamp != (slip.version, slip.revision):
        return "outdated", None
    return "hit", content
