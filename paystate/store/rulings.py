"""What an operator rules on events that were given up: accept one, or reject it.

A ruling never moves a payment itself. In one transaction the held or dead row ends for good, its
payment has one held event less, and an event of the API ``operator`` is open in its place, with the
claim if that was accepted. So every reader sees the change coming (rule 9), and the event is
settled like any other: marked, committed, put, published, and swept if this process dies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change
from paystate.errors import RulingRefused
from paystate.keys import Entity, EntityKind
from paystate.state import EntityState
from paystate.status import Status
from paystate.store.inbox import OPEN, Ending
from paystate.store.rows import Locked, ensure_and_lock, save
from paystate.store.tables import among, inbox, rulings
from paystate.updates import Api, Overlay, PaymentUpdate

__all__ = [
    "GIVEN_UP",
    "REJECTED",
    "RELEASED",
    "STUCK",
    "Action",
    "GivenUpRow",
    "Ruled",
    "Ruling",
    "reference_of",
    "rows_of",
    "rule",
    "write_down",
]

# How a row ends on which an operator has ruled. Its reason stays what it was: why it was given up.
RELEASED = "released"
REJECTED = "rejected"

STUCK = frozenset({Ending.HELD.value, Ending.DEAD.value})
GIVEN_UP = STUCK | {Ending.CONTRADICTED.value}


class Action(StrEnum):
    """What an operator can do with an event that was given up."""

    RELEASE = "release"
    REJECT = "reject"
    REPLAY = "replay"


_ENDS_AS = {Action.RELEASE: RELEASED, Action.REJECT: REJECTED}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What `operator` (a name) has ruled on an inbox row, and why: kept for as long as the row."""

    inbox_id: int
    action: Action
    operator: str
    why: str


