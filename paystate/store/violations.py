"""What the audit has found, kept where people and the board can list it: the last thousand.

A violation that stands is found again on every round. It is written down once in `QUIET_MS`, by
whichever process finds it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.tables import now_ms, violations

__all__ = ["KEPT", "Violation", "listed", "record"]

KEPT = 1000
QUIET_MS = 10 * 60 * 1000
# Evidence is identifiers, versions and times: far less than this unless something is very wrong.
MOST_EVIDENCE = 2000


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be. `evidence` has identifiers, versions and times, no payload.

    `at_ms` is when it was written down, ms since the epoch; 0 before that.
    """

    kind: str
    entity: Entity | None
    evidence: dict[str, Any] = field(default_factory=dict)
    at_ms: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the form in which it is listed."""
        return {
            "at_ms": self.at_ms or None,
            "kind": self.kind,
            "entity_kind": self.entity.kind.value if self.entity else None,
            "id": self.entity.id if self.entity else None,
            "merchant": self.entity.merchant if self.entity else None,
            "evidence": self.evidence,
        }


async def record(connection: AsyncConnection, found: Sequence[Violation]) -> list[Violation]:
    """Write down those of `found` that nobody has written down a moment ago; return them."""
    recent = await connection.execute(
        select(violations.c.kind, violations.c.entity_key).where(
            violations.c.at_ms > now_ms() - QUIET_MS
        )
    )
    known = {(row[0], row[1]) for row in recent}
    fresh = {(v.kind, v.entity.row_key if v.entity else None): v for v in found}
    fresh = {name: v for name, v in fresh.items() if name not in known}
    if not fresh:
        return []
    await connection.execute(
        insert(violations).values(at_ms=now_ms()),
        [
            {
                "kind": kind,
                "merchant": v.entity.merchant if v.entity else None,
                "entity_key": key,
                "evidence": _bounded(v.evidence),
            }
            for (kind, key), v in fresh.items()
        ],
    )
    oldest_kept = select(violations.c.id).order_by(violations.c.id.desc()).limit(1).offset(KEPT - 1)
    await connection.execute(
        delete(violations).where(violations.c.id < oldest_kept.scalar_subquery())
    )
    return list(fresh.values())


def _bounded(evidence: dict[str, Any]) -> str:
    text = orjson.dumps(evidence, default=str).decode()
    if len(text) <= MOST_EVIDENCE:
        return text
    return orjson.dumps({"cut": text[: MOST_EVIDENCE // 2]}).decode()


async def listed(connection: AsyncConnection, *, since_ms: int, most: int) -> list[Violation]:
    """Return up to `most` violations of the last `since_ms`, latest first."""
    rows = await connection.execute(
        select(
            violations.c.kind, violations.c.entity_key, violations.c.evidence, violations.c.at_ms
        )
        .where(violations.c.at_ms > now_ms() - since_ms)
        .order_by(violations.c.id.desc())
        .limit(most)
    )
    return [
        Violation(
            row[0], Entity.from_row_key(row[1]) if row[1] else None, orjson.loads(row[2]), row[3]
        )
        for row in rows
    ]
