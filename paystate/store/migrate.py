"""Brings the database to the schema of this version."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from paystate.errors import StoreUnavailable
from paystate.store.engine import open_database

__all__ = ["upgrade"]

# Any number will do, so long as every version of paystate uses the same one.
_ADVISORY_LOCK = 0x7061_7973

# Two processes that meet at a new SQLite file: its switch to the write-ahead log does not wait for
# the other's, as everything after it does.
LOCKED_TRIES = 50
LOCKED_WAIT_S = 0.1


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def upgrade_async(database_url: str) -> None:
    """Apply every migration that is missing; one process at a time, safe to run again.

    Raises StoreUnavailable if the database cannot be reached.
    """
    for left in reversed(range(LOCKED_TRIES)):
        try:
            return await _upgrade_once(database_url)
        except StoreUnavailable as e:
            if not (left and "database is locked" in str(e.__cause__)):
                raise
        await asyncio.sleep(LOCKED_WAIT_S)
    return None


async def _upgrade_once(database_url: str) -> None:
    database = open_database(database_url, pool=1, timeout_s=30)
    try:
        async with database.engine.connect() as connection:
            write = await connection.execution_options(paystate_write=True)
            async with write.begin():
                if database.dialect == "postgresql":
                    await write.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
                await write.run_sync(_upgrade)
    except (OSError, OperationalError) as e:
        raise StoreUnavailable("database_unreachable", "the database cannot be reached") from e
    except DBAPIError as e:
        if e.connection_invalidated:
            raise StoreUnavailable("database_unreachable") from e
        raise
    finally:
        await database.close()


def upgrade(database_url: str) -> None:
    """Run `upgrade_async` from code without an event loop."""
    asyncio.run(upgrade_async(database_url))
