"""What operators have ruled on events that were given up, and why."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql, sqlite

revision = "0005"
down_revision = "0004"

key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
row_id = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")


def upgrade() -> None:
    """Create the table of rulings."""
    op.create_table(
        "rulings",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("inbox_id", sa.BigInteger, nullable=False),
        sa.Column("entity_key", key, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("why", sa.Text),
        sa.Column("was_state", sa.Text, nullable=False),
        sa.Column("was_reason", sa.Text),
        sa.Column("through_id", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_rulings"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rulings_entity_key", "rulings", ["entity_key"])
