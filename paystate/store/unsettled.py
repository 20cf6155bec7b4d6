"""The reconciler's own rows: what is unsettled, and when the provider is asked about it.

A payment is not written here when it is made: nearly all settle within seconds. Once their changes
are some minutes old the change log is read, in one statement inside the database, and whatever is
unsettled still is *enrolled*. From then on its row says when the provider is asked next; it goes as
soon as the payment has settled. All times are milliseconds by the database's clock.

Claims are leases: any number of reconcilers work beside each other, and one that dies gives back
what it had by doing nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.engine import Database
from paystate.store.enrolling import enroll
from paystate.store.tables import among, entities, now_ms, unsettled

__all__ = ["Check", "Checked", "Flagged", "Narrowed", "Standing", "Unsettled"]


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Which rows: of one merchant, none of some others, no younger than `age_ms`.

    `due` False takes what is not due yet too.
    """

    merchant: str | None = None
    without: frozenset[str] = frozenset()
    age_ms: int = 0
    due: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """Something unsettled that is to be asked about. `first_ms` is when it was first heard of.

    `asked` counts the times it was asked about; `outcome` is what came of the last.
    """

    entity: Entity
    first_ms: int
    due_ms: int
    asked: int
    outcome: str | None
    flagged_ms: int | None
    now_ms: int

    @property
    def age_ms(self) -> int:
        """How long it has been known without having been settled."""
        return max(0, self.now_ms - self.first_ms)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to: ask again in `wait_ms`, or never (None): it has settled."""

    entity: Entity
    outcome: str
    wait_ms: int | None
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class Flagged:
    """Something of which nothing that settles it has been heard for long, for a person to see."""

    entity: Entity
    status: str
    first_ms: int
    flagged_ms: int
    asked: int
    outcome: str | None
    expected: str | None
    now_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How much there is: rows, rows that are due, rows flagged, and the age of the oldest."""

    rows: int
    due: int
    flagged: int
    oldest_ms: int


