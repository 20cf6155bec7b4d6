"""What every database must do for the store: one suite, run on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Change, Cursor
from paystate.errors import CursorPruned, StoreUnavailable
from paystate.keys import Entity, EntityKind
from paystate.state import EntityState
from paystate.status import Status
from paystate.store import (
    Claimed,
    Decision,
    Ending,
    Look,
    NewEvent,
    Page,
    Recorded,
    RefusedDecision,
    Settled,
    Store,
    open_store,
)
from paystate.store.changelog import changes_after
from paystate.store.engine import Database, open_database
from paystate.store.inbox import acknowledge
from paystate.store.migrate import upgrade, upgrade_async
from paystate.store.tables import changes, entities, inbox, metadata
from paystate.updates import Card, Kind, Overlay, OverlayStatus, OverlayType, PaymentUpdate
from tests.servers import Postgres

U, PE, PR, F, V, S = Status

ONE = Entity("default", EntityKind.CHARGE, "1001")
TWO = Entity("default", EntityKind.CHARGE, "1002")
ORDER = Entity("default", EntityKind.REFERENCE, "order-1")
OTHER_ORDER = Entity("default", EntityKind.REFERENCE, "order-2")


# --- short ways to say things ---------------------------------------------------------------------


def event(
    key: str,
    entity: Entity | None = ONE,
    *,
    tx_ref: str | None = "order-1",
    kind: str = "charge.completed",
    content: dict[str, Any] | None = None,
) -> NewEvent:
    """Return an event to record."""
    merchant = entity.merchant if entity else "default"
    body = {"status": "pending"} if content is None else content
    return NewEvent(merchant, "v3", kind, key, "payment", entity, tx_ref, body)


def seen(
    status: Status, entity: Entity = ONE, *, tx_ref: str | None = "order-1", **more: Any
) -> PaymentUpdate:
    """Return an observation of a payment."""
    return PaymentUpdate(
        Kind(entity.kind.value), entity.id, status, status.value, tx_ref=tx_ref, **more
    )


async def recorded(store: Store, *events: NewEvent) -> list[Recorded]:
    """Record events and expect that none is refused."""
    results = await store.acknowledge(events)
    assert not [result for result in results if isinstance(result, Exception)]
    return [result for result in results if isinstance(result, Recorded)]


async def opened(store: Store, key: str, entity: Entity = ONE, **more: Any) -> int:
    """Record one event and return its inbox id."""
    inbox_id = (await recorded(store, event(key, entity, **more)))[0].inbox_id
    assert inbox_id is not None
    return inbox_id


async def nothing(_states: Sequence[EntityState]) -> None:
    """Do nothing before the commit."""


async def settled(store: Store, *decisions: Decision) -> Settled:
    """Settle decisions, and then what that has only opened.

    What is proven here is the provider's own answer, which may move a payment. On PostgreSQL all
    that is plain goes without locks, as it does in a worker.
    """
    look = await store.look([d.inbox_id for d in decisions])
    mine = [d._replace(moves=d.proven) for d in decisions]
    result = Settled()
    for part in await store.settle(mine, nothing, look=look):
        assert isinstance(part, Settled)
        result.opened += part.opened
        result.states += part.states
        result.changes += part.changes
        result.endings |= part.endings
    if result.opened:
        (rest,) = await store.settle(result.opened, nothing)
        assert isinstance(rest, Settled)
        assert not rest.opened
        rest.endings |= result.endings
        rest.changes = [*result.changes, *rest.changes]
        return rest
    return result


_numbers = iter(range(1, 10**9))


async def pay(
    store: Store,
    status: Status,
    entity: Entity = ONE,
    *,
    proven: bool = True,
    tx_ref: str | None = "order-1",
    **more: Any,
) -> Settled:
    """Record one event that says `status`, settle it, and return what that did."""
    row_id = await opened(store, f"event-{next(_numbers)}", entity, tx_ref=tx_ref)
    update = seen(status, entity, tx_ref=tx_ref, **more)
    return await settled(store, Decision(row_id, entity, update=update, proven=proven))


async def end(store: Store, ending: Ending, entity: Entity = ONE, **more: Any) -> Settled:
    """Record one event and end it without a look at what it says."""
    row_id = await opened(store, f"event-{next(_numbers)}", entity)
    return await settled(store, Decision(row_id, entity, ending, "amount_mismatch", **more))


async def state(store: Store, entity: Entity = ONE) -> EntityState:
    """Return the row of `entity`."""
    return (await store.states([entity]))[entity]


async def everything(store: Store) -> list[Change]:
    """Return the whole change log."""
    return list((await store.changes_after(Cursor(), most=100_000)).changes)


@asynccontextmanager
async def second_connection(url: str, *, write: bool = False) -> AsyncIterator[AsyncConnection]:
    """Yield a connection beside the store's, in a transaction of its own."""
    database = open_database(url, pool=1, timeout_s=10)
    try:
        async with database.engine.connect() as connection:
            options = await connection.execution_options(paystate_write=write)
            async with options.begin():
                yield options
    finally:
        await database.close()


async def execute(url: str, *statements: str) -> None:
    """Run statements of the test's own and commit them."""
    async with second_connection(url, write=True) as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def inbox_rows(url: str) -> list[dict[str, Any]]:
    """Return the whole inbox, in order."""
    async with second_connection(url) as connection:
        found = await connection.execute(select(inbox).order_by(inbox.c.id))
        return [dict(row) for row in found.mappings()]


def refusing(table: str, column: str, dialect: str) -> list[str]:
    """Return statements that make the database refuse rows whose `column` says ``refuse``."""
    if dialect == "postgresql":
        return [f"ALTER TABLE {table} ADD CONSTRAINT refusing CHECK ({column} NOT LIKE '%refuse%')"]
    return [
        f"CREATE TRIGGER refusing_{verb} BEFORE {verb} ON {table} "
        f"WHEN NEW.{column} LIKE '%refuse%' BEGIN SELECT RAISE(ABORT, 'refused'); END"
        for verb in ("INSERT", "UPDATE")
    ]


async def check_books(store: Store, url: str) -> None:
    """Check what must be true of a database at any moment.

    Every entity's change log starts at 0, has no gap and ends at its version; the counts of open
    events are those of the inbox; each row of the log follows from the one before.
    """
    async with second_connection(url) as connection:
        rows = (await connection.execute(select(entities))).mappings().all()
        opens: Counter[str] = Counter()
        for column in (inbox.c.entity_key, inbox.c.reference_key, inbox.c.leaving_key):
            found = await connection.execute(
                select(column, func.count()).where(inbox.c.state == "open").group_by(column)
            )
            opens.update({key: count for key, count in found if key is not None})
        log = (await connection.execute(select(changes).order_by(changes.c.id))).mappings().all()
    for row in rows:
        assert row["open_events"] == opens[row["key"]], row["key"]
        mine = [entry for entry in log if entry["entity_key"] == row["key"]]
        assert [entry["version"] for entry in mine] == list(range(1, row["version"] + 1))
        assert [entry["previous_version"] for entry in mine] == list(range(row["version"]))
        statuses = [entry["status"] for entry in mine]
        assert [entry["previous_status"] for entry in mine] == [None, *statuses][: len(mine)]
        if mine:
            now = (await store.states([Entity.from_row_key(row["key"])])).popitem()[1]
            assert mine[-1]["status"] == now.shown.value
            assert bool(mine[-1]["terminal"]) is now.terminal


# --- acknowledge ----------------------------------------------------------------------------------


async def test_a_new_event_is_recorded_and_makes_its_payment_processing(
    store: Store, database_url: str
) -> None:
    """It is counted as open on payment and reference, and both have a first version."""
    (answer,) = await recorded(store, event("e1"))
    assert not answer.duplicate
    assert [s.entity for s in answer.states] == [ONE, ORDER]
    for held in answer.states:
        assert (held.shown, held.version, held.open_events) == (PR, 1, 1)
        assert held == await state(store, held.entity)
    assert [(c.entity, c.status, c.previous_status, c.version) for c in answer.changes] == [
        (ONE, PR, None, 1),
        (ORDER, PR, None, 1),
    ]
    (row,) = await inbox_rows(database_url)
    assert (row["id"], row["event_key"], row["state"]) == (answer.inbox_id, "e1", "open")
    await check_books(store, database_url)


async def test_an_event_twice_in_one_batch_counts_once(store: Store, database_url: str) -> None:
    """The first is it, the second is a duplicate that knows the same rows."""
    first, second = await recorded(store, event("e1"), event("e1"))
    assert (first.duplicate, second.duplicate) == (False, True)
    assert second.inbox_id is None
    assert second.changes == ()
    assert second.states == first.states
    assert (await state(store)).open_events == 1
    await check_books(store, database_url)


async def test_a_duplicate_later_changes_nothing_and_returns_the_rows_as_they_are(
    store: Store, database_url: str
) -> None:
    """Its payment can be marked again: the first delivery may have died before its mark."""
    await pay(store, PE)
    await opened(store, "e1")
    before = await inbox_rows(database_url)
    (again,) = await recorded(store, event("e1"))
    assert again.duplicate
    assert again.inbox_id is None
    assert again.changes == ()
    assert again.states == (await state(store), await state(store, ORDER))
    assert await inbox_rows(database_url) == before


