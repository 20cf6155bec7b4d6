"""Apply without having held a lock: one statement that commits only what it was meant for.

PostgreSQL alone. What a look has seen is folded as `paystate.store.settle` folds what it has
locked. Then, after the mark, one statement locks the rows, in the order in which everybody does,
and writes all there is to write if every one of them is still the version that was looked at, and
nothing at all if one is not. Then, and for all that is not plain (an overlay, a payment that
belongs to another reference, a registration), the transaction with locks decides.

A look and this are two round trips and one commit; the transaction is ten.
"""

from __future__ import annotations

from collections.abc import Sequence

from paystate.changes import Cursor
from paystate.store.batches import NOW_MS, Columns, positional
from paystate.store.engine import Database
from paystate.store.folding import Decision, Folding, Settled, references_of
from paystate.store.looking import WRITER, Look
from paystate.store.rows import Locked, changes_of, logged_rows, raise_versions, row_of
from paystate.store.settle import BeforeCommit
from paystate.store.tables import HORIZON, XID

__all__ = ["apply"]

_ENTITIES = Columns(
    "key text, status text, version bigint, open_events bigint, held_events bigint, link text, "
    "changed_ms bigint, writer bigint",
    "e_",
)
_CHANGES = Columns(
    "entity_key text, merchant text, payment_id text, tx_ref text, status text, "
    "previous_status text, terminal boolean, version bigint, previous_version bigint, "
    "changed_ms bigint",
    "c_",
)
_ENDINGS = Columns("id bigint, ending text, why text", "i_")
_DETAILS = Columns("key text, content text", "d_")

_CUSTOMERS = Columns("key text", "k_")
_LINKS = Columns("key text, customer_key text", "o_")

_NOW = NOW_MS["postgresql"]

_APPLY = positional(
    f"""
    WITH held AS MATERIALIZED (
        SELECT entities.key, {WRITER.format(table="entities")} AS writer FROM entities
        WHERE key = ANY({_ENTITIES.first})
        ORDER BY kind = 'reference', key FOR UPDATE
    ), owners AS MATERIALIZED (
        SELECT customers.key, customers.erased_through FROM customers
        WHERE key = ANY({_CUSTOMERS.first}) AND (SELECT count(*) FROM held) >= 0
        ORDER BY key FOR UPDATE
    ), seen AS MATERIALIZED (
        SELECT count(*) = CAST(:rows AS BIGINT)
            AND NOT EXISTS (SELECT FROM owners WHERE erased_through IS NOT NULL) AS stands
        FROM {_ENTITIES.source} JOIN held ON held.key = r.key AND held.writer = r.writer
    ), written AS (
        UPDATE entities SET status = r.status, version = r.version, open_events = r.open_events,
            held_events = r.held_events, link = r.link, changed_ms = r.changed_ms
        FROM {_ENTITIES.source} WHERE entities.key = r.key AND (SELECT stands FROM seen)
    ), touched AS (
        INSERT INTO customers (key, version, tickets, profile_ticket, profile_version, active_ms,
                               created_ms)
        SELECT r.key, 1, 0, 0, 0, {_NOW}, {_NOW} FROM {_CUSTOMERS.source}
        WHERE (SELECT stands FROM seen)
        ON CONFLICT (key) DO UPDATE SET version = customers.version + 1,
            active_ms = excluded.active_ms
        RETURNING key
    ), linked AS (
        INSERT INTO customer_payments (key, customer_key)
        SELECT r.key, r.customer_key FROM {_LINKS.source}
        WHERE (SELECT stands FROM seen) AND (SELECT count(*) FROM touched) > 0
        ON CONFLICT (key) DO NOTHING
    ), learnt AS (
        INSERT INTO details (key, content, updated_ms, revision)
        SELECT r.key, r.content, {_NOW}, 1 FROM {_DETAILS.source} WHERE (SELECT stands FROM seen)
        ON CONFLICT (key) DO UPDATE SET content = excluded.content,
            updated_ms = excluded.updated_ms, revision = details.revision + 1
    ), ended AS (
        UPDATE inbox SET state = r.ending, reason = r.why, ended_ms = CAST(:time_ms AS BIGINT),
            claimed_until_ms = 0, claimed_by = CAST(:holder AS TEXT)
        FROM {_ENDINGS.source} WHERE inbox.id = r.id AND (SELECT stands FROM seen)
    ), logged AS (
        INSERT INTO changes (xid, entity_key, merchant, payment_id, tx_ref, status, previous_status,
                             terminal, version, previous_version, changed_ms)
        SELECT (SELECT {XID["postgresql"]}), r.entity_key, r.merchant, r.payment_id, r.tx_ref,
               r.status, r.previous_status, r.terminal, r.version, r.previous_version, r.changed_ms
        FROM {_CHANGES.source} WHERE (SELECT stands FROM seen)
    )
    SELECT stands, {_NOW}, (SELECT {HORIZON["postgresql"]}) FROM seen
    """,  # noqa: S608 - ours
    [
        *_ENTITIES.names,
        *_CHANGES.names,
        *_ENDINGS.names,
        *_DETAILS.names,
        *_CUSTOMERS.names,
        *_LINKS.names,
        "rows",
        "holder",
        "time_ms",
    ],
)


