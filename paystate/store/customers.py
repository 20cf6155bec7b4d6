"""Customers: what the provider says of them, and their payments, newest first.

Name, e-mail and phone come from the provider's own answers, on demand, and each answer has a
*ticket* that was taken before the question. An answer is kept only where no later ticket's was, so
an older one never takes a newer one's place, and no clock is asked. Which payments are whose is
written in `ownership`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.engine import Database
from paystate.store.tables import customer_payments, customers, details, now_ms
from paystate.updates import Person

__all__ = ["PAGE_SIZE", "Customers", "Dossier", "HistoryPage", "Row", "Ticket"]

PAGE_SIZE = 20
# How far back means of payment are gathered.
_METHODS_OF = 100


@dataclass(frozen=True, slots=True)
class Row:
    """A customer's row. `person` is what the provider last said of it; times are ms by its clock.

    `profile_ticket` numbers the provider's answer that `person` is from, and `profile_version` is
    the version at which that was asked for: below `version`, something has happened since.
    """

    key: str
    version: int
    profile_ticket: int
    profile_version: int
    active_ms: int
    created_ms: int
    erased: bool
    now_ms: int
    person: Person = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to keep one answer of the provider's, unless a later ticket's has been kept."""

    number: int
    version: int


@dataclass(frozen=True, slots=True)
class Dossier:
    """A row, how many payments there are, and the details of the latest ones."""

    row: Row
    payments: int
    latest: tuple[dict[str, Any], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Some payments of a customer, newest first, as of `version`: places, identities, details.

    `more` says whether others follow.
    """

    version: int
    total: int
    more: bool
    payments: tuple[tuple[int, Entity, dict[str, Any]], ...] = field(repr=False)


_ROW = (
    customers.c.key,
    customers.c.version,
    customers.c.profile_ticket,
    customers.c.profile_version,
    customers.c.active_ms,
    customers.c.created_ms,
    customers.c.erased,
    now_ms(),
    customers.c.name,
    customers.c.email,
    customers.c.phone,
    customers.c.since,
)


def _row(found: Any) -> Row:
    key, version, ticket, profile_version, active_ms, created_ms, erased, time_ms, *person = found
    return Row(
        key, version, ticket, profile_version, active_ms, created_ms, bool(erased), time_ms,
        Person(*person),
    )  # fmt: skip


def _mine(key: str) -> Any:
    return (customer_payments.c.customer_key == key) & ~customer_payments.c.scrub


class Customers:
    """The customers' side of the store. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def row(self, key: str) -> Row | None:
        """Return one customer's row."""

        async def work(connection: AsyncConnection) -> Row | None:
            found = (
                await connection.execute(select(*_ROW).where(customers.c.key == key))
            ).one_or_none()
            return _row(found) if found is not None else None

        return await self._database.read(work)

    async def dossier(self, key: str) -> Dossier | None:
        """Return what a profile is made of, as of one moment."""

        async def work(connection: AsyncConnection) -> Dossier | None:
            found = (
                await connection.execute(select(*_ROW).where(customers.c.key == key))
            ).one_or_none()
            if found is None:
                return None
            total = await connection.execute(select(func.count()).where(_mine(key)))
            latest = await connection.execute(
                select(details.c.content)
                .join(customer_payments, customer_payments.c.key == details.c.key)
                .where(_mine(key))
                .order_by(customer_payments.c.id.desc())
                .limit(_METHODS_OF)
            )
            contents = tuple(orjson.loads(content) for content in latest.scalars())
            return Dossier(_row(found), total.scalar_one(), contents)

        return await self._database.snapshot(work)

    async def history(
        self, key: str, *, page: int = 1, before: int | None = None
    ) -> HistoryPage | None:
        """Return a page of payments: the `page`-th, or the one that follows the place `before`.

        None if there is no such customer, or it was erased.
        """

        async def work(connection: AsyncConnection) -> HistoryPage | None:
            version = (
                await connection.execute(
                    select(customers.c.version).where(customers.c.key == key, ~customers.c.erased)
                )
            ).scalar_one_or_none()
            if version is None:
                return None
            total = await connection.execute(select(func.count()).where(_mine(key)))
            wanted = (
                select(customer_payments.c.id, customer_payments.c.key, details.c.content)
                .outerjoin(details, details.c.key == customer_payments.c.key)
                .where(_mine(key))
                .order_by(customer_payments.c.id.desc())
                .limit(PAGE_SIZE + 1)
            )
            if before is None:
                wanted = wanted.offset((page - 1) * PAGE_SIZE)
            else:
                wanted = wanted.where(customer_payments.c.id < before)
            rows = tuple(
                (row[0], Entity.from_row_key(row[1]), orjson.loads(row[2] or "{}"))
                for row in await connection.execute(wanted)
            )
            more = len(rows) > PAGE_SIZE
            return HistoryPage(version, total.scalar_one(), more, rows[:PAGE_SIZE])

        return await self._database.snapshot(work)

    async def latest_charge(self, key: str) -> str | None:
        """Return the id of the customer's latest charge of v3, whose ids are digits."""

        async def work(connection: AsyncConnection) -> str | None:
            rows = await connection.execute(
                select(customer_payments.c.key)
                .where(_mine(key))
                .order_by(customer_payments.c.id.desc())
                .limit(PAGE_SIZE)
            )
            ids = (Entity.from_row_key(one).id for one in rows.scalars())
            return next((one for one in ids if one.isdigit()), None)

        return await self._database.read(work)

    async def ticket(self, key: str) -> Ticket | None:
        """Take a ticket before asking the provider; None for who is not there, or was erased."""

        async def work(connection: AsyncConnection) -> Ticket | None:
            taken = await connection.execute(
                update(customers)
                .where(customers.c.key == key, ~customers.c.erased)
                .values(tickets=customers.c.tickets + 1)
                .returning(customers.c.tickets, customers.c.version)
            )
            found = taken.one_or_none()
            return Ticket(*found) if found is not None else None

        return await self._database.write(work)

    async def learn(self, key: str, ticket: Ticket, person: Person | None) -> bool:
        """Keep the provider's answer; None (it knows nobody) leaves what was known.

        Returns False, and keeps nothing, if a later ticket's answer was kept, or it was erased.
        """
        said = person.columns() if person is not None else {}

        async def work(connection: AsyncConnection) -> bool:
            kept = await connection.execute(
                update(customers)
                .where(customers.c.key == key, ~customers.c.erased)
                .where(customers.c.profile_ticket < ticket.number)
                .values(profile_ticket=ticket.number, profile_version=ticket.version, **said)
            )
            return bool(kept.rowcount)

        return await self._database.write(work)

    async def meet(self, key: str, person: Person) -> None:
        """Make a row for somebody of whom only the provider knew; one that is there stays."""
        inserting = _insert_for(self._database.dialect)

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                inserting(customers)
                .values(
                    key=key, version=0, tickets=1, profile_ticket=1, profile_version=0,
                    active_ms=0, created_ms=now_ms(), **person.columns(),
                )
                .on_conflict_do_nothing()
            )  # fmt: skip

        await self._database.write(work)


def _insert_for(dialect: str) -> Any:
    """Return the dialect's own INSERT, which knows ON CONFLICT."""
    return {"postgresql": postgresql.insert, "sqlite": sqlite.insert}[dialect]
