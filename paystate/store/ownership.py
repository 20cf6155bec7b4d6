"""Whose payment is whose: written with the payments, in the transaction that applies their events.

A customer's row has a `version` that rises with every event applied to one of its payments, so
whatever was read under an earlier one is known to be old. Nothing of a person is written here but
the provider's id.

A customer that was erased leaves a row that says so, and its payments belong to nobody from then
on. What is applied later brings it back only by a payment of which nothing had been recorded when
it was erased: a late or repeated webhook of an earlier payment does not (see `erasing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.store.batches import Batch
from paystate.store.tables import among, customer_payments, customers, inbox

__all__ = ["customer_key", "note", "without_person"]

# What of a payment is somebody's.
_PERSONAL = ("customer_id", "card")


def customer_key(merchant: str, customer_id: str) -> str:
    """Return the database's key of a customer; no two share one (merchants have no colon)."""
    return f"{merchant}:{customer_id}"


def without_person(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a payment without what says whose it is."""
    return {name: value for name, value in content.items() if name not in _PERSONAL}


_TOUCH = Batch(
    "key text",
    """
    INSERT INTO customers (key, version, tickets, profile_ticket, profile_version, active_ms,
                           created_ms)
    SELECT r.key, 1, 0, 0, 0, t.ms, t.ms FROM {r}, (SELECT CAST(:time_ms AS BIGINT) AS ms) AS t
    WHERE true
    ON CONFLICT (key) DO UPDATE SET version = customers.version + 1,
        active_ms = CASE WHEN customers.erased_through IS NULL THEN excluded.active_ms
                         ELSE customers.active_ms END
    RETURNING key, erased_through
    """,
)
_LINK = Batch(
    "key text, customer_key text",
    """
    INSERT INTO customer_payments (key, customer_key)
    SELECT r.key, r.customer_key FROM {r} WHERE true
    ON CONFLICT (key) DO NOTHING
    """,
)


async def note(
    connection: AsyncConnection,
    dialect: str,
    owners: Mapping[str, str],
    links: Mapping[str, str | None],
    time_ms: int,
) -> set[str]:
    """Write down whose payments these are, and that something has happened to them.

    `owners` are customers by the payments' row keys, in the order of their events; `links` what is
    written of these payments already, with None for one whose customer was erased. A payment stays
    with the customer that it was first known to be of. Returns the payments that must be kept
    without their customer.

    Customers are locked in key order, after payments and references and before anything else.
    """
    anonymous = {key for key in owners if key in links and links[key] is None}
    of = {key: links.get(key) or owner for key, owner in owners.items() if key not in anonymous}
    if not of:
        return anonymous
    touched = await _TOUCH.run(
        connection, [(key,) for key in sorted(set(of.values()))], time_ms=time_ms
    )
    marks = {row[0]: row[1] for row in touched if row[1] is not None}
    if marks:
        anonymous |= await _known_before(connection, dialect, of, marks)
        back = sorted({of[key] for key in of.keys() - anonymous} & marks.keys())
        await connection.execute(
            update(customers)
            .where(among(dialect, customers.c.key, back))
            .values(erased=False, active_ms=time_ms)
        )
    new = [(key, None if key in anonymous else own) for key, own in of.items() if key not in links]
    if new:
        await _LINK.run(connection, new)
    return anonymous


async def _known_before(
    connection: AsyncConnection, dialect: str, of: Mapping[str, str], marks: Mapping[str, int]
) -> set[str]:
    """Return those payments of erased customers of which something was recorded before that."""
    known: set[str] = set()
    for customer, through in marks.items():
        mine = [key for key, owner in of.items() if owner == customer]
        recorded = await connection.execute(
            select(inbox.c.entity_key)
            .where(among(dialect, inbox.c.entity_key, mine), inbox.c.id <= through)
            .distinct()
        )
        known.update(recorded.scalars())
        # The link may have been cut since it was read; the event itself may have been pruned.
        cut = await connection.execute(
            select(customer_payments.c.key)
            .where(among(dialect, customer_payments.c.key, mine))
            .where(customer_payments.c.scrub | customer_payments.c.customer_key.is_(None))
        )
        known.update(cut.scalars())
    return known
