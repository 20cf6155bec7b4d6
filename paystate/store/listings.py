"""How far the provider's own lists have been read: one row for each of a merchant's lists.

A list is read in windows of time, and a window page by page. Both stand here, so that whoever comes
next goes on where the last one stopped. A list is claimed for as long as somebody reads it; who
dies gives it back by doing nothing. Times are milliseconds by the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, or_, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.batches import NOW_MS
from paystate.store.engine import Database
from paystate.store.overlays import known_overlays
from paystate.store.tables import listings, now_ms
from paystate.updates import OverlayJson, OverlayType

__all__ = ["Listing", "Listings"]


@dataclass(frozen=True, slots=True)
class Listing:
    """One of a merchant's lists, claimed: payments made from `since_ms` to `until_ms`.

    `page` is the next to read.
    """

    key: str
    since_ms: int
    until_ms: int
    page: int


class Listings:
    """Where lists are read. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self,
        merchant: str,
        name: str,
        *,
        claim_ms: int,
        back_ms: int,
        overlap_ms: int,
        lag_ms: int,
        now: bool = False,
    ) -> Listing | None:
        """Take a merchant's list of that name, None if it is not due or somebody has it.

        A window ends `lag_ms` ago. The first begins `back_ms` before that, each later one
        `overlap_ms` before the end of the one before. A window that was begun is gone on with.
        `now` takes one that is not due too.
        """

        async def work(connection: AsyncConnection) -> Listing | None:
            key = f"{merchant}:{name}"
            await connection.execute(_MAKE[self._database.dialect], {
                "key": key, "merchant": merchant, "back": back_ms + lag_ms,
            })  # fmt: skip
            due = or_(listings.c.due_ms <= now_ms(), listings.c.until_ms.is_not(None))
            taken = await connection.execute(
                update(listings)
                .where(listings.c.key == key, listings.c.claimed_until_ms <= now_ms())
                .where(due if not now else listings.c.key == key)
                .values(
                    claimed_until_ms=now_ms() + claim_ms,
                    since_ms=func.coalesce(
                        # A window that is under way stays what it is.
                        listings.c.since_ms, listings.c.through_ms - overlap_ms,
                    ),
                    until_ms=func.coalesce(listings.c.until_ms, now_ms() - lag_ms),
                )
                .returning(listings.c.since_ms, listings.c.until_ms, listings.c.page)
            )  # fmt: skip
            row = taken.one_or_none()
            return Listing(key, row[0], row[1], row[2]) if row is not None else None

        return await self._database.write(work)

    async def chargebacks(self, entities: Collection[Entity]) -> dict[tuple[str, str], OverlayJson]:
        """Return the chargebacks that are known, by the payment's row key and their own id."""
        return await self._database.read(
            lambda c: known_overlays(c, self._database.dialect, entities, OverlayType.CHARGEBACK)
        )

    async def turn_page(self, listing: Listing, page: int, *, claim_ms: int) -> None:
        """Note that `page` is the next to read; with `claim_ms` 0, by anybody."""
        await self._database.write(
            lambda c: c.execute(
                update(listings)
                .where(listings.c.key == listing.key, listings.c.until_ms == listing.until_ms)
                .values(
                    page=page, claimed_until_ms=now_ms() + claim_ms if claim_ms else 0
                )
            )
        )  # fmt: skip

    async def end(self, listing: Listing, *, every_ms: int) -> None:
        """Note that all of a window has been read; the next is due in `every_ms`."""
        await self._database.write(
            lambda c: c.execute(
                update(listings)
                .where(listings.c.key == listing.key, listings.c.until_ms == listing.until_ms)
                .values(
                    through_ms=listing.until_ms, since_ms=None, until_ms=None, page=1,
                    due_ms=now_ms() + every_ms, claimed_until_ms=0,
                )
            )
        )  # fmt: skip


_MAKE = {
    dialect: text(
        "INSERT INTO listings (key, merchant, through_ms, page, due_ms, claimed_until_ms) "  # noqa: S608
        f"VALUES (:key, :merchant, {now} - :back, 1, 0, 0) ON CONFLICT (key) DO NOTHING"
    )
    for dialect, now in NOW_MS.items()
}
