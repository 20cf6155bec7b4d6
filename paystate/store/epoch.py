"""A new history, begun after the database was restored to an earlier point.

A restored database gives out again what it has given out before: versions, and the ids that order
the change log. Whoever has seen the lost history holds higher ones, and would take the new ones for
old. So every version is raised above any that can have been told, those of new rows begin there too
(the lost history may have known them), the ids of the change log go on in an epoch of their own,
and no cursor from before is read from any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Cursor
from paystate.store.changelog import refuse_before
from paystate.store.engine import Database
from paystate.store.tables import EPOCH, EPOCH_BITS, RAISED_BY, among, entities, watermarks

__all__ = ["Epoch", "Raised"]


@dataclass(frozen=True, slots=True)
class Raised:
    """How many versions a batch has raised, and the key to go on after; None at the end."""

    count: int
    last: str | None


class Epoch:
    """The history that the database is in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self) -> int:
        """Begin the next one and return its number. Raises StoreUnavailable."""
        return await self._database.write(_begin)

    async def raise_versions(self, after: str = "", *, most: int = 5_000) -> Raised:
        """Raise the versions of up to `most` payments and references with keys after `after`.

        Twice does no harm. Raises StoreUnavailable.
        """

        async def work(connection: AsyncConnection) -> Raised:
            keys = list(
                await connection.scalars(
                    select(entities.c.key)
                    .where(entities.c.key > after)
                    .order_by(entities.c.key)
                    .limit(most)
                    .with_for_update()
                )
            )
            if keys:
                await connection.execute(
                    update(entities)
                    .where(among(self._database.dialect, entities.c.key, keys))
                    .values(version=entities.c.version + RAISED_BY)
                )
            return Raised(len(keys), keys[-1] if len(keys) == most else None)

        return await self._database.write(work)

    async def count(self) -> int:
        """Return how many payments and references there are. Raises StoreUnavailable."""

        async def work(connection: AsyncConnection) -> int:
            return (
                await connection.execute(select(func.count()).select_from(entities))
            ).scalar_one()

        return await self._database.read(work)


async def _begin(connection: AsyncConnection) -> int:
    text = (
        await connection.execute(
            select(watermarks.c.value).where(watermarks.c.name == EPOCH).with_for_update()
        )
    ).scalar_one_or_none()
    number = int(text or 0) + 1
    if text is None:
        await connection.execute(insert(watermarks).values(name=EPOCH, value=str(number)))
    else:
        await connection.execute(
            update(watermarks).where(watermarks.c.name == EPOCH).values(value=str(number))
        )
    await refuse_before(connection, Cursor(number << EPOCH_BITS, 0))
    return number
