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

from paystate.store.batches import NOW_MS

__all__ = [
    "BASE",
    "HORIZON",
    "XID",
    "among",
    "changes",
    "customer_payments",
    "customers",
    "details",
    "entities",
    "horizon",
    "idempotency",
    "inbox",
    "listings",
    "metadata",
    "now_ms",
    "overlays",
    "rulings",
    "unsettled",
    "violations",
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
    # Of a reference: what is to be paid for it, as `paystate.expected` writes it.
    Column("expected", Text),
    Index(None, "merchant", "link"),
)

details = Table(
    "details",
    metadata,
    Column("key", Key, primary_key=True),
    Column("content", Text, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
)

# See `paystate.store.customers`.
customers = Table(
    "customers",
    metadata,
    Column("key", Key, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("tickets", BigInteger, nullable=False),
    Column("profile_ticket", BigInteger, nullable=False),
    Column("profile_version", BigInteger, nullable=False),
    Column("name", Text),
    Column("email", Text),
    Column("phone", Text),
    Column("since", Text),
    Column("active_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("erased", Boolean, nullable=False, server_default=false()),
    Column("erased_through", BigInteger),
)

customer_payments = Table(
    "customer_payments",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("key", Key, nullable=False, unique=True),
    Column("customer_key", Key),
    Column("scrub", Boolean, nullable=False, server_default=false()),
    Index(None, "customer_key", "id"),
    sqlite_autoincrement=True,
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
    Column("leaving_key", Key),
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

violations = Table(
    "violations",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("merchant", Key),
    Column("entity_key", Key),
    Column("evidence", Text, nullable=False),
    sqlite_autoincrement=True,
)

rulings = Table(
    "rulings",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("inbox_id", BigInteger, nullable=False),
    Column("entity_key", Key, nullable=False),
    Column("action", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("why", Text),
    Column("was_state", Text, nullable=False),
    Column("was_reason", Text),
    Column("through_id", BigInteger),
    Index("ix_rulings_entity_key", "entity_key"),
    sqlite_autoincrement=True,
)


idempotency = Table(
    "idempotency",
    metadata,
    Column("key", Key, primary_key=True),
    Column("merchant", Key, nullable=False),
    Column("digest", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Index(None, "at_ms"),
)


# Payments that the reconciler asks about, and references that are expected.
unsettled = Table(
    "unsettled",
    metadata,
    Column("key", Key, primary_key=True),
    Column("merchant", Key, nullable=False),
    Column("first_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("asked_ms", BigInteger),
    Column("outcome", Text),
    Column("claimed_until_ms", BigInteger, nullable=False),
    Column("flagged_ms", BigInteger),
    Index(None, "due_ms"),
)

# How far the provider's own lists have been read, one row for each merchant and API.
listings = Table(
    "listings",
    metadata,
    Column("key", Key, primary_key=True),
    Column("merchant", Key, nullable=False),
    Column("through_ms", BigInteger, nullable=False),
    Column("since_ms", BigInteger),
    Column("until_ms", BigInteger),
    Column("page", Integer, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("claimed_until_ms", BigInteger, nullable=False),
)


# Which history of the database this is, in the bits above any transaction's id: a database that
# was restored to an earlier point gives out ids again (see `paystate.store.epoch`).
EPOCH = "cache_epoch"
EPOCH_BITS = 40  # 2 ** 40 = 1099511627776
_EPOCHS = (
    "(SELECT COALESCE(MAX(CAST(value AS BIGINT)), 0) * {times}"
    " FROM watermarks WHERE name = 'cache_epoch')"
)
_EPOCH = _EPOCHS.format(times=1 << EPOCH_BITS)
# How far each epoch raises the versions that there are. A payment's version rises a few times in
# its life; no lost history has raised one this often.
RAISED_BY = 1_000_000
# What versions begin above: the lost history may have known payments that are new to this one.
BASE = dict.fromkeys(("postgresql", "sqlite"), _EPOCHS.format(times=RAISED_BY))
# The id of this transaction; 0 on SQLite, whose one writer needs none.
XID = {
    "postgresql": f"(CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + {_EPOCH})",
    "sqlite": f"(0 + {_EPOCH})",
}
# See `horizon`.
HORIZON = {
    "postgresql": "(CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)"
    f" + {_EPOCH})",
    "sqlite": f"(1 + {_EPOCH})",
}


class now_ms(FunctionElement[int]):  # noqa: N801 - used like a SQL function
    """The database's clock, in milliseconds since the epoch."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "postgresql")
def _now_postgresql(_element: Any, _compiler: Any, **_: Any) -> str:
    return NOW_MS["postgresql"]


@compiles(now_ms, "sqlite")
def _now_sqlite(_element: Any, _compiler: Any, **_: Any) -> str:
    return NOW_MS["sqlite"]


class horizon(FunctionElement[int]):  # noqa: N801 - used like a SQL function
    """The oldest transaction that may still be running: all below it is visible or never will be.

    On SQLite, where nothing else can be writing, everything is below it.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(horizon, "postgresql")
def _horizon_postgresql(_element: Any, _compiler: Any, **_: Any) -> str:
    return HORIZON["postgresql"]


@compiles(horizon, "sqlite")
def _horizon_sqlite(_element: Any, _compiler: Any, **_: Any) -> str:
    return HORIZON["sqlite"]


def among(dialect: str, column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return ``column is one of values`` as one parameter on PostgreSQL.

    One parameter, whatever the number of values, is one prepared statement.
    """
    if dialect == "postgresql":
        array = bindparam(None, list(values), type_=postgresql.ARRAY(column.type))
        return column == any_(array)
    return column.in_(values)