class Unsettled:
    """What the reconciler reads and writes. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enroll(self, *, grace_ms: int, most: int) -> bool:
        """Enroll what `most` further changes older than `grace_ms` left unsettled.

        Returns whether there may be more such changes.
        """
        return await self._database.write(
            lambda c: enroll(c, self._database.dialect, grace_ms=grace_ms, most=most)
        )

    async def claim(
        self,
        narrowed: Narrowed,
        *,
        claim_ms: int,
        most: int,
        keys: Sequence[str] | None = None,
        rested_ms: int = 0,
    ) -> list[Check]:
        """Take up to `most` rows for `claim_ms`: those longest due, or those of `keys`.

        `keys` are taken whether they are due or not, unless they were asked about less than
        `rested_ms` ago.
        """

        async def work(connection: AsyncConnection) -> list[Check]:
            wanted = (
                select(unsettled.c.key)
                .where(unsettled.c.claimed_until_ms <= now_ms(), *_where(narrowed))
                .order_by(unsettled.c.due_ms, unsettled.c.key)
                .limit(most)
                .with_for_update(skip_locked=True)
            )
            if keys is None:
                wanted = wanted.where(*_due(narrowed, rested_ms))
            else:
                rested = unsettled.c.asked_ms <= now_ms() - rested_ms
                wanted = wanted.where(
                    among(self._database.dialect, unsettled.c.key, keys),
                    or_(unsettled.c.asked_ms.is_(None), rested),
                )
            taken = await connection.execute(
                update(unsettled)
                .where(unsettled.c.key.in_(wanted.scalar_subquery()))
                .values(claimed_until_ms=now_ms() + claim_ms)
                .returning(*_CHECK, now_ms())
            )
            return sorted(map(_check, taken), key=lambda check: (check.due_ms, check.entity))

        return await self._database.write(work)

    async def finish(self, checked: Sequence[Checked]) -> None:
        """Write down what checks came to, and let go of their rows."""

        async def work(connection: AsyncConnection) -> None:
            dialect = self._database.dialect
            gone = [one.entity.row_key for one in checked if one.wait_ms is None]
            if gone:
                await connection.execute(
                    delete(unsettled).where(among(dialect, unsettled.c.key, gone))
                )
            stay = sorted((c for c in checked if c.wait_ms is not None), key=lambda c: c.entity)
            if stay:
                await connection.execute(_AGAIN, [
                    {"row": one.entity.row_key, "said": one.outcome, "wait": one.wait_ms,
                     "flag": int(one.flagged)}
                    for one in stay
                ])  # fmt: skip

        await self._database.write(work)

    async def let_go(self, claimed: Sequence[Entity]) -> None:
        """Give rows back as they were, for whoever comes next."""
        keys = [entity.row_key for entity in claimed]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                update(unsettled)
                .where(among(self._database.dialect, unsettled.c.key, keys))
                .values(claimed_until_ms=0)
            )

        if keys:
            await self._database.write(work)

    async def waiting(self, narrowed: Narrowed, *, most: int) -> list[Check]:
        """Return what `claim` would take, without taking it."""

        async def work(connection: AsyncConnection) -> list[Check]:
            found = await connection.execute(
                select(*_CHECK, now_ms())
                .where(*_where(narrowed), *_due(narrowed, 0))
                .order_by(unsettled.c.due_ms, unsettled.c.key)
                .limit(most)
            )
            return [_check(row) for row in found]

        return await self._database.read(work)

    async def flagged(self, merchant: str | None, *, most: int) -> list[Flagged]:
        """Return what is flagged, the oldest first."""

        async def work(connection: AsyncConnection) -> list[Flagged]:
            wanted = (
                select(
                    unsettled.c.key, entities.c.status, unsettled.c.first_ms,
                    unsettled.c.flagged_ms, unsettled.c.asked, unsettled.c.outcome,
                    entities.c.expected, now_ms(),
                )
                .join(entities, entities.c.key == unsettled.c.key)
                .where(unsettled.c.flagged_ms.is_not(None))
                .order_by(unsettled.c.first_ms, unsettled.c.key)
                .limit(most)
            )  # fmt: skip
            if merchant is not None:
                wanted = wanted.where(unsettled.c.merchant == merchant)
            found = await connection.execute(wanted)
            return [Flagged(Entity.from_row_key(row[0]), *row[1:]) for row in found]

        return await self._database.read(work)

    async def standing(self, merchant: str | None = None) -> Standing:
        """Return how much there is, of one merchant or of all."""

        async def work(connection: AsyncConnection) -> Standing:
            row = (
                await connection.execute(
                    select(
                        func.count(),
                        func.count().filter(unsettled.c.due_ms <= now_ms()),
                        func.count(unsettled.c.flagged_ms),
                        now_ms() - func.min(unsettled.c.first_ms),
                    ).where(*_where(Narrowed(merchant)))
                )
            ).one()
            return Standing(row[0], row[1], row[2], max(0, row[3] or 0))

        return await self._database.read(work)


_CHECK = (
    unsettled.c.key,
    unsettled.c.first_ms,
    unsettled.c.due_ms,
    unsettled.c.asked,
    unsettled.c.outcome,
    unsettled.c.flagged_ms,
)


def _check(row: Any) -> Check:
    return Check(Entity.from_row_key(row[0]), *row[1:])


def _where(narrowed: Narrowed) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if narrowed.merchant is not None:
        where.append(unsettled.c.merchant == narrowed.merchant)
    if narrowed.without:
        where.append(unsettled.c.merchant.not_in(sorted(narrowed.without)))
    if narrowed.age_ms:
        where.append(unsettled.c.first_ms <= now_ms() - narrowed.age_ms)
    return where


def _due(narrowed: Narrowed, rested_ms: int) -> list[ColumnElement[bool]]:
    if narrowed.due:
        return [unsettled.c.due_ms <= now_ms()]
    rested = unsettled.c.asked_ms <= now_ms() - rested_ms
    return [or_(unsettled.c.asked_ms.is_(None), rested)]


_AGAIN = (
    update(unsettled)
    .where(unsettled.c.key == bindparam("row"))
    .values(
        outcome=bindparam("said"),
        asked=unsettled.c.asked + 1,
        asked_ms=now_ms(),
        due_ms=now_ms() + bindparam("wait"),
        claimed_until_ms=0,
        # Since when: the first time counts.
        flagged_ms=text(
            "CASE WHEN :flag = 1 THEN COALESCE(flagged_ms, due_ms) ELSE flagged_ms END"
        ),
    )
)
