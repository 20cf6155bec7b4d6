"""``python -m bench.getters``: the peers of a lookup, each at its best.

``bare``: an aiohttp handler that returns constant bytes. ``redis``: the same server with one
redis-py HMGET for each request. ``cashews``: the same server with cashews before PostgreSQL, its
client-side cache on and as large as ours. ``settler``: the process that settles payments beside it:
it writes to the database, then deletes the key. All on uvloop, with hiredis, without an access log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import cashews
import orjson
import uvloop
from aiohttp import web
from cashews.backends.memory import Memory
from redis.asyncio import ConnectionPool, Redis

from paystate.keys import DEFAULT_MERCHANT, Entity, EntityKind, Keys

__all__ = ["FIELDS"]

PATH = "/api/payments/{id}/status"
FIELDS = ["status", "version", "at", "link"]
CONSTANT = orjson.dumps(
    {"payment_id": "1000001", "tx_ref": "order-1", "kind": "charge", "status": "successful",
     "terminal": True, "version": 2, "as_of": "2026-11-23T10:20:30.123Z", "source": "cache",
     "fresh": True, "held": False}
)  # fmt: skip
CONNECTIONS = 32
NEAR_SIZE = 100_000
FINAL_S = 86_400
# As long as our lease.
PENDING_S = 1


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": "application/json"})


async def _serve(*routes: web.RouteDef) -> None:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


async def _bare() -> None:
    async def status(_request: web.Request) -> web.Response:
        return _json(CONSTANT)

    await _serve(web.get(PATH, status))


async def _redis(url: str) -> None:
    redis = Redis.from_pool(ConnectionPool.from_url(url, max_connections=8 * CONNECTIONS))
    keys = Keys()

    async def status(request: web.Request) -> web.Response:
        own_id = request.match_info["id"]
        key = keys.hash(Entity(DEFAULT_MERCHANT, EntityKind.CHARGE, own_id))
        held = await redis.hmget(key, FIELDS)  # type: ignore[misc]
        word = (held[0] or b"pending").decode()
        return _json(orjson.dumps({"payment_id": own_id, "status": word}))

    await _serve(web.get(PATH, status))


@asynccontextmanager
async def _open(url: str, database: str) -> AsyncIterator[tuple[cashews.Cache, asyncpg.Pool]]:
    cache = cashews.Cache()
    cache.setup(
        url, client_side=True, client_side_prefix="peer:", suppress=False,
        local_cache=Memory(size=NEAR_SIZE), max_connections=8 * CONNECTIONS,
    )  # fmt: skip
    await cache.init()
    async with asyncpg.create_pool(database, min_size=1, max_size=10) as pool:
        yield cache, pool


async def _cashews(url: str, database: str) -> None:
    async with _open(url, database) as (cache, pool):

        async def status(request: web.Request) -> web.Response:
            own_id = request.match_info["id"]
            word = await cache.get(own_id)
            if word is None:
                word = await pool.fetchval("SELECT status FROM peer_payments WHERE id=$1", own_id)
                await cache.set(own_id, word, expire=PENDING_S if word == "pending" else FINAL_S)
            return _json(orjson.dumps({"payment_id": own_id, "status": word}))

        await _serve(web.get(PATH, status))


async def _settler(url: str, database: str) -> None:
    async with _open(url, database) as (cache, pool):

        async def settle(request: web.Request) -> web.Response:
            own_id = request.match_info["id"]
            await pool.execute("UPDATE peer_payments SET status='successful' WHERE id=$1", own_id)
            await cache.delete(own_id)
            return _json(b"{}")

        await _serve(web.post("/settle/{id}", settle))


_PEERS: Mapping[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "bare": _bare,
    "redis": _redis,
    "cashews": _cashews,
    "settler": _settler,
}

if __name__ == "__main__":
    logging.disable(logging.INFO)
    uvloop.run(_PEERS[sys.argv[1]](**json.loads(sys.argv[2])))
