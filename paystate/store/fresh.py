"""Acknowledge what nobody has heard of: one statement, one round trip, one commit.

PostgreSQL alone. Most webhooks are the first that is heard of their payment and of its reference.
Nobody holds a lock on rows that are not there, so nothing need be read before it is known what to
write: the rows are made as `paystate.store.inbox` would leave them. What is known already (the
payment, the reference, the event), and what more than one event of a batch is about, is recorded
by the transaction that locks.

Whether it is known is looked at without a lock. If somebody else makes one of the rows just then,
the statement divides by nought, and nothing of it has happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from paystate.changes import Change, Cursor
from paystate.keys import Entity, EntityKind
from paystate.state import EntityState
from paystate.status import Status
from paystate.store.batches import Batch
from paystate.store.engine import Database
from paystate.store.inbox import NewEvent, Recorded
from paystate.store.tables import BASE, HORIZON, XID

__all__ = ["acknowledge"]

# Rows of `entities` are made in the order in which everybody locks them, and event keys after
# their payments, as everywhere: that is what counting `made` first is for. All ids come back as one
# text, which costs this process less than a row of columns for each.
_ACKNOWLEDGE = Batch(
    "event_key text, merchant text, api text, type text, subject text, kind text, own_id text, "
    "entity_key text, tx_ref text, reference_key text, content text",
    """
    WITH now AS MATERIALIZED (
        SELECT {now} AS ms, {base} + 1 AS first
    ), unheard AS MATERIALIZED (
        SELECT r.* FROM {r}
        WHERE NOT EXISTS (SELECT FROM entities WHERE key = r.entity_key OFFSET 0)
          AND NOT EXISTS (SELECT FROM entities WHERE key = r.reference_key OFFSET 0)
    ), concerned AS MATERIALIZED (
        SELECT entity_key AS key, merchant, kind, own_id AS payment_id, NULL AS tx_ref FROM unheard
        UNION ALL
        SELECT reference_key, merchant, 'reference', NULL, tx_ref FROM unheard
        WHERE reference_key IS NOT NULL
    ), made AS (
        INSERT INTO entities (key, merchant, kind, link, status, version, open_events, held_events,
                              changed_ms, created_ms)
        SELECT key, merchant, kind, NULL, 'unknown', first, 1, 0, ms, ms FROM concerned, now
        ORDER BY kind = 'reference', key
        ON CONFLICT (key) DO NOTHING
        RETURNING 1
    ), opened AS (
        INSERT INTO inbox (event_key, merchant, api, type, subject, entity_key, reference_key,
                           content, state, attempts, received_ms, due_ms, claimed_until_ms)
        SELECT event_key, merchant, api, type, subject, entity_key, reference_key, content,
               'open', 0, ms, ms, 0
        FROM unheard, now WHERE (SELECT count(*) FROM made) > 0
        ON CONFLICT (event_key) DO NOTHING
        RETURNING event_key, id
    ), logged AS (
        INSERT INTO changes (xid, entity_key, merchant, payment_id, tx_ref, status, previous_status,
                             terminal, version, previous_version, changed_ms)
        SELECT (SELECT {xid}), key, merchant, payment_id, tx_ref, 'processing', NULL,
               false, first, 0, ms
        FROM concerned, now
    ), whole AS MATERIALIZED (
        SELECT 1 / CAST(
            (SELECT count(*) FROM made) = (SELECT count(*) FROM concerned)
            AND (SELECT count(*) FROM opened) = (SELECT count(*) FROM unheard) AS INT
        ) AS one
    )
    SELECT (SELECT string_agg(event_key || ' ' || id, ' ') FROM opened), ms, first,
           (SELECT {horizon}), one
    FROM now, whole
    """,
    xid=XID,
    horizon=HORIZON,
    base=BASE,
)


@dataclass(slots=True)
class _Wanted:
    """An event with what it is about: a payment, and the reference that it opens on."""

    event: NewEvent
    entity: Entity
    key: str
    reference: Entity | None
    reference_key: str | None

    def row(self) -> tuple[Any, ...]:
        """Return its values for `_ACKNOWLEDGE`."""
        event, reference = self.event, self.reference
        return (
            event.event_key, event.merchant, event.api, event.type, event.subject,
            self.entity.kind, self.entity.id, self.key,
            reference.id if reference is not None else None, self.reference_key,
            orjson.dumps(event.content).decode() if event.content else None,
        )  # fmt: skip

    def recorded(self, inbox_id: int, ms: int, first: int, cursor: Cursor) -> Recorded:
        """Return what became of it: all about it has its first version, and is open."""
        concerned = (self.entity,) if self.reference is None else (self.entity, self.reference)
        return Recorded(
            inbox_id,
            False,
            tuple([EntityState(e, Status.UNKNOWN, first, 1, 0, None, ms) for e in concerned]),
            tuple([
                Change(
                    e, None if e.is_reference else e.id, e.id if e.is_reference else None,
                    Status.PROCESSING, None, False, first, 0, ms, cursor,
                )
                for e in concerned
            ]),
        )  # fmt: skip


async def acknowledge(database: Database, events: Sequence[NewEvent]) -> dict[str, Recorded]:
    """Record in one commit those of `events` of which nobody has heard.

    Returns what became of these, by event key; the others are left. Raises what `Batch.fetch` does:
    it may have been recorded then all the same.
    """
    wanted = _alone(events)
    if not wanted:
        return {}
    rows = [one.row() for one in wanted]
    found = await _ACKNOWLEDGE.fetch(database, rows)
    opened, ms, first, horizon, _ = found[0]
    # Nothing that commits later lies before this: see `paystate.changes.Cursor`.
    cursor = Cursor(horizon, 0)
    by_key = {one.event.event_key: one for one in wanted}
    keys_and_ids = iter((opened or "").split())
    return {
        key: by_key[key].recorded(int(inbox_id), ms, first, cursor)
        for key, inbox_id in zip(keys_and_ids, keys_and_ids, strict=True)
    }


def _alone(events: Sequence[NewEvent]) -> list[_Wanted]:
    """Return the events that nothing else in their batch has to do with."""
    wanted = []
    times: Counter[str] = Counter()
    for event in events:
        entity = event.entity
        if entity is None:
            continue
        key, reference, reference_key = entity.row_key, None, None
        if entity.kind is EntityKind.CHARGE and event.tx_ref is not None:
            reference = Entity.reference(event.merchant, event.tx_ref)
            reference_key = reference.row_key
            times[reference_key] += 1
        times[key] += 1
        wanted.append(_Wanted(event, entity, key, reference, reference_key))
    if len(times) == sum(times.values()):
        return wanted
    return [
        one
        for one in wanted
        if times[one.key] == 1 and (one.reference_key is None or times[one.reference_key] == 1)
    ]
