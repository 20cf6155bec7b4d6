"""Payments that are pending: the rows that webhooks and the worker leave, written at once.

Making thousands of them by webhooks would take longer than the race.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert

from paystate.keys import DEFAULT_MERCHANT, Entity, EntityKind
from paystate.state import Attempt
from paystate.status import Status
from paystate.store.engine import open_database
from paystate.store.tables import entities

__all__ = ["make_pending", "reference_of"]

# What is left after a first webhook: opened as `processing`, then settled as `pending`.
_VERSION = 2


def reference_of(payment: Entity) -> str:
    """Return the merchant reference of a payment."""
    return f"race-{payment.id}"


async def make_pending(url: str, payments: Sequence[Entity]) -> None:
    """Write the rows of `payments`, each with a reference of its own."""
    now_ms = time.time_ns() // 1_000_000
    rows = []
    for payment in payments:
        reference = Entity.reference(DEFAULT_MERCHANT, reference_of(payment))
        attempt = str(Attempt(EntityKind.CHARGE, payment.id))
        for entity, link in ((payment, reference.id), (reference, attempt)):
            rows.append({
                "key": entity.row_key, "merchant": entity.merchant, "kind": entity.kind.value,
                "link": link, "status": Status.PENDING.value, "version": _VERSION,
                "open_events": 0, "held_events": 0, "changed_ms": now_ms, "created_ms": now_ms,
            })  # fmt: skip

    async def write(connection: Any) -> None:
        await connection.execute(insert(entities), rows)

    database = open_database(url, pool=1, timeout_s=30)
    try:
        await database.write(write)
    finally:
        await database.close()
