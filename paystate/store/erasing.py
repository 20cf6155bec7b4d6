"""Forgetting a customer, and telling all that is kept of one.

Erasing has three steps, of which each leaves the next one findable: whoever dies in the middle is
followed by another who begins again and finds what is left.

1. `begin`: the person goes from the row, which stays as a sign that they were erased, with the
   number of the last event that had been recorded by then. The payments are marked.
2. `scrub`, a batch at a time: marked payments lose in their details, and in every event that was
   kept of them, what says whose they were. Statuses, amounts and references stay.
3. `cut`: scrubbed payments belong to nobody from now on.

Locks are taken as when events are applied: the customer, then payments' details, then events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.engine import Database
from paystate.store.inbox import OPEN, Ending
from paystate.store.ownership import without_person
from paystate.store.tables import among, customer_payments, customers, details, inbox

__all__ = ["Begun", "Erasing", "Kept", "scrub_events"]

# Payments scrubbed in one transaction. More hold the writer of SQLite for longer.
BATCH = 200
# Payments told of in one export: more than a person makes.
MOST_EXPORTED = 10_000


@dataclass(frozen=True, slots=True)
class Begun:
    """What a row was left with: its stamp, and how many payments are to be scrubbed."""

    version: int
    profile_ticket: int
    payments: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A batch of a customer's payments: the place to go on from, details and events of each."""

    place: int
    payments: tuple[tuple[Entity, dict[str, Any]], ...] = field(repr=False)
    events: Mapping[Entity, tuple[dict[str, Any], ...]] = field(repr=False)


