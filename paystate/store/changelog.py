"""The change log, read by a cursor that cannot miss a row that commits late.

A reader holds two places. Its *position* pages through what is visible now. Its *safe cursor* is
where it starts again: it moves only over rows of transactions older than every one still running,
so a row that commits late, with a smaller transaction id than rows already read, still lies after
it. What lies between the two is read again next time: news early, and at least once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import delete, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change, Cursor
from paystate.errors import CursorPruned
from paystate.store.engine import Database
from paystate.store.rows import LOGGED, change_of
from paystate.store.tables import HORIZON, among, changes, horizon, now_ms, watermarks

__all__ = [
    "Page",
    "Versions",
    "changes_after",
    "latest_cursor",
    "prune",
    "pruned_to",
    "refuse_before",
    "versions_after",
]

PRUNED = "changes_pruned_to"


@dataclass(frozen=True, slots=True)
class Page:
    """Some changes, oldest first; `position` to page on from, `safe` to start again from later."""

    changes: tuple[Change, ...]
    position: Cursor
    safe: Cursor
    more: bool


async def changes_after(
    connection: AsyncConnection,
    position: Cursor,
    *,
    safe: Cursor | None = None,
    most: int,
    merchant: str | None = None,
) -> Page:
    """Return visible changes after `position`; `safe` is the cursor reached so far.

    Raises CursorPruned if changes after `position` have been removed.
    """
    query = (
        select(*LOGGED, horizon())
        .where(tuple_(changes.c.xid, changes.c.id) > tuple_(position.xid, position.id))
        .order_by(changes.c.xid, changes.c.id)
        .limit(most)
    )
    if merchant is not None:
        query = query.where(changes.c.merchant == merchant)
    rows = (await connection.execute(query)).all()
    # Only now: on PostgreSQL each statement sees its own moment, and what is removed between the
    # two must be missed aloud.
    pruned = await pruned_to(connection)
    if position < pruned:
        raise CursorPruned("cursor_pruned", f"changes up to {pruned} have been removed")
    found = []
    safe = position if safe is None else safe
    # Once the position has gone further than the safe cursor, that stays where it is: what has
    # become safe since may have rows before the position, which this reader has not seen.
    together = safe == position
    for row in rows:
        xid, number, oldest = row[-3:]
        position = Cursor(xid, number)
        together = together and xid < oldest
        if together:
            safe = position
        found.append(change_of(row, safe))
    return Page(tuple(found), position, safe, more=len(found) == most)


class Versions(NamedTuple):
    """What a `Page` says of versions alone: a row key, its version and the one before, of each."""

    versions: list[tuple[str, int, int]]
    position: Cursor
    safe: Cursor
    more: bool


# One text for all of it, and the two cursors: it costs the reader less than a row for each.
_VERSIONS = f"""
    WITH page AS MATERIALIZED (
        SELECT entity_key, version, previous_version, xid, id FROM changes
        WHERE (xid, id) > (CAST($1 AS BIGINT), CAST($2 AS BIGINT))
        ORDER BY xid, id LIMIT CAST($3 AS BIGINT)
    )
    SELECT (SELECT string_agg(concat_ws(chr(31), entity_key, version, previous_version), chr(30)
                              ORDER BY xid, id) FROM page),
           (SELECT ARRAY[xid, id] FROM page ORDER BY xid DESC, id DESC LIMIT 1),
           (SELECT ARRAY[xid, id] FROM page WHERE xid < {HORIZON["postgresql"]}
            ORDER BY xid DESC, id DESC LIMIT 1)
"""  # noqa: S608 - ours


async def versions_after(
    database: Database, position: Cursor, *, safe: Cursor | None = None, most: int
) -> Versions:
    """Return what `changes_after` does, of versions alone; PostgreSQL only. Raises CursorPruned."""
    [(said, last, oldest)] = await database.fetch(_VERSIONS, position.xid, position.id, most)
    pruned = await database.fetch("SELECT value FROM watermarks WHERE name = $1", PRUNED)
    if pruned and position < Cursor.parse(pruned[0][0]):
        raise CursorPruned("cursor_pruned", f"changes up to {pruned[0][0]} have been removed")
    safe = position if safe is None else safe
    rows = [row.split("\x1f") for row in said.split("\x1e")] if said else []
    versions = [(key, int(version), int(before)) for key, version, before in rows]
    if oldest is not None and safe == position:  # otherwise as in `changes_after`
        safe = Cursor(*oldest)
    reached = Cursor(*last) if last is not None else position
    return Versions(versions, reached, safe, more=len(versions) == most)


async def pruned_to(connection: AsyncConnection) -> Cursor:
    """Return the cursor before which nothing can be replayed."""
    text = (
        await connection.execute(select(watermarks.c.value).where(watermarks.c.name == PRUNED))
    ).scalar_one_or_none()
    return Cursor.parse(text) if text else Cursor()


async def latest_cursor(connection: AsyncConnection) -> Cursor:
    """Return the cursor after which only changes not yet visible, and new ones, will come."""
    row = (
        await connection.execute(
            select(changes.c.xid, changes.c.id)
            .where(changes.c.xid < horizon())
            .order_by(changes.c.xid.desc(), changes.c.id.desc())
            .limit(1)
        )
    ).one_or_none()
    return max(Cursor(row[0], row[1]) if row is not None else Cursor(), await pruned_to(connection))


async def prune(connection: AsyncConnection, dialect: str, *, older_than_ms: int, most: int) -> int:
    """Remove up to `most` changes older than `older_than_ms`, oldest first; return how many.

    Only safe rows are removed, in the order of the cursor, and how far is written down in the same
    transaction: a reader that was further back is told so.
    """
    # Of the oldest by the cursor, those that are old: a search for old ones would read all others.
    oldest = (
        select(changes.c.id, changes.c.xid, changes.c.changed_ms)
        .where(changes.c.xid < horizon())
        .order_by(changes.c.xid, changes.c.id)
        .limit(most)
        .subquery()
    )
    rows: Sequence[tuple[int, int, int]] = [
        (row[0], row[1], row[2])
        for row in await connection.execute(
            select(oldest).where(oldest.c.changed_ms < now_ms() - older_than_ms)
        )
    ]
    if not rows:
        return 0
    reached = max(Cursor(xid, row_id) for row_id, xid, _ in rows)
    await connection.execute(
        delete(changes).where(among(dialect, changes.c.id, [row[0] for row in rows]))
    )
    await refuse_before(connection, reached)
    return len(rows)


async def refuse_before(connection: AsyncConnection, reached: Cursor) -> None:
    """Let no cursor before `reached` be read from any more; never takes that back."""
    before = await pruned_to(connection)
    if before == Cursor():
        await connection.execute(insert(watermarks).values(name=PRUNED, value=str(reached)))
    elif before < reached:
        await connection.execute(
            update(watermarks).where(watermarks.c.name == PRUNED).values(value=str(reached))
        )
