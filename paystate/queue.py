"""The job queue: names, ids and the codec that web and worker share. Jobs carry inbox row ids only.

The queue makes settling fast; it makes nothing certain. A job may be lost (arq's ``enqueue_job``
cannot tell a duplicate from a connection lost at EXEC) or run twice, and the inbox knows better:
the sweeper finds rows whose job never came, and a row that has ended is not applied again.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms

from paystate.connections import REDIS_FAILURES, connect_one
from paystate.errors import QueueUnavailable
from paystate.keys import Keys
from paystate.transactions import QueueClient

__all__ = ["JOB_SETTLE", "JOB_TIMEOUT_S", "Queue", "decode_job", "encode_job", "open_queue"]

JOB_SETTLE = "settle"

# A killed worker's job is out of reach for arq's claim, the longest job timeout plus 10 s. The
# sweeper does not wait for it; the inbox's own claim is what it waits for.
JOB_TIMEOUT_S = 12

# A job that nobody took in an hour has been swept long ago.
JOB_EXPIRES_S = 3600


def encode_job(job: dict[str, Any]) -> bytes:
    """Return a job as JSON; never pickle, which would run what it finds."""
    return orjson.dumps(job, default=str)


def decode_job(data: bytes) -> dict[str, Any]:
    """Return the job in `data`."""
    job: dict[str, Any] = orjson.loads(data)
    return job


class Queue:
    """The arq queue, for those who put jobs in."""

    def __init__(self, redis: QueueClient, keys: Keys) -> None:
        self.redis = redis
        self._keys = keys

    async def settle(self, inbox_ids: Sequence[int]) -> None:
        """Ask for rows to be settled, and wake an idle worker. Raises QueueUnavailable.

        The job id is new each time: arq refuses an id that it has seen a moment ago.
        """
        now_ms = timestamp_ms()
        job_id = f"{JOB_SETTLE}:{inbox_ids[0]}:{secrets.token_hex(6)}"
        job = serialize_job(
            JOB_SETTLE, (list(inbox_ids),), {}, None, now_ms, serializer=encode_job
        )  # fmt: skip
        try:
            # As arq's `enqueue_job` does it, which looks for the id first: this one is nobody's.
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.psetex(f"{job_key_prefix}{job_id}", JOB_EXPIRES_S * 1000, job)
                pipe.zadd(self._keys.queue, {job_id: now_ms})
                pipe.publish(self._keys.wake, b"")
                await pipe.execute()
        except REDIS_FAILURES as e:
            raise QueueUnavailable("queue_unreachable") from e

    async def depth(self) -> int:
        """Return the number of jobs waiting or running. Raises QueueUnavailable."""
        try:
            return int(await self.redis.zcard(self._keys.queue))
        except REDIS_FAILURES as e:
            raise QueueUnavailable("queue_unreachable") from e


@asynccontextmanager
async def open_queue(url: str, keys: Keys, *, timeout_s: float) -> AsyncIterator[Queue]:
    """Open the queue at `url`; connects when first used."""
    redis = connect_one(
        url,
        client=QueueClient,
        connections=16,
        timeout_s=timeout_s,
        job_serializer=encode_job,
        job_deserializer=decode_job,
        default_queue_name=keys.queue,
    )
    try:
        yield Queue(redis, keys)
    finally:
        await redis.aclose()
