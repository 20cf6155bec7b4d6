"""Apply: the transaction that ends inbox rows and moves statuses by the merge table.

A decision says what an event has come to mean once it was confirmed; whether it still changes
anything is seen under the lock (`paystate.store.folding`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import orjson
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity, EntityKind
from paystate.state import EntityState
from paystate.store.batches import Batch
from paystate.store.erasing import scrub_events
from paystate.store.folding import Decision, Folding, OpenRow, Settled, references_of
from paystate.store.inbox import OPEN
from paystate.store.overlays import upsert_overlay
from paystate.store.ownership import note, without_person
from paystate.store.rows import Locked, ensure_and_lock, lock, save, state_of
from paystate.store.tables import among, customer_payments, details, entities, inbox

__all__ = ["BeforeCommit", "settle"]

BeforeCommit = Callable[[Sequence[EntityState]], Awaitable[None]]


async def settle(
    connection: AsyncConnection,
    dialect: str,
    decisions: Sequence[Decision],
    before_commit: BeforeCommit,
    holder: str = "",
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
    folding = Folding(locked, rows)
    settled = folding.settled
    await _lock_references(connection, locked, rows.values())
    for decision in sorted(decisions, key=lambda d: d.inbox_id):
        row = folding.row_of(decision)
        if row is None:
            continue
        changing = references_of(locked.now[decision.entity], decision)
        if not set(changing) <= set(row.references):
            await ensure_and_lock(connection, (*row.references, *changing), locked)
            await _open_on(connection, locked, row, changing)
            settled.opened.append(decision)
            continue
        await _lay_over(connection, locked, folding.apply(decision, row))
    if not (settled.endings or settled.opened):
        return settled
    await ensure_and_lock(connection, folding.references, locked)
    folding.settle_references(await _attempts(connection, dialect, folding.references))
    links = {row.payment: row.owner for row in rows.values() if row.owned}
    await _save_details(connection, dialect, folding, links, locked.time_ms)
    settled.changes = await save(connection, locked)
    settled.states = [s for s in locked.now.values() if s.version]
    if settled.endings:
        await _end_rows(connection, settled, locked.time_ms, holder)
    if None in links.values():
        anonymous = [payment for payment, owner in links.items() if owner is None]
        await scrub_events(connection, dialect, sorted(anonymous))
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
) -> dict[int, OpenRow]:
    """Return the rows that are open. Only who holds the payment's row may end one, or open it."""
    found = await connection.execute(
        select(inbox.c.id, inbox.c.reference_key, inbox.c.leaving_key, inbox.c.received_ms,
               inbox.c.entity_key, customer_payments.c.id, customer_payments.c.customer_key)
        .outerjoin(customer_payments, customer_payments.c.key == inbox.c.entity_key)
        .where(among(dialect, inbox.c.id, [d.inbox_id for d in decisions]))
        .where(inbox.c.state == OPEN)
    )  # fmt: skip
    return {
        row[0]: OpenRow(
            row[0], tuple(Entity.from_row_key(key) for key in row[1:3] if key), row[3],
            row[4], row[5] is not None, row[6],
        )
        for row in found
    }  # fmt: skip


async def _lock_references(
    connection: AsyncConnection, locked: Locked, rows: Iterable[OpenRow]
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


async def _open_on(
    connection: AsyncConnection, locked: Locked, row: OpenRow, changing: tuple[Entity, ...]
) -> None:
    """Open an event on the references that it turned out to bear on, in place of where it was.

    A change of status needs an event open on it from before: else a reader could store the old
    status between the mark and the commit.
    """
    for reference in row.references:
        locked.change(reference, open_events=locked.now[reference].open_events - 1)
    for reference in changing:
        locked.change(reference, open_events=locked.now[reference].open_events + 1)
    # One that another event leaves and this one joins is what it was; its attempts are not.
    locked.rewritten.update(row.references, changing)
    row.references = changing
    keys = [reference.row_key for reference in changing]
    await connection.execute(
        update(inbox)
        .where(inbox.c.id == row.id)
        .values(reference_key=keys[0], leaving_key=keys[1] if len(keys) > 1 else None)
    )


async def _attempts(
    connection: AsyncConnection, dialect: str, references: set[Entity]
) -> dict[Entity, EntityState]:
    """Return every attempt of the references, as stored."""
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
    return found


async def _save_details(
    connection: AsyncConnection,
    dialect: str,
    folding: Folding,
    links: dict[str, str | None],
    time_ms: int,
) -> None:
    """Keep what was learnt, and whose payments these are.

    `links` says whose they are known to be; None is added for those of erased customers, of whom
    nothing is kept.
    """
    keys = folding.learnt_of
    if not keys:
        return
    held = await connection.execute(
        select(details.c.key, details.c.content).where(among(dialect, details.c.key, keys))
    )
    texts = {row[0]: row[1] for row in held}
    rows = dict(folding.details(texts))
    owners = folding.owners
    for key in await note(connection, dialect, owners, links, time_ms) if owners else ():
        links[key] = None
        said = rows.pop(key) if key in rows else texts[key]
        cleared = orjson.dumps(without_person(orjson.loads(said))).decode()
        if cleared != texts.get(key):
            rows[key] = cleared
    if rows:
        await _SAVE_DETAILS.run(connection, sorted(rows.items()), time_ms=time_ms)


_SAVE_DETAILS = Batch(
    "key text, content text",
    """
    INSERT INTO details (key, content, updated_ms, revision)
    SELECT r.key, r.content, CAST(:time_ms AS BIGINT), 1 FROM {r} WHERE true
    ON CONFLICT (key) DO UPDATE SET content = excluded.content, updated_ms = excluded.updated_ms,
        revision = details.revision + 1
    """,
)

_END = Batch(
    "id bigint, ending text, why text",
    """
    UPDATE inbox SET state = r.ending, reason = r.why, ended_ms = CAST(:time_ms AS BIGINT),
                     claimed_until_ms = 0, claimed_by = COALESCE(CAST(:holder AS TEXT), claimed_by)
    FROM {r} WHERE inbox.id = r.id
    """,
)


async def _end_rows(
    connection: AsyncConnection, settled: Settled, time_ms: int, holder: str
) -> None:
    rows = [
        (row_id, ending.value, reason or None)
        for row_id, (ending, reason) in sorted(settled.endings.items())
    ]
    await _END.run(connection, rows, time_ms=time_ms, holder=holder or None)
