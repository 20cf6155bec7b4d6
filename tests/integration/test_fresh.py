"""What is recorded without a lock is what the locks would have recorded, whoever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from paystate.errors import StoreUnavailable
from paystate.keys import Entity, EntityKind
from paystate.store import NewEvent, Recorded, Store, open_store
from paystate.store.engine import open_database

HANGS_S = 60
_ROWS = {
    "entities": "SELECT key, merchant, kind, link, status, version, open_events, held_events, "
    "changed_ms > 0, abs(created_ms - changed_ms) < 60000 FROM entities ORDER BY key",
    "inbox": "SELECT event_key, merchant, api, type, subject, entity_key, reference_key, "
    "leaving_key, content, state, reason, attempts, received_ms = due_ms, claimed_until_ms, "
    "claimed_by, ended_ms FROM inbox ORDER BY event_key",
    "changes": "SELECT entity_key, merchant, payment_id, tx_ref, status, previous_status, "
    "terminal, version, previous_version, changed_ms > 0, xid > 0 FROM changes "
    "ORDER BY entity_key, version",
}


def _event(
    number: int, *, own_id: str | None = None, tx_ref: str | None = None, merchant: str = "default",
    kind: EntityKind = EntityKind.CHARGE, about: bool = True,
) -> NewEvent:  # fmt: skip
    entity = Entity(merchant, kind, own_id or f"id{number}") if about else None
    content = {"status": "pending", "amount": "1.50"} if about else None
    return NewEvent(merchant, "v4", "charge.completed", f"event{number}",
                    "payment" if about else "ignored", entity, tx_ref, content,
                    reason=None if about else "not_a_payment")  # fmt: skip


# Everything that may stand in one batch; what is alone in it, and new, is `_ALONE` of them.
_BATCH = [
    _event(1, tx_ref="order-1"),
    _event(2),
    _event(3, tx_ref="a name in another space", kind=EntityKind.TRANSFER),
    _event(4, tx_ref="order-1", merchant="acme"),
    _event(5, tx_ref="two-attempts"),
    _event(6, tx_ref="two-attempts"),
    _event(7, own_id="twice", tx_ref="order-7"),
    _event(8, own_id="twice", tx_ref="order-7"),
    _event(9, about=False),
    _event(10, tx_ref="order-10"),
    _event(10, tx_ref="order-10"),
    _event(0, own_id="known", tx_ref="known order"),
    _event(11, own_id="known", tx_ref="known order"),
    _event(12, tx_ref="known order"),
    _event(13, own_id="Ünïcode:'\\", tx_ref="Ö 'quoted' \\ {1,2} NULL"),
]
_ALONE = {"event1", "event2", "event3", "event4", "event13"}


async def _recorded(store: Store, *events: NewEvent) -> list[Recorded]:
    results = await store.acknowledge(events)
    assert not [result for result in results if isinstance(result, Exception)]
    return [result for result in results if isinstance(result, Recorded)]


async def _rows(store: Store) -> dict[str, Any]:
    async def read(connection: Any) -> dict[str, Any]:
        return {name: [tuple(row) for row in await connection.execute(text(sql))]
                for name, sql in _ROWS.items()}  # fmt: skip

    return await store._database.read(read)


def _plain(recorded: Recorded) -> tuple[Any, ...]:
    """Return what must not depend on how it was recorded."""
    assert {c.cursor.xid > 0 for c in recorded.changes} <= {True}
    states = [(s.entity, s.status, s.version, s.open_events, s.link) for s in recorded.states]
    changes = [{**c.to_json(), "cursor": "", "changed_at": ""} for c in recorded.changes]
    return recorded.duplicate, recorded.inbox_id is None, states, changes


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    """A store over an empty PostgreSQL."""
    async with open_store(postgres_url, pool=6, timeout_s=30) as opened:
        yield opened


def _spy(store: Store) -> list[int]:
    """Return how many events each statement without a lock has recorded."""
    sizes: list[int] = []
    fetch = store._database.fetch

    async def noted(sql: str, *arguments: Any) -> list[Any]:
        rows = await fetch(sql, *arguments)
        sizes.append(len((rows[0][0] or "").split()) // 2)
        return rows

    store._database.fetch = noted  # type: ignore[method-assign]
    return sizes


async def test_it_records_what_the_locks_would(store: Store) -> None:
    """In every table, and to the caller."""
    found = []
    for cautious in (True, False):
        sizes = _spy(store)
        store._cautious = True
        await _recorded(store, _event(0, own_id="known", tx_ref="known order"))
        store._cautious = cautious
        results = await _recorded(store, *_BATCH)
        found.append(([_plain(result) for result in results], await _rows(store)))
        assert sizes == ([] if cautious else [len(_ALONE)])

        async def clear(connection: Any) -> None:
            await connection.execute(text("TRUNCATE inbox, entities, changes"))

        await store._database.write(clear)
    assert found[0] == found[1]


async def test_what_is_new_takes_one_statement(store: Store) -> None:
    """Or this file would be testing nothing."""
    sizes = _spy(store)

    async def refuse(_work: Any) -> Any:
        raise AssertionError

    store._database.write = refuse  # type: ignore[method-assign]
    events = [_event(number, tx_ref=f"order-{number}") for number in range(300)]
    results = await _recorded(store, *events)
    assert len({result.inbox_id for result in results}) == 300
    assert sizes == [300]


async def test_it_is_committed_when_it_returns(store: Store, postgres_url: str) -> None:
    """Also on a connection that has just been opened, and for everybody else to see."""
    async with open_store(postgres_url, pool=2, timeout_s=30) as other:
        both = [_recorded(store, _event(number, tx_ref=f"order-{number}")) for number in (1, 2)]
        (one,), (two,) = await asyncio.gather(*both)
        for state in (*one.states, *two.states):
            assert (await other.states([state.entity]))[state.entity].open_events == 1


_OTHERS = {"payment": "charge:default:id1", "reference": "reference:default:order-1"}


@pytest.mark.parametrize("made", _OTHERS)
async def test_who_makes_a_row_at_the_same_time_is_seen(
    store: Store, postgres_url: str, made: str
) -> None:
    """Nothing is written beside what another transaction has made since the look."""
    key, other = _OTHERS[made], open_database(postgres_url, pool=2, timeout_s=30)
    try:
        async with other.engine.connect() as connection, connection.begin():
            await connection.execute(text(
                "INSERT INTO entities (key, merchant, kind, status, version, open_events, "
                "held_events, changed_ms, created_ms) "
                f"VALUES ('{key}', 'default', '{key.split(':')[0]}', 'pending', 3, 0, 0, 1, 1)"
            ))  # fmt: skip
            recording = asyncio.create_task(
                _recorded(store, _event(1, tx_ref="order-1"), _event(2, tx_ref="order-2"))
            )
            async with asyncio.timeout(HANGS_S), other.engine.connect() as watch:
                waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                while not (await watch.execute(waits)).scalar_one():
                    await watch.rollback()
        results = await recording
    finally:
        await other.close()
    versions = {s.entity.row_key: (s.version, s.open_events) for r in results for s in r.states}
    assert versions.pop(key) == (4, 1)
    assert set(versions.values()) == {(1, 1)}
    rows = await _rows(store)
    assert {row[0]: (row[5], row[6]) for row in rows["entities"]} == {
        s.entity.row_key: (s.version, s.open_events) for r in results for s in r.states
    }
    assert len(rows["inbox"]) == 2
    assert len(rows["changes"]) == 4


async def test_two_processes_record_the_same_event_once(store: Store, postgres_url: str) -> None:
    """One of them says that it is a duplicate, and both know the version to mark."""
    async with open_store(postgres_url, pool=6, timeout_s=30) as other:
        for number in range(20):
            events = [_event(number * 10 + n, tx_ref=f"order-{number * 10 + n}") for n in range(5)]
            both = await asyncio.gather(
                _recorded(store, *events), _recorded(other, *reversed(events))
            )
            for one, two in zip(both[0], reversed(both[1]), strict=True):
                assert {one.duplicate, two.duplicate} == {True, False}
                assert [s.version for s in one.states] == [s.version for s in two.states] == [1, 1]
    rows = await _rows(store)
    assert {row[6] for row in rows["entities"]} == {1}
    assert (len(rows["inbox"]), len(rows["changes"])) == (100, 200)


async def test_where_it_fails_the_locks_find_out(store: Store) -> None:
    """Also what it may have committed; and it is tried again once they have worked."""
    database, fetch = store._database, store._database.fetch
    calls = 0

    async def lose(sql: str, *arguments: Any) -> list[Any]:
        nonlocal calls
        calls += 1
        await fetch(sql, *arguments)
        raise StoreUnavailable("database_unreachable")

    database.fetch = lose  # type: ignore[method-assign]
    (first,) = await _recorded(store, _event(1, tx_ref="order-1"))
    assert (first.duplicate, [s.version for s in first.states]) == (True, [1, 1])
    database.fetch = fetch  # type: ignore[method-assign]
    sizes = _spy(store)
    (second,) = await _recorded(store, _event(2))
    assert (second.duplicate, sizes, calls) == (False, [1], 1)


async def test_what_has_been_committed_is_told_though_the_rest_fails(store: Store) -> None:
    """Its caller marks it, and acknowledges it."""
    await _recorded(store, _event(1, own_id="known"))

    async def refuse(_work: Any) -> Any:
        raise StoreUnavailable("database_unreachable")

    store._database.write = refuse  # type: ignore[method-assign]
    known, new = await store.acknowledge([_event(2, own_id="known"), _event(3)])
    assert isinstance(known, StoreUnavailable)
    assert isinstance(new, Recorded)
    assert not new.duplicate


async def test_one_row_that_cannot_be_stored_harms_no_other(store: Store) -> None:
    bad = _event(2, own_id="a\x1fb")
    results = await store.acknowledge([_event(1, tx_ref="order-1"), bad, _event(3)])
    assert [isinstance(result, Recorded) for result in results] == [True, False, True]
