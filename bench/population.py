"""The payments that lookups are measured on, put where real ones are.

Payment number n has the id ``1000000 + n`` and the reference ``order-n``; of every five one is
pending. Rows lie in the database as the flows leave them; the successful ones are in the cache as
well, put there by the real write-through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import islice

import asyncpg

from paystate.cache.statuses import StatusCache
from paystate.connections import connect
from paystate.keys import DEFAULT_MERCHANT, Entity, EntityKind
from paystate.metrics import Metrics
from paystate.state import EntityState
from paystate.status import Status
from paystate.ttl import DEFAULT_TTL

__all__ = ["FIRST_ID", "is_pending", "put_states", "put_successful", "states_of", "store_rows"]

FIRST_ID = 1_000_000
PENDING_OF = 5
_AT_ONCE = 1000
_COLUMNS = (
    "key", "merchant", "kind", "link", "status", "version", "open_events", "held_events",
    "changed_ms", "created_ms",
)  # fmt: skip
# What the peer that keeps its own table has.
_PEER_TABLE = "CREATE TABLE peer_payments (id text PRIMARY KEY, status text NOT NULL)"


def is_pending(number: int) -> bool:
    """Say whether payment `number` is pending."""
    return number % PENDING_OF == 0


def states_of(number: int, status: Status, at_ms: int) -> tuple[EntityState, EntityState]:
    """Return the states of a payment and of its reference."""
    own_id, tx_ref = str(FIRST_ID + number), f"order-{number}"
    version = 2 if status is Status.SUCCESSFUL else 1
    payment = Entity(DEFAULT_MERCHANT, EntityKind.CHARGE, own_id)
    reference = Entity.reference(DEFAULT_MERCHANT, tx_ref)
    return (
        EntityState(payment, status, version, 0, 0, tx_ref, at_ms),
        EntityState(reference, status, version, 0, 0, f"charge:{own_id}", at_ms),
    )


def _states(count: int, at_ms: int) -> Iterator[EntityState]:
    for number in range(count):
        yield from states_of(
            number, Status.PENDING if is_pending(number) else Status.SUCCESSFUL, at_ms
        )


async def store_rows(database_url: str, count: int) -> None:
    """Store the rows of `count` payments and their references, and the peer's table."""
    at_ms = time.time_ns() // 1_000_000
    connection = await asyncpg.connect(database_url)
    try:
        await connection.copy_records_to_table(
            "entities",
            columns=_COLUMNS,
            records=(
                (s.entity.row_key, s.entity.merchant, s.entity.kind.value, s.link, s.status.value,
                 s.version, 0, 0, at_ms, at_ms)
                for s in _states(count, at_ms)
            ),
        )  # fmt: skip
        await connection.execute(_PEER_TABLE)
        await connection.copy_records_to_table(
            "peer_payments",
            columns=("id", "status"),
            records=(
                (str(FIRST_ID + n), "pending" if is_pending(n) else "successful")
                for n in range(count)
            ),
        )
        await connection.execute("ANALYZE entities, peer_payments")
    finally:
        await connection.close()


async def put_states(url: str, states: Iterator[EntityState]) -> None:
    """Write states through to the cache at `url`, as the worker does."""
    redis = connect(url, timeout_s=10)
    cache = StatusCache(redis, lease_ms=1000, ttl=DEFAULT_TTL, metrics=Metrics())
    try:
        while some := list(islice(states, _AT_ONCE)):
            await cache.put(some, [])
            await asyncio.sleep(0)
    finally:
        await redis.aclose()


async def put_successful(url: str, count: int) -> None:
    """Put the successful ones of `count` payments into the cache at `url`."""
    at_ms = time.time_ns() // 1_000_000
    await put_states(url, (s for s in _states(count, at_ms) if s.status is Status.SUCCESSFUL))