async def test_a_duplicate_tells_of_the_reference_that_its_event_is_open_on(store: Store) -> None:
    """Even if the payment belongs to another by now: there the first delivery has left no mark."""
    await opened(store, "e1", tx_ref="order-1")
    await pay(store, PE, tx_ref="order-2")
    (again,) = await recorded(store, event("e1", tx_ref="order-1"))
    assert again.duplicate
    assert ORDER in {told.entity for told in again.states}


async def test_a_second_event_raises_no_version(store: Store, database_url: str) -> None:
    """A payment that shows `processing` already shows nothing new."""
    await opened(store, "e1")
    (answer,) = await recorded(store, event("e2"))
    assert answer.changes == ()
    assert [(s.version, s.open_events) for s in answer.states] == [(1, 2), (1, 2)]
    await check_books(store, database_url)


@pytest.mark.parametrize("status", [S, F, V])
async def test_an_event_on_a_settled_payment_opens_without_a_new_version(
    store: Store, database_url: str, status: Status
) -> None:
    """What is shown of it does not change; a reference that failed shows that it goes on."""
    await pay(store, status)
    before = await state(store)
    order = await state(store, ORDER)
    (answer,) = await recorded(store, event("late"))
    assert answer.states[0].version == before.version
    assert answer.states[0].shown is status
    assert answer.states[1].shown is (S if status is S else PR)
    assert answer.states[1].version == order.version + (status is not S)
    await check_books(store, database_url)


async def test_an_event_about_no_payment_is_kept_and_ends_at_once(
    store: Store, database_url: str
) -> None:
    """It has a row for the record, and no payment, no version and nothing to do."""
    new = NewEvent("default", "v3", "bvn.completed", "i1", "ignored", reason="not_a_payment")
    first, second = await recorded(store, new, new)
    assert (first.inbox_id, first.states, first.changes) == (None, (), ())
    assert not first.duplicate
    (later,) = await recorded(store, new)
    assert later.duplicate
    assert second.states == ()
    (row,) = await inbox_rows(database_url)
    assert (row["state"], row["reason"], row["entity_key"]) == ("ignored", "not_a_payment", None)
    assert await store.claim("me", claim_ms=1000) == []
    assert await everything(store) == []


async def test_a_payment_keeps_its_reference_whatever_an_unconfirmed_body_says(
    store: Store, database_url: str
) -> None:
    """An event that names another order opens on the payment's own."""
    await pay(store, PE)
    (answer,) = await recorded(store, event("e2", tx_ref="order-2"))
    assert [s.entity for s in answer.states] == [ONE, ORDER]
    assert await store.states([OTHER_ORDER]) == {}
    await check_books(store, database_url)


async def test_an_event_without_a_reference_takes_it_from_the_row(store: Store) -> None:
    """A refund names no order; its payment does."""
    await pay(store, S)
    (answer,) = await recorded(store, event("refund", tx_ref=None))
    assert [s.entity for s in answer.states] == [ONE, ORDER]


async def test_an_event_whose_payment_has_no_reference_opens_on_the_payment_alone(
    store: Store, database_url: str
) -> None:
    """There is nothing else to open it on."""
    (answer,) = await recorded(store, event("e1", tx_ref=None))
    assert [s.entity for s in answer.states] == [ONE]
    await check_books(store, database_url)


async def test_payments_of_two_merchants_never_meet(store: Store) -> None:
    """The same id and the same order of another merchant are another payment and order."""
    ours = Entity("shop", EntityKind.CHARGE, ONE.id)
    await pay(store, S)
    await pay(store, F, ours)
    theirs = Entity("shop", EntityKind.REFERENCE, ORDER.id)
    found = await store.states([ONE, ours, ORDER, theirs])
    assert {e: s.status for e, s in found.items()} == {ONE: S, ours: F, ORDER: S, theirs: F}


@pytest.mark.parametrize("seed", range(3))
async def test_concurrent_acknowledgers_count_every_event_once(
    store: Store, database_url: str, seed: int
) -> None:
    """Overlapping payments in random orders on several connections: no deadlock, no miscount."""
    dice = random.Random(seed)
    payments = [Entity("default", EntityKind.CHARGE, str(n)) for n in range(6)]
    payments += [Entity("default", EntityKind.TRANSFER, str(n)) for n in range(2)]
    pool = [
        event(f"{p.kind}-{p.id}-{n}", p, tx_ref=f"order-{int(p.id) % 3}")
        for p in payments
        for n in range(4)
    ]
    batches = [dice.sample(pool, 12) for _ in range(8)]
    runs: list[int] = []

    async def record(batch: list[NewEvent]) -> list[Recorded]:
        async def work(connection: AsyncConnection) -> list[Recorded]:
            runs.append(len(batch))
            return await acknowledge(connection, store.dialect, batch)

        return await store._database.write(work)

    answers = await asyncio.gather(*(record(batch) for batch in batches))
    assert len(runs) == len(batches)  # a transaction that deadlocks is run again
    fresh = Counter(
        new.event_key
        for batch, results in zip(batches, answers, strict=True)
        for new, result in zip(batch, results, strict=True)
        if not result.duplicate
    )
    assert fresh == Counter({new.event_key for batch in batches for new in batch})
    await check_books(store, database_url)


async def test_large_batches_in_opposite_orders_do_not_deadlock(store: Store) -> None:
    """New rows too are made in key order, so that each transaction runs once."""
    payments = [Entity("default", EntityKind.CHARGE, f"{n:03}") for n in range(200)]
    runs: list[int] = []

    async def record(batch: list[NewEvent]) -> None:
        async def work(connection: AsyncConnection) -> None:
            runs.append(len(batch))
            await acknowledge(connection, store.dialect, batch)

        await store._database.write(work)

    for _ in range(3):
        batch = [event(f"e{next(_numbers)}", p, tx_ref=f"{p.id}{len(runs)}") for p in payments]
        other = [event(f"e{next(_numbers)}", p, tx_ref=f"{p.id}{len(runs)}") for p in payments]
        await asyncio.gather(record(batch), record(other[::-1]))
        payments = [Entity("default", EntityKind.CHARGE, f"{p.id}0") for p in payments]
    assert len(runs) == 6


async def test_one_event_that_the_database_refuses_harms_no_other(
    store: Store, database_url: str
) -> None:
    """It alone is answered with an exception; its neighbours are recorded."""
    await execute(database_url, *refusing("inbox", "type", store.dialect))
    events = [
        event(f"e{n}", Entity("default", EntityKind.CHARGE, str(n)), tx_ref=None) for n in range(5)
    ]
    events[3] = event("bad", TWO, kind="refuse")
    results = await store.acknowledge(events)
    assert [isinstance(result, Exception) for result in results] == [n == 3 for n in range(5)]
    assert [r["event_key"] for r in await inbox_rows(database_url)] == ["e0", "e1", "e2", "e4"]
    assert await store.states([TWO]) == {}
    await check_books(store, database_url)


async def test_a_nul_in_a_text_harms_no_other_event(postgres_url: str) -> None:
    """PostgreSQL keeps no NUL: the event that holds one is refused alone."""
    async with open_store(postgres_url, pool=2, timeout_s=10) as store:
        results = await store.acknowledge([event("good"), event("bad", TWO, kind="a\0b")])
        assert isinstance(results[0], Recorded)
        assert isinstance(results[1], Exception)


# --- settle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [PE, PR, F, V, S])
async def test_a_settled_event_moves_its_payment_and_its_reference(
    store: Store, database_url: str, status: Status
) -> None:
    """Both rows say what was seen, and the event is open no more."""
    done = await pay(store, status)
    assert [ending for ending, _ in done.endings.values()] == [Ending.APPLIED]
    assert all(waited >= 0 for waited in done.waited_ms.values())
    for entity in (ONE, ORDER):
        held = await state(store, entity)
        assert (held.status, held.shown, held.open_events) == (status, status, 0)
        assert held in done.states
    assert (await state(store)).link == "order-1"
    assert (await state(store, ORDER)).payment_id == ONE.id
    (row,) = await inbox_rows(database_url)
    assert row["state"] == "applied"
    assert row["ended_ms"] >= row["received_ms"]
    await check_books(store, database_url)


async def test_the_same_decisions_twice_are_the_same_decisions_once(
    store: Store, database_url: str
) -> None:
    """An event ends once: the second run changes no row, no version and no log."""
    row_id = await opened(store, "e1")
    decision = Decision(row_id, ONE, update=seen(S), proven=True)
    await settled(store, decision)
    before = (await everything(store), await inbox_rows(database_url), await state(store))
    again = await settled(store, decision, Decision(row_id, ONE, Ending.DEAD, "late"))
    assert (again.endings, again.changes) == ({}, [])
    assert (
        await everything(store), await inbox_rows(database_url), await state(store)
    ) == before  # fmt: skip


async def test_a_decision_twice_in_one_batch_counts_once(store: Store, database_url: str) -> None:
    """The first of the two ends the row; no count goes below zero."""
    row_id = await opened(store, "e1")
    decision = Decision(row_id, ONE, update=seen(S), proven=True)
    done = await settled(store, decision, decision)
    assert list(done.endings) == [row_id]
    assert (await state(store)).open_events == 0
    await check_books(store, database_url)


