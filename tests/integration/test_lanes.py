"""Rows are read past SQLAlchemy, on connections that are kept and given up as they must be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.errors import StoreUnavailable
from paystate.keys import Entity, EntityKind
from paystate.status import Status
from paystate.store import Decision, Recorded, Settled, Store, open_store, rows
from paystate.store.engine import open_database
from tests.integration.test_store import event, seen

HANGS_S = 60
ODD_IDS = ["1001", "un", "with space", "tab\there", "quote'\"", "Ünïcode"]
# A path may hold a separator of ours: what is asked for is one payment then, not two.
SEPARATED = Entity("default", EntityKind.CHARGE, "un\x1fit")


def _entities() -> list[Entity]:
    return [Entity("default", EntityKind.CHARGE, own_id) for own_id in ODD_IDS]


async def _of_the_server(url: str, sql: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def _made(store: Store) -> None:
    recorded = await store.acknowledge([event(f"e-{e.id}", e) for e in _entities()])
    assert not any(isinstance(one, Exception) for one in recorded)


async def test_what_is_read_directly_is_what_is_read_otherwise(postgres_url: str) -> None:
    async with open_store(postgres_url, pool=4, timeout_s=10) as store:
        await _made(store)
        database = open_database(postgres_url, pool=4, timeout_s=10)
        try:
            for some in ([], _entities()[:1], _entities()):
                keys = sorted(e.row_key for e in some)
                usual = await database.read(lambda c, k=keys: rows.load(c, "postgresql", k))
                assert await rows.load_directly(database, keys) == usual
                assert set(usual) == set(some)
            assert await store.states([SEPARATED]) == {}
        finally:
            await database.close()


async def test_it_is_read_in_no_transaction(postgres_url: str) -> None:
    """One left open would hold back what may be vacuumed."""
    database = open_database(postgres_url, pool=4, timeout_s=10)
    try:
        for number in (42, 43):
            assert [row[0] for row in await database.fetch(f"SELECT {number}")] == [number]
        states = await _of_the_server(
            postgres_url,
            "SELECT state FROM pg_stat_activity WHERE application_name = 'paystate'"
            " AND datname = current_database()",
        )
        assert [row["state"] for row in states] == ["idle"]
    finally:
        await database.close()
    assert await _left(postgres_url) == 0


async def test_a_small_pool_is_left_to_everybody(postgres_url: str) -> None:
    async with open_store(postgres_url, pool=1, timeout_s=10) as store:
        await _made(store)
        assert len(await store.states(_entities())) == len(ODD_IDS)
        assert await _left(postgres_url) == 1


async def _left(url: str) -> int:
    sql = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'paystate' AND datname = current_database()"
    )
    return int((await _of_the_server(url, sql))[0][0])


async def test_a_connection_that_was_ended_costs_nobody_an_answer(postgres_url: str) -> None:
    async with open_store(postgres_url, pool=4, timeout_s=10) as store:
        await _made(store)
        for _ in range(2):
            assert len(await store.states(_entities()[:5])) == 5
            await _of_the_server(
                postgres_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'paystate' AND datname = current_database()",
            )
        assert len(await store.states(_entities()[:5])) == 5


async def test_a_statement_that_hangs_is_waited_for_once(postgres_url: str) -> None:
    database = open_database(postgres_url, pool=4, timeout_s=1)
    try:
        with pytest.raises(StoreUnavailable):
            await database.fetch("SELECT pg_sleep(30)")
        answered: list[Any] = []
        while not answered:  # a new connection may take a busy machine more than that second
            with contextlib.suppress(StoreUnavailable):
                answered = await database.fetch("SELECT 1")
        assert [row[0] for row in answered] == [1]
    finally:
        await database.close()


async def test_no_table_is_gone_through(postgres_url: str) -> None:
    """Recording and settling find rows by their keys, also by plans made for empty tables."""
    async with open_store(postgres_url, pool=6, timeout_s=10) as store:
        await _of_the_server(postgres_url, "ANALYZE")
        await _of_the_server(postgres_url, "SELECT pg_stat_reset()")  # what others have done here
        for kind in ("charge", "transfer"):
            entities = [Entity("default", EntityKind(kind), str(n)) for n in range(50)]
            for name in ("new", "known"):
                found = await store.acknowledge([event(f"{name}-{kind}-{e.id}", e)
                                                 for e in entities])  # fmt: skip
                ids = [one.inbox_id for one in found if isinstance(one, Recorded)]
                look = await store.look([i for i in ids if i is not None])
                decisions = [
                    Decision(row.id, row.entity, update=seen(Status.PENDING, row.entity))
                    for row in look.rows
                ]

                async def nothing(_states: object) -> None: ...

                settled = await store.settle(decisions, nothing, look=look)
                assert [len(one.endings) for one in settled if isinstance(one, Settled)] == [50]
            assert len(await store.states(entities)) == 50
    async with asyncio.timeout(HANGS_S):
        while await _left(postgres_url):  # a connection tells what it has done when it ends
            pass
    scans = await _of_the_server(
        postgres_url,
        "SELECT relname FROM pg_stat_user_tables WHERE seq_tup_read > 0 AND relname IN"
        " ('entities', 'inbox', 'changes', 'details', 'customers', 'customer_payments')",
    )
    assert [row["relname"] for row in scans] == []


# The server's last word, as it shuts down or an administrator ends a session.
_ADMIN_SHUTDOWN = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
_LAST_WORD = b"E" + (len(_ADMIN_SHUTDOWN) + 4).to_bytes(4) + _ADMIN_SHUTDOWN


@dataclass
class _Breaking:
    """A way to the server at `url`."""

    url: str
    # Each connection on which one of these is said is closed.
    words: set[bytes] = field(default_factory=set)
    # Once: with the answer to this comes the server's last word, and the end of the connection
    # some time later.
    last: bytes | None = None


@asynccontextmanager
async def _breaking_off(postgres_url: str) -> AsyncIterator[_Breaking]:
    parsed = urlsplit(postgres_url)
    socket = f"{parse_qs(parsed.query)['host'][0]}/.s.PGSQL.5432"

    ways: set[asyncio.Task[None] | None] = set()

    async def carry(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ended: asyncio.Event,
        *,
        ask: bool,
    ) -> None:
        try:
            while data := await reader.read(65536):
                if any(word in data for word in way.words):
                    break
                if ask and way.last is not None and way.last in data:
                    way.last = None
                    ended.set()
                elif ended.is_set() and not ask:
                    data += _LAST_WORD
                    ended.clear()
                writer.write(data)
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ways.add(asyncio.current_task())
        from_server, to_server = await asyncio.open_unix_connection(socket)
        ended = asyncio.Event()
        both = (
            carry(reader, to_server, ended, ask=True), carry(from_server, writer, ended, ask=False),
        )  # fmt: skip
        await asyncio.gather(*both, return_exceptions=True)
        for one in (writer, to_server):
            with contextlib.suppress(ConnectionError):
                await one.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    way = _Breaking(f"postgresql://postgres@127.0.0.1:{port}{parsed.path}")
    try:
        yield way
    finally:
        server.close()
        async with asyncio.timeout(HANGS_S):
            await asyncio.gather(*[way for way in ways if way is not None])


async def test_a_server_that_ends_while_it_is_connected_to_is_away(postgres_url: str) -> None:
    """More often than the pool has connections: none of them is lost on the way."""
    async with _breaking_off(postgres_url) as way:
        database = open_database(way.url, pool=4, timeout_s=10)
        try:
            way.words.add(b"pg_is_in_recovery")
            for _ in range(5):
                with pytest.raises(StoreUnavailable):
                    await database.fetch("SELECT 1")
            way.words.clear()
            assert [row[0] for row in await database.fetch("SELECT 1")] == [1]
        finally:
            await database.close()


@pytest.mark.parametrize("statement", [b"BEGIN", b"pg_is_in_recovery", b"one_answer"])
async def test_a_session_that_is_ended_between_two_statements_costs_nobody_an_answer(
    postgres_url: str, statement: bytes
) -> None:
    """asyncpg knows that it is no more, and not yet that the connection is closed."""

    async def ask_twice(connection: AsyncConnection) -> list[Any]:
        await connection.execute(text("SELECT 1 AS one_answer"))
        return list((await connection.execute(text("SELECT 42"))).scalars())

    async with _breaking_off(postgres_url) as way:
        database = open_database(way.url, pool=4, timeout_s=10)
        try:
            for run in (database.read, database.snapshot, database.write):
                await database.engine.dispose()  # what is asked of a new connection is asked again
                way.last = statement
                assert await run(ask_twice) == [42]
                assert way.last is None
        finally:
            await database.close()
