"""What the audit asks of the database: rows beside what they must agree with, in one snapshot.

Every question is bounded: a page of entities in the order of their keys, a few hundred open inbox
rows. Over time the pages cover everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Cursor
from paystate.keys import Entity, EntityKind
from paystate.store import violations
from paystate.store.changelog import pruned_to
from paystate.store.engine import Database
from paystate.store.tables import among, changes, entities, inbox, now_ms
from paystate.store.violations import Violation
from paystate.updates import Api

__all__ = ["FaultyClaim", "SampledPage", "SampledRow", "Sampling"]

# As text: SQLite uses a partial index only where the statement itself says what the index says.
_OPEN = inbox.c.state == literal_column("'open'")
CLAIMS_LOOKED_AT = 500


@dataclass(slots=True)
class SampledRow:
    """A row of `entities`, unparsed, and what else the database says about it.

    `open_rows` and `held_rows` are its inbox rows (`held_rows` with the dead ones); a reference has
    `attempts` instead of the latter: by status, their number and their held events.
    `logged_version` is the highest in the change log, None if there is none.
    """

    key: str
    status: str
    version: int
    open_events: int
    held_events: int
    changed_ms: int
    open_rows: int = 0
    held_rows: int = 0
    logged_version: int | None = None
    attempts: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def entity(self) -> Entity:
        """Whose row it is."""
        return Entity.from_row_key(self.key)


@dataclass(frozen=True, slots=True)
class SampledPage:
    """Rows of one moment, in key order. `last` is where to go on, None at the end.

    The log is whole for changes after `logged_since_ms`; `now_ms` is the database's clock.
    """

    rows: tuple[SampledRow, ...]
    last: str | None
    logged_since_ms: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class FaultyClaim:
    """An open inbox row with a claim that cannot be. Times are ms since the epoch."""

    inbox_id: int
    entity: Entity | None
    due_ms: int
    claimed_until_ms: int
    now_ms: int


# Changes are pruned in the order of transactions, which is that of time but for what ran at once.
_ORDER_SLACK_MS = 3_600_000


class Sampling:
    """The audit's reads, and the list of what it found. Methods raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, after: str, most: int) -> SampledPage:
        """Return up to `most` rows whose keys come after `after`."""
        return await self._database.snapshot(lambda c: _page(c, self._dialect, after, most))

    @property
    def _dialect(self) -> str:
        return self._database.dialect

    async def faulty_claims(self, longest_ms: int) -> list[FaultyClaim]:
        """Return open rows whose claim ran out before they are due, or outlasts `longest_ms`.

        Looks at the rows due first and those due last, `CLAIMS_LOOKED_AT` each.
        """
        return await self._database.read(lambda c: _faulty_claims(c, longest_ms))

    async def overtaken_ms(self, entity: Entity, version: int, changed_ms: int) -> int:
        """Return for how long (ms) `version` has not been the latest one of `entity`.

        `changed_ms`, when its row last changed, is taken where the change log does not say.
        """

        async def work(connection: AsyncConnection) -> int:
            row = await connection.execute(
                select(func.min(changes.c.changed_ms), now_ms()).where(
                    (changes.c.entity_key == entity.row_key) & (changes.c.version > version)
                )
            )
            since, now = row.one()
            return int(now - (since if since is not None else changed_ms))

        return await self._database.read(work)

    async def webhook_age_ms(self, entity: Entity, changed_ms: int) -> int | None:
        """Return how long ago (ms) the webhook came that changed a payment at `changed_ms`.

        None if it was no webhook.
        """

        async def work(connection: AsyncConnection) -> int | None:
            row = await connection.execute(
                select(now_ms() - func.min(inbox.c.received_ms)).where(
                    (inbox.c.entity_key == entity.row_key)
                    & (inbox.c.ended_ms == changed_ms)
                    & inbox.c.api.in_([Api.V3.value, Api.V4.value])
                )
            )
            age: int | None = row.scalar()
            return int(age) if age is not None else None

        return await self._database.read(work)

    async def changes_so_far(self) -> int:
        """Return the number of the latest change; numbers of undone transactions are left out."""

        async def work(connection: AsyncConnection) -> int:
            return int((await connection.execute(select(func.max(changes.c.id)))).scalar() or 0)

        return await self._database.read(work)

    async def record(self, found: Sequence[Violation]) -> list[Violation]:
        """Write violations down; see `paystate.store.violations.record`."""
        return await self._database.write(lambda c: violations.record(c, found))

    async def listed(self, *, since_ms: int, most: int = violations.KEPT) -> list[Violation]:
        """Return what was written down; see `paystate.store.violations.listed`."""
        return await self._database.read(
            lambda c: violations.listed(c, since_ms=since_ms, most=most)
        )


