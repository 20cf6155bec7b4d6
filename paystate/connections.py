"""Connections to Redis or Valkey, set up on purpose: bounded in number, in time and in patience.

A blocking pool waits for a free connection rather than opening one more, and does not hold its
lock while it connects (redis-py's plain pool does both). Every wait has an end, because whoever
waits here has a database to ask instead. Nothing is retried by the client: what failed may have
been done, and the flows know which calls may be repeated.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import RedisError

__all__ = ["REDIS_FAILURES", "RedisUrl", "connect"]

# A refused connection is the builtin OSError and a timed-out one may be asyncio's, not redis-py's.
REDIS_FAILURES = (RedisError, OSError, asyncio.TimeoutError)


class RedisUrl:
    """The parts of a URL of one of our forms.

    ``redis[s]://host:port/db``, ``redis[s]+sentinel://host:port,host:port/name[/db]``,
    ``redis[s]+cluster://host:port,host:port``.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        scheme, _, self.topology = parts.scheme.partition("+")
        self.tls = scheme == "rediss"
        self.username = unquote(parts.username) if parts.username else None
        self.password = unquote(parts.password) if parts.password else None
        path = [piece for piece in parts.path.split("/") if piece]
        self.service = path[0] if self.topology == "sentinel" and path else None
        rest = path[1:] if self.topology == "sentinel" else path
        self.db = int(rest[0]) if rest else 0
        hosts = parts.netloc.rpartition("@")[2]
        self.hosts = [_host(text) for text in hosts.split(",")]


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not host:
        host, port = port, ""
    return host.strip("[]") or "127.0.0.1", int(port) if port else 6379


# Half-open connections (a peer that vanished without a word) are found by the kernel within
# 15 + 3 * 5 seconds, and at once by the timeout of whoever is waiting.
_KEEPALIVE: dict[int, int] = {
    option: value
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if (option := getattr(socket, name, None)) is not None
}


def connect(
    url: str, *, client: type[Redis] = Redis, connections: int = 32, timeout_s: float, **more: Any
) -> Redis:
    """Return a client for `url`; it connects when first used and must be closed with `aclose`.

    `timeout_s` bounds connecting, waiting for a free connection, and each answer. `more` goes to
    the client's constructor.
    """
    target = RedisUrl(url)
    options: dict[str, Any] = {
        "db": target.db,
        "username": target.username,
        "password": target.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
        "max_connections": connections,
    }
    if target.topology == "sentinel":
        sentinels = Sentinel(  # type: ignore[no-untyped-call]
            target.hosts, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        pool: Any = SentinelConnectionPool(  # type: ignore[no-untyped-call]
            target.service or "mymaster", sentinels, ssl=target.tls, **options
        )
    else:
        host, port = target.hosts[0]
        scheme = "rediss" if target.tls else "redis"
        pool = BlockingConnectionPool.from_url(
            f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}",
            timeout=timeout_s,
            **options,
        )
    made = client(connection_pool=pool, **more)
    made.auto_close_connection_pool = True
    return made
