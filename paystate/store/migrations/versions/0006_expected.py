"""What is expected to be paid for a reference, and the keys of those who registered it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column, and the table of idempotency keys."""
    op.add_column("entities", sa.Column("expected", sa.Text))
    op.create_table(
        "idempotency",
        sa.Column("key", key, nullable=False),
        sa.Column("merchant", key, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_at_ms", "idempotency", ["at_ms"])
