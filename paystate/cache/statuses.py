"""Reads and writes the status hashes by the rules of the coherence protocol.

Every answer that comes out of here is proven: `successful`, which is final, or a status under a
live lease. Everything else is a miss, and the database answers. The rules themselves are in the
four scripts beside this file.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from paystate.batch import Coalescer
from paystate.cache.scripts import FILL, GET, MARK, PUT, Call, run
from paystate.changes import Change
from paystate.connections import REDIS_FAILURES
from paystate.errors import CacheUnavailable
from paystate.keys import Entity, Keys
from paystate.observability import Metrics, logger
from paystate.state import EntityState
from paystate.status import Status
from paystate.ttl import TtlPolicy

__all__ = ["Hit", "Miss", "StatusCache"]

log = logger()

# What a floor must outlive is a reader on its way from the database to its fill; leases and tokens
# guard the rest. Far longer than any read takes, and small.
FLOOR_MS = 300_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A proven answer. `as_of_ms`: when it was known to be so (for `successful`: became so)."""

    status: Status
    version: int
    link: str | None
    changed_ms: int
    as_of_ms: int


@dataclass(slots=True)
class Miss:
    """No proven answer. `unreachable` says that the cache could not be asked at all."""

    token: str | None = None
    unreachable: bool = False

    def take_token(self) -> str | None:
        """Return the token for filling, to the first of those who share this miss."""
        token, self.token = self.token, None
        return token