class Erasing:
    """Erasing and exporting. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, key: str) -> Begun | None:
        """Erase the person, and mark the payments; None if there is no such customer.

        Done again it begins again.
        """

        async def work(connection: AsyncConnection) -> Begun | None:
            through = select(func.coalesce(func.max(inbox.c.id), 0)).scalar_subquery()
            erased = await connection.execute(
                update(customers)
                .where(customers.c.key == key)
                .values(
                    version=customers.c.version + 1,
                    tickets=customers.c.tickets + 1,
                    # What was asked for before, and is still to come, is turned away.
                    profile_ticket=customers.c.tickets + 1,
                    name=None, email=None, phone=None, since=None, active_ms=0,
                    erased=True, erased_through=through,
                )
                .returning(customers.c.version, customers.c.profile_ticket)
            )  # fmt: skip
            row = erased.one_or_none()
            if row is None:
                return None
            marked = await connection.execute(
                update(customer_payments)
                .where(customer_payments.c.customer_key == key)
                .values(scrub=True)
            )
            await _scrub_claims(connection, key)
            return Begun(row[0], row[1], marked.rowcount)

        return await self._database.write(work)

    async def scrub(self, key: str) -> list[Entity]:
        """Scrub a batch of marked payments and return them; none are left when it is empty."""
        dialect = self._database.dialect

        async def work(connection: AsyncConnection) -> list[Entity]:
            marked = await connection.execute(
                select(customer_payments.c.key)
                .where(customer_payments.c.customer_key == key, customer_payments.c.scrub)
                .order_by(customer_payments.c.key)
                .limit(BATCH)
            )
            payments = list(marked.scalars())
            if payments:
                await _scrub_details(connection, dialect, payments)
                await scrub_events(connection, dialect, payments)
            return [Entity.from_row_key(one) for one in payments]

        return await self._database.write(work)

    async def cut(self, payments: Sequence[Entity]) -> None:
        """Let scrubbed payments belong to nobody."""
        keys = [payment.row_key for payment in payments]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                update(customer_payments)
                .where(among(self._database.dialect, customer_payments.c.key, keys))
                .where(customer_payments.c.scrub)
                .values(customer_key=None, scrub=False)
            )

        await self._database.write(work)

    async def kept(self, key: str, *, after: int = 0) -> Kept | None:
        """Return the next payments of a customer, oldest first, with events; None at the end."""

        async def work(connection: AsyncConnection) -> Kept | None:
            mine = (customer_payments.c.customer_key == key) & ~customer_payments.c.scrub
            found = (
                await connection.execute(
                    select(customer_payments.c.id, customer_payments.c.key, details.c.content)
                    .outerjoin(details, details.c.key == customer_payments.c.key)
                    .where(mine, customer_payments.c.id > after)
                    .order_by(customer_payments.c.id)
                    .limit(BATCH)
                )
            ).all()
            if not found:
                return None
            events = await _events(connection, self._database.dialect, [row[1] for row in found])
            payments = tuple(
                (Entity.from_row_key(row[1]), orjson.loads(row[2] or "{}")) for row in found
            )
            return Kept(found[-1][0], payments, events)

        return await self._database.snapshot(work)


async def _events(
    connection: AsyncConnection, dialect: str, payments: Sequence[str]
) -> dict[Entity, tuple[dict[str, Any], ...]]:
    rows = await connection.execute(
        select(
            inbox.c.entity_key, inbox.c.id, inbox.c.api, inbox.c.type, inbox.c.state,
            inbox.c.received_ms, inbox.c.content,
        )
        .where(among(dialect, inbox.c.entity_key, payments))
        .order_by(inbox.c.id)
    )  # fmt: skip
    found: dict[Entity, tuple[dict[str, Any], ...]] = {}
    for row in rows:
        entity = Entity.from_row_key(row[0])
        said = _read(row[6])
        event = {"event": row[1], "api": row[2], "type": row[3], "state": row[4],
                 "received_ms": row[5], "said": said}  # fmt: skip
        found[entity] = (*found.get(entity, ()), event)
    return found


def _read(content: str | None) -> dict[str, Any] | None:
    try:
        said = orjson.loads(content) if content else None
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) else None


async def _scrub_details(
    connection: AsyncConnection, dialect: str, payments: Sequence[str]
) -> None:
    rows = await connection.execute(
        select(details.c.key, details.c.content)
        .where(among(dialect, details.c.key, payments))
        .order_by(details.c.key)
    )
    cleared = [
        {"row_key": row[0], "cleared": orjson.dumps(without_person(orjson.loads(row[1]))).decode()}
        for row in rows
    ]
    if cleared:
        await connection.execute(
            update(details)
            .where(details.c.key == bindparam("row_key"))
            .values(content=bindparam("cleared"), revision=details.c.revision + 1),
            cleared,
        )


async def scrub_events(connection: AsyncConnection, dialect: str, payments: Sequence[str]) -> None:
    """Take out of the events that are kept of `payments` whose they were."""
    rows = await connection.execute(
        select(inbox.c.id, inbox.c.content)
        .where(among(dialect, inbox.c.entity_key, payments), inbox.c.content.is_not(None))
        .order_by(inbox.c.id)
    )
    await _clear(connection, [(row[0], row[1]) for row in rows])


async def _scrub_claims(connection: AsyncConnection, key: str) -> None:
    """Take the customer out of events that have not been applied, and so are nobody's yet."""
    merchant, _, customer_id = key.partition(":")
    named = orjson.dumps({"customer_id": customer_id}).decode()[1:-1]
    unsettled = [OPEN, Ending.HELD.value, Ending.DEAD.value]
    rows = await connection.execute(
        select(inbox.c.id, inbox.c.content)
        .where(inbox.c.state.in_(unsettled), inbox.c.merchant == merchant)
        .where(inbox.c.content.contains(named, autoescape=True))
        .order_by(inbox.c.id)
    )
    claims = [(row[0], row[1]) for row in rows]
    # SQLite's LIKE takes no account of case.
    await _clear(connection, [claim for claim in claims if named in claim[1]])


async def _clear(connection: AsyncConnection, rows: Sequence[tuple[int, str]]) -> None:
    cleared = []
    for row_id, content in rows:
        said = _read(content)
        # What cannot be read cannot be searched either.
        text = orjson.dumps(without_person(said)).decode() if said is not None else None
        if text != content:
            cleared.append({"row_id": row_id, "cleared": text})
    if cleared:
        await connection.execute(
            update(inbox)
            .where(inbox.c.id == bindparam("row_id"))
            .values(content=bindparam("cleared")),
            cleared,
        )
