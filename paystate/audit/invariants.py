"""What must hold in the database whatever happens, gone through in the order of keys.

Each page of rows is read in one snapshot with what it must agree with, so that an event that is
recorded or ended meanwhile is seen on both sides or on neither.
"""

from __future__ import annotations

from typing import Any

from paystate.audit.checking import Checker
from paystate.audit.ledger import Ledger
from paystate.audit.verdicts import Fault
from paystate.payments.settling import CLAIM_MS
from paystate.status import TERMINAL, Status, of_reference
from paystate.store.sampling import FaultyClaim, SampledPage, SampledRow, Sampling
from paystate.store.violations import Violation

__all__ = ["Rows", "faults_of"]

# A claim is taken for `CLAIM_MS` by the database's own clock; anything longer is somebody's else.
LONGEST_CLAIM_MS = 4 * CLAIM_MS


class Rows:
    """The rows of payments and references, gone through in rounds."""

    def __init__(self, sampling: Sampling, checker: Checker, ledger: Ledger) -> None:
        self._sampling = sampling
        self._checker = checker
        self._ledger = ledger
        self._after = ""

    async def round(self, most: int) -> tuple[SampledPage, bool]:
        """Check up to `most` further rows; return them, and whether that was the end of a pass.

        Raises StoreUnavailable.
        """
        page = await self._sampling.page(self._after, most)
        self._ledger.compare("rows", len(page.rows))
        self._after = page.last or ""
        if page.last is None:
            self._ledger.passed("rows")
        await self._checker.report(
            [fault for row in page.rows for fault in faults_of(row, page.logged_since_ms)]
        )
        return page, page.last is None

    async def claims(self) -> None:
        """Check the claims on open inbox rows. Raises StoreUnavailable."""
        found = await self._sampling.faulty_claims(LONGEST_CLAIM_MS)
        await self._checker.report([_claim(claim) for claim in found])


def _claim(claim: FaultyClaim) -> Violation:
    return Violation(
        Fault.CLAIM,
        claim.entity,
        {
            "inbox_id": claim.inbox_id,
            "due_in_ms": claim.due_ms - claim.now_ms,
            "claimed_for_ms": claim.claimed_until_ms - claim.now_ms,
        },
    )


def faults_of(row: SampledRow, logged_since_ms: int) -> list[Violation]:
    """Return what does not hold of `row`; the change log is whole after `logged_since_ms`."""
    try:
        status = Status(row.status)
        attempts = {Status(name): counted for name, counted in row.attempts.items()}
    except ValueError:
        return [_violation(Fault.ROW, row, status=row.status)]
    found = []
    if row.version == 0 and (row.open_events or row.held_events or status is not Status.UNKNOWN):
        found.append(_violation(Fault.ROW, row, version=0, status=row.status))
    if row.open_events != row.open_rows:
        found.append(
            _violation(Fault.OPEN_EVENTS, row, open_events=row.open_events, open_rows=row.open_rows)
        )
    found += _log_faults(row, logged_since_ms)
    if row.entity.is_reference:
        return found + _reference_faults(row, status, attempts)
    if row.held_events != row.held_rows:
        found.append(
            _violation(Fault.HELD_EVENTS, row, held_events=row.held_events, held_rows=row.held_rows)
        )
    return found


def _log_faults(row: SampledRow, logged_since_ms: int) -> list[Violation]:
    """A version is the highest in the log, unless that has been pruned; it is never below it."""
    logged = row.logged_version or 0
    missing = logged < row.version and row.changed_ms > logged_since_ms
    if logged > row.version or missing:
        return [_violation(Fault.VERSION, row, version=row.version, logged_version=logged)]
    return []


def _reference_faults(
    row: SampledRow, status: Status, attempts: dict[Status, tuple[int, int]]
) -> list[Violation]:
    """A reference follows its attempts; while an event is open, that is still to come.

    `successful` stays, even if the attempt that made it so has moved to another reference.
    """
    if row.open_events or row.version == 0:
        return []
    held = sum(held for name, (_, held) in attempts.items() if name not in TERMINAL)
    found = []
    # Without attempts it was announced (pending), or heard of by events that came to nothing.
    fitting = {of_reference(attempts)} if attempts else {Status.PENDING, Status.UNKNOWN}
    if status not in fitting | {Status.SUCCESSFUL}:
        counted = {name.value: count for name, (count, _) in attempts.items()}
        found.append(_violation(Fault.REFERENCE, row, status=row.status, attempts=counted))
    if row.held_events != held:
        found.append(
            _violation(Fault.HELD_EVENTS, row, held_events=row.held_events, held_by_attempts=held)
        )
    return found


def _violation(fault: Fault, row: SampledRow, **evidence: Any) -> Violation:
    return Violation(fault, row.entity, evidence)
