"""What the audit has found wrong."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql, sqlite

revision = "0003"
down_revision = "0002"

key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
row_id = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")


def upgrade() -> None:
    """Create the table of violations."""
    op.create_table(
        "violations",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("merchant", key),
        sa.Column("entity_key", key),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_violations"),
        sqlite_autoincrement=True,
    )
