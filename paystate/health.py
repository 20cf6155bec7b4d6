"""``/healthz``, ``/readyz`` and ``/metrics``: the same for every process.

Alive means that the event loop turns. Ready means that the process can do its work: the database
answers and is migrated. A cache or a queue that is away makes a process slower, not useless, so it
is reported and does not take the process out of service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Literal, TypedDict

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from paystate.cluster import ClusterDegraded
from paystate.connections import REDIS_FAILURES
from paystate.errors import QueueUnavailable, StoreUnavailable
from paystate.resources import Resources

__all__ = ["AliveJson", "ReadyJson", "health_routes"]


class AliveJson(TypedDict):
    """The event loop turns."""

    alive: Literal[True]


class ReadyJson(TypedDict):
    """Whether the process can do its work, and what each thing it stands on says."""

    ready: Annotated[bool, "Whether the database answers and is migrated."]
    database: Annotated[str, "`ok`, or what is wrong with it."]
    cache: Annotated[str, "`ok`, `degraded` or `unreachable`; without it answers are slower."]
    queue: Annotated[str, "`ok`, or what is wrong with it; without it events settle later."]


def health_routes(resources: Resources) -> list[web.RouteDef]:
    """Return the three open routes."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(body=b'{"alive":true}', content_type="application/json")

    async def readyz(_request: web.Request) -> web.Response:
        database, cache, queue = await asyncio.gather(
            _state(resources.store.ping()),
            _state(resources.redis.ping()),
            _state(resources.queue.depth()),
        )
        said: ReadyJson = {
            "ready": database == "ok",
            "database": database,
            "cache": cache,
            "queue": queue,
        }
        return web.Response(
            body=orjson.dumps(said),
            content_type="application/json",
            status=200 if said["ready"] else 503,
        )

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(
            body=resources.metrics.exposition(),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )

    return [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
    ]


async def _state(check: Awaitable[object]) -> str:
    try:
        await check
    except (StoreUnavailable, QueueUnavailable) as e:
        return e.reason
    except ClusterDegraded:
        return "degraded"
    except REDIS_FAILURES:
        return "unreachable"
    return "ok"
