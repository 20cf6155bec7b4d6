"""The cache as a reader sees it: it proves what it can, and never takes a token.

The rules are those of `paystate/cache/get.lua`: `successful` answers whenever it is there, anything
else only under a live lease, which the script checks on the server's own clock. A reader cannot
fill, so it asks the script with an empty token: granted one, it would keep it from who can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from paystate.batch import Coalescer
from paystate.cache.scripts import GET, Call, run
from paystate.connections import REDIS_FAILURES
from paystate.errors import CacheUnavailable
from paystate.keys import Entity, Keys
from paystate.reader.answers import PaymentStatus

__all__ = ["FIELDS", "NO_TOKEN", "Entries", "from_hash", "from_script"]

FIELDS = ["status", "version", "at", "link", "proven_at"]
NO_TOKEN = ""


def from_hash(entity: Entity, reply: Any) -> PaymentStatus | None:
    """Return what the reply to HMGET says: fresh if it is successful, else the last known state.

    None if there is nothing, or something that is not ours. Raises a reply that is another error.
    """
    if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
        return None
    if isinstance(reply, Exception):
        raise reply
    final = reply[0] == b"successful"
    return PaymentStatus.from_entry(entity, reply[:4], reply[2] if final else reply[4], fresh=final)


def from_script(entity: Entity, reply: Any) -> PaymentStatus | None:
    """Return what the `get` script could prove, or None."""
    if isinstance(reply, Exception) or reply[0] != 1:
        return None
    return PaymentStatus.from_entry(entity, reply[1:5], reply[5], fresh=True)


class Entries:
    """Reads entries; those who ask in one turn of the event loop share a round trip."""

    def __init__(self, redis: Redis, keys: Keys, *, lease_ms: int) -> None:
        self._redis = redis
        self._keys = keys
        self._lease_ms = lease_ms
        self._reads: Coalescer[Entity, PaymentStatus] = Coalescer(self._load, most=256, in_flight=2)

    async def __call__(self, entity: Entity) -> PaymentStatus | None:
        """Return what the cache holds; `fresh` says whether it is proven.

        Raises CacheUnavailable.
        """
        return await self._reads(entity)

    async def _load(self, entities: Sequence[Entity]) -> dict[Entity, PaymentStatus]:
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for entity in entities:
                    pipe.hmget(self._keys.hash(entity), FIELDS)
                replies = await pipe.execute(raise_on_error=False)
            found = {
                entity: answer
                for entity, reply in zip(entities, replies, strict=True)
                if (answer := from_hash(entity, reply)) is not None
            }
            return found | await self._prove([e for e, a in found.items() if not a.fresh])
        except REDIS_FAILURES as e:
            raise CacheUnavailable("cache_unreachable") from e

    async def _prove(self, entities: Sequence[Entity]) -> dict[Entity, PaymentStatus]:
        """Return those that a lease still vouches for."""
        if not self._lease_ms or not entities:
            return {}
        calls: list[Call] = [
            (GET, self._keys.hash(entity), (self._lease_ms, NO_TOKEN)) for entity in entities
        ]
        replies = await run(self._redis, calls)
        return {
            entity: answer
            for entity, reply in zip(entities, replies, strict=True)
            if (answer := from_script(entity, reply)) is not None
        }
