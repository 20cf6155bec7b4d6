"""The tables, and the few expressions in which PostgreSQL and SQLite differ.

`entities` is the hot, narrow table: one row for each charge, transfer and merchant reference, with
the version that decides everywhere. What is only shown on request lies in `details`. Times are
milliseconds since the epoch by the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    any_,
    bindparam,
    false,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

__all__ = [
    "among",
    "changes",
    "current_xid",
    "details",
    "entities",
    "horizon",
    "inbox",
    "insert_new",
    "metadata",
    "now_ms",
    "overlays",
    "watermarks",
]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

# Byte order: the order in which Python sorts keys is then the order in which PostgreSQL locks rows.
Key = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
# SQLite numbers rows by itself only in a column declared INTEGER.
RowId = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")

entities = Table(
    "entities",
    metadata,
    Column("key", Key, primary_key=True),
    Column("merchant", Key, nullable=False),
    Column("kind", Text, nullable=False),
    Column("link", Key),
    Column("status", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("open_events", Integer, nullable=False),
    Column("held_events", Integer, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Index(None, "merchant", "link"),
)

details = Table(
    "details",
    metadata,
    Column("key", Key, primary_key=True),
    Column("content", Text, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
)

overlays = Table(
    "overlays",
    metadata,
    Column("key", Key, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("overlay_id", Key, primary_key=True),
    Column("status", Text, nullable=False),
    Column("amount", Text),
    Column("currency", Text),
    Column("updated_ms", BigInteger, nullable=False),
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("event_key", Key, nullable=False, unique=True),
    Column("merchant", Key, nullable=False),
    Column("api", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("entity_key", Key),
    Column("reference_key", Key),
    Column("content", Text),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("claimed_until_ms", BigInteger, nullable=False),
    Column("claimed_by", Text),
    Column("ended_ms", BigInteger),
    Index(
        "ix_inbox_open_due",
        "due_ms",
        postgresql_where=text("state = 'open'"),
        sqlite_where=text("state = 'open'"),
    ),
    Index("ix_inbox_entity_key", "entity_key"),
    Index(
        "ix_inbox_stuck",
        "state",
        postgresql_where=text("state IN ('held', 'dead')"),
        sqlite_where=text("state IN ('held', 'dead')"),
    ),
    sqlite_autoincrement=True,
)

changes = Table(
    "changes",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("xid", BigInteger, nullable=False),
    Column("entity_key", Key, nullable=False),
    Column("merchant", Key, nullable=False),
    Column("payment_id", Text),
    Column("tx_ref", Text),
    Column("status", Text, nullable=False),
    Column("previous_status", Text),
    Column("terminal", Boolean, nullable=False, server_default=false()),
    Column("version", BigInteger, nullable=False),
    Column("previous_version", BigInteger, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    Index("ix_changes_cursor", "xid", "id"),
    Index("ix_changes_entity_key", "entity_key", "version"),
    sqlite_autoincrement=True,
)


watermarks = Table(
    "watermarks",
    metadata,
    Column("name", Key, primary_key=True),
    Column("value", Text, nullable=False),
)


class now_ms(FunctionElement[int]):  # noqa: N801 - used like a SQL function
    """The database's clock, in milliseconds since the epoch."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "postgresql")
def _now_postgresql(_element: Any, _compiler: Any, **_: Any) -> str:
    return "CAST(extract(epoch from clock_timestamp()) * 1000 AS BIGINT)"


@compiles(now_ms, "sqlite")
def _now_sqlite(_element: Any, _compiler: Any, **_: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


class current_xid(FunctionElement[int]):  # noqa: N801 - used like a SQL function
    """The id of this transaction; 0 on SQLite, whose one writer needs none."""

    type = BigInteger()
    inherit_cache = True


@compiles(current_xid, "postgresql")
def _xid_postgresql(_element: Any, _compiler: Any, **_: Any) -> str:
    return "CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)"


@compiles(current_xid, "sqlite")
def _xid_sqlite(_element: Any, _compiler: Any, **_: Any) -> str:
    return "0"


class horizon(FunctionElement[int]):  # noqa: N801 - used like a SQL function
    """The oldest transaction that may still be running: all below it is visible or never will be.

    On SQLite, where nothing else can be writing, everything is below it.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(horizon, "postgresql")
def _horizon_postgresql(_element: Any, _compiler: Any, **_: Any) -> str:
    return "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)"


@compiles(horizon, "sqlite")
def _horizon_sqlite(_element: Any, _compiler: Any, **_: Any) -> str:
    return "1"


def insert_new(dialect: str, table: Table, *key: str) -> Any:
    """Return an INSERT into `table` that leaves rows whose `key` is there already as they are."""
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return make(table).on_conflict_do_nothing(index_elements=list(key))


def among(dialect: str, column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return ``column is one of values`` as one parameter on PostgreSQL.

    One parameter, whatever the number of values, is one prepared statement.
    """
    if dialect == "postgresql":
        array = bindparam(None, list(values), type_=postgresql.ARRAY(column.type))
        return column == any_(array)
    return column.in_(values)
