"""Rows of the database as values, and what every transaction does with them.

A version rises when, and only when, what is shown changes, or what is laid over it (a refund); then
a row of the change log is written in the same transaction. Both transactions of the protocol
(`inbox`, `settle`) go through `save`, so no path can do one without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change, Cursor
from paystate.expected import Expected
from paystate.keys import Entity
from paystate.state import EntityState
from paystate.status import STATUSES, Status
from paystate.store.batches import Batch
from paystate.store.engine import Database
from paystate.store.tables import BASE, HORIZON, XID, among, changes, entities

__all__ = [
    "LOGGED", "Locked", "change_of", "ensure_and_lock", "load", "load_directly", "lock", "save",
    "state_of",
]  # fmt: skip

_STATE = (
    entities.c.key,
    entities.c.status,
    entities.c.version,
    entities.c.open_events,
    entities.c.held_events,
    entities.c.link,
    entities.c.changed_ms,
)


# What a row of the change log says, and its place in it.
LOGGED = (
    changes.c.entity_key,
    changes.c.payment_id,
    changes.c.tx_ref,
    changes.c.status,
    changes.c.previous_status,
    changes.c.terminal,
    changes.c.version,
    changes.c.previous_version,
    changes.c.changed_ms,
    changes.c.xid,
    changes.c.id,
)


def state_of(row: Any) -> EntityState:
    """Return the value of a row that has the columns of `_STATE`, in order."""
    return EntityState(
        Entity.from_row_key(row[0]), STATUSES[row[1]], row[2], row[3], row[4], row[5], row[6]
    )


async def load(
    connection: AsyncConnection, dialect: str, keys: Sequence[str]
) -> dict[Entity, EntityState]:
    """Return the states of `keys` in one statement, without locks; missing ones are left out."""
    rows = await connection.execute(select(*_STATE).where(among(dialect, entities.c.key, keys)))
    return {state.entity: state for state in map(state_of, rows)}


_NEXT = "\x1f"
_LOAD = (
    "SELECT key, status, version, open_events, held_events, link, changed_ms FROM entities"
    " WHERE key = ANY(string_to_array($1, chr(31)))"
)


async def load_directly(database: Database, keys: Sequence[str]) -> dict[Entity, EntityState]:
    """Do as `load` does, without SQLAlchemy where there are lanes. Raises StoreUnavailable."""
    joined = _NEXT.join(keys)
    plain = keys and joined.count(_NEXT) == len(keys) - 1  # a path may hold any character
    if not plain or database.lanes is None:
        return await database.read(lambda c: load(c, database.dialect, keys))
    return {state.entity: state for state in map(state_of, await database.fetch(_LOAD, joined))}


class Locked:
    """Rows held by this transaction, and the database's time when they were taken (ms).

    `before` is what others see, `stored` what this transaction has written, `now` what it will
    leave. `spare` are rows that it holds and may turn out not to need. `expected` says what is to
    be paid for those references, of all that it holds, for which that was registered. Of `overlaid`
    a refund, reversal or chargeback is known that was not, or has come further. `rewritten` are
    written even if nothing differs: who has read one without a lock goes by who wrote it last.
    `base` is what the versions of new rows begin above.
    """

    def __init__(self) -> None:
        self.before: dict[Entity, EntityState] = {}
        self.stored: dict[Entity, EntityState] = {}
        self.now: dict[Entity, EntityState] = {}
        self.spare: dict[Entity, EntityState] = {}
        self.expected: dict[Entity, Expected] = {}
        self.overlaid: set[Entity] = set()
        self.rewritten: set[Entity] = set()
        self.time_ms = 0
        self.base = 0

    def change(self, entity: Entity, **values: Any) -> EntityState:
        """Replace fields of one row; nothing is written before `save`."""
        state = self.now[entity]
        get = values.get
        # As `replace` does it, in a third of the time; there are four of these for each event.
        state = self.now[entity] = EntityState(
            entity, get("status", state.status), get("version", state.version),
            get("open_events", state.open_events), get("held_events", state.held_events),
            get("link", state.link), state.changed_ms,
        )  # fmt: skip
        return state

    def take(self, state: EntityState) -> None:
        """Hold a row that is locked."""
        entity = state.entity
        self.before[entity] = self.stored[entity] = self.now[entity] = state


_LOCK = Batch(
    "key text",
    """
    SELECT key, status, version, open_events, held_events, link, changed_ms, {now}, expected,
        CASE WHEN version = 0 THEN {base} ELSE 0 END
    FROM entities WHERE key {among}
    ORDER BY kind = 'reference', key {lock}
    """,
    lock={"postgresql": "FOR UPDATE", "sqlite": ""},
    base=BASE,
)

_MAKE = Batch(
    "key text, merchant text, kind text, version bigint, open_events bigint",
    """
    INSERT INTO entities (key, merchant, kind, link, status, version, open_events, held_events,
                          changed_ms, created_ms)
    SELECT r.key, r.merchant, r.kind, NULL, 'unknown',
        CASE WHEN r.version = 0 THEN 0 ELSE r.version + {base} END, r.open_events, 0, {now}, {now}
    FROM {r} WHERE true
    ON CONFLICT (key) DO NOTHING
    RETURNING key, changed_ms, {base}
    """,
    base=BASE,
)


async def lock(
    connection: AsyncConnection, wanted: Iterable[Entity], spare: Iterable[Entity], into: Locked
) -> None:
    """Lock those rows of `wanted` and `spare` that are there: payments first, then references."""
    first = {entity.row_key: entity for entity in wanted}
    rest = {entity.row_key: entity for entity in spare}
    for state in await _locked(connection, first | rest, into):
        if state.entity.row_key in first:
            into.take(state)
        else:
            into.spare[state.entity] = state


async def _locked(
    connection: AsyncConnection, entities_: Mapping[str, Entity], into: Locked
) -> list[EntityState]:
    if not entities_:
        return []
    states = []
    for row in await _LOCK.run(connection, [(key,) for key in sorted(entities_)]):
        into.time_ms = max(into.time_ms, row[7])
        into.base = max(into.base, row[9])
        if row[8] is not None:
            into.expected[entities_[row[0]]] = Expected.parse(row[8])
        states.append(EntityState(
            entities_[row[0]], STATUSES[row[1]], row[2], row[3], row[4], row[5], row[6]
        ))  # fmt: skip
    return states


async def ensure_and_lock(
    connection: AsyncConnection,
    wanted: Iterable[Entity],
    into: Locked,
    *,
    opening: Mapping[Entity, int] | None = None,
) -> None:
    """Lock the rows of `wanted`, making those that are missing, in key order.

    A new row is `unknown`, version 0, and shows nothing yet: the transaction that made it raises
    the version to 1 when it opens the first event. `opening` says how many events are about to be
    opened; a new row is then written as it will be left, and needs no second write.
    """
    missing = {}
    for entity in wanted:
        if entity in into.spare:
            into.take(into.spare.pop(entity))
        elif entity not in into.now:
            missing[entity.row_key] = entity
    if not missing:
        return
    opening = opening or {}
    made = await _MAKE.run(connection, [
        (key, e.merchant, e.kind, int(e in opening), opening.get(e, 0))
        for key, e in sorted(missing.items())
    ])  # fmt: skip
    for key, changed_ms, base in made:
        # Nobody else can see it before the commit: there is nothing to lock.
        entity = missing.pop(key)
        into.take(EntityState(entity, Status.UNKNOWN, 0, 0, 0, None, changed_ms))
        into.time_ms = max(into.time_ms, changed_ms)
        into.base = base
        if entity in opening:
            into.stored[entity] = EntityState(
                entity, Status.UNKNOWN, base + 1, opening[entity], 0, None, changed_ms
            )
    for state in await _locked(connection, missing, into):
        into.take(state)


_SAVE = Batch(
    "key text, status text, version bigint, open_events bigint, held_events bigint, link text, "
    "changed_ms bigint",
    """
    UPDATE entities SET status = r.status, version = r.version, open_events = r.open_events,
        held_events = r.held_events, link = r.link, changed_ms = r.changed_ms
    FROM {r} WHERE entities.key = r.key
    """,
)


async def save(connection: AsyncConnection, locked: Locked) -> list[Change]:
    """Write every row that differs, with versions and change log, and return the changes.

    After this `locked.now` holds the rows as they will be committed.
    """
    visible = raise_versions(locked)
    different = [
        row_of(e, s)
        for e, s in locked.now.items()
        if s != locked.stored[e] or e in locked.rewritten
    ]
    if different:
        await _SAVE.run(connection, sorted(different, key=itemgetter(0)))
    if not visible:
        return []
    logged = logged_rows(locked, visible)
    found = await _LOG.run(connection, logged)
    cursors = {key: _safe(xid, row_id, oldest) for key, row_id, xid, oldest in found}
    return changes_of(visible, logged, [cursors[row[0]] for row in logged])


def raise_versions(locked: Locked) -> list[Entity]:
    """Give every row of which what is shown changes its next version; return which these are."""
    visible = []
    for entity, now in locked.now.items():
        before = locked.before[entity]
        overlaid = entity in locked.overlaid
        if not overlaid and (now is before or now == before):
            continue
        if before.version == 0 or overlaid or now.visible != before.visible:
            visible.append(entity)
            new = locked.stored[entity] is not before
            locked.now[entity] = EntityState(
                entity, now.status, (before.version or locked.base) + 1, now.open_events,
                now.held_events, now.link, before.changed_ms if new else locked.time_ms,
            )  # fmt: skip
    return visible


def row_of(entity: Entity, state: EntityState) -> tuple[Any, ...]:
    """Return a row of `entities` as it is written: its key, and what may change."""
    return (entity.row_key, state.status, state.version, state.open_events, state.held_events,
            state.link, state.changed_ms)  # fmt: skip


_LOG = Batch(
    "entity_key text, merchant text, payment_id text, tx_ref text, status text, "
    "previous_status text, terminal boolean, version bigint, previous_version bigint, "
    "changed_ms bigint",
    """
    INSERT INTO changes (xid, entity_key, merchant, payment_id, tx_ref, status, previous_status,
                         terminal, version, previous_version, changed_ms)
    SELECT (SELECT {xid}), r.entity_key, r.merchant, r.payment_id, r.tx_ref, r.status,
           r.previous_status, r.terminal, r.version, r.previous_version, r.changed_ms
    FROM {r}
    RETURNING entity_key, id, xid, (SELECT {horizon})
    """,
    xid=XID,
    horizon=HORIZON,
)


def logged_rows(locked: Locked, visible: Sequence[Entity]) -> list[tuple[Any, ...]]:
    """Return the rows of the change log for what is visible, in its order."""
    rows = []
    for entity in visible:
        before, now = locked.before[entity], locked.now[entity]
        previous = before.shown if before.version else None
        rows.append((
            entity.row_key, entity.merchant, now.payment_id, now.tx_ref, now.shown, previous,
            now.terminal, now.version, before.version, now.changed_ms,
        ))  # fmt: skip
    return rows


def changes_of(
    visible: Sequence[Entity], logged: Sequence[tuple[Any, ...]], cursors: Sequence[Cursor]
) -> list[Change]:
    """Return the changes that were logged, each with the cursor to give out with it."""
    return [
        Change(entity, row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], cursor)
        for entity, row, cursor in zip(visible, logged, cursors, strict=True)
    ]


def _safe(xid: int, row_id: int, oldest: int) -> Cursor:
    """Return the cursor to give out with a change: nothing that commits later lies before it."""
    return Cursor(xid, row_id) if xid < oldest else Cursor(oldest, 0)


def change_of(row: Sequence[Any], cursor: Cursor) -> Change:
    """Return the change that a row holds whose columns are `LOGGED`, and perhaps more."""
    key, payment_id, tx_ref, status, previous, terminal, version, before, changed_ms = row[:9]
    return Change(
        Entity.from_row_key(key),
        payment_id,
        tx_ref,
        STATUSES[status],
        STATUSES[previous] if previous else None,
        bool(terminal),
        version,
        before,
        changed_ms,
        cursor,
    )
