"""Apply: the transaction that ends inbox rows and moves statuses by the merge table.

A decision says what an event has come to mean once it was confirmed; whether it still changes
anything is seen here, under the lock. A row that has ended already is left alone, so running a
decision twice is running it once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change
from paystate.keys import Entity, EntityKind
from paystate.state import Attempt, EntityState
from paystate.status import Status, is_terminal, merge, of_reference
from paystate.store.batches import Batch
from paystate.store.comparing import compared
from paystate.store.inbox import OPEN, Ending
from paystate.store.overlays import upsert_overlay
from paystate.store.rows import Locked, ensure_and_lock, lock, save, state_of
from paystate.store.tables import among, details, entities, inbox
from paystate.updates import Overlay, PaymentUpdate

__all__ = ["Decision", "Settled", "settle"]

BeforeCommit = Callable[[Sequence[EntityState]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Decision:
    """What one inbox row has come to.

    With `ending` None the merge decides between applied and superseded. `proven` says that
    `update` comes from the verify API or under a v4 signature; `moves` that it may move the payment
    to another reference, which only the provider's own answer or an operator may. `link` is the
    reference of a payment that is held and has none yet, so that it shows `processing` too.
    `opened_ms` says which opening of the event was decided; one that was given up and opened again
    since is left alone. None: whichever stands. `accepted`: a person has accepted what is said, so
    that it is not held against what was expected. `silent`: nobody has heard anything for long.
    """

    inbox_id: int
    entity: Entity
    ending: Ending | None = None
    reason: str | None = None
    update: PaymentUpdate | None = None
    overlay: Overlay | None = None
    proven: bool = False
    moves: bool = False
    link: str | None = None
    opened_ms: int | None = None
    accepted: bool = False
    silent: bool = False


@dataclass(slots=True)
class Settled:
    """What a transaction of decisions did; `waited_ms` is from each event's arrival.

    `opened` are decisions that were not applied: they concern a reference on which their event was
    not open. Now it is, for every reader to see, and they can be applied.
    """

    opened: list[Decision] = field(default_factory=list)
    states: list[EntityState] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    endings: dict[int, tuple[Ending, str]] = field(default_factory=dict)
    waited_ms: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _OpenRow:
    """An open inbox row, and the references that it is open on: one, and the one it takes over."""

    id: int
    references: tuple[Entity, ...]
    received_ms: int


async def settle(
    connection: AsyncConnection,
    dialect: str,
    decisions: Sequence[Decision],
    before_commit: BeforeCommit,
) -> Settled:
    """Apply `decisions` in one transaction.

    `before_commit` is given the rows as they are about to be committed: it marks them in the
    cache, so that no reader who sees the commit can find an older entry there.
    """
    locked = Locked()
    payments = [decision.entity for decision in decisions]
    await lock(connection, payments, _named(decisions), locked)
    await ensure_and_lock(connection, payments, locked)
    rows = await _open_rows(connection, dialect, decisions)
    settled = Settled()
    learnt: dict[Entity, list[tuple[PaymentUpdate, bool]]] = {}
    references: set[Entity] = set()
    await _lock_references(connection, locked, rows.values())
    for decision in sorted(decisions, key=lambda d: d.inbox_id):
        row = rows.get(decision.inbox_id)
        if row is None or decision.inbox_id in settled.endings:
            continue
        if decision.opened_ms not in (None, row.received_ms):
            continue
        state = locked.now[decision.entity]
        changing = _changing(state, decision)
        if not set(changing) <= set(row.references):
            await ensure_and_lock(connection, (*row.references, *changing), locked)
            await _open_on(connection, locked, row, changing)
            settled.opened.append(decision)
            continue
        decision = compared(decision, state, _link_after(state, decision), locked.expected)  # noqa: PLW2901
        _open_link(state, row, references)
        await _lay_over(connection, locked, decision)
        settled.endings[row.id] = _fold(locked, decision, learnt)
        settled.waited_ms[row.id] = locked.time_ms - row.received_ms
        _add_own_reference(locked.now[decision.entity], references)
    if not (settled.endings or settled.opened):
        return settled
    quiet = {d.entity for d in decisions if d.silent and d.inbox_id in settled.endings}
    await _settle_references(connection, dialect, locked, references, rows, settled, quiet)
    await _save_details(connection, dialect, learnt, locked.time_ms)
    settled.changes = await save(connection, locked)
    settled.states = [s for s in locked.now.values() if s.version]
    if settled.endings:
        await _end_rows(connection, settled, locked.time_ms)
    await before_commit(settled.states)
    return settled


async def _lay_over(connection: AsyncConnection, locked: Locked, decision: Decision) -> None:
    """Record the overlay of a decision, if it has one; its news is news of its payment."""
    entity, overlay = decision.entity, decision.overlay
    if overlay is None or decision.ending is not None:
        return
    if await upsert_overlay(connection, entity, overlay, locked.time_ms):
        locked.overlaid.add(entity)


def _named(decisions: Sequence[Decision]) -> set[Entity]:
    """Return the references that payments most likely belong to, to be locked with them."""
    return {
        Entity.reference(d.entity.merchant, d.update.tx_ref)
        for d in decisions
        if d.update is not None
        and d.update.tx_ref is not None
        and d.entity.kind is EntityKind.CHARGE
    }


async def _open_rows(
    connection: AsyncConnection, dialect: str, decisions: Sequence[Decision]
) -> dict[int, _OpenRow]:
    """Return the rows that are open. Only who holds the payment's row may end one, or open it."""
    found = await connection.execute(
        select(inbox.c.id, inbox.c.reference_key, inbox.c.leaving_key, inbox.c.received_ms)
        .where(among(dialect, inbox.c.id, [d.inbox_id for d in decisions]))
        .where(inbox.c.state == OPEN)
    )
    return {
        row[0]: _OpenRow(row[0], tuple(Entity.from_row_key(key) for key in row[1:3] if key), row[3])
        for row in found
    }


