"""Who races: our lookups, and cache-aside with two caching libraries, over the same rows.

The peers are put to their best use: write to the database, then delete the key; read the cache,
else the database, then store what was read for as long as our lease. Reader and writer are two
clients, as they are in two processes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiocache  # type: ignore[import-untyped]
import asyncpg
import cashews
from redis.asyncio import BlockingConnectionPool, ConnectionPool

from paystate.connections import RedisUrl
from paystate.keys import Entity, Keys
from paystate.payments.answers import Source
from paystate.payments.lookup import Lookups
from paystate.resources import Resources
from paystate.state import EntityState
from paystate.status import Status, is_terminal, shown
from paystate.store import Store, open_store

__all__ = [
    "AioCache",
    "Cashews",
    "Look",
    "Ours",
    "PausingStore",
    "Peer",
    "System",
    "TellingStore",
    "open_peers",
    "paused_lookups",
]

FINAL_S = 86_400
# As many as one of our own processes has.
CONNECTIONS = 32
# The race is not about timeouts: nobody's is met.
TIMEOUT_S = 10
_PREFIX = "race:"
_ROW = "SELECT status, open_events, held_events FROM entities WHERE key = $1"

Read = Callable[[Entity], Awaitable[Status]]


@dataclass(frozen=True, slots=True)
class Look:
    """What a lookup answered, and whether out of the cache."""

    status: str
    cached: bool


class System(Protocol):
    """A cached status, as one process reads it."""

    name: str

    async def look(self, payment: Entity) -> Look:
        """Return the status of a payment."""

    def key(self, payment: Entity) -> str:
        """Return the key in Redis, for those who evict it."""


class Ours:
    """Our lookups, in the process `reader`."""

    name = "paystate"

    def __init__(self, reader: Resources) -> None:
        self._lookups = reader.lookups
        self._keys = Keys()

    async def look(self, payment: Entity) -> Look:
        """Return the status of a payment."""
        answer = await self._lookups.status(payment)
        return Look(answer.status.value, answer.source is Source.CACHE)

    def key(self, payment: Entity) -> str:
        """Return the key of its hash."""
        return self._keys.hash(payment)


class Peer(ABC):
    """Cache-aside: read, else load and store; invalidate after each commit."""

    name = ""

    def __init__(self, read: Read, lease_s: float) -> None:
        self._read = read
        self._lease_s = lease_s

    async def look(self, payment: Entity) -> Look:
        """Return the status of a payment."""
        held = await self._get(payment.id)
        if held is not None:
            return Look(held, True)
        status = await self._read(payment)
        final = is_terminal(status)
        await self._set(payment.id, status.value, FINAL_S if final else self._lease_s)
        return Look(status.value, False)

    @abstractmethod
    def key(self, payment: Entity) -> str:
        """Return the key in Redis, for those who evict it."""

    @abstractmethod
    async def invalidate(self, payment: Entity) -> None:
        """Delete the key, as the process that has written to the database does."""

    @abstractmethod
    async def _get(self, key: str) -> str | None:
        """Return what is held."""

    @abstractmethod
    async def _set(self, key: str, value: str, ttl_s: float) -> None:
        """Hold a status."""


class Cashews(Peer):
    """cashews with its client-side cache, which the server invalidates by broadcast."""

    name = "cashews"

    def __init__(self, read: Read, lease_s: float, url: str) -> None:
        super().__init__(read, lease_s)
        self.reader, self.writer = cashews.Cache(), cashews.Cache()
        for cache in (self.reader, self.writer):
            cache.setup(
                url, client_side=True, client_side_prefix=f"{_PREFIX}c:", suppress=False,
                connection_pool_class=ConnectionPool, max_connections=8 * CONNECTIONS,
                socket_timeout=TIMEOUT_S,
            )  # fmt: skip

    def key(self, payment: Entity) -> str:
        """Return the key in Redis."""
        return f"{_PREFIX}c:{payment.id}"

    async def invalidate(self, payment: Entity) -> None:
        """Delete the key by the writer's client."""
        await self.writer.delete(payment.id)

    async def _get(self, key: str) -> str | None:
        held: str | None = await self.reader.get(key)
        return held

    async def _set(self, key: str, value: str, ttl_s: float) -> None:
        await self.reader.set(key, value, expire=ttl_s)


