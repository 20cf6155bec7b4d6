"""One Redis or Valkey, as it describes itself and as it behaves."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from paystate.cache.scripts import GET, run
from paystate.connections import REDIS_FAILURES, CacheClient, RedisUrl, connect, connect_one
from paystate.keys import DEFAULT_MERCHANT, Entity, Keys

__all__ = ["ServerFacts", "read_cache", "read_queue", "read_server", "trouble_of"]

PINGS = 20
_CONFIG = (
    "appendonly",
    "appendfsync",
    "maxmemory-policy",
    "dir",
    "timeout",
    "cluster-require-full-coverage",
    "cluster-node-timeout",
)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server. `trouble` says in one word why it was not reached; then nothing else counts.

    `config` is None where CONFIG GET is forbidden. `pings_ms` are round trips, `ahead_s` how far
    its clock is ahead of this host's. `script` and `news` are "" where paystate's own script, and
    a message to oneself, went well, one word of trouble where not, and None where not tried.
    """

    address: str
    trouble: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] | None = None
    pings_ms: Sequence[float] = ()
    ahead_s: float = 0.0
    script: str | None = None
    news: str | None = None


def trouble_of(error: BaseException) -> str:
    """Return in one word what an error of redis-py means for whoever set it up."""
    text = str(error)
    if isinstance(error, MasterNotFoundError):
        return "no_service"
    if isinstance(error, NoPermissionError) or text.startswith("NOPERM"):
        return "forbidden"
    refused = (AuthenticationError, AuthenticationWrongNumberOfArgsError)
    if isinstance(error, refused) or text.startswith(("WRONGPASS", "NOAUTH")):
        return "password"
    if isinstance(error, BusyLoadingError):
        return "loading"
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        return "timeout"
    if "SSL" in text or "certificate" in text:
        return "tls"
    if "DB index" in text:
        return "database_number"
    return "refused" if isinstance(error, ResponseError) else "unreachable"


async def read_server(
    url: str, address: str, *, timeout_s: float, now: Callable[[], float]
) -> ServerFacts:
    """Ask the one server of `url` about itself; never raises for one that is away."""
    client: Redis = connect_one(url, connections=2, timeout_s=timeout_s)
    try:
        info = await client.info("all")
        before = now()
        seconds, micros = await client.time()
        ahead_s = seconds + micros / 1e6 - (before + now()) / 2
        return ServerFacts(
            address,
            info=info,
            config=await _config(client),
            pings_ms=await _pings(client),
            ahead_s=ahead_s,
        )
    except REDIS_FAILURES as e:
        return ServerFacts(address, trouble=trouble_of(e))
    finally:
        await client.aclose()


async def _config(client: Redis) -> Mapping[str, str] | None:
    try:
        found = await client.config_get(*_CONFIG)  # type: ignore[arg-type]
    except RedisError:
        return None
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


async def _pings(client: Redis) -> list[float]:
    took = []
    for _ in range(PINGS):
        before = time.perf_counter()
        await client.ping()
        took.append((time.perf_counter() - before) * 1000)
    return took


async def read_queue(url: str, *, timeout_s: float, now: Callable[[], float]) -> list[ServerFacts]:
    """Return the facts of the queue's one server."""
    return [await read_server(url, "queue", timeout_s=timeout_s, now=now)]


async def read_cache(
    url: str, *, timeout_s: float, now: Callable[[], float], servers: Sequence[str] = ()
) -> list[ServerFacts]:
    """Return the facts of the cache's server, or of `servers` (host:port), a cluster's primaries.

    The script and the news are tried once, through the client that the processes use.
    """
    target = RedisUrl(url)
    if target.topology == "cluster":
        places = [(target.server_url(*_split(one)), one) for one in servers]
    else:
        places = [(url, "cache")]
    asked = (read_server(place, name, timeout_s=timeout_s, now=now) for place, name in places)
    (script, news), found = await asyncio.gather(
        asyncio.gather(_tried(url, timeout_s, _run_script), _tried(url, timeout_s, _hear_oneself)),
        asyncio.gather(*asked),
    )
    return [_with_use(facts, script, news) for facts in found]


def _with_use(facts: ServerFacts, script: str, news: str) -> ServerFacts:
    return ServerFacts(
        facts.address, facts.trouble, facts.info, facts.config, facts.pings_ms, facts.ahead_s,
        script, news,
    )  # fmt: skip


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def _tried(url: str, timeout_s: float, work: Callable[[CacheClient], Awaitable[str]]) -> str:
    client = connect(url, connections=2, timeout_s=timeout_s)
    try:
        return await work(client)
    except REDIS_FAILURES as e:
        return trouble_of(e)
    finally:
        await client.aclose()


def _own() -> Entity:
    return Entity.reference(DEFAULT_MERCHANT, f"paystate-doctor-{secrets.token_hex(8)}")


async def _run_script(client: CacheClient) -> str:
    """Ask the cache for what nobody has put there, as a lookup does, and clear up after it."""
    key = Keys().hash(_own())
    (result,) = await run(client, [(GET, key, (1000, "doctor"))])
    if isinstance(result, BaseException):
        return trouble_of(result)
    await client.delete(key)
    return "" if list(result) == [0, 1] else "refused"


async def _hear_oneself(client: CacheClient) -> str:
    """Publish on a channel of one's own and wait for the message."""
    channel = Keys().changes(_own())
    pubsub = client.pubsub()
    try:
        await pubsub.subscribe(channel)
        while (message := await pubsub.get_message(timeout=1.0)) is not None:
            if message["type"] == "message":
                return ""
            async with client.pipeline() as pipe:
                pipe.publish(channel, b"")
                await pipe.execute()
        return "timeout"
    finally:
        await pubsub.aclose()
