"""Connections to Redis or Valkey, set up on purpose: bounded in number, in time and in patience.

A blocking pool waits for a free connection rather than opening one more, and does not hold its
lock while it connects (redis-py's plain pool does both). Every wait has an end, because whoever
waits here has a database to ask instead. Nothing is retried by the client: what failed may have
been done, and the flows know which calls may be repeated.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol, TypeVar, cast

from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from paystate.addresses import RedisUrl
from paystate.cluster import ClusterClient
from paystate.sentinel import SentinelPool
from paystate.wire import Client, PlainWire, TlsWire, WirePool

__all__ = ["REDIS_FAILURES", "CacheClient", "CachePipeline", "RedisUrl", "connect", "connect_one"]

# A refused connection is the builtin OSError and a timed-out one may be asyncio's, not redis-py's.
REDIS_FAILURES = (RedisError, OSError, asyncio.TimeoutError)


# Half-open connections (a peer that vanished without a word) are found by the kernel within
# 15 + 3 * 5 seconds, and at once by the timeout of whoever is waiting.
_KEEPALIVE: dict[int, int] = {
    option: value
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if (option := getattr(socket, name, None)) is not None
}


class CachePipeline(Protocol):
    """Calls that share a round trip: in an ``async with``, collected, then executed."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None: ...

    def get(self, name: str) -> Any:
        """Add a GET."""

    def hmget(self, name: str, keys: list[str]) -> Any:
        """Add an HMGET."""

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Add an EVALSHA; a script names keys of one slot."""

    def publish(self, channel: str, message: Any) -> Any:
        """Add a PUBLISH."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the calls; return their replies in order.

        Without `raise_on_error` an error reply stands in its place; so does, on a cluster, the
        failure to reach its one server. On one server that failure is raised: it is all of them.
        """


class CacheClient(Protocol):
    """What the cache is asked through, whatever the topology. redis-py's `Redis` is one.

    Commands mean what they mean there, and raise REDIS_FAILURES.
    """

    def get(self, name: str) -> Any: ...

    def set(
        self, name: str, value: Any, *, ex: Any = None, px: Any = None, nx: bool = False
    ) -> Any: ...

    def hmget(self, name: str, keys: list[str]) -> Any: ...

    def hdel(self, name: str, *keys: str) -> Any: ...

    def delete(self, *names: str) -> Any: ...

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any: ...

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any: ...

    def script_load(self, script: str) -> Any: ...

    def scan(self, cursor: int = 0, match: str | None = None, count: int | None = None) -> Any: ...

    def ping(self) -> Any: ...

    def pipeline(self, transaction: bool = False) -> Any:
        """Return a `CachePipeline`."""

    def pubsub(self) -> Any:
        """Return redis-py's `PubSub`. What is published anywhere is heard everywhere."""

    async def aclose(self) -> None: ...


def connect(url: str, *, connections: int = 32, timeout_s: float) -> CacheClient:
    """Return a client for the cache at `url`; it connects when first used. Close it with `aclose`.

    `timeout_s` bounds connecting, waiting for a free connection, and each answer; `connections` is
    for each server.
    """
    target = RedisUrl(url)
    if target.topology != "cluster":
        return cast(CacheClient, connect_one(url, connections=connections, timeout_s=timeout_s))

    def make(host: str, port: int) -> Redis:
        return _client(Client, _pool(target, host, port, connections, timeout_s))

    return ClusterClient(target.hosts, make, patience_s=timeout_s)


_Client = TypeVar("_Client", bound=Redis)


def connect_one(
    url: str,
    *,
    client: type[_Client] = Client,  # type: ignore[assignment]
    connections: int = 32,
    timeout_s: float,
    **more: Any,
) -> _Client:
    """Return redis-py's client for the one primary of `url`, as `connect` does.

    `more` goes to the client's constructor. Raises ValueError for a cluster.
    """
    target = RedisUrl(url)
    if target.topology == "cluster":
        raise ValueError("a cluster has no one primary")
    if target.topology == "sentinel":
        pool: Any = _sentinel_pool(target, connections, timeout_s)
    else:
        pool = _pool(target, *target.hosts[0], connections, timeout_s)
    return _client(client, pool, **more)


def _client(client: type[_Client], pool: Any, **more: Any) -> _Client:
    made = client(connection_pool=pool, **more)
    made.auto_close_connection_pool = True
    return made


def _options(target: RedisUrl, connections: int, timeout_s: float) -> dict[str, Any]:
    return {
        "db": target.db,
        "username": target.username,
        "password": target.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
        "max_connections": connections,
    }


def _pool(target: RedisUrl, host: str, port: int, connections: int, timeout_s: float) -> WirePool:
    return WirePool(
        connection_class=TlsWire if target.tls else PlainWire,
        **target.tls_options,
        host=host,
        port=port,
        timeout=timeout_s,
        **_options(target, connections, timeout_s),
    )


def _sentinel_pool(target: RedisUrl, connections: int, timeout_s: float) -> SentinelPool:
    options = target.sentinel_options(timeout_s)
    sentinels = Sentinel(target.hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    for sentinel in sentinels.sentinels:
        sentinel.connection_pool.connection_class = TlsWire if "ssl" in options else PlainWire
    return SentinelPool(
        target.service or "mymaster",
        sentinels,
        tls=target.tls,
        timeout=timeout_s,
        **target.tls_options,
        **_options(target, connections, timeout_s),
    )