async def test_two_workers_with_the_same_decisions_end_each_event_once(
    store: Store, database_url: str
) -> None:
    """Whoever comes second finds the rows ended, on another connection too."""
    ids = [await opened(store, f"e{n}") for n in range(6)]
    decisions = [Decision(i, ONE, update=seen(PR), proven=True) for i in ids]
    results = await asyncio.gather(*(settled(store, *decisions) for _ in range(4)))
    ended = [row_id for result in results for row_id in result.endings]
    assert sorted(ended) == ids
    assert (await state(store)).open_events == 0
    await check_books(store, database_url)


async def test_a_late_event_is_superseded(store: Store, database_url: str) -> None:
    """What is behind the row changes nothing that is shown, and says so in the inbox."""
    await pay(store, S)
    before = await state(store)
    done = await pay(store, PE)
    assert list(done.endings.values()) == [(Ending.SUPERSEDED, "no_news")]
    assert done.changes == []
    assert await state(store) == before
    await check_books(store, database_url)


@pytest.mark.parametrize("ending", [Ending.HELD, Ending.DEAD])
async def test_a_held_or_dead_event_shows_processing_until_the_payment_settles(
    store: Store, database_url: str, ending: Ending
) -> None:
    """It holds the event, not the payment: a later matching event settles it."""
    await pay(store, PE)
    done = await end(store, ending, update=seen(S))
    assert list(done.endings.values()) == [(ending, "amount_mismatch")]
    for entity in (ONE, ORDER):
        held = await state(store, entity)
        assert (held.status, held.shown, held.held, held.cacheable) == (PE, PR, True, False)
    await check_books(store, database_url)
    await pay(store, S)
    for entity in (ONE, ORDER):
        held = await state(store, entity)
        assert (held.shown, held.held, held.cacheable) == (S, False, True)
    await check_books(store, database_url)


@pytest.mark.parametrize("ending", [Ending.HELD, Ending.DEAD])
async def test_a_held_first_event_shows_on_the_reference_it_names(
    store: Store, database_url: str, ending: Ending
) -> None:
    """A payment that has no reference yet takes the decision's, so that both show `processing`."""
    row_id = await opened(store, "e1")
    await settled(store, Decision(row_id, ONE, ending, "amount_mismatch", link="order-1"))
    for entity in (ONE, ORDER):
        held = await state(store, entity)
        assert (held.shown, held.held, held.cacheable) == (PR, True, False)
    await check_books(store, database_url)


@pytest.mark.parametrize("ending", [Ending.HELD, Ending.DEAD, Ending.CONTRADICTED])
async def test_an_event_that_was_given_up_opens_again_when_it_is_delivered_anew(
    store: Store, database_url: str, ending: Ending
) -> None:
    """The merchant pressed "resend": the same row is open again, and counted once."""
    row_id = await opened(store, "e1")
    await settled(store, Decision(row_id, ONE, ending, "why", link="order-1"))
    (again,) = await recorded(store, event("e1"))
    assert again.inbox_id == row_id
    assert (again.states[0].open_events, again.states[0].held_events) == (1, 0)
    await check_books(store, database_url)
    await settled(store, Decision(row_id, ONE, update=seen(S), proven=True))
    assert (await state(store)).shown is (await state(store, ORDER)).shown is S
    await check_books(store, database_url)


@pytest.mark.parametrize("ending", [Ending.HELD, Ending.DEAD, Ending.CONTRADICTED])
async def test_an_event_given_up_on_a_settled_payment_stays_ended(
    store: Store, database_url: str, ending: Ending
) -> None:
    """There is nothing left to look for."""
    row_id = await opened(store, "e1")
    await settled(store, Decision(row_id, ONE, ending, "why"))
    await pay(store, S)
    (again,) = await recorded(store, event("e1"))
    assert (again.inbox_id, again.duplicate) == (None, True)
    await check_books(store, database_url)


@pytest.mark.parametrize("ending", [Ending.HELD, Ending.DEAD])
async def test_a_held_event_on_a_settled_payment_shows_nothing(
    store: Store, database_url: str, ending: Ending
) -> None:
    """There is nothing left to wait for."""
    await pay(store, S)
    before = await state(store)
    done = await end(store, ending)
    assert done.changes == []
    after = await state(store)
    assert (after.shown, after.version, after.held) == (S, before.version, False)
    await check_books(store, database_url)


async def test_a_contradicted_event_ends_so_and_applies_the_providers_answer(
    store: Store, database_url: str
) -> None:
    """The ending is the given one, the status what the provider goes on saying."""
    done = await end(store, Ending.CONTRADICTED, update=seen(PE), proven=True)
    assert [ending for ending, _ in done.endings.values()] == [Ending.CONTRADICTED]
    assert (await state(store)).shown is PE
    await check_books(store, database_url)


@pytest.mark.parametrize("status", [F, V])
async def test_an_unproven_correction_changes_nothing_and_is_flagged(
    store: Store, status: Status
) -> None:
    """Whoever saw one v3 webhook can forge the next: `failed` stays until it is proven wrong."""
    await pay(store, status)
    before = await state(store)
    done = await pay(store, S, proven=False)
    assert list(done.endings.values()) == [(Ending.SUPERSEDED, "correction_unproven")]
    assert await state(store) == before


@pytest.mark.parametrize("status", [F, V])
async def test_a_proven_correction_is_accepted(
    store: Store, database_url: str, status: Status
) -> None:
    """The verify API, or a v4 signature, says `successful` after all."""
    await pay(store, status)
    done = await pay(store, S)
    assert [c.status for c in done.changes if c.entity == ONE] == [S]
    assert (await state(store)).status is (await state(store, ORDER)).status is S
    await check_books(store, database_url)


async def test_one_batch_of_events_of_one_payment_settles_in_the_order_of_arrival(
    store: Store, database_url: str
) -> None:
    """Whatever the order in which they were decided, one change comes out."""
    ids = [await opened(store, f"e{n}") for n in range(3)]
    decisions = [
        Decision(i, ONE, update=seen(status), proven=True)
        for i, status in zip(ids, (PR, F, V), strict=True)
    ]
    done = await settled(store, *reversed(decisions))
    assert (await state(store)).status is F
    assert [ending for ending, _ in done.endings.values()] == [
        Ending.APPLIED, Ending.APPLIED, Ending.SUPERSEDED,
    ]  # fmt: skip
    assert len([c for c in done.changes if c.entity == ONE]) == 1
    await check_books(store, database_url)


# --- references -----------------------------------------------------------------------------------


async def test_a_reference_succeeds_with_its_second_attempt(
    store: Store, database_url: str
) -> None:
    """Failed, then successful, is an ordinary checkout; the reference names who paid."""
    await pay(store, F, ONE)
    assert ((await state(store, ORDER)).shown, (await state(store, ORDER)).terminal) == (F, False)
    await opened(store, "second", TWO)
    assert (await state(store, ORDER)).shown is PR
    await pay(store, S, TWO)
    order = await state(store, ORDER)
    assert (order.shown, order.terminal, order.payment_id) == (S, True, TWO.id)
    assert (await state(store, ONE)).shown is F
    await check_books(store, database_url)


async def test_a_late_failure_does_not_undo_a_reference(store: Store, database_url: str) -> None:
    """Once an attempt has paid, another's failure changes nothing and raises no version."""
    await pay(store, PE, ONE)
    await pay(store, S, TWO)
    before = await state(store, ORDER)
    await pay(store, F, ONE)
    assert await state(store, ORDER) == before
    await check_books(store, database_url)


async def test_a_reference_that_was_paid_stays_so_when_its_attempt_moves_away(
    store: Store, database_url: str
) -> None:
    """`successful` is final for an order too, though only a failed attempt is left on it."""
    await pay(store, F, TWO)
    await pay(store, S, ONE)
    await pay(store, S, ONE, tx_ref="order-2")
    assert (await state(store)).link == "order-2"
    assert (await state(store, ORDER)).shown is (await state(store, OTHER_ORDER)).shown is S
    await check_books(store, database_url)


async def test_a_reference_goes_on_while_one_attempt_does(store: Store, database_url: str) -> None:
    """One failed and one pending attempt are a pending reference."""
    await pay(store, F, ONE)
    await pay(store, PE, TWO)
    assert (await state(store, ORDER)).shown is PE
    await pay(store, F, TWO)
    assert (await state(store, ORDER)).shown is F
    await check_books(store, database_url)


async def test_attempts_of_one_reference_settle_together(store: Store, database_url: str) -> None:
    """Payments of one batch and one order make one change of the order."""
    ids = [await opened(store, f"e{e.id}", e) for e in (ONE, TWO)]
    done = await settled(
        store,
        Decision(ids[0], ONE, update=seen(F), proven=True),
        Decision(ids[1], TWO, update=seen(S, TWO), proven=True),
    )
    assert [(c.status, c.payment_id) for c in done.changes if c.entity == ORDER] == [(S, TWO.id)]
    await check_books(store, database_url)


