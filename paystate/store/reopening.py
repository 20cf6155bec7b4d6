"""Opens events again that were given up, because an operator wants them looked at once more.

What a delivery of the same event anew does one at a time (`paystate.store.inbox`), by row id and in
batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import bindparam, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change
from paystate.keys import Entity
from paystate.state import EntityState
from paystate.status import Status
from paystate.store.inbox import OPEN
from paystate.store.rows import Locked, ensure_and_lock, save
from paystate.store.rulings import (
    GIVEN_UP,
    STUCK,
    Action,
    GivenUpRow,
    Ruling,
    reference_of,
    rows_of,
    write_down,
)
from paystate.store.tables import inbox

__all__ = ["Reopened", "reopen"]


@dataclass(slots=True)
class Reopened:
    """Events that are open again, and why others are not, by inbox id."""

    ids: list[int] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    states: list[EntityState] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


async def reopen(
    connection: AsyncConnection, dialect: str, ids: Sequence[int], *, operator: str, why: str
) -> Reopened:
    """Open events again that were given up, as their delivery anew would, in one transaction.

    Left out are events that are not given up, and those about a payment that is successful already.
    Their attempts and their age begin anew. Locks payments in key order, then references.
    """
    known = await rows_of(connection, dialect, ids)
    done = Reopened(skipped={one: "unknown_event" for one in ids if one not in known})
    locked = Locked()
    await ensure_and_lock(connection, {row.entity for row in known.values()}, locked)
    references: dict[int, Entity | None] = {}
    again = []
    for row in sorted(
        (await rows_of(connection, dialect, list(known))).values(), key=lambda r: r.id
    ):
        held = locked.now[row.entity]
        refusal = _not_again(row, held)
        if refusal is not None:
            done.skipped[row.id] = refusal
            continue
        stuck = int(row.state in STUCK)
        locked.change(
            row.entity, held_events=held.held_events - stuck, open_events=held.open_events + 1
        )
        references[row.id] = reference_of(row, held, None)
        again.append(row)
    if not again:
        return done
    opening = Counter(r for r in references.values() if r is not None)
    await ensure_and_lock(connection, opening, locked, opening=opening)
    for reference, count in opening.items():
        locked.change(reference, open_events=locked.now[reference].open_events + count)
    await _open_again(connection, references, locked.time_ms)
    ruling = Ruling(0, Action.REPLAY, operator, why)
    await write_down(connection, ruling, again, locked.time_ms)
    done.changes = await save(connection, locked)
    done.states = [state for state in locked.now.values() if state.version]
    done.ids = [row.id for row in again]
    return done


def _not_again(row: GivenUpRow, held: EntityState) -> str | None:
    if row.state not in GIVEN_UP:
        return f"is_{row.state}"
    if row.content is None:
        return "pruned"
    if held.status is Status.SUCCESSFUL and row.subject == "payment":
        return "already_successful"
    return None


async def _open_again(
    connection: AsyncConnection, references: dict[int, Entity | None], time_ms: int
) -> None:
    await connection.execute(
        update(inbox)
        .where(inbox.c.id == bindparam("row_id"))
        .values(
            state=OPEN, reason=None, attempts=0, ended_ms=None, received_ms=time_ms,
            due_ms=time_ms, claimed_until_ms=0, claimed_by=None,
            reference_key=bindparam("reference"), leaving_key=None,
        ),
        [
            {"row_id": row_id, "reference": reference.row_key if reference is not None else None}
            for row_id, reference in references.items()
        ],
    )  # fmt: skip
