"""A connection that closes while it is written to: an absence like any other, on both loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from paystate.connections import connect
from paystate.errors import QueueUnavailable
from paystate.keys import Keys
from paystate.queue import open_queue
from paystate.wire import Client, PlainWire
from tests.servers import OwnValkey

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def close_what_is_open(client: Any) -> None:
    """Let every connection at rest close in the turn that comes, unknown to the pool until then."""
    for connection in client.connection_pool._available_connections:
        connection._writer.transport.abort()


async def get(client: Any) -> None:
    await client.get("x")


async def pipeline(client: Any) -> None:
    async with client.pipeline(transaction=False) as pipe:
        pipe.get("x")
        await pipe.execute()


async def transaction(client: Any) -> None:
    async with client.pipeline(transaction=True) as pipe:
        pipe.get("x")
        await pipe.execute()


async def subscription(client: Any) -> None:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("x")


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("call", [get, pipeline, transaction, subscription])
def test_a_call_on_a_connection_that_closes_fails_as_on_one_that_is_lost(
    own_valkey: OwnValkey, call: Callable[[Any], Awaitable[None]], loop: Any
) -> None:
    async def run() -> None:
        client = connect(own_valkey.url, timeout_s=5)
        try:
            await get(client)
            close_what_is_open(client)
            with pytest.raises(RedisConnectionError):
                await call(client)
            await call(client)
        finally:
            await client.aclose()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_a_connection_that_closes_after_it_was_handed_out_is_lost(
    own_valkey: OwnValkey, loop: Any
) -> None:
    async def run() -> None:
        client = connect(own_valkey.url, timeout_s=5)
        pool = cast(Client, client).connection_pool
        try:
            handed_out: Any = await pool.get_connection()
            handed_out._writer.transport.abort()
            await handed_out._writer.wait_closed()
            with pytest.raises(RedisConnectionError):
                await handed_out.exchange([("PING",)])
            await pool.release(handed_out)
            await get(client)
        finally:
            await client.aclose()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_a_job_for_a_server_that_closes_while_it_is_greeted_is_refused_as_such(
    own_valkey: OwnValkey, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else it raised would keep a committed webhook from being acknowledged."""

    class Closing(PlainWire):
        async def on_connect(self) -> None:
            writer: Any = self._writer
            writer.transport.abort()
            await super().on_connect()

    async def run() -> None:
        async with open_queue(own_valkey.url, Keys(), timeout_s=5) as queue:
            monkeypatch.setattr(queue.redis.connection_pool, "connection_class", Closing)
            with pytest.raises(QueueUnavailable):
                await queue.settle([1])
            monkeypatch.setattr(queue.redis.connection_pool, "connection_class", PlainWire)
            await queue.redis.connection_pool.aclose()
            queue.redis.connection_pool.reset()
            await queue.settle([2])
            assert await queue.depth() == 1

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