async def test_a_payment_that_moves_has_an_event_open_where_it_leaves_and_where_it_goes(
    store: Store, database_url: str
) -> None:
    """Neither reference changes without an event that every reader could see."""
    await pay(store, PE, tx_ref="order-1")
    row_id = await opened(store, "moving", tx_ref="order-1")
    decision = Decision(row_id, ONE, update=seen(S, tx_ref="order-2"), proven=True, moves=True)
    (first,) = await store.settle([decision], nothing)
    assert isinstance(first, Settled)
    assert first.opened == [decision]
    other = Entity.reference("default", "order-2")
    assert [(await state(store, entity)).open_events for entity in (ONE, ORDER, other)] == [1, 1, 1]
    await check_books(store, database_url)
    (then,) = await store.settle(first.opened, nothing)
    assert isinstance(then, Settled)
    assert [(await state(store, entity)).open_events for entity in (ONE, ORDER, other)] == [0, 0, 0]
    assert (await state(store, other)).status is S
    await check_books(store, database_url)


async def test_a_decision_about_an_earlier_opening_is_left_alone(
    store: Store, database_url: str
) -> None:
    """Whoever decided it has held the event from before it was given up and came again."""
    row_id = await opened(store, "e1")
    (row,) = await inbox_rows(database_url)
    await settled(store, Decision(row_id, ONE, Ending.DEAD, "unknown"))
    async with second_connection(database_url) as connection:
        await connection.execute(text("UPDATE inbox SET received_ms = received_ms - 1000"))
    (again,) = await recorded(store, event("e1"))
    assert again.inbox_id == row_id
    late = Decision(row_id, ONE, update=seen(S), proven=True, opened_ms=row["received_ms"] - 1000)
    assert not (await settled(store, late)).endings
    (row,) = await inbox_rows(database_url)
    assert (await settled(store, late._replace(opened_ms=row["received_ms"]))).endings


async def test_a_proven_answer_moves_a_payment_to_its_reference(
    store: Store, database_url: str
) -> None:
    """The provider knows the order best; what was opened on the first is closed there."""
    row_id = await opened(store, "forged", tx_ref="order-2")
    update = seen(S, tx_ref="order-1")
    await settled(store, Decision(row_id, ONE, update=update, proven=True))
    assert (await state(store)).link == "order-1"
    assert (await state(store, ORDER)).shown is S
    other = await state(store, OTHER_ORDER)
    assert (other.open_events, other.terminal) == (0, False)
    await check_books(store, database_url)


async def test_an_unproven_body_does_not_move_a_payment(store: Store, database_url: str) -> None:
    """Its order stays what it was."""
    await pay(store, PE)
    await pay(store, S, proven=False, tx_ref="order-2")
    assert (await state(store)).link == "order-1"
    assert await store.states([OTHER_ORDER]) == {}
    await check_books(store, database_url)


async def test_workers_of_one_reference_never_deadlock(store: Store, database_url: str) -> None:
    """Many attempts of two orders, settled and acknowledged at once in any order."""
    attempts = [Entity("default", EntityKind.CHARGE, f"{n:03}") for n in range(12)]
    refs = [f"order-{n % 2}" for n in range(12)]
    ids = [
        await opened(store, f"e{e.id}", e, tx_ref=ref)
        for e, ref in zip(attempts, refs, strict=True)
    ]
    decisions = [
        Decision(i, e, update=seen(F, e, tx_ref=ref), proven=True)
        for i, e, ref in zip(ids, attempts, refs, strict=True)
    ]
    dice = random.Random(1)
    dice.shuffle(decisions)
    again = [event(f"again-{e.id}", e, tx_ref=r) for e, r in zip(attempts, refs, strict=True)]
    dice.shuffle(again)
    await asyncio.gather(
        *(settled(store, *decisions[n::4]) for n in range(4)),
        *(recorded(store, *again[n::3]) for n in range(3)),
    )
    await check_books(store, database_url)


# --- details and overlays -------------------------------------------------------------------------


async def test_what_moves_a_payment_overrides_and_the_rest_fills_gaps(store: Store) -> None:
    """A late body may add what was missing, and replaces nothing."""
    await pay(store, PE, amount=Decimal("10.50"), currency="NGN")
    await pay(store, S, amount=Decimal("11.00"), card=Card(last_4="1381"))
    await pay(store, PE, amount=Decimal(99), flw_ref="FLW-1")
    known, _ = await store.payment(ONE)
    assert (known["amount"], known["currency"], known["flw_ref"]) == ("11.00", "NGN", "FLW-1")
    assert known["status"] == "successful"
    assert known["card"] == {"last_4": "1381"}


async def test_nothing_is_known_of_a_payment_nobody_has_heard_of(store: Store) -> None:
    """No details, no overlays, no history, no state."""
    assert await store.payment(ONE) == ({}, [])
    assert await store.history(ONE) == []
    assert await store.states([ONE]) == {}


async def test_an_overlay_only_moves_forward_and_leaves_the_status_alone(
    store: Store, database_url: str
) -> None:
    """Of any two steps of a refund the further one stays; the payment stays as it is."""
    await pay(store, S)
    before = await state(store)
    order = list(OverlayStatus)
    pairs = {f"{a}-{b}": (a, b) for a in order for b in order}

    async def report(step: int) -> None:
        decisions = []
        for own_id, pair in pairs.items():
            overlay = Overlay(
                Kind.CHARGE, ONE.id, OverlayType.REFUND, own_id, pair[step], "",
                amount=None if step else Decimal("5.00"), currency="NGN",
            )  # fmt: skip
            row_id = await opened(store, f"{own_id}-{step}")
            decisions.append(Decision(row_id, ONE, overlay=overlay))
        await settled(store, *decisions)

    await report(0)
    await report(1)
    _, overlays = await store.payment(ONE)
    assert {o["id"]: o["status"] for o in overlays} == {
        own_id: max(pair, key=order.index).value for own_id, pair in pairs.items()
    }
    assert {(o["type"], o["amount"], o["currency"]) for o in overlays} == {
        ("refund", "5.00", "NGN")
    }
    after = await state(store)
    assert (after.shown, after.link) == (before.shown, before.link)
    assert after.version == before.version + 2
    await check_books(store, database_url)


async def refunded(
    store: Store, status: OverlayStatus, amount: int | None = None, own_id: str = "r1"
) -> list[tuple[Entity, Status, Status | None, bool, int]]:
    """Record and settle what one webhook says of a refund; return what changed."""
    row_id = await opened(store, f"event-{next(_numbers)}")
    overlay = Overlay(
        Kind.CHARGE, ONE.id, OverlayType.REFUND, own_id, status, "",
        amount=Decimal(amount) if amount is not None else None,
    )  # fmt: skip
    done = await settled(store, Decision(row_id, ONE, overlay=overlay))
    return [(c.entity, c.status, c.previous_status, c.terminal, c.version) for c in done.changes]


async def test_news_of_a_refund_is_one_version_of_the_payment_and_none_of_its_order(
    store: Store, database_url: str
) -> None:
    """Each step forward is one change from `successful` to `successful`."""
    await pay(store, S)
    order = await state(store, ORDER)
    first = (await state(store)).version
    steps = (OverlayStatus.INITIATED, OverlayStatus.PENDING, OverlayStatus.COMPLETED)
    for number, step in enumerate(steps, 1):
        assert await refunded(store, step, 5) == [(ONE, S, S, True, first + number)]
    assert await refunded(store, OverlayStatus.FAILED, 5, "r2") == [(ONE, S, S, True, first + 4)]
    assert await state(store, ORDER) == order
    await check_books(store, database_url)


async def test_what_says_nothing_new_of_a_refund_is_no_version(
    store: Store, database_url: str
) -> None:
    """Neither the same again, nor an earlier step that comes late, whatever its amount."""
    await pay(store, S)
    await refunded(store, OverlayStatus.PENDING, 5)
    before = await state(store)
    for status, amount in (
        (OverlayStatus.PENDING, 5), (OverlayStatus.PENDING, 9), (OverlayStatus.INITIATED, 9),
    ):  # fmt: skip
        assert await refunded(store, status, amount) == []
    assert await state(store) == before
    _, [overlay] = await store.payment(ONE)
    assert (overlay["status"], overlay["amount"]) == ("pending", "5")
    await check_books(store, database_url)


async def test_an_amount_that_becomes_known_is_news_once(store: Store, database_url: str) -> None:
    """Even from an earlier step that comes late, which moves nothing else."""
    await pay(store, S)
    await refunded(store, OverlayStatus.PENDING)
    assert len(await refunded(store, OverlayStatus.INITIATED, 5)) == 1
    assert await refunded(store, OverlayStatus.INITIATED, 7) == []
    _, [overlay] = await store.payment(ONE)
    assert (overlay["status"], overlay["amount"]) == ("pending", "5")
    await check_books(store, database_url)


async def test_a_refund_of_an_unsettled_payment_shares_the_version_of_what_is_shown(
    store: Store, database_url: str
) -> None:
    """From `processing` back to what it was, and the refund: one change and not two."""
    await pay(store, PE)
    before = (await state(store)).version
    changes = await refunded(store, OverlayStatus.INITIATED, 5)
    assert [c for c in changes if c[0] == ONE] == [(ONE, PE, PR, False, before + 2)]
    await check_books(store, database_url)


async def test_the_history_tells_what_came_and_what_became_of_it(store: Store) -> None:
    """Every event of a payment, oldest first, with its ending."""
    await pay(store, F)
    await pay(store, S, proven=False)
    await opened(store, "open")
    told = [(entry["state"], entry["reason"]) for entry in await store.history(ONE)]
    assert told == [("applied", None), ("superseded", "correction_unproven"), ("open", None)]


