"""The cache as a reader sees it: it proves what it can, and never takes a token.

The rules are those of `paystate/cache/get.lua`: `successful` answers whenever it is there, anything
else only under a live lease, which the script checks on the server's own clock. A reader cannot
fill, so it asks the script with an empty token: granted one, it would keep it from who can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from paystate.batch import Coalescer
from paystate.cache.scripts import GET, Call, run
from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import CacheUnavailable
from paystate.keys import Entity, Keys
from paystate.reader.answers import PaymentStatus

__all__ = ["FIELDS", "NO_TOKEN", "Entries", "from_hash", "from_script"]

FIELDS = ["status", "version", "at", "link", "proven_at"]
NO_TOKEN = ""
# Two batches are under way: while the server works on one, this process reads the other.
MOST = 64


def from_hash(entity: Entity, reply: Any) -> PaymentStatus | None:
    """Return what the reply to HMGET says: fresh if it is successful, else the last known state.

    None if there is nothing, or something that is not ours. Raises a reply that is another error.
    """
    if isinstance(reply, Exception):
        if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
            return None
        raise reply
    final = reply[0] == b"successful"
    return PaymentStatus.from_entry(entity, reply, reply[2] if final else reply[4], fresh=final)


def from_script(entity: Entity, reply: Any) -> PaymentStatus | None:
    """Return what the `get` script could prove, or None."""
    if isinstance(reply, Exception) or reply[0] != 1:
        return None
    return PaymentStatus.from_entry(entity, reply[1:5], reply[5], fresh=True)


def _unreachable(error: Exception) -> CacheUnavailable:
    unavailable = CacheUnavailable("cache_unreachable")
    unavailable.__cause__ = error
    return unavailable


class Entries:
    """Reads entries; those who ask in one turn of the event loop share a round trip."""

    def __init__(self, redis: CacheClient, keys: Keys, *, lease_ms: int) -> None:
        self._redis = redis
        self._keys = keys
        self._lease_ms = lease_ms
        self._reads: Coalescer[Entity, PaymentStatus] = Coalescer(
            self._load, most=MOST, in_flight=2
        )

    def __call__(self, entity: Entity) -> asyncio.Future[PaymentStatus | None]:
        """Return the future of what the cache holds; `fresh` says whether it is proven.

        It raises CacheUnavailable.
        """
        return self._reads(entity)

    async def _load(
        self, entities: Sequence[Entity]
    ) -> dict[Entity, PaymentStatus | CacheUnavailable]:
        """Return what is there; on a cluster, only what its own server could not be asked fails."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for entity in entities:
                    pipe.hmget(self._keys.hash(entity), FIELDS)
                replies = await pipe.execute(raise_on_error=False)
            found: dict[Entity, PaymentStatus | CacheUnavailable] = {}
            unproven = []
            for entity, reply in zip(entities, replies, strict=True):
                try:
                    answer = from_hash(entity, reply)
                except REDIS_FAILURES as e:
                    found[entity] = _unreachable(e)
                    continue
                if answer is None:
                    continue
                found[entity] = answer
                if not answer.fresh:
                    unproven.append(entity)
            if unproven and self._lease_ms:
                found.update(await self._prove(unproven))
        except REDIS_FAILURES as e:
            raise _unreachable(e) from e
        return found

    async def _prove(self, entities: Sequence[Entity]) -> dict[Entity, PaymentStatus]:
        """Return those that a lease still vouches for."""
        calls: list[Call] = [
            (GET, self._keys.hash(entity), (self._lease_ms, NO_TOKEN)) for entity in entities
        ]
        replies = await run(self._redis, calls)
        return {
            entity: answer
            for entity, reply in zip(entities, replies, strict=True)
            if (answer := from_script(entity, reply)) is not None
        }
