"""Throws away everything in the cache that the database or the provider can give again."""

from __future__ import annotations

from collections.abc import AsyncIterator

from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import CacheUnavailable
from paystate.keys import Keys

__all__ = ["clear"]

_AT_ONCE = 1_000


async def clear(redis: CacheClient, keys: Keys) -> AsyncIterator[int]:
    """Delete every such key, of all merchants, and yield how many each batch had.

    The queue, budgets and cool-offs stay. Keys that are written meanwhile may be missed. Raises
    CacheUnavailable.
    """
    cursor = 0
    try:
        while True:
            cursor, found = await redis.scan(cursor, match=keys.everything, count=_AT_ONCE)
            names = [key.decode() if isinstance(key, bytes) else str(key) for key in found]
            derived = [name for name in names if keys.is_derived(name)]
            if derived:
                await redis.delete(*derived)
                yield len(derived)
            if cursor == 0:
                return
    except REDIS_FAILURES as e:
        raise CacheUnavailable("clearing_failed") from e