# --- before the commit ----------------------------------------------------------------------------


async def test_the_cache_is_marked_before_the_commit_can_be_seen(
    store: Store, database_url: str
) -> None:
    """Inside the callback another connection still reads the old row; after it, the new one."""
    row_id = await opened(store, "e1")
    marked: list[EntityState] = []

    async def before_commit(states: Sequence[EntityState]) -> None:
        marked.extend(states)
        async with open_store(database_url, pool=1, timeout_s=10) as other:
            assert (await state(other)).status is U
            assert (await state(other)).open_events == 1

    await store.settle([Decision(row_id, ONE, update=seen(S), proven=True)], before_commit)
    now = await store.states([ONE, ORDER])
    assert {s.entity: s for s in marked} == now
    assert now[ONE].status is S


async def test_a_mark_that_fails_rolls_everything_back(store: Store, database_url: str) -> None:
    """Nothing is committed that the cache was not told of, and the event can be settled again."""
    row_id = await opened(store, "e1")
    before = (await everything(store), await inbox_rows(database_url), await state(store))
    decision = Decision(row_id, ONE, update=seen(S, amount=Decimal(1)), proven=True)

    class MarkFailed(Exception):
        pass

    async def failing(_states: Sequence[EntityState]) -> None:
        raise MarkFailed

    with pytest.raises(MarkFailed):
        await store.settle([decision], failing)
    assert (
        await everything(store), await inbox_rows(database_url), await state(store)
    ) == before  # fmt: skip
    assert await store.payment(ONE) == ({}, [])
    await settled(store, decision)
    assert (await state(store)).status is S
    await check_books(store, database_url)


async def test_nothing_to_settle_marks_nothing(store: Store) -> None:
    """A batch whose events have all ended does not call the cache."""
    row_id = await opened(store, "e1")
    decision = Decision(row_id, ONE, update=seen(S), proven=True)
    await settled(store, decision)

    async def never(_states: Sequence[EntityState]) -> None:
        raise AssertionError

    (result,) = await store.settle([decision], never)
    assert isinstance(result, Settled)


async def test_one_decision_that_the_database_refuses_harms_no_other(
    store: Store, database_url: str
) -> None:
    """It is handed back as refused, its event stays open, and the others are settled."""
    await execute(database_url, *refusing("details", "content", store.dialect))
    payments = [Entity("default", EntityKind.CHARGE, str(n)) for n in range(5)]
    decisions = []
    for n, entity in enumerate(payments):
        row_id = await opened(store, f"e{n}", entity, tx_ref=None)
        update = seen(S, entity, tx_ref=None, flw_ref="refuse" if n == 2 else "fine")
        decisions.append(Decision(row_id, entity, update=update, proven=True))
    results = await store.settle(decisions, nothing)
    (refused,) = [result for result in results if not isinstance(result, Settled)]
    assert isinstance(refused, RefusedDecision)
    assert refused.decision is decisions[2]
    ended = {i for result in results if isinstance(result, Settled) for i in result.endings}
    assert ended == {d.inbox_id for d in decisions} - {decisions[2].inbox_id}
    assert (await state(store, payments[2])).open_events == 1
    await check_books(store, database_url)


# --- without locks --------------------------------------------------------------------------------


@pytest.fixture
async def straight(postgres_url: str) -> AsyncIterator[Store]:
    """A store on PostgreSQL, where what is plain is applied without locks."""
    async with open_store(postgres_url, pool=5, timeout_s=10) as opened_:
        yield opened_


async def looked(store: Store, *row_ids: int) -> Look:
    """Look at open events, and see that a settle could go by it."""
    look = await store.look(row_ids)
    assert [row.id for row in look.rows] == list(row_ids)
    assert look.writers
    return look


def success(row_id: int, entity: Entity = ONE) -> Decision:
    """Decide that a payment was successful, as the provider says."""
    return Decision(row_id, entity, update=seen(S, entity), proven=True, moves=True)


