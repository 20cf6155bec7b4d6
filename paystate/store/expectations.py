"""Register what is expected: the transaction that makes a reference known before its first payment.

The reference's row holds the amount, so that who settles a payment of it reads the amount under the
lock that it takes anyway: either the registration is seen, or it comes after the payment and is
late. A late one never changes a status.

A new reference is written as `pending` at once, with an inbox row that has ended: there was no
earlier status that a reader could still store, so nobody must see this one coming. A reference that
was heard of and came to nothing shows `unknown`; there the event opens, as a webhook's does, and is
settled like any other (rule 9).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change
from paystate.errors import ExpectationRefused
from paystate.expected import Expected
from paystate.keys import Entity
from paystate.state import EntityState
from paystate.status import Status
from paystate.store.engine import Database
from paystate.store.inbox import OPEN, Ending
from paystate.store.rows import Locked, ensure_and_lock, save
from paystate.store.tables import among, entities, idempotency, now_ms
from paystate.updates import Api

__all__ = ["Expectations", "Outcome", "Registered", "Registration"]


class Outcome(StrEnum):
    """What a registration came to."""

    REGISTERED = "registered"
    LATE = "late"  # a payment of the reference had been heard of; its status stays
    REPEATED = "repeated"  # the same had been registered before


@dataclass(frozen=True, slots=True)
class Registration:
    """An amount expected for `reference`, registered by `operator` (a token's name).

    `idempotency_key` is the caller's own, bound to merchant and caller; `digest` that of the body.
    """

    reference: Entity
    expected: Expected
    operator: str
    idempotency_key: str | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """What was done; `replayed` says that the same idempotency key had done it before.

    `states` are the rows to mark, as committed; `inbox_id` an event that is open and to be settled.
    """

    outcome: Outcome
    replayed: bool
    states: tuple[EntityState, ...]
    changes: tuple[Change, ...] = ()
    inbox_id: int | None = None


class Expectations:
    """What is expected. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, registration: Registration) -> Registered:
        """Register in one transaction; see `Registered`.

        Raises ExpectationRefused: `expected_otherwise` where another amount is expected already,
        `idempotency_key_reused` where the key came with another body.
        """
        return await self._database.write(lambda c: _register(c, registration))

    async def of(self, references: Sequence[Entity]) -> dict[Entity, Expected]:
        """Return what is expected for `references`; others are left out."""

        async def work(connection: AsyncConnection) -> dict[Entity, Expected]:
            keys = [reference.row_key for reference in references]
            found = await connection.execute(
                select(entities.c.key, entities.c.expected)
                .where(among(self._database.dialect, entities.c.key, keys))
                .where(entities.c.expected.is_not(None))
            )
            return {Entity.from_row_key(row[0]): Expected.parse(row[1]) for row in found}

        return await self._database.read(work) if references else {}

    async def prune_keys(self, *, older_than_ms: int, most: int) -> int:
        """Forget up to `most` idempotency keys that are older; return how many."""

        async def work(connection: AsyncConnection) -> int:
            old = (
                select(idempotency.c.key)
                .where(idempotency.c.at_ms < now_ms() - older_than_ms)
                .order_by(idempotency.c.at_ms)
                .limit(most)
            )
            gone = await connection.execute(delete(idempotency).where(idempotency.c.key.in_(old)))
            return int(gone.rowcount)

        return await self._database.write(work)