async def apply(
    database: Database,
    decisions: Sequence[Decision],
    before_commit: BeforeCommit,
    look: Look,
    holder: str,
) -> tuple[Settled | None, list[Decision]]:
    """Apply those of `decisions` that are plain in one commit, if what `look` saw still stands.

    Returns what that did, None if nothing, and the decisions that are left for the transaction with
    locks. Raises StoreUnavailable, asyncpg.PostgresError, ValueError and TypeError as
    `paystate.store.batches.Batch.fetch` does, and what `before_commit` raises.
    """
    locked = Locked()
    locked.time_ms = look.time_ms
    locked.expected = look.expected
    folding = Folding(locked, look.opened)
    settled = folding.settled
    left = []
    for decision in sorted(decisions, key=lambda d: d.inbox_id):
        if decision.inbox_id in settled.endings:
            continue
        if _is_plain(decision, look, locked):
            folding.apply(decision, look.opened[decision.inbox_id])
        else:
            left.append(decision)
    if not settled.endings:
        return None, left
    folding.settle_references(look.attempts)
    visible = raise_versions(locked)
    settled.states = list(locked.now.values())
    await before_commit(settled.states)
    logged = logged_rows(locked, visible)
    rows = [(*row_of(e, s), look.writers[e]) for e, s in locked.now.items()]
    endings = [(i, ending.value, why or None) for i, (ending, why) in settled.endings.items()]
    look.forget(locked.now)
    learnt = folding.details(look.details)
    customers, links = _owners(folding, look)
    [(stands, now_ms, horizon)] = await database.fetch(
        _APPLY,
        *_ENTITIES.values(sorted(rows)),
        *_CHANGES.values(logged),
        *_ENDINGS.values(sorted(endings)),
        *_DETAILS.values(learnt),
        *_CUSTOMERS.values(customers),
        *_LINKS.values(links),
        len(rows),
        holder,
        locked.time_ms,
        once=True,
    )
    if not stands:
        return None, list(decisions)
    for row_id in settled.endings:
        settled.waited_ms[row_id] = max(0, now_ms - look.opened[row_id].received_ms)
    # This transaction ran itself, so nothing that commits later lies before the oldest that did.
    settled.changes = changes_of(visible, logged, [Cursor(horizon, 0)] * len(visible))
    return settled, left


def _owners(folding: Folding, look: Look) -> tuple[list[tuple[str]], list[tuple[str, str]]]:
    """Return the customers to whom something has happened, and the payments that are new to them.

    One that was erased is found by the statement, which then does nothing.
    """
    known = {row.payment: row.owner for row in look.opened.values() if row.owned}
    of = {key: known.get(key) or owner for key, owner in folding.owners.items()}
    new = [(key, owner) for key, owner in of.items() if key not in known]
    return [(key,) for key in sorted(set(of.values()))], new


def _is_plain(decision: Decision, look: Look, locked: Locked) -> bool:
    """Say whether all that `decision` bears on was looked at; take it in hand if so."""
    row = look.opened.get(decision.inbox_id)
    if row is None or decision.overlay is not None or decision.opened_ms is not None:
        return False
    if decision.silent or decision.entity.is_reference:
        return False
    if row.owned and row.owner is None:  # of an erased customer: what it said is not kept
        return False
    concerned = (decision.entity, *row.references)
    if any(entity not in look.writers for entity in concerned):
        return False
    state = locked.now.get(decision.entity) or look.states[decision.entity]
    if not set(references_of(state, decision)) <= set(row.references):
        return False
    for entity in concerned:
        if entity not in locked.now:
            locked.take(look.states[entity])
    return True
