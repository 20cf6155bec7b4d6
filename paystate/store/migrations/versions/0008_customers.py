"""Customers, whose payment is whose, and a number that rises with what is kept of a payment."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql, sqlite

revision = "0008"
down_revision = "0007"

key = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
row_id = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")

# `charge:{merchant}:{id}` and the id in the details give `{merchant}:{id}`.
_OWNERS = {
    "postgresql": """
        INSERT INTO customer_payments (key, customer_key)
        SELECT key, split_part(key, ':', 2) || ':' || (content::json ->> 'customer_id')
        FROM details WHERE content::json ->> 'customer_id' IS NOT NULL ORDER BY updated_ms
    """,
    "sqlite": """
        INSERT INTO customer_payments (key, customer_key)
        SELECT key, substr(key, instr(key, ':') + 1,
                           instr(substr(key, instr(key, ':') + 1), ':'))
               || json_extract(content, '$.customer_id')
        FROM details WHERE json_extract(content, '$.customer_id') IS NOT NULL ORDER BY updated_ms
    """,
}


def upgrade() -> None:
    """Create the tables, and fill them from the payments that are there."""
    op.add_column(
        "details",
        sa.Column("revision", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_table(
        "customers",
        sa.Column("key", key, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("tickets", sa.BigInteger, nullable=False),
        sa.Column("profile_ticket", sa.BigInteger, nullable=False),
        sa.Column("profile_version", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("email", sa.Text),
        sa.Column("phone", sa.Text),
        sa.Column("since", sa.Text),
        sa.Column("active_ms", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("erased", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("erased_through", sa.BigInteger),
        sa.PrimaryKeyConstraint("key", name="pk_customers"),
    )
    op.create_table(
        "customer_payments",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("key", key, nullable=False),
        sa.Column("customer_key", key),
        sa.Column("scrub", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_customer_payments"),
        sa.UniqueConstraint("key", name="uq_customer_payments_key"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_customer_payments_customer_key_id", "customer_payments", ["customer_key", "id"]
    )
    op.execute(_OWNERS[op.get_bind().dialect.name])
    op.execute("""
        INSERT INTO customers (key, version, tickets, profile_ticket, profile_version, active_ms,
                               created_ms)
        SELECT p.customer_key, 1, 0, 0, 0, max(d.updated_ms), min(d.updated_ms)
        FROM customer_payments AS p JOIN details AS d ON d.key = p.key GROUP BY p.customer_key
    """)
