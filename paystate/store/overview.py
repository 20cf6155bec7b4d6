"""How everything stands, for the board: bounded, whatever there is in the tables.

Every statement is led by an index to a window of the latest rows, or to the few that are open or
given up, so that it costs the same with a thousand payments and with ten million.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change, Cursor
from paystate.store.inbox import Ending
from paystate.store.rows import LOGGED, change_of
from paystate.store.tables import changes, inbox, now_ms

__all__ = ["Overview", "overview"]

# The window over the change log, and over the inbox, in rows.
CHANGES = 1000
EVENTS = 1000

# Spelt out, or no database sees that its partial indexes are about just these.
_OPEN = inbox.c.state == literal_column("'open'")
_STUCK = inbox.c.state.in_([literal_column("'held'"), literal_column("'dead'")])
_DONE = (Ending.APPLIED.value, Ending.SUPERSEDED.value)
_WEBHOOKS = ("v3", "v4")


@dataclass(frozen=True, slots=True)
class Overview:
    """One moment of the database; `now_ms` is its clock, ms since the epoch.

    `payments` has the latest change of each payment among the last `CHANGES` changes, the newest
    first. `waits_ms` are the times from a webhook's arrival to its effect, for those among the last
    `EVENTS` events that have one; sorted.
    """

    payments: tuple[Change, ...]
    waits_ms: tuple[int, ...]
    open: int
    oldest_ms: int
    held: int
    dead: int
    now_ms: int


async def overview(connection: AsyncConnection, merchant: str | None) -> Overview:
    """Return how a merchant's payments stand, or everybody's."""
    mine: list[ColumnElement[bool]] = [inbox.c.merchant == merchant] if merchant else []
    opened = (
        await connection.execute(
            select(func.count(), func.min(inbox.c.received_ms), now_ms()).where(_OPEN, *mine)
        )
    ).one()
    stuck = await connection.execute(
        select(inbox.c.state, func.count())
        .where(_STUCK, inbox.c.entity_key.is_not(None), *mine)
        .group_by(inbox.c.state)
    )
    counts: dict[str, int] = {row[0]: row[1] for row in stuck}
    return Overview(
        payments=await _payments(connection, merchant),
        waits_ms=await _waits(connection, mine),
        open=opened[0],
        oldest_ms=max(0, opened[2] - opened[1]) if opened[1] is not None else 0,
        held=counts.get(Ending.HELD.value, 0),
        dead=counts.get(Ending.DEAD.value, 0),
        now_ms=opened[2],
    )


async def _payments(connection: AsyncConnection, merchant: str | None) -> tuple[Change, ...]:
    latest = (
        select(*LOGGED, changes.c.merchant)
        .order_by(changes.c.xid.desc(), changes.c.id.desc())
        .limit(CHANGES)
    ).subquery()
    query = select(latest).where(~latest.c.entity_key.startswith("reference:"))
    if merchant is not None:
        query = query.where(latest.c.merchant == merchant)
    found: dict[str, Change] = {}
    for row in await connection.execute(query):
        held = found.get(row.entity_key)
        # A transaction that began earlier may have committed the later version.
        if held is None or row.version > held.version:
            found[row.entity_key] = change_of(row, Cursor(row.xid, row.id))
    return tuple(sorted(found.values(), key=lambda change: -change.changed_ms))


async def _waits(connection: AsyncConnection, mine: list[ColumnElement[bool]]) -> tuple[int, ...]:
    newest = select(func.max(inbox.c.id)).scalar_subquery()
    found = await connection.execute(
        select(inbox.c.ended_ms - inbox.c.received_ms).where(
            inbox.c.id > newest - EVENTS,
            inbox.c.state.in_(_DONE),
            inbox.c.api.in_(_WEBHOOKS),
            inbox.c.ended_ms.is_not(None),
            *mine,
        )
    )
    return tuple(sorted(max(0, row[0]) for row in found))