async def test_what_has_not_changed_since_the_look_is_applied_in_one_statement(
    straight: Store, postgres_url: str
) -> None:
    """No transaction with locks is begun for it."""
    row_id = await opened(straight, "e1")
    look = await looked(straight, row_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paystate.store.settle.settle", None)
        (result,) = await straight.settle([success(row_id)], nothing, look=look, holder="me")
    assert isinstance(result, Settled)
    assert result.endings == {row_id: (Ending.APPLIED, "")}
    assert [(c.entity, c.status, c.version) for c in result.changes] == [(ONE, S, 2), (ORDER, S, 2)]
    assert result.states == list((await straight.states([ONE, ORDER])).values())
    (row,) = await inbox_rows(postgres_url)
    assert (row["state"], row["claimed_by"], row["claimed_until_ms"]) == ("applied", "me", 0)
    assert row["ended_ms"] >= row["received_ms"]
    await check_books(straight, postgres_url)


async def test_what_is_applied_side_by_side_is_committed_on_every_connection(
    straight: Store, postgres_url: str
) -> None:
    """No statement is left in a transaction that nobody ends."""
    payments = [Entity("default", EntityKind.CHARGE, str(n)) for n in range(6)]
    ids = [await opened(straight, f"e{e.id}", e, tx_ref=f"order-{e.id}") for e in payments]
    looks = [await looked(straight, row_id) for row_id in ids]
    decisions = [
        Decision(i, e, update=seen(S, e, tx_ref=f"order-{e.id}"))
        for i, e in zip(ids, payments, strict=True)
    ]
    await asyncio.gather(*(
        straight.settle([decision], nothing, look=look)
        for decision, look in zip(decisions, looks, strict=True)
    ))  # fmt: skip
    assert [row["state"] for row in await inbox_rows(postgres_url)] == ["applied"] * 6
    await check_books(straight, postgres_url)


async def overtaken_by_its_settling(store: Store, row_id: int) -> None:
    """Somebody else has settled the same event."""
    await store.settle([success(row_id)], nothing)


async def overtaken_by_another_event(store: Store, _row_id: int) -> None:
    """Another event of the payment has come in."""
    await opened(store, "another")


async def overtaken_by_another_attempt(store: Store, _row_id: int) -> None:
    """Another payment of the same reference was successful."""
    await pay(store, S, TWO)


@pytest.mark.parametrize("overtake", [
    overtaken_by_its_settling, overtaken_by_another_event, overtaken_by_another_attempt,
])  # fmt: skip
async def test_what_was_overtaken_since_the_look_is_applied_under_locks(
    straight: Store, postgres_url: str, overtake: Callable[[Store, int], Awaitable[None]]
) -> None:
    """Nothing of what was meant for other rows is written; the books are right, told once each."""
    await pay(straight, PE)
    row_id = await opened(straight, "e1")
    look = await looked(straight, row_id)
    marked: list[Sequence[EntityState]] = []

    async def marking(states: Sequence[EntityState]) -> None:
        if not marked:
            await overtake(straight, row_id)
        marked.append(states)

    (result,) = await straight.settle([success(row_id)], marking, look=look)
    assert isinstance(result, Settled)
    assert len(marked) == 2 or not result.states
    assert (await state(straight)).status is S
    assert (await state(straight, ORDER)).status is S
    await check_books(straight, postgres_url)


async def test_a_reference_that_counts_what_it_counted_may_have_other_attempts(
    straight: Store, postgres_url: str
) -> None:
    """One event has left it and another joined it, in one transaction: it was written all the same.

    Its status, link and counts are what they were; one of its attempts has failed.
    """
    three = Entity("default", EntityKind.CHARGE, "3")
    await pay(straight, PE)
    await pay(straight, U, TWO)
    await pay(straight, PE, three, tx_ref="order-2")
    joins = await opened(straight, "joins", three, tx_ref="order-2")
    leaves = await opened(straight, "leaves", TWO)
    row_id = await opened(straight, "e1")
    look = await looked(straight, row_id)
    before = await state(straight, ORDER)
    moves = Decision(joins, three, update=seen(PE, three), proven=True, moves=True)
    ends = Decision(leaves, TWO, update=seen(F, TWO), proven=True)
    (result,) = await straight.settle([ends, moves], nothing)
    assert isinstance(result, Settled)
    assert result.opened == [moves]
    assert await state(straight, ORDER) == before
    await straight.settle([Decision(row_id, ONE, update=seen(F), proven=True)], nothing, look=look)
    assert (await state(straight, ORDER)).status is F
    await check_books(straight, postgres_url)


async def test_a_change_that_commits_while_the_statement_waits_for_its_lock_is_seen(
    straight: Store, postgres_url: str
) -> None:
    """The statement's own snapshot is older than the row that it gets to lock."""
    row_id = await opened(straight, "e1")
    look = await looked(straight, row_id)
    async with second_connection(postgres_url) as other:
        await other.execute(text(
            f"UPDATE entities SET changed_ms = 7 WHERE key = '{ORDER.row_key}'"
        ))  # fmt: skip
        settling = asyncio.create_task(straight.settle([success(row_id)], nothing, look=look))
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        async with second_connection(postgres_url) as third:
            while not (await third.execute(waiting)).scalar_one():
                assert not settling.done()
    (result,) = await settling
    assert isinstance(result, Settled)
    assert result.endings
    assert [(c.entity, c.version) for c in result.changes] == [(ONE, 2), (ORDER, 2)]
    await check_books(straight, postgres_url)


async def test_one_refused_decision_harms_no_other_without_locks_either(
    straight: Store, postgres_url: str
) -> None:
    """What the one statement refuses is halved under locks."""
    await execute(postgres_url, *refusing("details", "content", "postgresql"))
    payments = [Entity("default", EntityKind.CHARGE, str(n)) for n in range(3)]
    ids = [await opened(straight, f"e{n}", e, tx_ref=None) for n, e in enumerate(payments)]
    decisions = [
        Decision(i, e, update=seen(S, e, tx_ref=None, flw_ref="refuse" if e.id == "1" else "fine"))
        for i, e in zip(ids, payments, strict=True)
    ]
    results = await straight.settle(decisions, nothing, look=await looked(straight, *ids))
    ended = {i for result in results if isinstance(result, Settled) for i in result.endings}
    assert ended == {ids[0], ids[2]}
    assert [r.decision for r in results if isinstance(r, RefusedDecision)] == [decisions[1]]
    await check_books(straight, postgres_url)


# --- claim and defer ------------------------------------------------------------------------------


async def claimed(store: Store, holder: str = "me", **more: Any) -> list[int]:
    """Claim and return the ids."""
    return await store.claim(holder, **{"claim_ms": 60_000, **more})


async def test_a_look_carries_what_the_worker_needs(store: Store) -> None:
    """The row as it was recorded, with its times by the database's clock, and what it bears on."""
    row_id = await opened(store, "e1", content={"status": "pending", "amount": "1.50"})
    look = await store.look([row_id])
    (row,) = look.rows
    assert isinstance(row, Claimed)
    assert look.states == await store.states([ONE, ORDER])
    assert (row.id, row.entity, row.api, row.type) == (row_id, ONE, "v3", "charge.completed")
    assert orjson.loads(row.content) == {"status": "pending", "amount": "1.50"}
    assert row.attempts == 0
    assert row.now_ms >= row.received_ms


async def test_a_row_that_is_claimed_is_nobody_elses(store: Store) -> None:
    """Not even under another name of the same process, or by its id, or for a look."""
    row_id = await opened(store, "e1")
    assert await claimed(store) == [row_id]
    assert (await store.look([row_id])).rows == []
    assert (await store.look([row_id], holder="you")).rows == []
    assert [row.id for row in (await store.look([row_id], holder="me")).rows] == [row_id]
    assert await claimed(store) == []
    assert await claimed(store, "you", ids=[row_id]) == []


async def test_a_claim_runs_out_by_the_databases_clock(store: Store, database_url: str) -> None:
    """A worker that died holds its rows no longer than it said."""
    row_id = await opened(store, "e1")
    assert await claimed(store, claim_ms=0) == [row_id]
    while not (again := await claimed(store, "you")):
        pass
    assert again == [row_id]
    await execute(database_url, "UPDATE inbox SET claimed_until_ms = claimed_until_ms - 59000")
    assert await claimed(store) == []
    await execute(database_url, "UPDATE inbox SET claimed_until_ms = claimed_until_ms - 2000")
    assert await claimed(store) == [row_id]


async def test_only_what_is_due_is_claimed(store: Store, database_url: str) -> None:
    """A row that was put off is left alone until its time, by id too."""
    row_id = await opened(store, "e1")
    await claimed(store)
    await store.defer("me", [row_id], wait_ms=60_000, reason="limited", counted=False)
    assert await claimed(store) == await claimed(store, ids=[row_id]) == []
    await execute(database_url, "UPDATE inbox SET due_ms = due_ms - 60000")
    assert await claimed(store) == [row_id]


@pytest.mark.parametrize("counted", [True, False])
async def test_a_deferred_row_is_let_go_and_counts_an_attempt_if_told(
    store: Store, database_url: str, *, counted: bool
) -> None:
    """An outage of the provider uses up nothing."""
    row_id = await opened(store, "e1")
    await claimed(store)
    await store.defer("me", [row_id], wait_ms=0, reason="timeout", counted=counted)
    (row,) = await inbox_rows(database_url)
    assert (row["claimed_until_ms"], row["claimed_by"]) == (0, None)
    assert (row["attempts"], row["reason"], row["state"]) == (int(counted), "timeout", "open")


async def test_a_row_that_has_ended_is_neither_claimed_nor_deferred(
    store: Store, database_url: str
) -> None:
    """Whatever comes late leaves it as it ended."""
    row_id = await opened(store, "e1")
    await claimed(store)
    await settled(store, Decision(row_id, ONE, update=seen(S), proven=True))
    before = await inbox_rows(database_url)
    assert await claimed(store, ids=[row_id]) == []
    await store.defer("me", [row_id], wait_ms=0, reason="late", counted=True)
    assert await inbox_rows(database_url) == before


async def test_a_worker_whose_claim_ran_out_does_not_put_off_anothers_row(
    store: Store, database_url: str
) -> None:
    """Whoever holds the row decides; the first, come back late, changes nothing."""
    row_id = await opened(store, "e1")
    await claimed(store, "slow", claim_ms=0)
    while not await claimed(store, "quick"):
        pass
    before = await inbox_rows(database_url)
    await store.defer("slow", [row_id], wait_ms=0, reason="late", counted=True)
    assert await inbox_rows(database_url) == before


async def test_grace_is_for_rows_that_were_never_tried(store: Store) -> None:
    """A fresh row is left to the queue at first; one that was tried, or asked for by id, is not."""
    tried = await opened(store, "tried")
    await claimed(store)
    await store.defer("me", [tried], wait_ms=0, reason="timeout", counted=True)
    fresh = await opened(store, "fresh")
    assert await claimed(store, grace_ms=60_000) == [tried]
    assert await claimed(store, grace_ms=60_000, ids=[fresh]) == [fresh]


async def test_the_longest_due_come_first_and_no_more_than_asked(
    store: Store, database_url: str
) -> None:
    """A backlog is taken in bites, oldest first."""
    ids = [await opened(store, f"e{n}") for n in range(5)]
    await execute(
        database_url, f"UPDATE inbox SET due_ms = due_ms - 10000 WHERE id IN ({ids[4]}, {ids[2]})"
    )
    assert await claimed(store, most=2) == [ids[2], ids[4]]
    assert await claimed(store) == [ids[0], ids[1], ids[3]]


async def test_claimers_never_get_the_same_row(store: Store) -> None:
    """Several at once share a backlog without overlap, and leave nothing."""
    ids = [await opened(store, f"e{n}") for n in range(30)]
    taken = await asyncio.gather(*(claimed(store, f"w{n}", most=10) for n in range(5)))
    taken.append(await claimed(store))
    assert sorted(row_id for some in taken for row_id in some) == ids


async def test_a_claimer_does_not_wait_for_rows_another_is_taking(postgres_url: str) -> None:
    """SKIP LOCKED: rows locked by an open transaction are left to it, the rest are taken."""
    async with open_store(postgres_url, pool=2, timeout_s=10) as store:
        ids = [await opened(store, f"e{n}") for n in range(3)]
        async with second_connection(postgres_url) as other:
            await other.execute(text(f"SELECT 1 FROM inbox WHERE id = {ids[0]} FOR UPDATE"))
            assert await claimed(store) == ids[1:]


# --- the change log -------------------------------------------------------------------------------


async def test_the_cursor_goes_over_every_change_once(store: Store) -> None:
    """Page by page, in order, and then nothing is left."""
    for status in (PE, PR, F):
        await pay(store, status)
    whole = await everything(store)
    cursor, paged = Cursor(), list[Change]()
    more = True
    while more:
        page = await store.changes_after(cursor, most=2)
        paged += page.changes
        cursor, more = page.position, page.more
    assert [(c.entity, c.version) for c in paged] == [(c.entity, c.version) for c in whole]
    assert cursor == whole[-1].cursor == await store.latest_cursor()


async def test_replaying_from_a_changes_cursor_gives_what_came_after_it(store: Store) -> None:
    """The cursor a client was given last is where it goes on, missing nothing."""
    for status in (PE, PR, F):
        await pay(store, status)
    whole = await everything(store)
    for n, change in enumerate(whole):
        rest = (await store.changes_after(change.cursor)).changes
        assert list(rest) == whole[n + 1 :]


async def test_changes_can_be_asked_for_by_merchant(store: Store) -> None:
    """Nobody sees another merchant's changes."""
    await pay(store, S)
    await pay(store, S, Entity("shop", EntityKind.CHARGE, "9"))
    ours = (await store.changes_after(Cursor(), merchant="shop")).changes
    assert {c.entity.merchant for c in ours} == {"shop"}
    assert len(ours) * 2 == len(await everything(store))


async def test_an_empty_log_has_the_first_cursor(store: Store) -> None:
    """There is nothing to miss."""
    assert await store.latest_cursor() == Cursor()
    assert await store.changes_after(Cursor()) == Page((), Cursor(), Cursor(), more=False)


async def test_what_settle_returns_is_what_the_log_holds(store: Store) -> None:
    """Version, statuses and times are those of the committed row."""
    done = await pay(store, S)
    logged = {(c.entity, c.version): c for c in await everything(store)}
    assert done.changes
    for change in done.changes:
        in_log = logged[change.entity, change.version]
        assert change.cursor <= in_log.cursor
        assert change.to_json() | {"cursor": ""} == in_log.to_json() | {"cursor": ""}


async def test_the_cursor_never_passes_a_transaction_that_is_still_open(postgres_url: str) -> None:
    """A row that commits late, with a smaller id than rows already read, is not missed."""
    async with open_store(postgres_url, pool=3, timeout_s=10) as store:
        await pay(store, PE)
        start = await store.latest_cursor()
        async with second_connection(postgres_url) as late:
            await late.execute(
                text(
                    "INSERT INTO changes (xid, entity_key, merchant, status, version, "
                    "previous_version, changed_ms) VALUES (CAST(CAST(pg_current_xact_id() AS TEXT)"
                    " AS BIGINT), 'charge:default:late', 'default', 'pending', 1, 0, 0)"
                )
            )
            done = await pay(store, S, TWO)
            early = await store.changes_after(start)
            assert {c.entity for c in early.changes} == {TWO, ORDER}
            assert early.safe == start == await store.latest_cursor()
            assert early.position > start  # paging does not wait for the open transaction
            assert not (await store.changes_after(early.position, safe=early.safe)).changes
            given = {c.cursor for c in (*early.changes, *done.changes)}
        caught_up = await store.changes_after(early.safe)
        assert {c.entity.id for c in caught_up.changes} == {"late", TWO.id, ORDER.id}
        assert caught_up.safe == caught_up.changes[-1].cursor == await store.latest_cursor()
        for each in given:
            replayed = (await store.changes_after(each)).changes
            assert "late" in {c.entity.id for c in replayed}


async def _compared(store: Store, position: Cursor, safe: Cursor, most: int) -> Page:
    """Return a page of changes; the versions of that page must say the same."""
    page = await store.changes_after(position, safe=safe, most=most)
    brief = await store.versions_after(position, safe=safe, most=most)
    assert brief is not None
    assert brief.versions == [
        (c.entity.row_key, c.version, c.previous_version) for c in page.changes
    ]
    assert (brief.position, brief.safe, brief.more) == (page.position, page.safe, page.more)
    return page


async def test_versions_alone_are_read_as_changes_are(postgres_url: str) -> None:
    """To the same places, page by page, whatever commits late, and not once they are pruned."""
    async with open_store(postgres_url, pool=3, timeout_s=10) as store:
        begin = await store.latest_cursor()
        assert not (await _compared(store, begin, begin, 5)).changes
        for status in (PE, PR, F):
            await pay(store, status)
        async with second_connection(postgres_url) as late:
            await late.execute(text("SELECT pg_current_xact_id()"))
            await pay(store, S, Entity("default", EntityKind.CHARGE, "a b:c"))
            for most in (1, 2, 3, 500):
                position = safe = begin
                more, unsafe = True, 0
                while more:
                    page = await _compared(store, position, safe, most)
                    position, safe, more = page.position, page.safe, page.more
                    unsafe += position != safe
                assert unsafe
                assert position > safe > begin
        await _compared(store, begin, begin, 500)
        await _compared(store, position, safe, 500)
        while await store.prune_changes(older_than_ms=-60_000):
            pass
        with pytest.raises(CursorPruned):
            await store.versions_after(begin)


async def test_on_sqlite_versions_cost_as_much_as_changes(sqlite_url: str) -> None:
    async with open_store(sqlite_url, pool=3, timeout_s=10) as store:
        assert await store.versions_after(Cursor()) is None


async def test_what_becomes_safe_between_two_pages_is_not_passed_over(postgres_url: str) -> None:
    """It may lie before what was read of the first page."""
    async with open_store(postgres_url, pool=3, timeout_s=10) as store:
        await pay(store, PE)
        start = await store.latest_cursor()
        async with second_connection(postgres_url) as late:
            await late.execute(
                text(
                    "INSERT INTO changes (xid, entity_key, merchant, status, version, "
                    "previous_version, changed_ms) VALUES (CAST(CAST(pg_current_xact_id() AS TEXT)"
                    " AS BIGINT), 'charge:default:late', 'default', 'pending', 1, 0, 0)"
                )
            )
            await pay(store, S, TWO)
            first = await store.changes_after(start, most=1)
        second = await _compared(store, first.position, first.safe, 500)
        assert second.changes
        caught_up = await store.changes_after(second.safe)
        assert "late" in {c.entity.id for c in caught_up.changes}


async def test_a_pruned_cursor_is_told_so(store: Store) -> None:
    """What was removed cannot be replayed, and nobody is led to think that nothing happened."""
    start = await store.latest_cursor()
    await pay(store, S)
    assert await store.prune_changes(older_than_ms=60_000) == 0
    while await store.prune_changes(older_than_ms=-60_000, most=1):
        pass
    with pytest.raises(CursorPruned):
        await store.changes_after(start)
    now = await store.latest_cursor()
    assert now > start
    await pay(store, S, TWO)
    assert {c.entity for c in (await store.changes_after(now)).changes} == {TWO}


async def test_what_is_pruned_while_it_is_read_is_not_passed_over(postgres_url: str) -> None:
    """Between two statements of a reader all that it is about to read may go."""
    async with open_store(postgres_url, pool=5, timeout_s=10) as store:
        start = await store.latest_cursor()
        await pay(store, S)

        async def read(connection: AsyncConnection) -> Page:
            return await changes_after(_PruningBetween(store, connection), start, most=500)

        with pytest.raises(CursorPruned):
            await store._database.read(read)


class _PruningBetween(AsyncConnection):
    """A connection of a reader that is overtaken by the pruner after its first statement."""

    def __init__(self, store: Store, connection: AsyncConnection) -> None:
        super().__init__(connection.engine, connection.sync_connection)
        self._store: Store | None = store

    async def execute(self, *args: Any, **more: Any) -> Any:
        found = await super().execute(*args, **more)
        store, self._store = self._store, None
        while store is not None and await store.prune_changes(older_than_ms=-60_000, most=1):
            pass
        return found


# --- how it stands --------------------------------------------------------------------------------


async def test_the_gauges_count_what_is_open_held_and_dead(store: Store, database_url: str) -> None:
    """And how long the oldest has been waiting."""
    empty = await store.gauges()
    assert (empty.open, empty.oldest_ms, empty.held, empty.dead) == (0, 0, 0, 0)
    await end(store, Ending.HELD)
    await end(store, Ending.DEAD)
    await end(store, Ending.DEAD)
    await pay(store, S)
    await opened(store, "open")
    await execute(database_url, "UPDATE inbox SET received_ms = received_ms - 5000")
    full = await store.gauges()
    assert (full.open, full.held, full.dead) == (1, 1, 2)
    assert full.oldest_ms >= 5000


async def test_a_migrated_database_answers_a_ping(store: Store) -> None:
    """Nothing is wrong with it."""
    await store.ping()


async def unmigrated(request: pytest.FixtureRequest, folder: Path, kind: str) -> str:
    """Return the URL of a database without a table."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'empty.db'}"
    server: Postgres = request.getfixturevalue("_postgres")
    url = server.create_database(f"empty{next(_numbers)}")
    await execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return url


KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@KINDS
async def test_a_database_that_is_not_migrated_says_so(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """The operator is told what to run, not that a table is missing."""
    url = await unmigrated(request, tmp_path, kind)
    async with open_store(url, pool=1, timeout_s=10) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await store.ping()
    assert caught.value.reason == "database_not_migrated"
    assert "paystate migrate" in str(caught.value)


@pytest.mark.parametrize(("held", "enough"), [("0007", False), ("9999", True)])
async def test_the_schema_of_an_earlier_release_is_not_enough_and_that_of_a_later_is(
    store: Store, database_url: str, held: str, enough: bool
) -> None:
    """A process that would fail takes nobody's place; one that is replaced works to its end."""
    await execute(database_url, f"UPDATE alembic_version SET version_num = '{held}'")
    if enough:
        await store.ping()
        return
    with pytest.raises(StoreUnavailable, match="run `paystate migrate`") as caught:
        await store.ping()
    assert caught.value.reason == "database_not_migrated"


async def test_a_column_that_a_migration_would_bring_is_the_databases_fault(
    store: Store, database_url: str
) -> None:
    """Nothing is refused for good because a release was not migrated."""
    await execute(database_url, "ALTER TABLE changes RENAME COLUMN previous_status TO earlier")
    with pytest.raises(StoreUnavailable, match="run `paystate migrate`"):
        await store.acknowledge([event("e1")])


async def test_a_role_that_may_not_is_told_what_to_grant(postgres_url: str) -> None:
    """Nothing is refused for good because a right was forgotten."""
    role = f"narrow_{uuid4().hex}"
    await execute(
        postgres_url,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        f"REVOKE SELECT ON alembic_version FROM {role}",
    )
    url = make_url(postgres_url).set(username=role).render_as_string()
    async with open_store(url, pool=5, timeout_s=10) as store:
        for ask in (store.ping, lambda: store.acknowledge([event("e1")])):
            with pytest.raises(StoreUnavailable, match="GRANT") as caught:
                await ask()
            assert caught.value.reason == "database_forbids"


Question = Callable[[Store], Awaitable[Any]]
EVERYTHING_ASKED: dict[str, Question] = {
    "acknowledge": lambda store: store.acknowledge([event("e1")]),
    "settle": lambda store: store.settle([Decision(1, ONE, update=seen(S))], nothing),
    "claim": lambda store: store.claim("me", claim_ms=1000),
    "claim by id": lambda store: store.claim("me", claim_ms=1000, ids=[1]),
    "look": lambda store: store.look([1]),
    "release": lambda store: store.release("me", [1]),
    "defer": lambda store: store.defer("me", [1], wait_ms=0, reason="r", counted=False),
    "states": lambda store: store.states([ONE]),
    "payment": lambda store: store.payment(ONE),
    "history": lambda store: store.history(ONE),
    "changes_after": lambda store: store.changes_after(Cursor()),
    "latest_cursor": lambda store: store.latest_cursor(),
    "gauges": lambda store: store.gauges(),
    "ping": lambda store: store.ping(),
}


@KINDS
async def test_every_question_to_a_database_without_tables_says_what_to_run(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """A process that was started too soon waits for the migration, and gives nothing up for it."""
    url = await unmigrated(request, tmp_path, kind)
    async with open_store(url, pool=5, timeout_s=10) as store:
        for ask in EVERYTHING_ASKED.values():
            with pytest.raises(StoreUnavailable, match="run `paystate migrate`"):
                await ask(store)


async def drivers_have_ended() -> None:
    """Let the threads of connections that never came about say so while there is a loop."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join)


@pytest.mark.parametrize("ask", EVERYTHING_ASKED.values(), ids=EVERYTHING_ASKED)
@KINDS
async def test_every_question_to_a_database_that_is_away_is_store_unavailable(
    tmp_path: Path, kind: str, ask: Question
) -> None:
    """Never an error of the driver, never an empty answer."""
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}"  # a folder is no database
    else:
        url = f"postgresql://postgres@/paystate?host={tmp_path}"  # nobody listens there
    async with open_store(url, pool=1, timeout_s=10) as store:
        with pytest.raises(StoreUnavailable):
            await ask(store)
    await drivers_have_ended()


async def test_a_server_that_goes_away_and_comes_back_costs_one_refusal(
    postgres_url: str,
) -> None:
    """Connections that were cut are made anew; what was committed is there."""
    async with open_store(postgres_url, pool=2, timeout_s=10) as store:
        await pay(store, S)
        async with second_connection(postgres_url) as other:
            await other.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        await pay(store, F)
        assert (await state(store)).status is S


# --- migrations -----------------------------------------------------------------------------------


async def schema_differences(database: Database) -> list[Any]:
    """Return how the database differs from the tables as the code has them."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(
                    sync, opts={"compare_type": True, "compare_server_default": True}
                ),
                metadata,
            )
        )


