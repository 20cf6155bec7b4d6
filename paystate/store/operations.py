"""What operators ask of the database and do to it: given-up events, histories, rulings, pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity, EntityKind
from paystate.store import pruning, reopening
from paystate.store import rulings as ruling_rows
from paystate.store.engine import Database
from paystate.store.inbox import Ending
from paystate.store.overview import Overview, overview
from paystate.store.pruning import Prunable, Pruned
from paystate.store.reopening import Reopened
from paystate.store.rulings import Ruled, Ruling
from paystate.store.tables import among, changes, entities, inbox, now_ms, rulings

__all__ = ["EventRow", "GivenUp", "Operations", "Trail", "Wanted"]

# Spelt out in the statement: else SQLite does not see that the partial index is about just these.
_STUCK = inbox.c.state.in_([literal_column("'held'"), literal_column("'dead'")])

# A payment has a handful of events; one with thousands is shown by its latest.
MOST_OF_ONE = 500
MOST_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class EventRow:
    """An inbox row. `content` is JSON text, None once it was pruned; times are ms since the epoch.

    `ended_ms` is when it was given up, for one that an operator has ruled on since. `settled_by`
    is the process that settled it, or the last that tried; `reference` is what it was opened on.
    """

    id: int
    merchant: str
    api: str
    type: str
    subject: str
    entity: Entity
    reference: Entity | None
    content: str | None
    state: str
    reason: str | None
    attempts: int
    received_ms: int
    due_ms: int
    ended_ms: int | None
    settled_by: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which given-up events: all of `states` that came from `since_ms` to `until_ms`, and so on.

    None and empty leave a condition out. Times are ms since the epoch.
    """

    states: tuple[str, ...] = (Ending.HELD.value, Ending.DEAD.value)
    merchant: str | None = None
    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Some given-up events, the longest waiting first, and how many there are by state and reason.

    `now_ms` is the database's clock, against which ages are told.
    """

    events: tuple[EventRow, ...]
    counts: tuple[tuple[str, str | None, int], ...]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Trail:
    """All that is kept of one payment, or of a reference and its attempts, in one snapshot.

    `changes` and `rulings` are their rows, oldest first. `more` says that there are older events.
    """

    attempts: tuple[Entity, ...]
    events: tuple[EventRow, ...]
    changes: tuple[dict[str, Any], ...]
    rulings: tuple[dict[str, Any], ...]
    more: bool
    now_ms: int


_EVENT = (
    inbox.c.id,
    inbox.c.merchant,
    inbox.c.api,
    inbox.c.type,
    inbox.c.subject,
    inbox.c.entity_key,
    inbox.c.reference_key,
    inbox.c.content,
    inbox.c.state,
    inbox.c.reason,
    inbox.c.attempts,
    inbox.c.received_ms,
    inbox.c.due_ms,
    inbox.c.ended_ms,
    inbox.c.claimed_by,
)


def _event(row: Any) -> EventRow:
    reference = Entity.from_row_key(row[6]) if row[6] else None
    values = (*row[:5], Entity.from_row_key(row[5]), reference, *row[7:])
    return EventRow(*values)


class Operations:
    """The operators' side of the store. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def given_up(self, wanted: Wanted, *, most: int) -> GivenUp:
        """Return up to `most` given-up events, and counts of all of them."""

        async def work(connection: AsyncConnection) -> GivenUp:
            where = self._where(wanted)
            found = await connection.execute(
                select(*_EVENT).where(*where).order_by(inbox.c.id).limit(most)
            )
            counted = await connection.execute(
                select(inbox.c.state, inbox.c.reason, func.count())
                .where(*where)
                .group_by(inbox.c.state, inbox.c.reason)
                .order_by(func.count().desc(), inbox.c.state, inbox.c.reason)
            )
            counts = tuple((row[0], row[1], row[2]) for row in counted)
            return GivenUp(tuple(map(_event, found)), counts, await _time(connection))

        return await self._database.snapshot(work)

    def _where(self, wanted: Wanted) -> list[ColumnElement[bool]]:
        where: list[ColumnElement[bool]] = [inbox.c.entity_key.is_not(None)]
        if Ending.CONTRADICTED.value not in wanted.states:
            where.append(_STUCK)
        where.append(inbox.c.state.in_(wanted.states))
        if wanted.ids:
            where.append(among(self._database.dialect, inbox.c.id, wanted.ids))
        if wanted.merchant is not None:
            where.append(inbox.c.merchant == wanted.merchant)
        if wanted.reason is not None:
            where.append(inbox.c.reason == wanted.reason)
        if wanted.since_ms is not None:
            where.append(inbox.c.received_ms >= wanted.since_ms)
        if wanted.until_ms is not None:
            where.append(inbox.c.received_ms < wanted.until_ms)
        return where

    async def overview(self, merchant: str | None) -> Overview:
        """Return how things stand; see `paystate.store.overview.overview`."""
        return await self._database.snapshot(lambda c: overview(c, merchant))

    async def event(self, inbox_id: int) -> EventRow | None:
        """Return one event that is about a payment."""

        async def work(connection: AsyncConnection) -> EventRow | None:
            found = await connection.execute(
                select(*_EVENT).where(inbox.c.id == inbox_id, inbox.c.entity_key.is_not(None))
            )
            row = found.one_or_none()
            return _event(row) if row is not None else None

        return await self._database.read(work)

    async def event_keys(self, ids: Sequence[int]) -> dict[int, tuple[str, Entity]]:
        """Return the key of each event about a payment, and that payment, by its inbox row."""

        async def work(connection: AsyncConnection) -> dict[int, tuple[str, Entity]]:
            found = await connection.execute(
                select(inbox.c.id, inbox.c.event_key, inbox.c.entity_key).where(
                    among(self._database.dialect, inbox.c.id, ids), inbox.c.entity_key.is_not(None)
                )
            )
            return {row_id: (key, Entity.from_row_key(name)) for row_id, key, name in found}

        return await self._database.read(work)

    async def trail(self, entity: Entity) -> Trail:
        """Return what is kept of `entity`."""

        async def work(connection: AsyncConnection) -> Trail:
            return await _trail(connection, self._database.dialect, entity)

        return await self._database.snapshot(work)

    async def rule(self, ruling: Ruling) -> Ruled:
        """Release or reject an event; see `paystate.store.rulings.rule`."""
        return await self._database.write(
            lambda c: ruling_rows.rule(c, self._database.dialect, ruling)
        )

    async def reopen(self, ids: Sequence[int], *, operator: str, why: str) -> Reopened:
        """Open given-up events again; see `paystate.store.reopening.reopen`."""
        return await self._database.write(
            lambda c: reopening.reopen(c, self._database.dialect, ids, operator=operator, why=why)
        )

    async def prune_events(self, *, content_ms: int, keys_ms: int, most: int) -> Pruned:
        """Do one batch of pruning; see `paystate.store.pruning.prune`."""
        return await self._database.write(
            lambda c: pruning.prune(
                c, self._database.dialect, content_ms=content_ms, keys_ms=keys_ms, most=most
            )
        )

    async def prunable(self, *, content_ms: int, keys_ms: int, changes_ms: int) -> Prunable:
        """Count what pruning would remove; reads all of it."""
        return await self._database.snapshot(
            lambda c: pruning.prunable(
                c, content_ms=content_ms, keys_ms=keys_ms, changes_ms=changes_ms
            )
        )