async def _page(connection: AsyncConnection, dialect: str, after: str, most: int) -> SampledPage:
    found = await connection.execute(
        select(
            entities.c.key,
            entities.c.status,
            entities.c.version,
            entities.c.open_events,
            entities.c.held_events,
            entities.c.changed_ms,
            now_ms(),
        )
        .where(entities.c.key > after)
        .order_by(entities.c.key)
        .limit(most)
    )
    listed = found.all()
    rows = {row[0]: SampledRow(*row[:6]) for row in listed}
    if not rows:
        return SampledPage((), None, 0, 0)
    references = [row for row in rows.values() if row.entity.is_reference]
    await _count_inbox(connection, dialect, rows)
    # What is held or dead on a reference is its attempts'.
    await _count_open_on(connection, dialect, rows, [row.key for row in references])
    await _add_attempts(connection, dialect, references)
    await _add_logged(connection, dialect, rows)
    return SampledPage(
        tuple(rows.values()),
        last=listed[-1][0] if len(listed) == most else None,
        logged_since_ms=await _logged_since(connection),
        now_ms=listed[-1][6],
    )


async def _count_inbox(
    connection: AsyncConnection, dialect: str, rows: dict[str, SampledRow]
) -> None:
    counted = await connection.execute(
        select(inbox.c.entity_key, inbox.c.state, func.count())
        .where(among(dialect, inbox.c.entity_key, list(rows)))
        .group_by(inbox.c.entity_key, inbox.c.state)
    )
    for key, state, count in counted:
        if state == "open":
            rows[key].open_rows = count
        elif state in ("held", "dead"):
            rows[key].held_rows += count


async def _count_open_on(
    connection: AsyncConnection, dialect: str, rows: dict[str, SampledRow], references: list[str]
) -> None:
    for column in (inbox.c.reference_key, inbox.c.leaving_key):
        counted = await connection.execute(
            select(column, func.count())
            .where(_OPEN & among(dialect, column, references))
            .group_by(column)
        )
        for key, count in counted:
            rows[key].open_rows += count


async def _add_attempts(
    connection: AsyncConnection, dialect: str, references: Sequence[SampledRow]
) -> None:
    by_name = {(row.entity.merchant, row.entity.id): row for row in references}
    for merchant in sorted({row.entity.merchant for row in references}):
        names = [name for owner, name in by_name if owner == merchant]
        grouped = await connection.execute(
            select(
                entities.c.link, entities.c.status, func.count(), func.sum(entities.c.held_events)
            )
            .where(entities.c.merchant == merchant)
            .where(among(dialect, entities.c.link, names))
            .where(entities.c.kind == EntityKind.CHARGE.value)
            .group_by(entities.c.link, entities.c.status)
        )
        for link, status, count, held in grouped:
            by_name[merchant, link].attempts[status] = (count, int(held))


async def _add_logged(
    connection: AsyncConnection, dialect: str, rows: dict[str, SampledRow]
) -> None:
    logged = await connection.execute(
        select(changes.c.entity_key, func.max(changes.c.version))
        .where(among(dialect, changes.c.entity_key, list(rows)))
        .group_by(changes.c.entity_key)
    )
    for key, version in logged:
        rows[key].logged_version = version


async def _logged_since(connection: AsyncConnection) -> int:
    pruned = await pruned_to(connection)
    if pruned == Cursor():
        return 0
    oldest = await connection.execute(
        select(changes.c.changed_ms)
        .where(tuple_(changes.c.xid, changes.c.id) > tuple_(pruned.xid, pruned.id))
        .order_by(changes.c.xid, changes.c.id)
        .limit(1)
    )
    since = oldest.scalar_one_or_none()
    return since + _ORDER_SLACK_MS if since is not None else 2**62


async def _faulty_claims(connection: AsyncConnection, longest_ms: int) -> list[FaultyClaim]:
    columns = (inbox.c.id, inbox.c.entity_key, inbox.c.due_ms, inbox.c.claimed_until_ms)
    found: dict[int, FaultyClaim] = {}
    orders: tuple[ColumnElement[Any], ...] = (inbox.c.due_ms.asc(), inbox.c.due_ms.desc())
    for order in orders:
        some = select(*columns).where(_OPEN).order_by(order).limit(CLAIMS_LOOKED_AT).subquery()
        until = some.c.claimed_until_ms
        run_out_early = (until > 0) & (until < now_ms()) & (some.c.due_ms > now_ms())
        rows = await connection.execute(
            select(some, now_ms()).where(run_out_early | (until > now_ms() + longest_ms)).limit(20)
        )
        for row_id, key, due_ms, until_ms, now in rows:
            entity = Entity.from_row_key(key) if key else None
            found[row_id] = FaultyClaim(row_id, entity, due_ms, until_ms, now)
    return list(found.values())
