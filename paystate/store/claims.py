"""Work on the inbox: take rows that are due, put them off, let go of them, count what stands.

A claim is a lease on a row by the database's clock: a worker that dies gives its rows back by doing
nothing. Any number of workers claim beside each other and never get the same row. It saves work
and guards nothing: an event ends once, whoever works on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.batches import Batch
from paystate.store.engine import Database
from paystate.store.inbox import OPEN, Ending
from paystate.store.tables import among, inbox, now_ms

__all__ = ["Claimed", "InboxGauges", "claim", "claim_due", "defer", "gauges", "release"]


class Claimed(NamedTuple):
    """An open inbox row that this process works on.

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


# By their ids, whatever the planner knows of the table: an index of open rows that are due would
# lead through all of them. On PostgreSQL the commit is not waited for: a claim that is lost with
# the server only means that somebody else may work on the row as well.
_CLAIM = Batch(
    "id bigint",
    """
    UPDATE inbox SET claimed_until_ms = {now} + CAST(:claim_ms AS BIGINT),
                     claimed_by = CAST(:holder AS TEXT)
    WHERE id {listed} (
        SELECT i.id FROM {r} JOIN inbox AS i ON i.id = r.id
        WHERE i.state = 'open' AND i.claimed_until_ms <= {now} AND i.due_ms <= {now} {skip}
    ){end} {softly}
    RETURNING id
    """,
    listed={"postgresql": "= ANY(ARRAY", "sqlite": "IN"},
    end={"postgresql": ")", "sqlite": ""},
    skip={"postgresql": "FOR UPDATE OF i SKIP LOCKED", "sqlite": ""},
    softly={
        "postgresql": "AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'",
        "sqlite": "",
    },
)


async def claim(database: Database, ids: Sequence[int], *, holder: str, claim_ms: int) -> list[int]:
    """Take those of `ids` that are open, due and held by nobody, for `claim_ms`; return which."""
    if not ids:
        return []
    rows = [(i,) for i in sorted(set(ids))]
    more = {"claim_ms": claim_ms, "holder": holder}
    if database.lanes is not None:
        found = await _CLAIM.fetch(database, rows, **more)
    else:
        found = await database.write(lambda c: _CLAIM.run(c, rows, **more))
    return sorted(row[0] for row in found)


async def claim_due(
    connection: AsyncConnection, *, holder: str, claim_ms: int, grace_ms: int, most: int
) -> list[int]:
    """Take open rows that are due and that nobody holds, for `claim_ms`, the longest due first.

    A row that was never tried is left to the queue for its first `grace_ms`.
    """
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
        .returning(inbox.c.id)
    )
    return sorted(row[0] for row in rows)


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
    """Put open rows off that `holder` has claimed, or that are due and that nobody holds.

    They are due in `wait_ms`; `counted` uses up one attempt. Who comes second finds a row that is
    due later, and leaves it as it is.
    """
    free = (inbox.c.claimed_until_ms <= now_ms()) & (inbox.c.due_ms <= now_ms())
    await connection.execute(
        update(inbox)
        .where(among(dialect, inbox.c.id, ids))
        .where((inbox.c.state == OPEN) & or_(inbox.c.claimed_by == holder, free))
        .values(
            due_ms=now_ms() + wait_ms,
            claimed_until_ms=0,
            claimed_by=None,
            reason=reason,
            attempts=inbox.c.attempts + int(counted),
        )
    )


# Why a row is due again whose work was broken off, where there is no other reason yet. With one it
# counts as tried, and the sweeper does not leave it to the queue.
BROKEN_OFF = "broken_off"


async def release(
    connection: AsyncConnection, dialect: str, ids: Sequence[int], *, holder: str
) -> None:
    """Let go of open rows that `holder` has claimed and will not settle; they are due at once."""
    await connection.execute(
        update(inbox)
        .where(among(dialect, inbox.c.id, ids))
        .where((inbox.c.state == OPEN) & (inbox.c.claimed_by == holder))
        .values(
            claimed_until_ms=0,
            claimed_by=None,
            reason=func.coalesce(inbox.c.reason, BROKEN_OFF),
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