async def _lock_references(
    connection: AsyncConnection, locked: Locked, rows: Iterable[_OpenRow]
) -> None:
    """Lock every reference that an event is open on: what is expected for it decides too."""
    missing = {
        reference
        for row in rows
        for reference in row.references
        if reference not in locked.now and reference not in locked.spare
    }
    if missing:
        await ensure_and_lock(connection, missing, locked)


def _changing(state: EntityState, decision: Decision) -> tuple[Entity, ...]:
    """Return the references that `decision` bears on: where the payment will belong, and does now.

    A transfer belongs to none: what it calls a reference is a name in another space.
    """
    if state.entity.kind is not EntityKind.CHARGE:
        return ()
    links = dict.fromkeys((_link_after(state, decision), state.link))
    return tuple(Entity.reference(state.entity.merchant, link) for link in links if link)


def _link_after(state: EntityState, decision: Decision) -> str | None:
    if decision.ending in (Ending.HELD, Ending.DEAD):
        return state.link or decision.link
    named = decision.update.tx_ref if decision.update is not None else None
    if named is not None and (state.link is None or decision.moves):
        return named
    return state.link


async def _open_on(
    connection: AsyncConnection, locked: Locked, row: _OpenRow, changing: tuple[Entity, ...]
) -> None:
    """Open an event on the references that it turned out to bear on, in place of where it was.

    A change of status needs an event open on it from before: else a reader could store the old
    status between the mark and the commit.
    """
    for reference in row.references:
        locked.change(reference, open_events=locked.now[reference].open_events - 1)
    for reference in changing:
        locked.change(reference, open_events=locked.now[reference].open_events + 1)
    row.references = changing
    keys = [reference.row_key for reference in changing]
    await connection.execute(
        update(inbox)
        .where(inbox.c.id == row.id)
        .values(reference_key=keys[0], leaving_key=keys[1] if len(keys) > 1 else None)
    )


