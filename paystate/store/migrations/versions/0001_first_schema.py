"""The first schema: entities, details, overlays, inbox, change log."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql, sqlite

revision = "0001"
down_revision = None

# Spelled out, not imported: a migration is what it was, whatever the tables become.
key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
row_id = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
OPEN = sa.text("state = 'open'")
STUCK = sa.text("state IN ('held', 'dead')")


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "entities",
        sa.Column("key", key, nullable=False),
        sa.Column("merchant", key, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("link", key),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("open_events", sa.Integer, nullable=False),
        sa.Column("held_events", sa.Integer, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_entities"),
    )
    op.create_index("ix_entities_merchant_link", "entities", ["merchant", "link"])
    op.create_table(
        "details",
        sa.Column("key", key, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_details"),
    )
    op.create_table(
        "overlays",
        sa.Column("key", key, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("overlay_id", key, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("amount", sa.Text),
        sa.Column("currency", sa.Text),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", "type", "overlay_id", name="pk_overlays"),
    )
    op.create_table(
        "inbox",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("event_key", key, nullable=False),
        sa.Column("merchant", key, nullable=False),
        sa.Column("api", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("entity_key", key),
        sa.Column("reference_key", key),
        sa.Column("content", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("claimed_until_ms", sa.BigInteger, nullable=False),
        sa.Column("claimed_by", sa.Text),
        sa.Column("ended_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_inbox"),
        sa.UniqueConstraint("event_key", name="uq_inbox_event_key"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_inbox_open_due", "inbox", ["due_ms"], postgresql_where=OPEN, sqlite_where=OPEN
    )
    op.create_index("ix_inbox_entity_key", "inbox", ["entity_key"])
    op.create_index(
        "ix_inbox_stuck", "inbox", ["state"], postgresql_where=STUCK, sqlite_where=STUCK
    )
    op.create_table(
        "changes",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("xid", sa.BigInteger, nullable=False),
        sa.Column("entity_key", key, nullable=False),
        sa.Column("merchant", key, nullable=False),
        sa.Column("payment_id", sa.Text),
        sa.Column("tx_ref", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("previous_status", sa.Text),
        sa.Column("terminal", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("previous_version", sa.BigInteger, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_changes_cursor", "changes", ["xid", "id"])
    op.create_index("ix_changes_entity_key", "changes", ["entity_key", "version"])