async def _register(connection: AsyncConnection, registration: Registration) -> Registered:
    reference, expected = registration.reference, registration.expected
    replayed = await _replayed(connection, registration)
    locked = Locked()
    await ensure_and_lock(connection, [reference], locked)
    if replayed is not None:
        return Registered(replayed, True, tuple(locked.now.values()))
    held = locked.expected.get(reference)
    if held is not None and held != expected:
        raise ExpectationRefused(
            "expected_otherwise",
            f"{held} is expected for this reference already, and not {expected}: "
            "register another amount under another tx_ref",
        )
    if held is not None:
        await _keep_key(connection, registration, Outcome.REPEATED, locked.time_ms)
        return Registered(Outcome.REPEATED, False, tuple(locked.now.values()))
    await connection.execute(
        update(entities)
        .where(entities.c.key == reference.row_key)
        .values(expected=str(expected))
    )  # fmt: skip
    before = locked.now[reference]
    state, outcome = Ending.SUPERSEDED.value, Outcome.LATE
    if before.version == 0:
        state, outcome = Ending.APPLIED.value, Outcome.REGISTERED
        locked.change(reference, status=Status.PENDING)
    elif before.status is Status.UNKNOWN and not (before.link or before.open_events):
        state, outcome = OPEN, Outcome.REGISTERED
        locked.change(reference, open_events=1)
    inbox_id = await _record(connection, registration, state, locked.time_ms)
    await _keep_key(connection, registration, outcome, locked.time_ms)
    changes = await save(connection, locked)
    return Registered(
        outcome,
        False,
        tuple(locked.now.values()),
        tuple(changes),
        inbox_id if state == OPEN else None,
    )


async def _replayed(connection: AsyncConnection, registration: Registration) -> Outcome | None:
    """Return what the same idempotency key came to, None if it is new or there is none.

    Takes the key: who comes with it at the same time waits here, until this transaction has ended.
    """
    if registration.idempotency_key is None:
        return None
    taken = await connection.execute(_TAKE_KEY, {
        "key": registration.idempotency_key, "merchant": registration.reference.merchant,
        "digest": registration.digest,
    })  # fmt: skip
    if taken.one_or_none() is not None:
        return None
    found = (
        await connection.execute(
            select(idempotency.c.digest, idempotency.c.outcome).where(
                idempotency.c.key == registration.idempotency_key
            )
        )
    ).one()
    if found[0] != registration.digest:
        raise ExpectationRefused(
            "idempotency_key_reused", "this Idempotency-Key was used with another body"
        )
    return Outcome(found[1])


_TAKE_KEY = text(
    "INSERT INTO idempotency (key, merchant, digest, outcome, at_ms) "
    "VALUES (:key, :merchant, :digest, '', 0) ON CONFLICT (key) DO NOTHING RETURNING key"
)


async def _keep_key(
    connection: AsyncConnection, registration: Registration, outcome: Outcome, time_ms: int
) -> None:
    if registration.idempotency_key is not None:
        await connection.execute(
            update(idempotency)
            .where(idempotency.c.key == registration.idempotency_key)
            .values(outcome=outcome.value, at_ms=time_ms)
        )


_INSERT = text(
    "INSERT INTO inbox (event_key, merchant, api, type, subject, entity_key, content, state, "
    "reason, attempts, received_ms, due_ms, claimed_until_ms, ended_ms) "
    "VALUES (:event_key, :merchant, :api, 'expected', 'expected', :entity_key, :content, :state, "
    ":reason, 0, :time_ms, :time_ms, 0, :ended_ms) RETURNING id"
)


async def _record(
    connection: AsyncConnection, registration: Registration, state: str, time_ms: int
) -> int:
    """Insert the registration's own inbox row and return its id."""
    reference = registration.reference
    said: dict[str, Any] = {
        "tx_ref": reference.id,
        "amount": f"{registration.expected.amount:f}",
        "currency": registration.expected.currency,
        "by": registration.operator,
    }
    made = await connection.execute(
        _INSERT,
        {
            "event_key": f"expected:{hashlib.sha256(reference.row_key.encode()).hexdigest()}",
            "merchant": reference.merchant,
            "api": Api.OPERATOR.value,
            "entity_key": reference.row_key,
            "content": orjson.dumps(said).decode(),
            "state": state,
            "reason": "late_registration" if state == Ending.SUPERSEDED else None,
            "time_ms": time_ms,
            "ended_ms": None if state == OPEN else time_ms,
        },
    )
    return int(made.scalar_one())