async def test_the_migrations_give_exactly_the_tables(database_url: str) -> None:
    """No column, type, index or constraint is in one and not in the other."""
    database = open_database(database_url, pool=1, timeout_s=10)
    try:
        assert await schema_differences(database) == []
    finally:
        await database.close()


async def test_migrating_again_changes_nothing(store: Store, database_url: str) -> None:
    """A release phase that runs twice loses no row."""
    await pay(store, S)
    await upgrade_async(database_url)
    assert (await state(store)).status is S


@KINDS
async def test_two_migrators_at_once_are_safe(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """One waits for the other and finds nothing left to do."""
    url = await unmigrated(request, tmp_path, kind)
    await asyncio.gather(*(upgrade_async(url) for _ in range(4)))
    async with open_store(url, pool=1, timeout_s=10) as store:
        await store.ping()


def test_a_migration_without_a_loop_does_the_same(tmp_path: Path) -> None:
    """The command line has no event loop of its own."""
    url = f"sqlite:///{tmp_path / 'new' / 'paystate.db'}"
    upgrade(url)

    async def ping() -> None:
        async with open_store(url, pool=1, timeout_s=10) as store:
            await store.ping()

    asyncio.run(ping())


@KINDS
async def test_migrating_a_database_that_is_away_is_store_unavailable(
    tmp_path: Path, kind: str
) -> None:
    """The release fails with a sentence."""
    sqlite = f"sqlite:///{tmp_path}"
    postgres = f"postgresql://postgres@/paystate?host={tmp_path}"
    with pytest.raises(StoreUnavailable):
        await upgrade_async(sqlite if kind == "sqlite" else postgres)
    await drivers_have_ended()


# --- all together ---------------------------------------------------------------------------------


RANKS = {U: 0, PE: 1, PR: 2, F: 3, V: 3, S: 4}


class Walk:
    """Random events, duplicates, batches and endings over a few payments and two orders."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.dice = random.Random(seed)
        self.payments = [Entity("default", EntityKind.CHARGE, str(n)) for n in range(4)]
        self.payments.append(Entity("default", EntityKind.TRANSFER, "0"))
        self.recorded: list[tuple[str, Entity]] = []
        self.open: dict[int, Entity] = {}

    async def record(self) -> None:
        """Record a batch, some of it for the second time."""
        batch = []
        for _ in range(self.dice.randint(1, 4)):
            new = (f"k{len(self.recorded)}", self.dice.choice(self.payments))
            again = self.recorded and self.dice.random() < 0.3
            key, entity = self.dice.choice(self.recorded) if again else new
            self.recorded.append((key, entity))
            ref = self.dice.choice([None, "order-1", "order-1", "order-2"])
            batch.append(event(key, entity, tx_ref=ref))
        answers = await recorded(self.store, *batch)
        for (_, entity), answer in zip(self.recorded[-len(batch) :], answers, strict=True):
            if answer.inbox_id is not None:
                self.open[answer.inbox_id] = entity

    async def decide(self) -> None:
        """Settle some open events, and now and then one that has ended."""
        chosen = self.dice.sample(sorted(self.open), min(len(self.open), self.dice.randint(1, 4)))
        if chosen:
            await settled(self.store, *(self._decision(row_id) for row_id in chosen))
        for row_id in chosen:
            if self.dice.random() < 0.8:
                del self.open[row_id]

    def _decision(self, row_id: int) -> Decision:
        entity = self.open[row_id]
        ref = self.dice.choice([None, "order-1", "order-2"])
        update = seen(self.dice.choice(list(Status)), entity, tx_ref=ref)
        endings = [None, None, None, Ending.HELD, Ending.DEAD, Ending.CONTRADICTED]
        ending = self.dice.choice(endings)
        return Decision(row_id, entity, ending, "r", update, proven=self.dice.random() < 0.5)

    async def finish(self) -> None:
        """Settle whatever is still open."""
        rest = [Decision(i, e, update=seen(PE, e, tx_ref=None)) for i, e in self.open.items()]
        if rest:
            await settled(self.store, *rest)


def check_step(before: EntityState, now: EntityState) -> None:
    """Check that a step raised the version if it showed: once for each of its transactions.

    That is the plain ones', the one that opens events elsewhere, and the one that applies those.
    """
    assert now.version - before.version in (0, 1, 2, 3)
    assert now.version > before.version or now.visible == before.visible
    assert min(now.open_events, now.held_events) >= 0
    assert now.entity.is_reference or RANKS[now.status] >= RANKS[before.status]


@pytest.mark.parametrize("seed", range(4))
async def test_the_books_balance_after_any_walk(store: Store, database_url: str, seed: int) -> None:
    """Events, duplicates, batches and endings in any order: every count and version is exact."""
    walk = Walk(store, seed)
    before: dict[Entity, EntityState] = {}
    for _ in range(15):
        await walk.dice.choice([walk.record, walk.record, walk.decide, walk.decide])()
        now = await store.states([*walk.payments, ORDER, OTHER_ORDER])
        for entity, earlier in before.items():
            check_step(earlier, now[entity])
        before = now
    await check_books(store, database_url)
    await walk.finish()
    await check_books(store, database_url)
    after = await store.states([*walk.payments, ORDER, OTHER_ORDER])
    assert {held.open_events for held in after.values()} == {0}


# --- one statement for a whole batch --------------------------------------------------------------


@pytest.mark.parametrize("character", ["\x1e", "\x1f"])
async def test_a_text_with_a_separator_in_it_shifts_no_other_row(
    store: Store, character: str
) -> None:
    """Columns travel as joined texts: one that holds the separator is refused alone, or kept."""
    odd = Entity("default", EntityKind.CHARGE, f"1{character}2")
    events = [event("a", ONE), event("odd", odd, tx_ref=f"x{character}"), event("b", TWO)]
    first, strange, last = await store.acknowledge(events)
    assert isinstance(first, Recorded)
    assert isinstance(last, Recorded)
    assert [one.states[0].entity for one in (first, last)] == [ONE, TWO]
    known = await store.states([ONE, odd, TWO])
    assert [known[ONE].open_events, known[TWO].open_events] == [1, 1]
    if isinstance(strange, Exception):
        assert odd not in known
    else:
        assert strange.states[0].entity == odd


async def test_a_new_payment_is_written_once_and_reads_as_it_was_told(store: Store) -> None:
    """What `acknowledge` returns of rows that it has made is what is in the database."""
    again = event("e1")
    told = await recorded(store, event("e1"), event("e2"), again, event("e3", TWO))
    assert [one.duplicate for one in told] == [False, False, True, False]
    states = {state.entity: state for one in told for state in one.states}
    assert await store.states(list(states)) == states
    assert {e: s.open_events for e, s in states.items()} == {ONE: 2, TWO: 1, ORDER: 3}
    assert {state.version for state in states.values()} == {1}