@dataclass(frozen=True, slots=True)
class Ruled:
    """What a ruling did. `through_id` is the inbox row by which it is carried out.

    `repeated` says that it had been given before. `states` are the rows to mark, as committed.
    """

    through_id: int
    entity: Entity
    repeated: bool
    states: tuple[EntityState, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenUpRow:
    """An inbox row as far as it matters here."""

    id: int
    merchant: str
    subject: str
    entity: Entity
    reference: Entity | None
    content: str | None
    state: str
    reason: str | None
    received_ms: int


async def rows_of(
    connection: AsyncConnection, dialect: str, ids: Sequence[int]
) -> dict[int, GivenUpRow]:
    """Return the rows of events about a payment, by id; who changes one holds its payment's row."""
    found = await connection.execute(
        select(
            inbox.c.id, inbox.c.merchant, inbox.c.subject, inbox.c.entity_key,
            inbox.c.reference_key, inbox.c.content, inbox.c.state, inbox.c.reason,
            inbox.c.received_ms,
        ).where(among(dialect, inbox.c.id, ids)).where(inbox.c.entity_key.is_not(None))
    )  # fmt: skip
    return {
        row[0]: GivenUpRow(
            row[0], row[1], row[2], Entity.from_row_key(row[3]),
            Entity.from_row_key(row[4]) if row[4] else None, *row[5:9],
        )
        for row in found
    }  # fmt: skip


async def rule(connection: AsyncConnection, dialect: str, ruling: Ruling) -> Ruled:
    """Carry out a release or a rejection in one transaction; given again, it changes nothing.

    Raises RulingRefused: unknown_event, not_given_up, ruled_otherwise, already_successful,
    claim_unreadable.
    """
    row = (await rows_of(connection, dialect, [ruling.inbox_id])).get(ruling.inbox_id)
    if row is None:
        raise RulingRefused("unknown_event", f"there is no event {ruling.inbox_id} of a payment")
    locked = Locked()
    await ensure_and_lock(connection, [row.entity], locked)
    row = (await rows_of(connection, dialect, [row.id]))[row.id]
    if row.state not in STUCK:
        return await _repeated(connection, ruling, row)
    held = locked.now[row.entity]
    claim = _accepted(row, held) if ruling.action is Action.RELEASE else None
    reference = reference_of(row, held, claim.tx_ref if claim is not None else None)
    opening = Counter([reference] if reference is not None else [])
    await ensure_and_lock(connection, opening, locked, opening=opening)
    through = await _open_operators(connection, ruling, row, reference, claim, locked.time_ms)
    await connection.execute(
        update(inbox).where(inbox.c.id == row.id).values(state=_ENDS_AS[ruling.action])
    )
    await write_down(connection, ruling, [row], locked.time_ms, through)
    locked.change(row.entity, held_events=held.held_events - 1, open_events=held.open_events + 1)
    if reference is not None:
        locked.change(reference, open_events=locked.now[reference].open_events + 1)
    changes = await save(connection, locked)
    return Ruled(through, row.entity, False, tuple(locked.now.values()), tuple(changes))


async def _repeated(connection: AsyncConnection, ruling: Ruling, row: GivenUpRow) -> Ruled:
    """Return what the same ruling came to when it was given before."""
    if row.state not in _ENDS_AS.values():
        raise RulingRefused("not_given_up", f"event {row.id} is {row.state}, not held or dead")
    if row.state != _ENDS_AS[ruling.action]:
        raise RulingRefused("ruled_otherwise", f"event {row.id} has been {row.state} already")
    through = await connection.execute(
        select(rulings.c.through_id)
        .where(rulings.c.entity_key == row.entity.row_key)
        .where(rulings.c.inbox_id == row.id)
        .where(rulings.c.action == ruling.action.value)
    )
    return Ruled(through.scalars().one(), row.entity, True)


def _accepted(row: GivenUpRow, held: EntityState) -> PaymentUpdate | Overlay:
    """Return the claim that a release accepts."""
    if row.subject == "payment" and held.status is Status.SUCCESSFUL:
        raise RulingRefused(
            "already_successful", "the payment is successful and learns nothing more: reject this"
        )
    try:
        content = orjson.loads(row.content or "")
        # What could not be read of it has been accepted as missing.
        content.pop("flaws", None)
        form = Overlay if row.subject == "overlay" else PaymentUpdate
        return form.from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        raise RulingRefused(
            "claim_unreadable", f"what event {row.id} says cannot be read: replay or reject it"
        ) from None


def reference_of(row: GivenUpRow, held: EntityState, named: str | None) -> Entity | None:
    """Return the reference to open on: the one that is named, the payment's, or where it was."""
    if row.entity.kind is not EntityKind.CHARGE:
        return None
    if row.subject != "payment" and held.link is not None:
        named = held.link  # a refund does not move its payment
    name = named or held.link
    return Entity.reference(row.merchant, name) if name else row.reference


async def _open_operators(
    connection: AsyncConnection,
    ruling: Ruling,
    row: GivenUpRow,
    reference: Entity | None,
    claim: PaymentUpdate | Overlay | None,
    time_ms: int,
) -> int:
    """Insert the operator's own event, open and due, and return its id."""
    content = {"rejects": row.id} if claim is None else claim.to_json()
    made = await connection.execute(
        insert(inbox)
        .values(
            # The opening is part of the key: an event may be given up again after a replay.
            event_key=f"operator:{ruling.action}:{row.id}:{row.received_ms}",
            merchant=row.merchant,
            api=Api.OPERATOR.value,
            type=ruling.action.value,
            subject=row.subject,
            entity_key=row.entity.row_key,
            reference_key=reference.row_key if reference is not None else None,
            content=orjson.dumps(content).decode(),
            state=OPEN,
            attempts=0,
            received_ms=time_ms,
            due_ms=time_ms,
            claimed_until_ms=0,
        )
        .returning(inbox.c.id)
    )
    return int(made.scalar_one())


async def write_down(
    connection: AsyncConnection,
    ruling: Ruling,
    rows: Sequence[GivenUpRow],
    time_ms: int,
    through_id: int | None = None,
) -> None:
    """Keep who ruled what on `rows`, and why."""
    values: list[dict[str, Any]] = [
        {
            "at_ms": time_ms,
            "inbox_id": row.id,
            "entity_key": row.entity.row_key,
            "action": ruling.action.value,
            "operator": ruling.operator,
            "why": ruling.why or None,
            "was_state": row.state,
            "was_reason": row.reason,
            "through_id": through_id,
        }
        for row in rows
    ]
    await connection.execute(insert(rulings), values)