async def _time(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(now_ms()))).scalar_one())


async def _trail(connection: AsyncConnection, dialect: str, entity: Entity) -> Trail:
    attempts: list[Entity] = []
    if entity.is_reference:
        # Through the link, which has an index: what was only ever opened here is not found.
        linked = await connection.execute(
            select(entities.c.key)
            .where(entities.c.merchant == entity.merchant, entities.c.link == entity.id)
            .where(entities.c.kind == EntityKind.CHARGE.value)
            .order_by(entities.c.created_ms)
            .limit(MOST_ATTEMPTS)
        )
        attempts = [Entity.from_row_key(row[0]) for row in linked]
    # Its own too: a reference has events of its own, such as its registration.
    payments = [entity.row_key, *(one.row_key for one in attempts)]
    events = await connection.execute(
        select(*_EVENT)
        .where(among(dialect, inbox.c.entity_key, payments))
        .order_by(inbox.c.id.desc())
        .limit(MOST_OF_ONE + 1)
    )
    latest = [_event(row) for row in events]
    logged = await connection.execute(
        select(changes)
        .where(among(dialect, changes.c.entity_key, payments))
        .order_by(changes.c.xid, changes.c.id)
    )
    ruled = await connection.execute(
        select(rulings).where(among(dialect, rulings.c.entity_key, payments)).order_by(rulings.c.id)
    )
    return Trail(
        tuple(attempts),
        tuple(reversed(latest[:MOST_OF_ONE])),
        tuple(dict(row) for row in logged.mappings()),
        tuple(dict(row) for row in ruled.mappings()),
        more=len(latest) > MOST_OF_ONE,
        now_ms=await _time(connection),
    )
