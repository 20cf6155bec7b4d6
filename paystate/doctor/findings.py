"""What a check says, and how it says that it cannot know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TypeVar

__all__ = [
    "Finding",
    "Missing",
    "NotKnown",
    "Outcome",
    "Verdict",
    "each",
    "fail",
    "known",
    "ok",
    "skipped",
    "warn",
]

T = TypeVar("T")


class Outcome(StrEnum):
    """How it stands: `warn` works and should be looked at, `fail` will hurt."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check found, in a sentence, and how to mend it. No secret is in either."""

    outcome: Outcome
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with the stable name of its check, ``area.what``."""

    check: str
    outcome: Outcome
    found: str
    mend: str

    def to_json(self) -> dict[str, str]:
        """Return it for programs."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands for a fact that could not be learnt; `reason` completes "skipped: ..."."""

    reason: str


class NotKnown(Exception):
    """Raised where a check needs a fact that is `Missing`; its text is the reason."""


def known(fact: T | Missing) -> T:
    """Return `fact`. Raises NotKnown if it could not be learnt."""
    if isinstance(fact, Missing):
        raise NotKnown(fact.reason)
    return fact


def ok(found: str) -> Verdict:
    """Return the verdict that all is well."""
    return Verdict(Outcome.OK, found)


def warn(found: str, mend: str) -> Verdict:
    """Return the verdict that it works and should be looked at."""
    return Verdict(Outcome.WARN, found, mend)


def fail(found: str, mend: str) -> Verdict:
    """Return the verdict that it will hurt."""
    return Verdict(Outcome.FAIL, found, mend)


def skipped(reason: str) -> Verdict:
    """Return the verdict that it cannot be judged."""
    return Verdict(Outcome.SKIPPED, reason)


def each(
    subjects: Sequence[tuple[str, T]], check: Callable[[T], Verdict], *, well: str = ""
) -> list[Verdict]:
    """Return the verdicts of `check` that are not ok, each with its subject's name if many.

    One that is ok, if all are; `well` is what it says of several.
    """
    verdicts = [(name, check(subject)) for name, subject in subjects]
    bad = [
        Verdict(v.outcome, f"{name}: {v.found}" if len(subjects) > 1 else v.found, v.mend)
        for name, v in verdicts
        if v.outcome is not Outcome.OK
    ]
    if bad or not verdicts:
        return bad or [skipped("there is nothing to look at")]
    return [verdicts[0][1] if len(verdicts) == 1 or not well else ok(well)]
