"""What the reconciler asks about and when, and how far it has read the provider's lists."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"

key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Create both tables; what is unsettled already is found in the change log."""
    op.create_table(
        "unsettled",
        sa.Column("key", key, nullable=False),
        sa.Column("merchant", key, nullable=False),
        sa.Column("first_ms", sa.BigInteger, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("asked_ms", sa.BigInteger),
        sa.Column("outcome", sa.Text),
        sa.Column("claimed_until_ms", sa.BigInteger, nullable=False),
        sa.Column("flagged_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("key", name="pk_unsettled"),
    )
    op.create_index("ix_unsettled_due_ms", "unsettled", ["due_ms"])
    op.create_table(
        "listings",
        sa.Column("key", key, nullable=False),
        sa.Column("merchant", key, nullable=False),
        sa.Column("through_ms", sa.BigInteger, nullable=False),
        sa.Column("since_ms", sa.BigInteger),
        sa.Column("until_ms", sa.BigInteger),
        sa.Column("page", sa.Integer, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("claimed_until_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_listings"),
    )