def _open_link(state: EntityState, row: _OpenRow, references: set[Entity]) -> None:
    """Name every reference that this row can concern: where it was opened, where it belongs."""
    references.update(row.references)
    _add_own_reference(state, references)


def _add_own_reference(state: EntityState, references: set[Entity]) -> None:
    """A charge counts for its merchant reference; a transfer's is a name in another space."""
    if state.entity.is_reference:  # an event of its own
        references.add(state.entity)
    elif state.link is not None and state.entity.kind is EntityKind.CHARGE:
        references.add(Entity.reference(state.entity.merchant, state.link))


def _fold(
    locked: Locked, decision: Decision, learnt: dict[Entity, list[tuple[PaymentUpdate, bool]]]
) -> tuple[Ending, str]:
    """Apply one decision to the rows in hand and return how its inbox row ends."""
    entity = decision.entity
    state = locked.now[entity]
    locked.change(entity, open_events=state.open_events - 1)
    if decision.ending in (Ending.HELD, Ending.DEAD):
        locked.change(entity, held_events=state.held_events + 1, link=state.link or decision.link)
        return decision.ending, decision.reason or ""
    if entity.is_reference:  # what it is now, its attempts say
        return Ending.APPLIED, decision.reason or ""
    if decision.silent:
        return _silence(locked, entity)
    changed = False
    reason = decision.reason or ""
    if decision.update is not None:
        changed, moved, refused = _merge_into(locked, decision, decision.update)
        reason = refused or reason
        learnt.setdefault(entity, []).append((decision.update, moved))
    if decision.ending is not None:
        return decision.ending, reason
    if changed or decision.overlay is not None:
        return Ending.APPLIED, reason
    return Ending.SUPERSEDED, reason or "no_news"


def _silence(locked: Locked, entity: Entity) -> tuple[Ending, str]:
    """Say that nobody knows what has become of a payment, unless something was heard meanwhile."""
    state = locked.now[entity]
    if is_terminal(state.status) or state.open_events:
        return Ending.SUPERSEDED, "no_news"
    locked.change(entity, status=Status.UNKNOWN)
    return Ending.APPLIED, "silence"


def _merge_into(locked: Locked, decision: Decision, seen: PaymentUpdate) -> tuple[bool, bool, str]:
    """Merge one observation.

    Returns whether it changed the row, whether it moved the status, and why it was refused.
    """
    state = locked.now[decision.entity]
    merged = merge(state.status, seen.status, proven=decision.proven)
    refused = ""
    if merged is state.status and seen.status is Status.SUCCESSFUL is not state.status:
        refused = "correction_unproven"
    link = _link_after(state, decision)
    moved = merged is not state.status
    locked.change(decision.entity, status=merged, link=link)
    return moved or link != state.link, moved, refused


async def _settle_references(
    connection: AsyncConnection,
    dialect: str,
    locked: Locked,
    references: set[Entity],
    rows: dict[int, _OpenRow],
    settled: Settled,
    quiet: set[Entity],
) -> None:
    """Bring the merchant references up to their attempts, as this transaction leaves them.

    One without any is pending if a payment is expected, and nobody is `quiet` about it; else it was
    heard of by events that came to nothing, and nobody knows.
    """
    await ensure_and_lock(connection, references, locked)
    for inbox_id in settled.endings:
        for reference in rows[inbox_id].references:
            locked.change(reference, open_events=locked.now[reference].open_events - 1)
    attempts = await _attempts(connection, dialect, locked, references)
    for reference in references:
        mine = attempts.get(reference, [])
        held = locked.now[reference]
        status: Status
        link: str | None
        if held.status is Status.SUCCESSFUL:  # absorbing, as for a payment, and so is by whom
            status, link = held.status, held.link
        elif mine:
            status = of_reference(a.status for a in mine)
            link = _deciding(held.link, [a for a in mine if a.status is status])
        else:
            awaited = reference in locked.expected and reference not in quiet
            status, link = Status.PENDING if awaited else Status.UNKNOWN, None
        locked.change(
            reference,
            status=status,
            held_events=sum(a.held_events for a in mine if a.held),
            link=link,
        )


