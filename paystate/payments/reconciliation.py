"""One pass of the reconciler: read the lists, ask about what is due, say what that came to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from paystate.changes import iso_utc
from paystate.keys import Entity, EntityKind
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.listing import Lister
from paystate.payments.reconciling import Reconciler
from paystate.payments.report import Report
from paystate.shapes import Bounded, Moment
from paystate.status import Status
from paystate.store import Store
from paystate.store.unsettled import Narrowed

__all__ = ["FlaggedJson", "Reconciliation", "UnsettledJson", "overview", "planned"]

log = logger()

# Checks in a pass; what is left is due in the next.
MOST_CHECKS = 1000


class FlaggedJson(TypedDict):
    """Something of which nothing that settles it has been heard for long."""

    kind: Annotated[str, Bounded(words=EntityKind)]
    id: str
    merchant: str
    status: Annotated[str, Bounded(words=Status)]
    age_s: Annotated[int, Bounded(minimum=0)]
    flagged_at: Moment
    asked: Annotated[int, Bounded(minimum=0), "How often Flutterwave was asked."]
    outcome: Annotated[str | None, "What it said last."]
    expected: Annotated[str | None, "What was registered: amount and currency."]


class UnsettledJson(TypedDict):
    """What the reconciler watches, and what of it a person should look at."""

    watched: Annotated[int, Bounded(minimum=0)]
    due: Annotated[int, Bounded(minimum=0)]
    flagged_in_all: Annotated[int, Bounded(minimum=0)]
    flagged: list[FlaggedJson]


class Reconciliation:
    """Passes over everything; any number of processes beside each other share the work."""

    def __init__(
        self, store: Store, reconciler: Reconciler, lister: Lister, metrics: Metrics
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._lister = lister
        self._metrics = metrics

    async def round(
        self,
        narrowed: Narrowed | None = None,
        *,
        most: int = MOST_CHECKS,
        checks: bool = True,
        lists: bool = True,
        told: Callable[[Report], None] = lambda _: None,
    ) -> Report:
        """Do one pass and return what it did; `told` is given the report as it grows.

        The lists come first: what they bring in need not be asked about. Raises StoreUnavailable;
        what was done until then is done.
        """
        narrowed = narrowed or Narrowed()
        report, started = Report(), time.monotonic()
        if lists:
            await self._lister.read(report, narrowed.merchant, now=not narrowed.due, told=told)
        if checks:
            await self._reconciler.enroll()
            await self._reconciler.check(report, narrowed, most=most, told=told)
        await self.measure()
        log.info("reconcile_finished", duration_ms=round((time.monotonic() - started) * 1000),
                 **report.to_json())  # fmt: skip
        return report

    async def measure(self) -> None:
        """Bring the gauges up to date. Raises StoreUnavailable."""
        standing = await self._store.unsettled.standing()
        self._metrics.unsettled.labels("watched").set(standing.rows)
        self._metrics.unsettled.labels("due").set(standing.due)
        self._metrics.unsettled.labels("flagged").set(standing.flagged)
        self._metrics.unsettled_oldest.set(standing.oldest_ms / 1000)


async def overview(store: Store, merchant: str | None, *, most: int) -> UnsettledJson:
    """Return counts of what is watched, and up to `most` that are flagged, the oldest first.

    Of one merchant or of all. Raises StoreUnavailable.
    """
    standing = await store.unsettled.standing(merchant)
    found = await store.unsettled.flagged(merchant, most=most)
    return {
        "watched": standing.rows,
        "due": standing.due,
        "flagged_in_all": standing.flagged,
        "flagged": [
            {
                "kind": one.entity.kind.value,
                "id": one.entity.id,
                "merchant": one.entity.merchant,
                "status": one.status,
                "age_s": max(0, one.now_ms - one.first_ms) // 1000,
                "flagged_at": iso_utc(one.flagged_ms),
                "asked": one.asked,
                "outcome": one.outcome,
                "expected": one.expected,
            }
            for one in found
        ],
    }


async def planned(store: Store, narrowed: Narrowed, *, most: int) -> dict[str, Any]:
    """Return what a pass would ask about, in its order, without asking or writing anything.

    What has not been enrolled yet is not among it. Raises StoreUnavailable.
    """
    checks = await store.unsettled.waiting(narrowed, most=most)
    states = await store.states([check.entity for check in checks])
    return {
        "due": [
            {
                **_named(check.entity),
                "status": states[check.entity].shown.value,
                "age_s": check.age_ms // 1000,
                "asked": check.asked,
                "outcome": check.outcome,
            }
            for check in checks
            if check.entity in states
        ]
    }


def _named(entity: Entity) -> dict[str, Any]:
    return {"kind": entity.kind.value, "id": entity.id, "merchant": entity.merchant}