class StatusCache:
    """The status hashes on one Redis.

    `lease_ms` 0 is the strict mode: only `successful` is ever served or stored. `draw` gives
    numbers in [0, 1) that spread the expiry of a crowd.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease_ms: int,
        ttl: TtlPolicy,
        metrics: Metrics,
        keys: Keys | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._redis = redis
        self.lease_ms = lease_ms
        self._ttl = ttl
        self._metrics = metrics
        self._keys = keys or Keys()
        self._draw = draw
        self._reads: Coalescer[Entity, Hit | Miss] = Coalescer(self._load, most=256, in_flight=2)

    async def read(self, entity: Entity) -> Hit | Miss:
        """Return a proven answer or a miss; never raises for a cache that cannot be reached.

        Callers that ask together share a round trip, and for one entity share the answer.
        """
        return await self._reads(entity) or Miss()

    async def _load(self, entities: Sequence[Entity]) -> dict[Entity, Hit | Miss]:
        try:
            found = await self._read_plain(entities)
            rest = [entity for entity in entities if entity not in found]
            if rest and self.lease_ms:
                found |= await self._read_leased(rest)
        except REDIS_FAILURES as e:
            self._metrics.cache_errors.labels("read").inc()
            log.warning("cache_unreachable", operation="read", error=type(e).__name__)
            return {entity: Miss(unreachable=True) for entity in entities}
        for entity in entities:
            answer = found.setdefault(entity, Miss())
            self._metrics.cache_reads.labels("hit" if isinstance(answer, Hit) else "miss").inc()
        return found

    async def _read_plain(self, entities: Sequence[Entity]) -> dict[Entity, Hit | Miss]:
        """Read the entries that need no proof: one HMGET each, one round trip for all."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for entity in entities:
                pipe.hmget(self._keys.hash(entity), ["status", "version", "at", "link"])
            replies = await pipe.execute(raise_on_error=False)
        found: dict[Entity, Hit | Miss] = {}
        corrupt = []
        for entity, reply in zip(entities, replies, strict=True):
            if isinstance(reply, ResponseError) and _is_foreign(reply):
                corrupt.append(entity)
                continue
            if isinstance(reply, Exception):
                raise reply
            if reply[0] != b"successful":
                continue
            hit = _hit(reply[0], reply[1], reply[2], reply[3], reply[2])
            if hit is None:
                corrupt.append(entity)
            else:
                found[entity] = hit
        for entity in corrupt:
            found[entity] = await self._drop_corrupt(entity)
        return found

    async def _read_leased(self, entities: Sequence[Entity]) -> dict[Entity, Hit | Miss]:
        token = secrets.token_hex(8)
        calls: list[Call] = [
            (GET, self._keys.hash(entity), (self.lease_ms, token)) for entity in entities
        ]
        found: dict[Entity, Hit | Miss] = {}
        for entity, reply in zip(entities, await run(self._redis, calls), strict=True):
            if isinstance(reply, ResponseError):
                if not _is_foreign(reply):
                    raise reply
                found[entity] = await self._drop_corrupt(entity)
            elif reply[0] == 1:
                found[entity] = _hit(*reply[1:]) or await self._drop_corrupt(entity)
            else:
                found[entity] = Miss(token if reply[1] else None)
        return found

    async def _drop_corrupt(self, entity: Entity) -> Miss:
        """Delete what we did not write. Its floor and token go too: nobody can fill with them."""
        self._metrics.cache_reads.labels("corrupt").inc()
        log.warning("cache_entry_corrupt", key=self._keys.hash(entity))
        await self._redis.delete(self._keys.hash(entity))
        return Miss()

    async def fill(self, state: EntityState, token: str | None) -> str:
        """Offer what was read from the database; return ``stored`` or why it was not.

        Best effort: a fill that fails costs the next reader a database read, nothing else.
        """
        final = state.status is Status.SUCCESSFUL
        if not (final or (token and self.lease_ms and state.cacheable)):
            return "not_cacheable"
        arguments = (
            max(self.lease_ms, 1),
            token or "",
            state.shown.value,
            state.version,
            state.changed_ms,
            state.link or "",
            self._ttl.milliseconds(state.shown, self._draw()),
            0 if state.cacheable else 1,
        )
        try:
            reply = (await run(self._redis, [(FILL, self._keys.hash(state.entity), arguments)]))[0]
        except REDIS_FAILURES:
            self._metrics.cache_errors.labels("fill").inc()
            return "unreachable"
        result = "corrupt" if isinstance(reply, ResponseError) else reply.decode()
        self._metrics.cache_fills.labels(result).inc()
        return result

    async def mark(self, states: Sequence[EntityState]) -> None:
        """Invalidate what is older than `states`. Raises CacheUnavailable if that is not sure."""
        await self._write("mark", [
            (MARK, self._keys.hash(state.entity), (state.version, FLOOR_MS))
            for state in _latest(states)
        ])  # fmt: skip

    async def announce(self, states: Sequence[EntityState], changes: Sequence[Change]) -> None:
        """Mark states that an acknowledgement has committed, and publish what it changed.

        Raises CacheUnavailable if that is not sure.
        """
        news = {(change.entity, change.version): change for change in changes}
        await self._write("mark", [
            self._put_call(state, change)
            if (change := news.get((state.entity, state.version)))
            else (MARK, self._keys.hash(state.entity), (state.version, FLOOR_MS))
            for state in _latest(states)
        ])  # fmt: skip

    async def put(self, states: Sequence[EntityState], changes: Sequence[Change]) -> None:
        """Write committed states through and publish their changes.

        Raises CacheUnavailable if that is not sure. Then nothing stale is served (the mark came
        first), and the news is caught up from the change log.
        """
        news = {(change.entity, change.version): change for change in changes}
        await self._write("put", [
            self._put_call(state, news.get((state.entity, state.version)))
            for state in _latest(states)
        ])  # fmt: skip

    def _put_call(self, state: EntityState, change: Change | None) -> Call:
        arguments = (
            state.shown.value,
            state.version,
            state.changed_ms,
            state.link or "",
            self._ttl.milliseconds(state.shown, self._draw()),
            orjson.dumps(change.to_json()) if change else b"",
            self._keys.changes(state.entity),
            self._keys.all_changes(state.entity.merchant),
        )
        return PUT, self._keys.hash(state.entity), arguments

    async def _write(self, operation: str, calls: Sequence[Call]) -> None:
        if not calls:
            return
        try:
            replies = await run(self._redis, calls)
            wrong = [i for i, reply in enumerate(replies) if isinstance(reply, ResponseError)]
            if wrong:
                await self._repair([calls[i] for i in wrong], replies[wrong[0]])
        except REDIS_FAILURES as e:
            self._metrics.cache_errors.labels(operation).inc()
            raise CacheUnavailable(f"{operation}_failed") from e

    async def _repair(self, calls: Sequence[Call], error: ResponseError) -> None:
        """Delete keys that hold something else, and write again; other refusals are raised."""
        if not _is_foreign(error):
            raise error  # out of memory, read only, loading: the write has not happened
        await self._redis.delete(*(key for _, key, _ in calls))
        for reply in await run(self._redis, calls):
            if isinstance(reply, ResponseError):
                raise reply


def _is_foreign(error: ResponseError) -> bool:
    """Say whether the key holds something that is no hash: not ours, to be deleted."""
    return "WRONGTYPE" in str(error)


def _latest(states: Sequence[EntityState]) -> list[EntityState]:
    """Return one state for each entity, the one with the greatest version."""
    latest: dict[Entity, EntityState] = {}
    for state in states:
        held = latest.get(state.entity)
        if held is None or state.version >= held.version:
            latest[state.entity] = state
    return list(latest.values())


def _hit(status: Any, version: Any, at: Any, link: Any, as_of: Any) -> Hit | None:
    """Return the entry, or None if it is not something we wrote."""
    try:
        return Hit(
            Status(status.decode()), int(version), link.decode() or None if link else None,
            int(at or 0), int(as_of or 0),
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError):
        return None
