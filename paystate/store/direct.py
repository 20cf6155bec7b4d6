"""One connection of its own for the one query that is always being asked.

The rows of unsettled payments are read up to a hundred times a second in each process, while people
wait. What SQLAlchemy does around a query (a greenlet, a checkout, a cached compilation, a result of
its own) takes several times as long there as asyncpg does. So that query goes to asyncpg as text,
on a connection that SQLAlchemy has made and checked like any other. Whatever goes wrong, the usual
way is still there, and says what it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paystate.errors import StoreUnavailable

__all__ = ["DirectReads"]


class DirectReads:
    """Reads on one connection that it keeps out of the pool of `engine`, which is PostgreSQL's."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        self._connection: AsyncConnection | None = None
        self._driver: Any = None

    async def fetch(self, sql: str, *values: Any) -> Sequence[Any] | None:
        """Return the rows of a statement that only reads, or None: ask in the usual way.

        That is where another read is under way, or this one failed. Raises StoreUnavailable if the
        database did not answer in time: nobody is to wait for that twice.
        """
        if self._turn.locked():
            return None
        async with self._turn:
            try:
                driver = self._driver or await self._open()
                rows: Sequence[Any] = await driver.fetch(sql, *values)
            except TimeoutError as e:
                self._drop()
                raise StoreUnavailable("database_unreachable") from e
            except Exception:
                self._drop()
                return None
            except BaseException:
                self._drop()
                raise
            return rows

    async def _open(self) -> Any:
        """Connect, and return asyncpg's connection: a primary's, outside of any transaction."""
        connection = await self._engine.connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            driver = (await connection.get_raw_connection()).driver_connection
        except BaseException:
            await connection.close()
            raise
        self._connection, self._driver = connection, driver
        return driver

    def _drop(self) -> None:
        """Give the connection up, whatever state it is in, and its place back to the pool."""
        held, self._connection, self._driver = self._connection, None, None
        if held is not None and held.sync_connection is not None:
            held.sync_connection.invalidate()
            held.sync_connection.close()

    async def close(self) -> None:
        """Close the connection."""
        async with self._turn:
            held, self._connection, self._driver = self._connection, None, None
            if held is not None:
                await held.close()
