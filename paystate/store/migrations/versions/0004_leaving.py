"""The reference that a payment leaves stays open until the event that moves it is applied."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column; rows that are open now go on as they were opened."""
    op.add_column("inbox", sa.Column("leaving_key", key))
