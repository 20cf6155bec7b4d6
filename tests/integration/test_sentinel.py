"""The cache and the queue behind sentinels: a failover is followed without a restart of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

from bench.topologies import SentinelTopology
from paystate.cache.answers import Hit, Miss
from paystate.cache.statuses import StatusCache
from paystate.connections import connect, connect_one
from paystate.errors import QueueUnavailable
from paystate.keys import Keys
from paystate.metrics import Metrics
from paystate.queue import open_queue
from paystate.status import Status
from paystate.ttl import DEFAULT_TTL
from tests.integration.test_cache import PAYMENT, REFERENCE, row

# Not a measure of speed: without it a test that waits for what never comes would wait for ever.
HANGS_S = 30


@pytest.fixture(scope="module")
def watched() -> Iterator[SentinelTopology]:
    """A primary, a replica, and the sentinels that watch them."""
    with SentinelTopology() as topology:
        yield topology


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HANGS_S):
        while not await condition():
            pass


async def test_a_burst_waits_for_a_connection_rather_than_being_refused(
    watched: SentinelTopology,
) -> None:
    """There are two connections and a hundred callers."""
    client = connect_one(watched.url, connections=2, timeout_s=5)
    try:
        slow = "local t = redis.call('TIME') return redis.call('PING')['ok']"
        replies = await asyncio.gather(*(client.eval(slow, 0) for _ in range(100)))
        assert replies == [b"PONG"] * 100
    finally:
        await client.aclose()


def test_a_sentinel_whose_connection_closes_is_passed_over(watched: SentinelTopology) -> None:
    """The next one is asked, as for one that is lost; uvloop has another error for it."""

    async def run() -> None:
        client = connect_one(watched.url, timeout_s=5)
        try:
            pool: Any = client.connection_pool
            primary = await pool.get_master_address()
            first = pool._sentinels.sentinels[0]
            first.connection_pool._available_connections[0]._writer.transport.abort()
            assert await pool.get_master_address() == primary
            assert pool._sentinels.sentinels[0] is not first
        finally:
            await client.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_cache_and_queue_follow_a_failover(watched: SentinelTopology) -> None:
    """The same clients work with the promoted replica, which honours no lease of before."""
    redis = connect(watched.url, timeout_s=2)
    cache = StatusCache(redis, lease_ms=60_000, ttl=DEFAULT_TTL, metrics=Metrics())
    try:
        async with open_queue(watched.url, Keys(), timeout_s=2) as queue:
            await cache.put([row(Status.SUCCESSFUL, 1)], [])
            held = await cache.read(REFERENCE)
            assert isinstance(held, Miss)
            pending = row(Status.PENDING, 1, entity=REFERENCE)
            assert await cache.fill(pending, held.take_token()) == "stored"
            assert isinstance(await cache.read(REFERENCE), Hit)
            await queue.settle([1])
            old = watched.primary()
            assert old.ask("WAIT", 1, 10_000) == 1
            old.kill()
            assert await cache.read(PAYMENT) == Miss(unreachable=True)
            with pytest.raises(QueueUnavailable):
                await queue.settle([2])

            async def served() -> bool:
                return isinstance(await cache.read(PAYMENT), Hit)

            await until(served)
            again = await cache.read(REFERENCE)
            assert isinstance(again, Miss)
            assert not again.unreachable
            await queue.settle([3])
            assert await queue.depth() == 2
    finally:
        await redis.aclose()
