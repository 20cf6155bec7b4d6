"""SQLite for one machine: write-ahead log, synchronous FULL, and a lock taken at the beginning.

Transactions that write take the lock when they begin, so that none fails half way. Each connection
has a thread of its own, which tells the event loop what has come of a call.
"""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakSet

import aiosqlite
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["Threads", "open_sqlite"]


class _Connection(aiosqlite.Connection):
    """A connection that may be told to stop twice."""

    def __init__(self, database: str, options: dict[str, Any]) -> None:
        super().__init__(partial(sqlite3.connect, database, **options), iter_chunk_size=64)
        self.thread: Thread = self._thread
        # As it is in SQLAlchemy: a connection that nobody closes must not keep a process alive.
        self.thread.daemon = True
        self._stopped: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        # The thread ends at the first word and never answers another. A reader that was cancelled
        # twice speaks it twice, and would wait for ever.
        if self._stopped is None:
            self._stopped = super().stop()
        return None if self._stopped is None else asyncio.shield(self._stopped)


class Threads:
    """The threads of one engine's connections.

    Whoever is cancelled within a call leaves it to its thread, and the engine knows nothing of that
    connection any more. An event loop that is closed before the thread is done cannot be told, and
    the thread would end in a traceback; so `ended` comes before.
    """

    def __init__(self) -> None:
        self._started: WeakSet[Thread] = WeakSet()

    def connect(self, database: str, **options: Any) -> aiosqlite.Connection:
        """Return a connection that opens when awaited."""
        connection = _Connection(database, options)
        self._started.add(connection.thread)
        return connection

    async def ended(self, *, timeout_s: float) -> None:
        """Wait until all have ended, or as long as `timeout_s` for one that is still in use."""
        living = [thread for thread in self._started if thread.is_alive()]
        await asyncio.gather(*(asyncio.to_thread(thread.join, timeout_s) for thread in living))


def open_sqlite(target: URL, pool: int, timeout_s: float) -> tuple[AsyncEngine, Threads]:
    """Return an engine with up to `pool` connections, and their threads; connects when used."""
    if target.database and target.database != ":memory:":
        Path(target.database).parent.mkdir(parents=True, exist_ok=True)
    threads = Threads()
    engine = create_async_engine(
        target,
        pool_size=pool,
        max_overflow=0,
        pool_timeout=timeout_s,
        hide_parameters=True,
        connect_args={
            "timeout": timeout_s,
            "isolation_level": None,
            "async_creator_fn": threads.connect,
        },
    )
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine, threads


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Any) -> None:
    write = connection.get_execution_options().get("paystate_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN DEFERRED")
