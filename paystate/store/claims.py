"""Work on the inbox: take rows that are due, put them off, count what stands.

A claim is a lease on a row by the database's clock: a worker that dies gives its rows back by doing
nothing. Any number of workers claim beside each other and never get the same row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.batches import Batch
from paystate.store.inbox import OPEN, Ending
from paystate.store.tables import among, inbox, now_ms

__all__ = ["Claimed", "InboxGauges", "claim", "defer", "gauges"]


@dataclass(frozen=True, slots=True)
class Claimed:
    """An open inbox row that this process may work on until its claim runs out.

    `content` is JSON text, read where a fault in it harms this row alone. `received_ms` and
    `now_ms` are by the database's clock.
    """

    id: int
    api: str
    type: str
    subject: str
    entity: Entity
    content: str
    attempts: int
    received_ms: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class InboxGauges:
    """How the inbox stands: open rows, age of the oldest in ms, held and dead rows."""

    open: int
    oldest_ms: int
    held: int
    dead: int


_CLAIMED = (
    inbox.c.id,
    inbox.c.api,
    inbox.c.type,
    inbox.c.subject,
    inbox.c.entity_key,
    inbox.c.content,
    inbox.c.attempts,
    inbox.c.received_ms,
)


# By their ids, whatever the planner knows of the table: an index of open rows that are due would
# lead through all of them.
_CLAIM = Batch(
    "id bigint",
    """
    UPDATE inbox SET claimed_until_ms = {now} + CAST(:claim_ms AS BIGINT), claimed_by = :holder
    WHERE id {listed} (
        SELECT i.id FROM {r} JOIN inbox AS i ON i.id = r.id
        WHERE i.state = 'open' AND i.claimed_until_ms <= {now} AND i.due_ms <= {now} {skip}
    ){end}
    RETURNING id, api, type, subject, entity_key, content, attempts, received_ms, {now}
    """,
    listed={"postgresql": "= ANY(ARRAY", "sqlite": "IN"},
    end={"postgresql": ")", "sqlite": ""},
    skip={"postgresql": "FOR UPDATE OF i SKIP LOCKED", "sqlite": ""},
)


async def claim(
    connection: AsyncConnection,
    dialect: str,
    *,
    holder: str,
    claim_ms: int,
    ids: Sequence[int] | None = None,
    grace_ms: int = 0,
    most: int = 200,
) -> list[Claimed]:
    """Take open rows that are due and that nobody holds, for `claim_ms`.

    With `ids`, those of them; else the ones longest due. A row that was never tried is left to the
    queue for its first `grace_ms`.
    """
    if ids is not None:
        found = await _CLAIM.run(
            connection, [(i,) for i in ids[:most]], claim_ms=claim_ms, holder=holder
        ) if ids else ()  # fmt: skip
        return _claimed(found)
    tried = inbox.c.reason.is_not(None)
    free = (inbox.c.state == OPEN) & (inbox.c.claimed_until_ms <= now_ms())
    due = (inbox.c.due_ms <= now_ms()) & or_(tried, inbox.c.due_ms <= now_ms() - grace_ms)
    wanted = (
        select(inbox.c.id)
        .where(free & due)
        .order_by(inbox.c.due_ms, inbox.c.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    rows = await connection.execute(
        update(inbox)
        .where(inbox.c.id.in_(wanted.scalar_subquery()))
        .values(claimed_until_ms=now_ms() + claim_ms, claimed_by=holder)
        .returning(*_CLAIMED, now_ms())
    )
    return _claimed(rows)


def _claimed(rows: Iterable[Any]) -> list[Claimed]:
    return sorted(
        (
            Claimed(
                id=row[0],
                api=row[1],
                type=row[2],
                subject=row[3],
                entity=Entity.from_row_key(row[4]),
                content=row[5],
                attempts=row[6],
                received_ms=row[7],
                now_ms=row[8],
            )
            for row in rows
        ),
        key=lambda claimed: claimed.id,
    )


async def defer(
    connection: AsyncConnection,
    dialect: str,
    ids: Sequence[int],
    *,
    holder: str,
    wait_ms: int,
    reason: str,
    counted: bool,
) -> None:
    """Put open rows off that `holder` still holds, and let go of them.

    They are due in `wait_ms`; `counted` uses up one attempt.
    """
    mine = (inbox.c.state == OPEN) & (inbox.c.claimed_by == holder)
    await connection.execute(
        update(inbox)
        .where(among(dialect, inbox.c.id, ids) & mine)
        .values(
            due_ms=now_ms() + wait_ms,
            claimed_until_ms=0,
            claimed_by=None,
            reason=reason,
            attempts=inbox.c.attempts + int(counted),
        )
    )


async def gauges(connection: AsyncConnection) -> InboxGauges:
    """Return how the inbox stands now."""
    row = (
        await connection.execute(
            select(func.count(), func.min(inbox.c.received_ms), now_ms()).where(
                inbox.c.state == OPEN
            )
        )
    ).one()
    stuck = await connection.execute(
        select(inbox.c.state, func.count())
        .where(inbox.c.state.in_([Ending.HELD.value, Ending.DEAD.value]))
        .group_by(inbox.c.state)
    )
    counts: dict[str, int] = {row[0]: row[1] for row in stuck}
    return InboxGauges(
        open=row[0],
        oldest_ms=max(0, row[2] - row[1]) if row[1] is not None else 0,
        held=counts.get(Ending.HELD.value, 0),
        dead=counts.get(Ending.DEAD.value, 0),
    )
