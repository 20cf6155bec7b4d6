"""Heartbeats: by them a listener knows that silence is silence, and not a dead connection."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import orjson

from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.keys import Keys

__all__ = ["HEARTBEAT_S", "SILENCE_S", "beat"]

HEARTBEAT_S = 2.0
# Three heartbeats: one may be lost, and one may be late.
SILENCE_S = 6.0


async def beat(redis: CacheClient, keys: Keys, merchants: Iterable[str]) -> None:
    """Publish a heartbeat on every merchant's channel, unless another process just has.

    Raises what redis-py raises.
    """
    try:
        mine = await redis.set(keys.beating, b"1", nx=True, px=int(HEARTBEAT_S * 900))
    except REDIS_FAILURES:
        # On a cluster only the one server that holds the key may be away, and news is heard by way
        # of all the others. Each process beats for itself then.
        mine = True
    if not mine:
        return
    message = orjson.dumps({"heartbeat": True, "at": datetime.now(UTC).isoformat()})
    async with redis.pipeline(transaction=False) as pipe:
        for merchant in merchants:
            pipe.publish(keys.all_changes(merchant), message)
        await pipe.execute()
