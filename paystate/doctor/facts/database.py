"""The database: what kind it is, how it is set up, its schema, and how the inbox stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

import paystate.store
from paystate.doctor.findings import Missing
from paystate.errors import StoreUnavailable
from paystate.store.engine import Database, async_url, open_database
from paystate.store.tables import inbox, now_ms

__all__ = ["DatabaseFacts", "InboxFacts", "PostgresFacts", "read_database", "revisions"]

# A row that is due, that nobody holds and nobody has taken for so long: the sweeper runs every
# second or two, so there is none.
OVERDUE_MS = 30_000


_NO_INBOX = Missing("the inbox was not reached")


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """What PostgreSQL says of itself. `synchronous_commit` is in force on paystate's connections.

    `plain_synchronous_commit` is what the role gets by itself, `plain_source` who says so.
    `connections` is the most that the role may have on this database.
    """

    version: int
    encoding: str
    fsync: str
    synchronous_commit: str
    plain_synchronous_commit: str
    plain_source: str
    connections: int


@dataclass(frozen=True, slots=True)
class InboxFacts:
    """How the inbox stands. `apis` counts the events of each merchant and api (v3, v4) of a week.

    `hosts` are those that hold claims now or whose last claim has been kept.
    """

    open: int = 0
    overdue: int = 0
    held: int = 0
    dead: int = 0
    apis: Mapping[tuple[str, str], int] = field(default_factory=dict)
    hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One database. `trouble` says in one word why it was not reached; then nothing else counts.

    `path` is SQLite's file. `migrated` says whether a schema is there, `revision` which, `ahead_s`
    how far the clock is ahead of this host's. `postgres` is None on SQLite.
    """

    trouble: str = ""
    path: Path | None = None
    migrated: bool = False
    revision: str | None = None
    ahead_s: float = 0.0
    postgres: PostgresFacts | None = None
    inbox: InboxFacts | Missing = _NO_INBOX


def revisions() -> list[str]:
    """Return the schema's revisions that this code knows, the latest first."""
    folder = Path(paystate.store.__file__).parent / "migrations"
    return [script.revision for script in ScriptDirectory(str(folder)).walk_revisions()]


async def read_database(url: str, *, timeout_s: float, now: Callable[[], float]) -> DatabaseFacts:
    """Ask the database of `url` about itself; makes no file and never raises for one away."""
    path: Path | None = None
    target = make_url(url)
    if target.get_backend_name() == "sqlite":
        path = Path(target.database or "")
        if not path.is_file():
            return DatabaseFacts(trouble="no_file", path=path)
    database = open_database(url, pool=1, timeout_s=timeout_s)
    try:
        found = await database.read(lambda c: _read(c, database, url, path, now))
        return replace(found, inbox=await _inbox(database))
    except StoreUnavailable as e:
        return DatabaseFacts(trouble=_trouble(e.reason, e.__cause__), path=path)
    except TypeError:
        return DatabaseFacts(trouble="parameter", path=path)  # of the URL, and unknown to asyncpg
    except (SQLAlchemyError, OSError) as e:
        return DatabaseFacts(trouble=_trouble("database_unavailable", e), path=path)
    finally:
        await database.close()


# By the classes of SQLSTATE: what the one who set it up can do about each.
_STATES = {
    "28": "password",
    "3D": "no_database",
    "53": "full",
    "42501": "forbidden",
    "08P01": "pooler",
}


def _trouble(reason: str, cause: BaseException | None) -> str:
    state = str(getattr(getattr(cause, "orig", cause), "sqlstate", None) or "")
    for start, word in _STATES.items():
        if state.startswith(start):
            return word
    if reason == "database_is_a_replica":
        return "replica"
    text = str(cause)
    if "SSL" in text or "certificate" in text:
        return "tls"
    if "not a database" in text:
        return "no_database_file"
    return "unreachable" if reason == "database_unreachable" else "unavailable"


async def _read(
    connection: AsyncConnection,
    database: Database,
    url: str,
    path: Path | None,
    now: Callable[[], float],
) -> DatabaseFacts:
    before = now()
    seen_ms = (await connection.execute(select(now_ms()))).scalar_one()
    ahead_s = seen_ms / 1000 - (before + now()) / 2
    tables = await connection.run_sync(lambda c: set(inspect(c).get_table_names()))
    revision = None
    if "alembic_version" in tables:
        found = await connection.execute(text("SELECT version_num FROM alembic_version"))
        revision = found.scalar()
    return DatabaseFacts(
        path=path,
        migrated="entities" in tables,
        revision=revision,
        ahead_s=ahead_s,
        postgres=await _postgres(connection, url) if database.dialect == "postgresql" else None,
    )


_SERVER = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_encoding') AS encoding,
       current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       LEAST(current_setting('max_connections')::int
               - current_setting('superuser_reserved_connections')::int,
             (SELECT CASE WHEN rolconnlimit < 0 THEN 2147483647 ELSE rolconnlimit END
                FROM pg_roles WHERE rolname = current_user),
             (SELECT CASE WHEN datconnlimit < 0 THEN 2147483647 ELSE datconnlimit END
                FROM pg_database WHERE datname = current_database())) AS connections
"""
_PLAIN = "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'"


async def _postgres(connection: AsyncConnection, url: str) -> PostgresFacts:
    said = (await connection.execute(text(_SERVER))).mappings().one()
    # As the role, the database or the file has it: paystate's own connections ask for `on`.
    engine = create_async_engine(async_url(url), poolclass=NullPool, hide_parameters=True)
    try:
        async with engine.connect() as plain:
            setting, source = (await plain.execute(text(_PLAIN))).one()
    finally:
        await engine.dispose()
    return PostgresFacts(**dict(said), plain_synchronous_commit=setting, plain_source=source)


async def _inbox(database: Database) -> InboxFacts | Missing:
    """Count what can be counted: a schema of another version may lack a table or a column."""
    try:
        return await database.read(_count)
    except (SQLAlchemyError, StoreUnavailable):
        return Missing("the inbox cannot be read: see database.migrated")


async def _count(connection: AsyncConnection) -> InboxFacts:
    overdue = (inbox.c.claimed_until_ms <= now_ms()) & (inbox.c.due_ms <= now_ms() - OVERDUE_MS)
    stood = await connection.execute(
        select(inbox.c.state, func.count(), func.count().filter(overdue))
        .where(inbox.c.state.in_(["open", "held", "dead"]))
        .group_by(inbox.c.state)
    )
    rows: dict[str, Any] = {row[0]: row for row in stood}
    counts = {state: int(row[1]) for state, row in rows.items()}
    recent = inbox.c.received_ms >= now_ms() - 7 * 24 * 3600 * 1000
    # The latest ones, whatever the table's size: ids rise with time.
    latest = select(inbox.c.merchant, inbox.c.api).where(recent).order_by(inbox.c.id.desc())
    last = latest.limit(10_000).subquery()
    apis = await connection.execute(
        select(last.c.merchant, last.c.api, func.count()).group_by(last.c.merchant, last.c.api)
    )
    holders = await connection.execute(
        select(inbox.c.claimed_by).where(inbox.c.state == "open").distinct().limit(1000)
    )
    return InboxFacts(
        open=counts.get("open", 0),
        overdue=int(rows["open"][2]) if "open" in rows else 0,
        held=counts.get("held", 0),
        dead=counts.get("dead", 0),
        apis={(row[0], row[1]): row[2] for row in apis},
        hosts=frozenset(row[0].split(":")[0] for row in holders if row[0]),
    )