def _deciding(current: str | None, attempts: Sequence[EntityState]) -> str | None:
    """Return the attempt that decides: the one that already did, else the latest."""
    latest = sorted(attempts, key=lambda a: (a.changed_ms, a.entity.row_key))
    names = [str(Attempt(a.entity.kind, a.entity.id)) for a in latest]
    return current if current in names else names[-1]


async def _attempts(
    connection: AsyncConnection, dialect: str, locked: Locked, references: set[Entity]
) -> dict[Entity, list[EntityState]]:
    """Return every attempt of each reference: those in hand as they are now, the rest as stored."""
    found: dict[Entity, EntityState] = {}
    for merchant in {r.merchant for r in references}:
        names = [r.id for r in references if r.merchant == merchant]
        rows = await connection.execute(
            select(
                entities.c.key,
                entities.c.status,
                entities.c.version,
                entities.c.open_events,
                entities.c.held_events,
                entities.c.link,
                entities.c.changed_ms,
            )
            .where(entities.c.merchant == merchant)
            .where(among(dialect, entities.c.link, names))
            .where(entities.c.kind == EntityKind.CHARGE.value)
        )
        found.update({state.entity: state for state in map(state_of, rows)})
    found.update({e: s for e, s in locked.now.items() if e.kind is EntityKind.CHARGE})
    by_reference: dict[Entity, list[EntityState]] = {}
    for entity, state in found.items():
        if state.link is not None:
            reference = Entity.reference(entity.merchant, state.link)
            by_reference.setdefault(reference, []).append(state)
    return by_reference


async def _save_details(
    connection: AsyncConnection,
    dialect: str,
    learnt: dict[Entity, list[tuple[PaymentUpdate, bool]]],
    time_ms: int,
) -> None:
    """Keep what was learnt: an update that moved the payment overrides, any other fills gaps."""
    if not learnt:
        return
    keys = sorted(entity.row_key for entity in learnt)
    held = await connection.execute(
        select(details.c.key, details.c.content).where(among(dialect, details.c.key, keys))
    )
    texts: dict[str, str] = {row[0]: row[1] for row in held}
    content: dict[str, dict[str, Any]] = {key: orjson.loads(text) for key, text in texts.items()}
    for entity, updates in learnt.items():
        for seen, moved in updates:
            before = content.get(entity.row_key, {})
            after = seen.to_json()
            content[entity.row_key] = {**before, **after} if moved else {**after, **before}
    rows = [
        (key, text)
        for key in keys
        if (text := orjson.dumps(content[key]).decode()) != texts.get(key)
    ]
    if rows:
        await _SAVE_DETAILS.run(connection, rows, time_ms=time_ms)


_SAVE_DETAILS = Batch(
    "key text, content text",
    """
    INSERT INTO details (key, content, updated_ms)
    SELECT r.key, r.content, CAST(:time_ms AS BIGINT) FROM {r} WHERE true
    ON CONFLICT (key) DO UPDATE SET content = excluded.content, updated_ms = excluded.updated_ms
    """,
)

_END = Batch(
    "id bigint, ending text, why text",
    """
    UPDATE inbox SET state = r.ending, reason = r.why, ended_ms = CAST(:time_ms AS BIGINT),
                     claimed_until_ms = 0
    FROM {r} WHERE inbox.id = r.id
    """,
)


async def _end_rows(connection: AsyncConnection, settled: Settled, time_ms: int) -> None:
    rows = [
        (row_id, ending.value, reason or None)
        for row_id, (ending, reason) in sorted(settled.endings.items())
    ]
    await _END.run(connection, rows, time_ms=time_ms)
