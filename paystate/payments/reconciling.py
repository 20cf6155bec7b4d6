"""Ask about what has not settled: webhooks are lost, and nobody says so.

A payment is asked about once it is some minutes old, then at ever longer gaps, each as long as it
has been waiting: twice as late, half as often. What somebody is asking for right now comes first.
All of it is within the reconciler's part of the budget, and each finding goes through an inbox row,
like everything else that changes a status.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from paystate.keys import Entity
from paystate.metrics import Metrics
from paystate.payments.checks import Batch, Checker, Subject, gap_s
from paystate.payments.interest import Interest
from paystate.payments.report import Report
from paystate.store import Store
from paystate.store.unsettled import Check, Checked, Narrowed

__all__ = ["Reconciler"]

CLAIM_MS = 60_000
# Claimed together: their questions must be through within the claim, whatever each takes.
BATCH = 40
ENROLLED_AT_ONCE = 5000
MOST_ENROLLINGS = 100
# Somebody waits for these: they are asked about this often, and so many of them.
URGENT_S = 60.0
URGENT_RESTED_MS = 30_000
MOST_URGENT = 200
LEAST_GAP_S = 60.0


class Reconciler:
    """Asks about what is unsettled; any number beside each other.

    `after_s`: how old something is when it is first asked about. `draw` (in [0, 1)) is a parameter
    for tests.
    """

    def __init__(
        self,
        store: Store,
        checker: Checker,
        interest: Interest,
        metrics: Metrics,
        *,
        after_s: int,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._checker = checker
        self._interest = interest
        self._metrics = metrics
        self._after_s = after_s
        self._draw = draw

    async def enroll(self) -> None:
        """Find what has been unsettled for long enough to be asked about."""
        for _ in range(MOST_ENROLLINGS):
            more = await self._store.unsettled.enroll(
                grace_ms=self._after_s * 1000, most=ENROLLED_AT_ONCE
            )
            if not more:
                break

    async def check(
        self,
        report: Report,
        narrowed: Narrowed | None = None,
        *,
        most: int,
        told: Callable[[Report], None] = lambda _: None,
    ) -> None:
        """Ask about up to `most` things that are due, what is asked for first; tell of each batch.

        What could not be asked about is left as it was. Raises StoreUnavailable.
        """
        narrowed = narrowed or Narrowed()
        started = time.monotonic()
        wanted = await self._interest.recent(min(most, MOST_URGENT))
        for start in range(0, len(wanted), BATCH):
            await self._batch(
                report, narrowed, wanted[start : start + BATCH], rested_ms=URGENT_RESTED_MS
            )
            told(report)
        while report.checked < most:
            # Nothing twice in one pass, whether it is due or not.
            rested_ms = max(self._after_s * 1000, int((time.monotonic() - started) * 1000) + 1000)
            taken = await self._batch(
                report, narrowed, None, most - report.checked, rested_ms=rested_ms
            )
            told(report)
            if not taken:
                break

    async def _batch(
        self,
        report: Report,
        narrowed: Narrowed,
        keys: Sequence[str] | None,
        most: int = BATCH,
        *,
        rested_ms: int,
    ) -> int:
        """Claim and check some; return how many there were."""
        without = narrowed.without | report.put_off.keys()
        checks = await self._store.unsettled.claim(
            Narrowed(narrowed.merchant, without, narrowed.age_ms, narrowed.due),
            claim_ms=CLAIM_MS,
            most=min(most, BATCH),
            keys=keys,
            rested_ms=rested_ms,
        )
        if not checks:
            return 0
        entities = [check.entity for check in checks]
        states = await self._store.states(entities)
        expected = await self._store.expectations.of([e for e in entities if e.is_reference])
        urgent = keys is not None
        subjects = [
            Subject(
                check,
                states.get(check.entity),
                check.entity in expected,
                self._wait_ms(check, urgent=urgent),
            )
            for check in checks
        ]
        done: list[Checked] = []
        try:
            done = await Batch(self._checker, report).check(subjects)
        finally:  # what has not come to anything is anybody's again
            await self._finish(entities, done, report)
        return len(checks)

    async def _finish(
        self, entities: Sequence[Entity], done: Sequence[Checked], report: Report
    ) -> None:
        """Write down what checks came to, and let go of the others."""
        for one in done:
            report.outcomes[one.outcome] += 1
            self._metrics.reconciled.labels(one.outcome).inc()
        report.checked += len(done)
        finished = {one.entity for one in done}
        if done:
            await self._store.unsettled.finish(done)
        await self._store.unsettled.let_go([e for e in entities if e not in finished])

    def _wait_ms(self, check: Check, *, urgent: bool) -> int:
        """Return how long to wait before the next question."""
        least_s = max(LEAST_GAP_S, self._after_s)
        wait_s = gap_s(check.age_ms / 1000, least_s=least_s, draw=self._draw())
        return int(1000 * (min(wait_s, URGENT_S) if urgent else wait_s))
