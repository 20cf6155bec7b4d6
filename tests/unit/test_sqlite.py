"""Connections to SQLite: what a cancelled call leaves behind ends before the database is closed."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.store.engine import Database, open_database


class Held:
    """A call in a connection's thread that is over when `release` is set."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.release = threading.Event()
        self.threads: set[threading.Thread] = set()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> int:
        self.threads.add(threading.current_thread())
        self._loop.call_soon_threadsafe(self.begun.set)
        return int(self.release.wait(60))


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    """A call that does not outlive its test."""
    call = Held()
    try:
        yield call
    finally:
        call.release.set()


async def _close(database: Database, held: Held) -> None:
    """Close `database` while a call of it is `held`, and see that nothing is left of that."""
    asyncio.get_running_loop().call_later(0.05, held.release.set)
    await database.close()
    assert held.release.is_set()
    assert [thread.is_alive() for thread in held.threads] == [False]
    async with asyncio.timeout(30):  # nothing waits for a thread that has ended
        await asyncio.gather(
            *asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True
        )


def _open(folder: Path) -> Database:
    return open_database(f"sqlite:///{folder}/paystate.db", pool=2, timeout_s=30)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_statement_is_left_by_who_is_cancelled(
    tmp_path: Path, held: Held, times: int
) -> None:
    """Cancelled once, a reader waits for its statement; cancelled again, it goes."""

    async def work(connection: AsyncConnection) -> Any:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        await raw.driver_connection.create_function("hold", 0, held)
        return await connection.exec_driver_sql("SELECT hold()")

    database = _open(tmp_path)
    reading = asyncio.create_task(database.read(work))
    await held.begun.wait()
    for _ in range(times):
        reading.cancel()
        await asyncio.sleep(0)
    await _close(database, held)
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_connection_is_left_as_it_opens(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def slowly(*arguments: Any, **options: Any) -> sqlite3.Connection:
        held()
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", slowly)
    database = _open(tmp_path)
    opening = asyncio.create_task(database.read(lambda connection: asyncio.sleep(0)))
    await held.begun.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await _close(database, held)
