"""Which schema this release needs, and what is said where the database has an earlier one, or none.

Read from the names of the migrations: to ask Alembic would load it into every process.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from paystate.errors import StoreUnavailable

__all__ = ["latest_revision", "not_migrated"]


@cache
def latest_revision() -> str:
    """Return the number of the last migration, as in "0008"; they sort as texts."""
    versions = Path(__file__).parent / "migrations" / "versions"
    return max(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))


def not_migrated() -> StoreUnavailable:
    """Return what to raise where the schema is not there, or is that of an earlier release."""
    return StoreUnavailable(
        "database_not_migrated",
        "the tables are missing, or are those of an earlier release: run `paystate migrate`",
    )
