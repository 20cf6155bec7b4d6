"""What has been acknowledged and shown, and whether an answer may still be given.

The oracle knows nothing of the product but its promises. A lookup is judged by what was known when
it *began*, so that an answer which crossed an acknowledgement on its way is never blamed:

* once any webhook of a payment is acknowledged, the payment is known;
* once a webhook is acknowledged that claims an end, `pending` and `unknown` are the past;
* who has been shown a version is never shown a lower one;
* after an end nothing but an end is shown to anybody, and after `successful` nothing else.

Only answers that say ``fresh: true`` are judged; the others say themselves that they prove nothing,
and are counted. For a merchant reference only a success is an end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from paystate.status import TERMINAL, Status

__all__ = ["AT_RISK_S", "Known", "Oracle", "Phase", "Question", "count_lost"]

# A lookup that begins so close to an acknowledgement of its payment could meet its race.
AT_RISK_S = 0.05
_KEPT = 64
_VIOLATIONS_KEPT = 20

# How far a payment is known to have come; the order is what matters.
NOTHING, KNOWN, ENDED = 0, 1, 2
SETTLED, SUCCESSFUL = 1, 2


class Phase(StrEnum):
    """Where a drill stands: before, during or after its fault."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


@dataclass(slots=True)
class Known:
    """What the world has been told of one payment or reference."""

    is_reference: bool
    level: int = NOTHING
    shown: int = NOTHING
    acknowledged_at: float = float("-inf")
    versions: dict[str, int] = field(default_factory=dict)
    # When lookups began that no acknowledgement has come near yet.
    recent: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """A lookup under way, with what was known as it began (`began_at` in seconds, monotonic)."""

    key: str
    known: Known
    observer: str
    began_at: float
    level: int
    shown: int
    version: int
    acknowledged_at: float


class Oracle:
    """Judges the answers to lookups; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.phase = Phase.BEFORE
        self.acknowledged: Counter[Phase] = Counter()
        self.lookups: Counter[Phase] = Counter()
        self.at_risk = 0
        self.unsure = 0
        self.stale = 0
        self.regressed = 0
        self.violations: list[str] = []
        self._known: dict[str, Known] = {}

    def known(self, key: str) -> Known:
        """Return what is known of an entity (by its row key)."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Known(key.startswith("reference:"))
        return found

    def acknowledge(self, keys: tuple[str, ...], claim: Status, now: float) -> None:
        """Take a 200: the event about `keys` that claims `claim` is acknowledged."""
        self.acknowledged[self.phase] += 1
        for key in keys:
            known = self.known(key)
            ends = {Status.SUCCESSFUL} if known.is_reference else TERMINAL
            known.level = max(known.level, ENDED if claim in ends else KNOWN)
            known.acknowledged_at = now
            self.at_risk += sum(began >= now - AT_RISK_S for began in known.recent)
            known.recent.clear()

    def ask(self, observer: str, key: str, now: float) -> Question:
        """Note that `observer` begins to look at an entity."""
        known = self.known(key)
        return Question(
            key, known, observer, now, known.level, known.shown,
            known.versions.get(observer, 0), known.acknowledged_at,
        )  # fmt: skip

    def answer(
        self, question: Question, status: Status | None, version: int = 0, *, fresh: bool = True
    ) -> None:
        """Judge an answer; `status` None says that nothing is known of the payment."""
        self.lookups[self.phase] += 1
        self._count_risk(question)
        if not fresh:
            self.unsure += 1
            return
        if _is_stale(question, status):
            self.stale += 1
            self._violation("stale", question, status, version)
        if status is None:
            return
        if _regresses(question, status, version):
            self.regressed += 1
            self._violation("regressed", question, status, version)
        known = question.known
        if version > known.versions.get(question.observer, 0):
            known.versions[question.observer] = version
        if status is Status.SUCCESSFUL:
            known.shown = SUCCESSFUL
        elif status in TERMINAL and not known.is_reference:
            known.shown = max(known.shown, SETTLED)

    def told(self, observer: str, key: str, version: int, *, before: int) -> None:
        """Judge a change on a stream that has told of version `before` already."""
        if version <= before:
            self.regressed += 1
            self._note(f"regressed: {observer} was told of {key} {before}, then {version}")

    def _count_risk(self, question: Question) -> None:
        known = question.known
        near_last = question.began_at - question.acknowledged_at <= AT_RISK_S
        met = question.began_at <= known.acknowledged_at <= question.began_at + AT_RISK_S
        if near_last or met:
            self.at_risk += 1
        elif known.level != ENDED or known.acknowledged_at <= question.began_at:
            if len(known.recent) >= _KEPT:
                del known.recent[: _KEPT // 2]
            known.recent.append(question.began_at)

    def _violation(
        self, what: str, question: Question, status: Status | None, version: int
    ) -> None:
        self._note(
            f"{what} ({self.phase}): {question.observer} was told {status} at version {version} "
            f"of {question.key}, which was at level {question.level}, shown {question.shown}, "
            f"version {question.version}, "
            f"{question.began_at - question.acknowledged_at:.3f} s after an acknowledgement"
        )

    def _note(self, text: str) -> None:
        if len(self.violations) < _VIOLATIONS_KEPT:
            self.violations.append(text)


def count_lost(acknowledged: Iterable[str], inbox: Mapping[str, str]) -> int:
    """Return how many events that were acknowledged are not there, or have not ended.

    `inbox` is the state of every row by its event key.
    """
    return sum(inbox.get(key, "open") == "open" for key in acknowledged)


def _is_stale(question: Question, status: Status | None) -> bool:
    if status is None:
        return question.level >= KNOWN
    return question.level >= ENDED and status in (Status.PENDING, Status.UNKNOWN)


def _regresses(question: Question, status: Status, version: int) -> bool:
    if version < question.version:
        return True
    if question.shown == SUCCESSFUL:
        return status is not Status.SUCCESSFUL
    return question.shown == SETTLED and status not in TERMINAL
