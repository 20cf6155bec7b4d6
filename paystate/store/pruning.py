"""Removes what nobody needs any more from the inbox, a batch at a time, in the order of its ids.

In two steps. First a row that has ended loses its content, its bulk, and stays with its event key:
a late duplicate still meets it and counts for nothing. Long after, when no redelivery can come any
more, the row goes too. What is open, held or dead is never touched, however old; nor is a
contradicted event whose payment is not successful, because its delivery anew would open it again.

The first step has a watermark: rows before it have been gone through, so that no batch reads the
emptied ones again. Rows that were open or held then, and end later, keep their content until the
second step, which begins at the oldest row and so meets them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.status import Status
from paystate.store.inbox import IGNORED, Ending
from paystate.store.rulings import REJECTED, RELEASED
from paystate.store.tables import among, changes, entities, inbox, now_ms, watermarks

__all__ = ["Prunable", "Pruned", "prunable", "prune"]

EMPTIED = "inbox_emptied_to"

_ENDED = (Ending.APPLIED.value, Ending.SUPERSEDED.value, IGNORED, RELEASED, REJECTED)

_NO_NEED_OF_IT: ColumnElement[bool] = or_(
    inbox.c.state.in_(_ENDED),
    and_(
        inbox.c.state == Ending.CONTRADICTED.value,
        exists().where(
            entities.c.key == inbox.c.entity_key,
            entities.c.status == Status.SUCCESSFUL.value,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one batch did: rows emptied, rows removed, and whether there may be more to do."""

    emptied: int
    removed: int
    more: bool


@dataclass(frozen=True, slots=True)
class Prunable:
    """What pruning would do now: rows to empty, rows to remove, changes to remove."""

    emptied: int
    removed: int
    changes: int


async def prune(
    connection: AsyncConnection, dialect: str, *, content_ms: int, keys_ms: int, most: int
) -> Pruned:
    """Go through up to `most` rows for each step, in one transaction.

    Rows lose their content `content_ms` after their arrival and go `keys_ms` after it.
    """
    after = await _watermark(connection)
    old, reached = await _page(connection, after, content_ms, most)
    emptied = await connection.execute(
        update(inbox)
        .where(among(dialect, inbox.c.id, old), _NO_NEED_OF_IT)
        .where(or_(inbox.c.content.is_not(None), inbox.c.claimed_by.is_not(None)))
        .values(content=None, claimed_by=None)
    )
    if reached is not None:
        await _move_watermark(connection, reached)
    gone = await _oldest(connection, keys_ms, most)
    removed = await connection.execute(
        delete(inbox).where(among(dialect, inbox.c.id, gone), _NO_NEED_OF_IT)
    )
    more = reached is not None or removed.rowcount == most
    return Pruned(emptied.rowcount, removed.rowcount, more)


def _older_than(ms: int) -> ColumnElement[bool]:
    return inbox.c.received_ms < now_ms() - ms


async def _page(
    connection: AsyncConnection, after: int, age_ms: int, most: int
) -> tuple[list[int], int | None]:
    """Return the old rows of the next page, and the id up to which all have been gone through.

    A page without an old row is the end: ids rise with time, but for rows that were opened again.
    """
    page: Sequence[Any] = (
        await connection.execute(
            select(inbox.c.id, _older_than(age_ms))
            .where(inbox.c.id > after)
            .order_by(inbox.c.id)
            .limit(most)
        )
    ).all()
    old = [row[0] for row in page if row[1]]
    return old, old[-1] if old else None


async def _oldest(connection: AsyncConnection, age_ms: int, most: int) -> list[int]:
    """Return rows to be removed, from the beginning: there, only what must stay is in the way."""
    after = 0
    while True:
        _, reached = await _page(connection, after, age_ms, most)
        if reached is None:
            return []
        found = await connection.execute(
            select(inbox.c.id)
            .where(inbox.c.id > after, inbox.c.id <= reached)
            .where(_older_than(age_ms), _NO_NEED_OF_IT)
            .order_by(inbox.c.id)
        )
        if gone := list(found.scalars()):
            return gone
        after = reached


async def _watermark(connection: AsyncConnection) -> int:
    found = await connection.execute(select(watermarks.c.value).where(watermarks.c.name == EMPTIED))
    return int(found.scalar_one_or_none() or 0)


async def _move_watermark(connection: AsyncConnection, reached: int) -> None:
    await connection.execute(
        text(
            "INSERT INTO watermarks (name, value) VALUES (:name, :value) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        ),
        {"name": EMPTIED, "value": str(reached)},
    )


async def prunable(
    connection: AsyncConnection, *, content_ms: int, keys_ms: int, changes_ms: int
) -> Prunable:
    """Count what would be pruned; reads every old row once."""

    async def count(*where: ColumnElement[bool]) -> int:
        found = await connection.execute(select(func.count()).where(*where))
        return int(found.scalar_one())

    removed = await count(inbox.c.id.is_not(None), _older_than(keys_ms), _NO_NEED_OF_IT)
    full = or_(inbox.c.content.is_not(None), inbox.c.claimed_by.is_not(None))
    after = await _watermark(connection)
    emptied = await count(inbox.c.id > after, _older_than(content_ms), _NO_NEED_OF_IT, full)
    logged = await count(changes.c.changed_ms < now_ms() - changes_ms)
    return Prunable(emptied, removed, logged)
