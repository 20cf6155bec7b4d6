"""The change log, read by a cursor that cannot miss a row that commits late."""

from __future__ import annotations

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change, Cursor
from paystate.store.rows import change_of
from paystate.store.tables import changes, horizon

__all__ = ["changes_after", "latest_cursor"]


async def changes_after(
    connection: AsyncConnection, cursor: Cursor, *, most: int, merchant: str | None = None
) -> tuple[list[Change], Cursor]:
    """Return visible changes after `cursor`, oldest first, and the cursor to go on from.

    The cursor moves only over rows of transactions older than every one still running. A change
    above that is returned all the same, and returned again next time: news early, at least once.
    """
    query = (
        select(changes, horizon().label("horizon"))
        .where(tuple_(changes.c.xid, changes.c.id) > tuple_(cursor.xid, cursor.id))
        .order_by(changes.c.xid, changes.c.id)
        .limit(most)
    )
    if merchant is not None:
        query = query.where(changes.c.merchant == merchant)
    found = []
    safe = cursor
    for row in (await connection.execute(query)).mappings():
        own = Cursor(row["xid"], row["id"])
        if own.xid < row["horizon"]:
            safe = own
        found.append(change_of(dict(row), safe))
    return found, safe


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
    return Cursor(row[0], row[1]) if row is not None else Cursor()
