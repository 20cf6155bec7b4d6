"""Go through the cache, a few entries at a time, and compare what it would serve.

The database is read before the entries are. What would be served is what `get` says, asked without
a token, so that nothing is promised to the audit that a reader could need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from paystate.audit.checking import Checker, Question
from paystate.audit.ledger import Ledger
from paystate.audit.verdicts import Fault, Shown
from paystate.cache.scripts import GET, Call, run
from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import CacheUnavailable
from paystate.keys import Entity, Keys
from paystate.status import Status
from paystate.store import Store
from paystate.store.violations import Violation

__all__ = ["Entries"]


class Entries:
    """The cached entries, gone through in rounds. `clock` is in seconds, monotonic."""

    def __init__(
        self,
        redis: CacheClient,
        keys: Keys,
        store: Store,
        checker: Checker,
        ledger: Ledger,
        *,
        lease_ms: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._store = store
        self._checker = checker
        self._ledger = ledger
        self._lease_ms = lease_ms
        self._clock = clock
        self._cursor = 0

    async def round(self, most: int) -> bool:
        """Compare about `most` further entries; return whether that was the end of a pass.

        Raises CacheUnavailable and StoreUnavailable.
        """
        try:
            self._cursor, found = await self._redis.scan(
                self._cursor, match=self._keys.all_hashes, count=most
            )
        except REDIS_FAILURES as e:
            raise CacheUnavailable("audit_scan_failed") from e
        named = (self._keys.entity_of(_text(key)) for key in found)
        await self.compare(list(dict.fromkeys(filter(None, named))))
        if self._cursor == 0:
            self._ledger.passed("entries")
        return self._cursor == 0

    async def compare(self, entities: Sequence[Entity]) -> None:
        """Compare the entries of `entities`. Raises CacheUnavailable and StoreUnavailable."""
        if not entities:
            return
        before = await self._store.states(entities)
        asked_at = self._clock()
        try:
            served = await self._served(entities)
        except REDIS_FAILURES as e:
            raise CacheUnavailable("audit_read_failed") from e
        self._ledger.compare("entries", len(served))
        faults = []
        for entity, shown in served.items():
            question = Question(entity, before.get(entity), asked_at)
            verdict = await self._checker.judge(question, shown, Fault.STALE_ENTRY)
            if verdict.fault is not None:
                faults.append(
                    Violation(
                        verdict.fault, entity, {**verdict.evidence, "key": self._keys.hash(entity)}
                    )
                )
        await self._checker.report(faults)

    async def _served(self, entities: Sequence[Entity]) -> dict[Entity, Shown]:
        """Return what the cache would serve for each entity; what it would not is left out."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for entity in entities:
                pipe.hmget(self._keys.hash(entity), ["status", "version"])
            replies = await pipe.execute(raise_on_error=False)
        away = [r for r in replies if isinstance(r, Exception) and not isinstance(r, ResponseError)]
        if away and len(away) == len(replies):
            raise away[0]
        served: dict[Entity, Shown] = {}
        leased: list[Entity] = []
        for entity, reply in zip(entities, replies, strict=True):
            if isinstance(reply, Exception) or reply[0] is None:
                continue  # no entry, or none of ours: a lookup deletes it
            if reply[0] == Status.SUCCESSFUL.encode():
                _add(served, entity, *reply)
            else:
                leased.append(entity)
        if leased and self._lease_ms:
            calls: list[Call] = [
                (GET, self._keys.hash(entity), (self._lease_ms, "")) for entity in leased
            ]
            for entity, reply in zip(leased, await run(self._redis, calls), strict=True):
                if not isinstance(reply, Exception) and reply[0] == 1:
                    _add(served, entity, reply[1], reply[2])
        return served


def _add(served: dict[Entity, Shown], entity: Entity, status: Any, version: Any) -> None:
    try:
        served[entity] = Shown(Status(_text(status)), int(version))
    except (ValueError, TypeError):
        return  # not something we wrote: no lookup takes it for an answer either


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
