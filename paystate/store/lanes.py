"""Connections for single statements on PostgreSQL, past SQLAlchemy.

A statement that is a transaction of its own needs no more than asyncpg and its prepared statements.
SQLAlchemy's way there (a greenlet, an adapted cursor, a transaction begun and ended) costs ten
times the processor time of the statement itself. The connections are the engine's own, made as it
makes all of them, and kept for as long as they work.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Lanes"]

MOST = 4


class Lanes:
    """Up to `MOST` connections of an engine's pool of `pool`, less than half of it.

    They are opened when they are first needed. More are left for transactions.
    """

    def __init__(self, engine: AsyncEngine, pool: int) -> None:
        self._engine = engine
        self.most = min(MOST, (pool - 1) // 2)
        self._turns = asyncio.Semaphore(self.most)
        self._idle: list[Any] = []

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """Run one statement, committed when it returns, and return its rows.

        Raises what asyncpg raises, and SQLAlchemy's DBAPIError or TimeoutError where it cannot
        connect. After a connection was lost nothing is known of the statement.
        """
        async with self._turns:
            lane = await self._take()
            try:
                rows: list[Any] = await lane.driver_connection.fetch(sql, *arguments)
            except asyncpg.PostgresError:
                self._give_back(lane)
                raise
            except BaseException:
                lane.invalidate()  # what is still to come on it is for nobody else
                raise
            self._give_back(lane)
            return rows

    async def _take(self) -> Any:
        while self._idle:
            lane = self._idle.pop()
            if not lane.driver_connection.is_closed():
                return lane
            lane.invalidate()
        dialect = self._engine.dialect
        try:
            made: Any = await self._engine.raw_connection()
        except dialect.loaded_dbapi.Error as e:
            # What is asked of each new connection was not answered. Past SQLAlchemy's own
            # connections nobody makes of the driver's error what its callers know.
            raise DBAPIError.instance(
                None, None, e, dialect.loaded_dbapi.Error, connection_invalidated=True,
                dialect=dialect,
            ) from e  # fmt: skip
        if made.driver_connection.is_in_transaction():
            # Whatever has been asked of the new connection began one, and nobody would commit it.
            try:
                await made.driver_connection.execute("ROLLBACK")
            except BaseException:
                made.invalidate()
                raise
        return made

    def _give_back(self, lane: Any) -> None:
        if lane.driver_connection.is_closed():
            lane.invalidate()
        else:
            self._idle.append(lane)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().invalidate()
