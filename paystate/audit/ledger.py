"""What the audit has seen so far: counted, summed up, and exported as metrics."""

from __future__ import annotations

from collections import Counter as Count
from enum import StrEnum
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from paystate.audit.verdicts import nines
from paystate.store.violations import Violation

__all__ = ["SCALES_S", "SPOT", "Ledger", "Outcome"]

# After the news of a change, in seconds, by the name that each has as a label.
SCALES_S = {"10ms": 0.01, "100ms": 0.1, "1s": 1.0, "60s": 60.0}
# A lookup of something that was picked, not followed.
SPOT = "spot"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Held for a summary; all are counted.
MOST_HELD = 1000


class Outcome(StrEnum):
    """How a lookup compared."""

    FRESH = "fresh"  # as late as the database
    STALE = "stale"  # said to be fresh, and wrong
    UNACKNOWLEDGED = "unacknowledged"  # older than a commit that nobody had been told of yet
    UNSURE = "unsure"  # said itself that it may be old
    UNANSWERED = "unanswered"  # an error in place of an answer
    SKIPPED = "skipped"  # asking would have spent a call to the provider


class Ledger:
    """One audit's counts, since it began. Metrics are registered with `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outcomes: dict[str, Count[Outcome]] = {}
        self.worst_ms: dict[str, int] = {}
        self.compared: Count[str] = Count()
        self.passes: Count[str] = Count()
        self.violations: list[Violation] = []
        self.violated = 0
        self._lookups = Counter(
            "paystate_audit_lookups_total",
            "Lookups compared with the database, by time after the change and outcome.",
            ["scale", "outcome"],
            registry=registry,
        )
        self._nines = Gauge(
            "paystate_audit_nines",
            "log10((n + 1) / (stale + 1)) of the n answers that said to be fresh.",
            ["scale"],
            registry=registry,
        )
        self._worst = Gauge(
            "paystate_audit_worst_age_seconds",
            "How long the worst stale answer had been overtaken when it was asked for.",
            ["scale"],
            registry=registry,
        )
        self._visible = Histogram(
            "paystate_audit_visible_seconds",
            "From a webhook's record to the news of what it changed, and to a lookup showing it.",
            ["seen"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._violations = Counter(
            "paystate_audit_violations_total",
            "Violations found; one that stands is counted each time.",
            ["kind"],
            registry=registry,
        )
        self._changes = Counter(
            "paystate_audit_changes_total",
            "Changes in the log: followed, or left out by the limit.",
            ["sampled"],
            registry=registry,
        )
        self._compared = Counter(
            "paystate_audit_compared_total",
            "Cache entries, rows and provider's answers compared.",
            ["what"],
            registry=registry,
        )
        self._passes = Counter(
            "paystate_audit_passes_total",
            "Times that all cache entries, or all rows, have been gone through.",
            ["what"],
            registry=registry,
        )

    def looked(self, scale: str, outcome: Outcome, age_ms: int = 0) -> None:
        """Count a lookup; `age_ms` is for how long a stale answer had been overtaken."""
        mine = self.outcomes.setdefault(scale, Count())
        mine[outcome] += 1
        self._lookups.labels(scale, outcome).inc()
        self._nines.labels(scale).set(self.nines(scale))
        if outcome is Outcome.STALE:
            self.worst_ms[scale] = max(age_ms, self.worst_ms.get(scale, 0))
            self._worst.labels(scale).set(self.worst_ms[scale] / 1000)

    def nines(self, scale: str) -> float:
        """Return the nines of `scale`, over the answers that said to be fresh."""
        mine = self.outcomes.get(scale, Count())
        return nines(mine[Outcome.FRESH] + mine[Outcome.STALE], mine[Outcome.STALE])

    def visible(self, seen: str, seconds: float) -> None:
        """Note the time from a webhook to its effect; `seen` says by whom: news or lookup."""
        self._visible.labels(seen).observe(seconds)

    def followed(self, followed: int, left: int) -> None:
        """Count changes that were followed, and that were left out."""
        self._changes.labels("followed").inc(followed)
        self._changes.labels("left").inc(left)

    def compare(self, what: str, count: int) -> None:
        """Count things compared."""
        self.compared[what] += count
        self._compared.labels(what).inc(count)

    def passed(self, what: str) -> None:
        """Note that everything of a kind has been gone through once more."""
        self.passes[what] += 1
        self._passes.labels(what).inc()

    def violate(self, violation: Violation) -> None:
        """Count a violation, and keep it if there is room."""
        self.violated += 1
        self._violations.labels(violation.kind).inc()
        if len(self.violations) < MOST_HELD:
            self.violations.append(violation)

    def summary(self) -> dict[str, Any]:
        """Return the counts of every scale that was looked at, by its name."""
        return {
            scale: {
                **{outcome.value: self.outcomes[scale][outcome] for outcome in Outcome},
                "nines": round(self.nines(scale), 2),
                "worst_ms": self.worst_ms.get(scale, 0),
            }
            for scale in (*SCALES_S, SPOT)
            if scale in self.outcomes
        }
