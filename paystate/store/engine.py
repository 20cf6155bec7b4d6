"""Connections to the database, set up on purpose, and the one place that runs a transaction.

PostgreSQL: the primary only, READ COMMITTED, synchronous commit on, because the 200 that a webhook
gets means *committed*. What SQLite needs for the same is in `sqlite.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paystate.errors import StoreUnavailable
from paystate.store.lanes import Lanes
from paystate.store.revision import not_migrated
from paystate.store.sqlite import Threads, open_sqlite
from paystate.values import POOLER, TLS_PARAMETERS

__all__ = ["Database", "async_url", "open_database"]

T = TypeVar("T")

# PostgreSQL: deadlock_detected and serialization_failure end a transaction that may be run again.
_RUN_AGAIN = frozenset({"40P01", "40001"})
# Server shutting down, crash, cannot connect now, read only (a demoted primary), statement or lock
# timeout, too many clients, out of disk or memory: the statement is sound, the database is not.
_UNAVAILABLE = ("57", "08", "25", "53", "55P03", "58", "XX")
# undefined_table, undefined_column; SQLite has words for them.
_NOT_MIGRATED = ("42P01", "42703")
_NOT_MIGRATED_WORDS = ("no such table", "no such column", "has no column named")
# insufficient_privilege
_FORBIDDEN = "42501"
# Each retry is a whole transaction; a failover that takes longer is an outage, answered as one.
_TRIES = 4
# A connection that somebody still uses when the database is closed holds that up no longer.
_STILL_IN_USE_S = 5.0


def async_url(url: str) -> URL:
    """Return the URL with the asynchronous driver that belongs to it."""
    parsed = make_url(url).difference_update_query([POOLER])
    if parsed.get_backend_name() == "sqlite":
        return parsed.set(drivername="sqlite+aiosqlite")
    # asyncpg takes these in an address of its own only, as libpq's; the rest goes to it by name.
    tls = {name: value for name, value in parsed.query.items() if name in TLS_PARAMETERS}
    query = {name: value for name, value in parsed.query.items() if name not in tls}
    if tls:
        query["dsn"] = URL.create("postgresql", query=tls).render_as_string()
    return parsed.set(drivername="postgresql+asyncpg", query=query)


class Database:
    """An engine and the rules for using it."""

    def __init__(
        self,
        engine: AsyncEngine,
        lanes: Lanes | None = None,
        *,
        pooled: bool = False,
        threads: Threads | None = None,
    ) -> None:
        self.engine = engine
        self._threads = threads
        self._pooled = pooled
        self.dialect: str = engine.dialect.name
        self.lanes = lanes if lanes is not None and lanes.most else None

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in one transaction and commit it.

        Runs it again after a deadlock or a lost connection: `work` must end in the same state when
        run twice, as everything here does (an event key is recorded once, an inbox row ends once).
        Raises StoreUnavailable if the database cannot be reached.
        """
        return await self._run(work, {"paystate_write": True} if self._is_sqlite else {})

    async def snapshot(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` without writing; all of its statements see one moment.

        Raises StoreUnavailable.
        """
        # On SQLite every transaction does.
        options = {} if self._is_sqlite else {"isolation_level": "REPEATABLE READ"}
        return await self._run(work, options)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` on a connection without writing. Raises StoreUnavailable."""
        # Each statement sees its own moment in READ COMMITTED too: a transaction around them would
        # be two more round trips.
        # A pooler needs one, or parts of a statement would go to different servers.
        plain = self._is_sqlite or self._pooled
        return await self._run(work, {} if plain else {"isolation_level": "AUTOCOMMIT"})

    async def fetch(self, sql: str, *arguments: Any, once: bool = False) -> list[Any]:
        """Run one statement as a transaction of its own, on one of the `lanes`; return its rows.

        Runs it again after a deadlock or a lost connection, as `write` does, unless it must run
        `once`. Raises StoreUnavailable, and asyncpg.PostgresError where the statement is refused.
        What ran once may have been committed all the same where its connection was lost.
        """
        if self.lanes is None:
            raise NotImplementedError("SQLite, and a small pool, have no lanes")
        for left in reversed(range(1 if once else _TRIES)):
            try:
                return await self.lanes.fetch(sql, *arguments)
            except (
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ) as e:
                if not (left and _is_passing(e)):
                    _convert_straight(e)
                    raise
            except (DBAPIError, PoolTimeout, OSError, TimeoutError) as e:
                _convert(e)
                raise
            await asyncio.sleep(0.02 * (_TRIES - left))
        raise AssertionError("unreachable")

    @property
    def _is_sqlite(self) -> bool:
        return self.dialect == "sqlite"

    async def _run(
        self, work: Callable[[AsyncConnection], Awaitable[T]], options: dict[str, Any]
    ) -> T:
        for left in reversed(range(_TRIES)):
            try:
                async with self.engine.connect() as connection:
                    if options:
                        connection = await connection.execution_options(**options)  # noqa: PLW2901
                    async with connection.begin():
                        return await work(connection)
            except (DBAPIError, PoolTimeout, OSError, TimeoutError) as e:
                if not (left and _may_run_again(e)):
                    _convert(e)
                    raise
                await asyncio.sleep(0.02 * (_TRIES - left))
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close every connection."""
        if self.lanes is not None:
            self.lanes.close()
        await self.engine.dispose()
        if self._threads is not None:
            await self._threads.ended(timeout_s=_STILL_IN_USE_S)


def _sqlstate(error: BaseException) -> str:
    origin = getattr(error, "orig", None)
    return str(getattr(origin, "sqlstate", None) or "")


def _may_run_again(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _sqlstate(error) in _RUN_AGAIN
    return False


def _convert(error: BaseException) -> None:
    """Raise StoreUnavailable if `error` means the database, not the statement, is at fault.

    Tables that are not there, or not those of this release, are the database's: they come with a
    migration, and until then nothing that waits may be given up for it.
    """
    if not isinstance(error, DBAPIError):
        raise StoreUnavailable("database_unreachable") from error
    state = _sqlstate(error)
    if state not in _RUN_AGAIN:
        _convert_state(state, error)
    lost = error.connection_invalidated or state in _RUN_AGAIN
    # SQLite has no codes.
    unnamed = not state and isinstance(error, (OperationalError, InterfaceError))
    said = str(getattr(error, "orig", ""))
    if unnamed and any(words in said for words in _NOT_MIGRATED_WORDS):
        raise not_migrated() from error
    if lost or unnamed:
        raise StoreUnavailable("database_unavailable") from error


def _convert_state(state: str, error: BaseException) -> None:
    """Raise StoreUnavailable if SQLSTATE `state` says that the database is at fault."""
    if state in _NOT_MIGRATED:
        raise not_migrated() from error
    if state == _FORBIDDEN:
        raise StoreUnavailable(
            "database_forbids",
            "the role of DATABASE_URL lacks a privilege: GRANT SELECT, INSERT, UPDATE, DELETE ON "
            "ALL TABLES (alembic_version too) and USAGE ON ALL SEQUENCES in the schema",
        ) from error
    if state.startswith(_UNAVAILABLE):
        reason = "database_read_only" if state == "25006" else "database_unavailable"
        raise StoreUnavailable(reason) from error


def _is_passing(error: Exception) -> bool:
    """Say whether asyncpg's `error` is a deadlock, or a connection that is gone."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state in _RUN_AGAIN or state.startswith(("08", "57P01"))
    return True


def _convert_straight(error: Exception) -> None:
    """Raise StoreUnavailable if asyncpg's `error` does not mean the statement."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        _convert_state(state, error)
        if state not in _RUN_AGAIN:
            return
    raise StoreUnavailable("database_unavailable") from error


def open_database(url: str, *, pool: int, timeout_s: float) -> Database:
    """Return a database for `url` with up to `pool` connections; connects when first used."""
    target = async_url(url)
    if target.get_backend_name() == "sqlite":
        on_disk, threads = open_sqlite(target, pool, timeout_s)
        return Database(on_disk, threads=threads)
    pooled = POOLER in make_url(url).query
    engine = create_async_engine(
        target,
        pool_size=pool,
        max_overflow=0,
        pool_timeout=timeout_s,
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # errors are logged; what was stored must not be
        connect_args={
            "timeout": timeout_s,
            "command_timeout": timeout_s,
            **(_BEHIND_A_POOLER if pooled else _AT_THE_SERVER),
        },
    )
    event.listen(engine.sync_engine, "connect", _refuse_unfit)
    event.listen(engine.sync_engine, "handle_error", _find_ended)
    return Database(engine, None if pooled else Lanes(engine, pool), pooled=pooled)


_AT_THE_SERVER: dict[str, Any] = {
    "server_settings": {
        "synchronous_commit": "on",
        "application_name": "paystate",
        # Statements differ in how many rows they are given, never in how to find them.
        "plan_cache_mode": "force_generic_plan",
        # Nor does a plan made for an empty table outlive its growth: until the table is analyzed
        # again, a scan of it would be a scan for every batch.
        "enable_seqscan": "off",
        # Before PostgreSQL 18 a scan that cannot be avoided looks so dear then that it would be
        # compiled.
        "jit": "off",
    },
}
# PgBouncer refuses what it does not know how to carry from one server to the next: settings, and
# statements that were prepared under a name.
_BEHIND_A_POOLER: dict[str, Any] = {
    "server_settings": {"application_name": "paystate"},
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}


def _find_ended(context: ExceptionContext) -> None:
    """Say of a connection that the server has ended that it is lost.

    asyncpg has read the server's last word then (it shuts down, or an administrator ended the
    session) but not yet the end of the connection, and can be asked for nothing more. SQLAlchemy
    takes that for an error of the statement.
    """
    if isinstance(context.original_exception.__cause__, asyncpg.InternalClientError):
        context.is_disconnect = True


def _refuse_unfit(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT pg_is_in_recovery(), current_setting('synchronous_commit')")
        is_replica, commits = cursor.fetchone()
        if is_replica:
            raise StoreUnavailable(
                "database_is_a_replica", "the database is in recovery; DATABASE_URL needs a primary"
            )
        # Behind a pooler it cannot be asked for.
        if commits == "off":
            raise StoreUnavailable(
                "database_commits_late",
                "synchronous_commit is off behind the pooler: ALTER ROLE ... SET it on",
            )
    finally:
        cursor.close()
        # The question has begun a transaction. Whoever goes past SQLAlchemy would not end it.
        connection.rollback()
