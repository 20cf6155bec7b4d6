"""Rows of the database as values, and what every transaction does with them.

A version rises when, and only when, what is shown changes; then a row of the change log is written
in the same transaction. Both transactions of the protocol (`inbox`, `settle`) go through `save`, so
no path can do one without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change, Cursor
from paystate.keys import Entity
from paystate.state import EntityState
from paystate.status import Status
from paystate.store.tables import (
    among,
    changes,
    current_xid,
    entities,
    horizon,
    insert_new,
    now_ms,
)

__all__ = ["Locked", "ensure_and_lock", "load", "save", "state_of"]

_STATE = (
    entities.c.key,
    entities.c.status,
    entities.c.version,
    entities.c.open_events,
    entities.c.held_events,
    entities.c.link,
    entities.c.changed_ms,
)


def state_of(row: Any) -> EntityState:
    """Return the value of a row that has the columns of `_STATE`, in order."""
    return EntityState(
        Entity.from_row_key(row[0]), Status(row[1]), row[2], row[3], row[4], row[5], row[6]
    )


async def load(
    connection: AsyncConnection, dialect: str, keys: Sequence[str]
) -> dict[Entity, EntityState]:
    """Return the states of `keys` in one statement, without locks; missing ones are left out."""
    rows = await connection.execute(select(*_STATE).where(among(dialect, entities.c.key, keys)))
    return {state.entity: state for state in map(state_of, rows)}


class Locked:
    """Rows held by this transaction, and the database's time when they were taken (ms)."""

    def __init__(self) -> None:
        self.before: dict[Entity, EntityState] = {}
        self.now: dict[Entity, EntityState] = {}
        self.time_ms = 0

    def change(self, entity: Entity, **values: Any) -> EntityState:
        """Replace fields of one row; nothing is written before `save`."""
        self.now[entity] = replace(self.now[entity], **values)
        return self.now[entity]


async def ensure_and_lock(
    connection: AsyncConnection, dialect: str, wanted: Iterable[Entity], into: Locked
) -> None:
    """Lock the rows of `wanted`, making those that are missing, in key order.

    A new row is `unknown`, version 0, and shows nothing yet: the transaction that made it raises
    the version to 1 when it opens the first event.
    """
    missing = sorted({e.row_key: e for e in wanted if e not in into.now}.items())
    if not missing:
        return
    await connection.execute(
        insert_new(dialect, entities, "key").values(created_ms=now_ms(), changed_ms=now_ms()),
        [
            {
                "key": key,
                "merchant": entity.merchant,
                "kind": entity.kind.value,
                "link": None,
                "status": Status.UNKNOWN.value,
                "version": 0,
                "open_events": 0,
                "held_events": 0,
            }
            for key, entity in missing
        ],
    )
    rows = await connection.execute(
        select(*_STATE, now_ms())
        .where(among(dialect, entities.c.key, [key for key, _ in missing]))
        .order_by(entities.c.key)
        .with_for_update()
    )
    for row in rows:
        state = state_of(row)
        into.before[state.entity] = into.now[state.entity] = state
        into.time_ms = max(into.time_ms, row[7])


_UPDATE = (
    update(entities)
    .where(entities.c.key == bindparam("row_key"))
    .values({c: bindparam(c) for c in (
        "status", "version", "open_events", "held_events", "link", "changed_ms",
    )})
)  # fmt: skip


async def save(connection: AsyncConnection, locked: Locked) -> list[Change]:
    """Write every row that differs, with versions and change log, and return the changes.

    After this `locked.now` holds the rows as they will be committed.
    """
    touched = [e for e, state in locked.now.items() if state != locked.before[e]]
    visible = [
        e
        for e in touched
        if locked.before[e].version == 0 or locked.now[e].visible != locked.before[e].visible
    ]
    for entity in visible:
        locked.change(entity, version=locked.before[entity].version + 1, changed_ms=locked.time_ms)
    if touched:
        await connection.execute(_UPDATE, [_parameters(locked.now[e]) for e in sorted(
            touched, key=lambda e: e.row_key
        )])  # fmt: skip
    return await _log(connection, locked, visible)


def _parameters(state: EntityState) -> dict[str, Any]:
    return {
        "row_key": state.entity.row_key,
        "status": state.status.value,
        "version": state.version,
        "open_events": state.open_events,
        "held_events": state.held_events,
        "link": state.link,
        "changed_ms": state.changed_ms,
    }


async def _log(
    connection: AsyncConnection, locked: Locked, visible: Sequence[Entity]
) -> list[Change]:
    if not visible:
        return []
    rows = []
    for entity in visible:
        before, now = locked.before[entity], locked.now[entity]
        rows.append(
            {
                "entity_key": entity.row_key,
                "merchant": entity.merchant,
                "payment_id": now.payment_id,
                "tx_ref": now.tx_ref,
                "status": now.shown.value,
                "previous_status": before.shown.value if before.version else None,
                "terminal": now.terminal,
                "version": now.version,
                "previous_version": before.version,
                "changed_ms": now.changed_ms,
            }
        )
    logged = await connection.execute(
        changes.insert()
        .values(xid=current_xid())
        .returning(changes.c.id, changes.c.xid, horizon(), sort_by_parameter_order=True),
        rows,
    )
    return [
        change_of(row, _safe(xid, row_id, oldest))
        for row, (row_id, xid, oldest) in zip(rows, logged, strict=True)
    ]


def _safe(xid: int, row_id: int, oldest: int) -> Cursor:
    """Return the cursor to give out with a change: nothing that commits later lies before it."""
    return Cursor(xid, row_id) if xid < oldest else Cursor(oldest, 0)


def change_of(row: Mapping[str, Any], cursor: Cursor) -> Change:
    """Return the change that a row of the change log holds."""
    previous = row["previous_status"]
    return Change(
        entity=Entity.from_row_key(row["entity_key"]),
        payment_id=row["payment_id"],
        tx_ref=row["tx_ref"],
        status=Status(row["status"]),
        previous_status=Status(previous) if previous else None,
        terminal=bool(row["terminal"]),
        version=row["version"],
        previous_version=row["previous_version"],
        changed_ms=row["changed_ms"],
        cursor=cursor,
    )