class AioCache(Peer):
    """aiocache, which keeps everything in Redis."""

    name = "aiocache"

    def __init__(self, read: Read, lease_s: float, url: str) -> None:
        super().__init__(read, lease_s)
        host, port = RedisUrl(url).hosts[0]
        self.reader, self.writer = (
            aiocache.RedisCache(
                endpoint=host, port=port, namespace=f"{_PREFIX}a", timeout=TIMEOUT_S,
                pool_max_size=CONNECTIONS, connection_pool_class=BlockingConnectionPool,
            )
            for _ in range(2)
        )  # fmt: skip

    def key(self, payment: Entity) -> str:
        """Return the key in Redis."""
        return f"{_PREFIX}a:{payment.id}"

    async def invalidate(self, payment: Entity) -> None:
        """Delete the key by the writer's client."""
        await self.writer.delete(payment.id)

    async def _get(self, key: str) -> str | None:
        held: str | None = await self.reader.get(key)
        return held

    async def _set(self, key: str, value: str, ttl_s: float) -> None:
        await self.reader.set(key, value, ttl=ttl_s)


@asynccontextmanager
async def open_peers(
    database: str, lease_s: float, url: str
) -> AsyncIterator[tuple[Cashews, AioCache]]:
    """Open both peers' clients, and close them."""
    async with AsyncExitStack() as stack:
        read = await stack.enter_async_context(_open_rows(database))
        first, second = Cashews(read, lease_s, url), AioCache(read, lease_s, url)
        for cache in (first.reader, first.writer):
            stack.push_async_callback(cache.close)
            await cache.init()
        for other in (second.reader, second.writer):
            stack.push_async_callback(other.close)
        yield first, second


@asynccontextmanager
async def _open_rows(database: str) -> AsyncIterator[Read]:
    """Yield what reads the status of a payment: one statement, without our coalescing."""
    if database.startswith("sqlite"):
        async with open_store(database, pool=5, timeout_s=10) as store:

            async def read_state(payment: Entity) -> Status:
                return (await store.states([payment]))[payment].shown

            yield read_state
        return
    async with asyncpg.create_pool(
        database, min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_leave_as_it_is
    ) as pool:

        async def read_row(payment: Entity) -> Status:
            row = await pool.fetchrow(_ROW, payment.row_key)
            assert row is not None
            return shown(
                Status(row[0]), open_events=row["open_events"], held_events=row["held_events"]
            )

        yield read_row


async def _leave_as_it_is(_connection: Any) -> None:
    """Spare the peers a round trip: nothing but one read ever runs on these connections."""


class TellingStore:
    """A store that tells of each commit: `committed` is given the states, in the same turn."""

    def __init__(self, store: Store, committed: Callable[[Sequence[EntityState]], None]) -> None:
        self._store = store
        self._committed = committed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def acknowledge(self, events: Any) -> Any:
        """Record events."""
        results = await self._store.acknowledge(events)
        self._committed([s for r in results if not isinstance(r, Exception) for s in r.states])
        return results

    async def settle(
        self,
        decisions: Any,
        before_commit: Callable[[Sequence[EntityState]], Awaitable[None]],
        **more: Any,
    ) -> Any:
        """Apply decisions."""
        results = await self._store.settle(decisions, before_commit, **more)
        self._committed([s for r in results if not isinstance(r, Exception) for s in r.states])
        return results


class PausingStore:
    """A store whose reader is held up between its read and what it does with it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = asyncio.Event()
        self.go_on = asyncio.Event()

    async def states(self, entities: Sequence[Entity]) -> dict[Entity, EntityState]:
        """Read, say so, and wait to be told to go on."""
        found = await self._store.states(entities)
        self.read.set()
        await self.go_on.wait()
        return found


def paused_lookups(reader: Resources) -> tuple[Lookups, PausingStore]:
    """Return lookups of the process `reader` that are held up between read and fill."""
    store = PausingStore(reader.store)
    asker: Any = None  # about rows that are there and young nobody is asked
    lookups = Lookups(
        store, reader.cache, asker, reader.metrics,  # type: ignore[arg-type]
        recheck_s=reader.settings.pending_recheck_s,
    )  # fmt: skip
    return lookups, store
