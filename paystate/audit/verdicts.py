"""When is an answer wrong? Pure rules, so that the audit itself can be checked.

The database is read *before* the question is asked. An answer that says it is fresh must then be
at least as late as that row. One exception is no fault: between the commit of a webhook and its
acknowledgement the cache has not been told yet, and may serve what it proved before. An older
answer is a fault therefore only where it is certain that the cache had been told:

* news of a later version had been heard, which is published after the mark;
* the row is settled: settling marks *before* it commits;
* it was overtaken so long ago that no lease from before can still run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from paystate.state import EntityState
from paystate.status import Status

__all__ = ["Fault", "Shown", "Suspicion", "is_certain", "nines", "suspect"]

# A successful entry is served for a day, and stays so while `put` is on its way to replace it.
FINAL_GRACE_MS = 10_000


class Fault(StrEnum):
    """What can be wrong; `docs/audit.md` says what each means and what to do."""

    STALE_LOOKUP = "stale_lookup"
    STALE_ENTRY = "stale_entry"
    WRONG_STATUS = "wrong_status"
    AHEAD = "ahead_of_database"
    UNKNOWN = "unknown_to_database"
    NOT_FOUND = "lookup_found_nothing"
    OPEN_EVENTS = "open_events_differ"
    HELD_EVENTS = "held_events_differ"
    VERSION = "version_differs_from_log"
    REFERENCE = "reference_differs_from_attempts"
    CLAIM = "claim_faulty"
    ROW = "row_faulty"
    PROVIDER = "provider_difference"


class Suspicion(StrEnum):
    """What an answer looks like beside the row that was read before it."""

    OVERTAKEN = "overtaken"
    WRONG_STATUS = "wrong_status"
    AHEAD = "ahead"  # or the row has changed since: read it again
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a lookup, or a cache entry that would be served, says.

    `status` None: that there is no such payment.
    """

    status: Status | None
    version: int
    fresh: bool = True


def suspect(shown: Shown, before: EntityState | None, *, heard: int = 0) -> Suspicion | None:
    """Return what `shown` looks like beside `before`, the row read before it was asked for.

    `heard` is the latest version of which there was news by then, 0 for none.
    """
    if shown.status is None:
        return Suspicion.NOTHING if before is not None else None
    known = before.version if before is not None else 0
    if shown.version < max(known, heard):
        return Suspicion.OVERTAKEN
    if before is None or shown.version > known:
        return Suspicion.AHEAD
    return Suspicion.WRONG_STATUS if shown.status is not before.shown else None


def is_certain(
    shown: Shown, before: EntityState | None, *, heard: int, overtaken_ms: int, lease_ms: int
) -> bool:
    """Say whether `shown`, which is older than `before`, is a fault for certain.

    `overtaken_ms` is how long before the question a later version had been committed.
    """
    if shown.version < heard:
        return True
    if before is not None and before.terminal and shown.status is not before.shown:
        return True
    grace_ms = 1.5 * lease_ms
    if shown.status is Status.SUCCESSFUL:
        grace_ms += FINAL_GRACE_MS
    return overtaken_ms > grace_ms


def nines(checked: int, faulty: int) -> float:
    """Return the nines of freshness that `checked` lookups with `faulty` faults allow to claim.

    ``log10((checked + 1) / (faulty + 1))``: as if one more lookup had been made, and found a
    fault. So no faults in 999 lookups are 3 nines and not infinitely many, one fault in 999 is 2.7,
    and without a lookup there are 0. It is an estimate that errs low, not a confidence bound.
    """
    return math.log10((checked + 1) / (faulty + 1))
