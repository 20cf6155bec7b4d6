"""Acknowledge: the transaction whose commit is what a webhook's 200 means.

It records each event once (by its event key), counts it as open on the payment and on the merchant
reference, and raises their versions where that changes what is shown: a pending payment with an
open event is `processing`. A duplicate changes nothing, but its payment's rows are read under
the lock all the same, so that the caller can mark the cache again: the first delivery may have
died between its commit and its mark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import orjson
from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change
from paystate.keys import Entity, EntityKind
from paystate.state import EntityState
from paystate.status import Status
from paystate.store.batches import Batch
from paystate.store.rows import Locked, ensure_and_lock, save
from paystate.store.tables import among, inbox
from paystate.updates import Api

__all__ = [
    "Ending",
    "NewEvent",
    "Recorded",
    "acknowledge",
]


class Ending(StrEnum):
    """How an inbox row ends."""

    APPLIED = "applied"
    SUPERSEDED = "superseded"
    CONTRADICTED = "contradicted"
    HELD = "held"
    DEAD = "dead"


_GIVEN_UP = [Ending.DEAD.value, Ending.HELD.value, Ending.CONTRADICTED.value]

# What says these events is not a webhook: they may move a payment, and open where it will be.
_BELIEVED = frozenset({Api.VERIFY.value, Api.OPERATOR.value})

OPEN = "open"
IGNORED = "ignored"  # genuine, counted, and nothing to apply


class NewEvent(NamedTuple):
    """An event to record. `entity` None means that it is about no payment: it ends at once.

    `subject` names the form of `content`: payment, overlay or ignored.
    """

    merchant: str
    api: str
    type: str
    event_key: str
    subject: str
    entity: Entity | None = None
    tx_ref: str | None = None
    content: dict[str, Any] | None = None
    reason: str | None = None


class Recorded(NamedTuple):
    """What became of one event. `states` are the rows to mark in the cache, as committed."""

    inbox_id: int | None
    duplicate: bool
    states: tuple[EntityState, ...]
    changes: tuple[Change, ...]


def _links(locked: Locked, events: Sequence[NewEvent]) -> dict[str, Entity]:
    """Return the merchant reference that each event opens on, by event key.

    A payment that has a reference keeps it, whatever an unconfirmed body says. A transfer opens on
    none: what it calls a reference is a name in another space than the customers'.
    """
    links = {}
    for event in events:
        if event.entity is None or event.entity.kind is not EntityKind.CHARGE:
            continue
        tx_ref = locked.now[event.entity].link or event.tx_ref
        if event.api in _BELIEVED and event.tx_ref is not None:
            tx_ref = event.tx_ref
        if tx_ref is not None:
            links[event.event_key] = Entity.reference(event.merchant, tx_ref)
    return links


async def acknowledge(
    connection: AsyncConnection, dialect: str, events: Sequence[NewEvent]
) -> list[Recorded]:
    """Record `events` in one transaction and return what became of each, in order.

    Locks payments in key order, then references in key order. Every event key belongs to one
    payment, so by the time an event key is inserted nobody else can be inserting it.
    """
    locked = Locked()
    opening = Counter(event.entity for event in _each_once(events).values() if event.entity)
    await ensure_and_lock(connection, opening, locked, opening=opening)
    links = _links(locked, events)
    ids = await _insert(connection, events, links, locked.time_ms)
    repeated = {e.event_key: e for e in events if e.entity and e.event_key not in ids}
    again = await _reopen(connection, dialect, repeated, links, locked) if repeated else {}
    fresh = {
        event.event_key: inbox_id
        for event in events
        if event.entity
        and (inbox_id := ids.get(event.event_key) or again.get(event.event_key)) is not None
    }
    linked = Counter(link for key, link in links.items() if key in fresh)
    await ensure_and_lock(connection, links.values(), locked, opening=linked)
    opened = Counter(event.entity for key, event in _each_once(events).items() if key in fresh)
    for entity, count in (*opened.items(), *linked.items()):
        if entity is not None:
            locked.change(entity, open_events=locked.now[entity].open_events + count)
    changes = {change.entity: change for change in await save(connection, locked)}
    return [_recorded(event, ids, fresh, links, locked, changes) for event in events]


def _each_once(events: Sequence[NewEvent]) -> dict[str, NewEvent]:
    """Return the events by their key: a batch may hold one twice."""
    return {event.event_key: event for event in events}


def _recorded(
    event: NewEvent,
    ids: dict[str, int],
    fresh: dict[str, int],
    links: dict[str, Entity],
    locked: Locked,
    changes: dict[Entity, Change],
) -> Recorded:
    if event.entity is None:
        return Recorded(None, event.event_key not in ids, (), ())
    link = links.get(event.event_key)
    concerned = (event.entity,) if link is None else (event.entity, link)
    # In a batch that holds the same event twice, the first one is it and the rest are duplicates.
    inbox_id = fresh.pop(event.event_key, None)
    return Recorded(
        inbox_id,
        inbox_id is None,
        tuple([locked.now[entity] for entity in concerned]),
        tuple([changes[e] for e in concerned if e in changes]) if inbox_id is not None else (),
    )


async def _reopen(
    connection: AsyncConnection,
    dialect: str,
    repeated: dict[str, NewEvent],
    links: dict[str, Entity],
    locked: Locked,
) -> dict[str, int]:
    """Open events again that ended without an answer and have been delivered anew.

    An event that is open still is left as it is; it concerns the reference that it is open on. A
    dead, held or contradicted event was given up, not settled; that it comes again (the merchant
    pressed "resend") is a reason to look again, but where the payment is successful already. Each
    opens on the reference in `links`, which is written down: that is where it will be closed.
    Returns the row ids by event key.
    """
    found = await connection.execute(
        select(inbox.c.id, inbox.c.event_key, inbox.c.state, inbox.c.reference_key).where(
            among(dialect, inbox.c.event_key, sorted(repeated)),
            inbox.c.state.in_([OPEN, *_GIVEN_UP]),
        )
    )
    again: dict[str, int] = {}
    for row_id, key, state, reference in found:
        entity = repeated[key].entity
        if entity is None:
            continue
        if state == OPEN:
            if reference:
                links[key] = Entity.from_row_key(reference)
            continue
        held = locked.now[entity]
        if held.status is Status.SUCCESSFUL and repeated[key].subject == "payment":
            continue
        if state != Ending.CONTRADICTED:
            locked.change(entity, held_events=held.held_events - 1)
        if key not in links and reference:
            links[key] = Entity.from_row_key(reference)
        again[key] = row_id
    if again:
        await connection.execute(
            update(inbox)
            .where(inbox.c.id == bindparam("row_id"))
            .values(
                state=OPEN, reason=None, attempts=0, ended_ms=None, received_ms=locked.time_ms,
                due_ms=locked.time_ms, claimed_until_ms=0, reference_key=bindparam("reference"),
                leaving_key=None,
            ),
            [
                {"row_id": row_id, "reference": links[key].row_key if key in links else None}
                for key, row_id in sorted(again.items())
            ],
        )  # fmt: skip
    return again


_INSERT = Batch(
    "event_key text, merchant text, api text, type text, subject text, entity_key text, "
    "reference_key text, content text, state text, reason text",
    """
    INSERT INTO inbox (event_key, merchant, api, type, subject, entity_key, reference_key, content,
                       state, reason, attempts, received_ms, due_ms, claimed_until_ms)
    SELECT r.event_key, r.merchant, r.api, r.type, r.subject, r.entity_key, r.reference_key,
           r.content, r.state, r.reason, 0, t.ms, t.ms, 0
    FROM {r}, (SELECT COALESCE(CAST(:time_ms AS BIGINT), {now}) AS ms) AS t WHERE true
    ON CONFLICT (event_key) DO NOTHING
    RETURNING event_key, id
    """,
)


async def _insert(
    connection: AsyncConnection, events: Sequence[NewEvent], links: dict[str, Entity], time_ms: int
) -> dict[str, int]:
    """Insert the rows that are new and return their ids by event key."""
    rows = []
    for key, event in sorted(_each_once(events).items()):
        link = links.get(key)
        rows.append((
            key,
            event.merchant,
            event.api,
            event.type,
            event.subject,
            event.entity.row_key if event.entity else None,
            link.row_key if link else None,
            orjson.dumps(event.content).decode() if event.content else None,
            OPEN if event.entity else IGNORED,
            event.reason,
        ))  # fmt: skip
    inserted = await _INSERT.run(connection, rows, time_ms=time_ms or None)
    return {row[0]: row[1] for row in inserted}
