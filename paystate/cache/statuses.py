"""Reads and writes the status hashes by the rules of the coherence protocol.

Every answer that comes out of here is proven: `successful`, which is final, or a status under a
live lease. Everything else is a miss, and the database answers. The rules themselves are in the
four scripts beside this file.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from paystate.batch import Batcher, Coalescer
from paystate.cache.answers import Hit, Miss, hit, is_foreign, kept_link, latest
from paystate.cache.scripts import FILL, GET, MARK, PUT, Call, run
from paystate.changes import Change
from paystate.cluster import NodeDown
from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import CacheUnavailable
from paystate.keys import Entity, Keys, hash_and_changes
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.state import EntityState
from paystate.status import Status
from paystate.ttl import TtlPolicy

__all__ = ["StatusCache"]

log = logger()

# What a floor must outlive is a reader on its way from the database to its fill; leases and tokens
# guard the rest. Far longer than any read takes, and small.
FLOOR_MS = 300_000
# A `successful` entry of the version before is not needed for longer: a job ends after 15 s, and a
# commit that came later than that could be followed by a reader who fills what it read before.
OVERTAKEN_MS = 30_000
# Entities of which this process remembers that they need a proof; when it is more, it forgets all.
UNSETTLED = 100_000
# Fills that wait to be sent. Many callers share a read, and each offers what it has read: where the
# cache does not answer they would pile up for as long as that lasts.
OFFERS = 2_000
# Where the cache cannot be told: one for what is already being served or promised, half of one for
# clocks that do not run alike.
LEASES_TO_WAIT = 1.5
_FIELDS = ["status", "version", "at", "link"]


class StatusCache:
    """The status hashes on one Redis.

    `lease_ms` 0 is the strict mode: only `successful` is ever served or stored. `draw` gives
    numbers in [0, 1) that spread the expiry of a crowd.
    """

    def __init__(
        self,
        redis: CacheClient,
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
        self._hits = metrics.cache_reads.labels("hit")
        self._misses = metrics.cache_reads.labels("miss")
        self._reads: Coalescer[Entity, Hit | Miss] = Coalescer(self._load, most=256, in_flight=2)
        self._offers: Batcher[Call, str] = Batcher(self._fill, most=256, in_flight=2)
        # What had no final status when it was last read.
        self._unsettled: set[Entity] = set()

    @property
    def run_out_s(self) -> float:
        """How long after a commit that nobody could mark an earlier entry may still be served."""
        return LEASES_TO_WAIT * self.lease_ms / 1000

    async def read(self, entity: Entity) -> Hit | Miss:
        """Return a proven answer or a miss; never raises for a cache that cannot be reached.

        Callers that ask together share a round trip, and for one entity share the answer.
        """
        return await self._reads(entity) or Miss()

    async def _load(self, entities: Sequence[Entity]) -> dict[Entity, Hit | Miss]:
        found: dict[Entity, Hit | Miss] = {}
        try:
            rest = await self._read_first(entities, found)
            if rest and self.lease_ms:
                await self._read_leased(rest, found)
                self._expect(rest)
        except REDIS_FAILURES as e:
            found |= self._failed({entity: e for entity in entities if entity not in found})
        hits = misses = 0
        for entity in entities:
            answer = found.get(entity)
            if answer is None:
                answer = found[entity] = Miss()
            if isinstance(answer, Hit):
                hits += 1
            elif not answer.unreachable:
                misses += 1
        self._hits.inc(hits)
        self._misses.inc(misses)
        return found

    def _expect(self, entities: Sequence[Entity]) -> None:
        """Remember that these need a proof, which then takes one round trip and not two."""
        if len(self._unsettled) + len(entities) > UNSETTLED:
            self._unsettled.clear()
        self._unsettled.update(entities)

    def _failed(self, failures: Mapping[Entity, Exception]) -> dict[Entity, Hit | Miss]:
        """Return the misses of entities that could not be asked for; say so once for a batch."""
        if not failures:
            return {}
        error = next(iter(failures.values()))
        self._metrics.cache_errors.labels("read").inc()
        if not isinstance(error, NodeDown):  # of which the cluster's client has told, once
            log.warning("cache_unreachable", operation="read", error=type(error).__name__,
                        entities=len(failures))  # fmt: skip
        return {entity: Miss(unreachable=True) for entity in failures}

    async def _read_first(
        self, entities: Sequence[Entity], found: dict[Entity, Hit | Miss]
    ) -> list[Entity]:
        """Read entries into `found` in one round trip; return those that need a proof.

        An entry that needs none is an HMGET. One that needed a proof before is asked for it at
        once: the script answers `successful` as well.
        """
        token = secrets.token_hex(8)
        unsettled = self._unsettled.intersection(entities)
        async with self._redis.pipeline(transaction=False) as pipe:
            for entity in entities:
                if entity in unsettled:
                    pipe.evalsha(GET.digest, 1, self._keys.hash(entity), self.lease_ms, token)
                else:
                    pipe.hmget(self._keys.hash(entity), _FIELDS)
            replies = await pipe.execute(raise_on_error=False)
        rest = []
        failures: dict[Entity, Exception] = {}
        for entity, reply in zip(entities, replies, strict=True):
            if isinstance(reply, NoScriptError):
                rest.append(entity)
            elif isinstance(reply, Exception) and not is_foreign(reply):
                failures[entity] = reply
            elif entity in unsettled:
                found[entity] = answer = await self._proven(entity, reply, token)
                if isinstance(answer, Hit) and answer.status is Status.SUCCESSFUL:
                    self._unsettled.discard(entity)
            elif (plain := await self._plain(entity, reply)) is not None:
                found[entity] = plain
            else:
                rest.append(entity)
        found |= self._failed(failures)
        return rest

    async def _plain(self, entity: Entity, reply: Any) -> Hit | Miss | None:
        """Return what HMGET has said of an entry, or None if it needs a proof."""
        if isinstance(reply, Exception):
            return await self._drop_corrupt(entity)
        if reply[0] != b"successful":
            return None
        read = hit(reply[0], reply[1], reply[2], reply[3], reply[2])
        return read or await self._drop_corrupt(entity)

    async def _read_leased(
        self, entities: Sequence[Entity], found: dict[Entity, Hit | Miss]
    ) -> None:
        token = secrets.token_hex(8)
        calls: list[Call] = [
            (GET, self._keys.hash(entity), (self.lease_ms, token)) for entity in entities
        ]
        failures: dict[Entity, Exception] = {}
        for entity, reply in zip(entities, await run(self._redis, calls), strict=True):
            if isinstance(reply, Exception) and not is_foreign(reply):
                failures[entity] = reply
            else:
                found[entity] = await self._proven(entity, reply, token)
        found |= self._failed(failures)

    async def _proven(self, entity: Entity, reply: Any, token: str) -> Hit | Miss:
        """Return what the `get` script has said of an entry, or that it is not one of ours."""
        if isinstance(reply, Exception):
            return await self._drop_corrupt(entity)
        if reply[0] == 1:
            return hit(*reply[1:]) or await self._drop_corrupt(entity)
        return Miss(token if reply[1] else None)

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
        offered = self.offer(state, token)
        return "not_cacheable" if offered is None else await offered

    def offer(self, state: EntityState, token: str | None) -> asyncio.Future[str] | None:
        """Return the future of `fill`, or None if there is nothing to fill with, or too much.

        Those that are offered together share a round trip.
        """
        final = state.status is Status.SUCCESSFUL
        if not (final or (token and self.lease_ms and state.cacheable)):
            return None
        if self._offers.waiting >= OFFERS:
            self._metrics.cache_fills.labels("too_many").inc()
            return None
        arguments = (
            max(self.lease_ms, 1),
            token or "",
            state.shown.value,
            state.version,
            state.changed_ms,
            kept_link(state),
            self._ttl.milliseconds(state.shown, self._draw()),
            0 if state.cacheable else 1,
        )
        return self._offers.submit((FILL, self._keys.hash(state.entity), arguments))

    async def _fill(self, calls: Sequence[Call]) -> list[str | BaseException]:
        try:
            replies = await run(self._redis, calls)
        except REDIS_FAILURES as e:
            replies = [e] * len(calls)
        return [self._filled(reply) for reply in replies]

    def _filled(self, reply: Any) -> str:
        """Return and count what became of a fill."""
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            self._metrics.cache_errors.labels("fill").inc()
            return "unreachable"
        result = "corrupt" if isinstance(reply, ResponseError) else str(reply.decode())
        self._metrics.cache_fills.labels(result).inc()
        return result

    async def mark(self, states: Sequence[EntityState]) -> None:
        """Invalidate what is older than `states`. Raises CacheUnavailable if that is not sure."""
        await self._write("mark", [self._mark_call(state) for state in latest(states)])

    async def mark_each(self, states: Sequence[EntityState]) -> list[bool]:
        """Mark `states` in one round trip, and say of each whether that is sure."""
        calls = [self._mark_call(state) for state in states]
        try:
            replies = await self._run(calls)
        except REDIS_FAILURES as e:
            replies = [e] * len(calls)
        sure = [not isinstance(reply, Exception) for reply in replies]
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception) and is_foreign(reply):
                with suppress(*REDIS_FAILURES):
                    await self._repair([calls[i]], [reply])
                    sure[i] = True
        if not all(sure):
            self._metrics.cache_errors.labels("mark").inc()
        return sure

    async def announce(self, states: Sequence[EntityState], changes: Sequence[Change]) -> None:
        """Mark states that an acknowledgement has committed, and publish what it changed.

        Raises CacheUnavailable if that is not sure.
        """
        news = {(change.entity, change.version): change for change in changes}
        await self._write("mark", [
            self._put_call(state, change)
            if (change := news.get((state.entity, state.version))) else self._mark_call(state)
            for state in latest(states)
        ])  # fmt: skip

    async def put(self, states: Sequence[EntityState], changes: Sequence[Change]) -> None:
        """Write committed states through and publish their changes.

        Raises CacheUnavailable if that is not sure. Then nothing stale is served (the mark came
        first), and the news is caught up from the change log.
        """
        news = {(change.entity, change.version): change for change in changes}
        await self._write("put", [
            self._put_call(state, news.get((state.entity, state.version)))
            for state in latest(states)
        ])  # fmt: skip

    def _mark_call(self, state: EntityState) -> Call:
        return MARK, self._keys.hash(state.entity), (state.version, FLOOR_MS, OVERTAKEN_MS)

    def _put_call(self, state: EntityState, change: Change | None) -> Call:
        shown, entity = state.shown, state.entity
        key, channel = hash_and_changes(self._keys, entity)
        arguments = (
            shown,
            state.version,
            state.changed_ms,
            kept_link(state),
            self._ttl.milliseconds(shown, self._draw()),
            orjson.dumps(change.to_json()) if change else b"",
            channel,
            self._keys.all_changes(entity.merchant),
            OVERTAKEN_MS,
        )
        return PUT, key, arguments

    async def _write(self, operation: str, calls: Sequence[Call]) -> None:
        if not calls:
            return
        try:
            replies = await self._run(calls)
            wrong = [i for i, reply in enumerate(replies) if isinstance(reply, Exception)]
            if wrong:
                await self._repair([calls[i] for i in wrong], [replies[i] for i in wrong])
        except REDIS_FAILURES as e:
            self._metrics.cache_errors.labels(operation).inc()
            raise CacheUnavailable(f"{operation}_failed") from e

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        try:
            return await run(self._redis, calls)
        except RedisConnectionError:
            # A connection broke, not always the server, and who cannot tell the cache must wait.
            # What was done the first time may be done again. (A cluster's failures are replies.)
            return await run(self._redis, calls)

    async def _repair(self, calls: Sequence[Call], errors: Sequence[Exception]) -> None:
        """Delete keys that hold something else, and write again; other refusals are raised."""
        for error in errors:
            if not is_foreign(error):
                raise error  # out of memory, read only, loading: the write has not happened
        await self._redis.delete(*(key for _, key, _ in calls))
        for reply in await run(self._redis, calls):
            if isinstance(reply, Exception):
                raise reply
