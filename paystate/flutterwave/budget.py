"""How many calls Flutterwave may be asked, for what, in an hour and in ten seconds.

Its limit is on the whole account: 300 calls a minute, it says, and then half an hour of silence. So
there are two budgets, and a call is taken from both. The hour's keeps the account's load down; the
one of ten seconds keeps a burst from running into the limit. In each of them every purpose has

* a *reserve*, which the others leave to it: a flood of webhooks does not keep a customer's question
  from being asked, nor the reconciler from finding what was lost;
* a *ceiling* of all calls at which it stops, unless its reserve is left: what matters less stops
  earlier, and so leaves room for confirmations.

Pure: time is a parameter. ``gate.lua`` applies the same rule for all processes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "HOUR_S",
    "PUBLISHED_PER_MINUTE",
    "PURPOSES",
    "WINDOW_S",
    "Budget",
    "Purpose",
    "Spending",
    "allows",
    "ceiling",
    "reserves",
]

HOUR_S = 3600
WINDOW_S = 10
# Any minute, wherever it begins, touches at most this many windows.
_WINDOWS_IN_A_MINUTE = 7
# What Flutterwave has published; a larger hourly budget says that the account is allowed more.
PUBLISHED_PER_MINUTE = 300
# An hour's budget is spent in fifty minutes at the least.
_FASTEST_MINUTES = 50


class Purpose(StrEnum):
    """Why the provider is asked, most important first."""

    CONFIRM = "confirm"  # a webhook has come and waits to be settled
    LOOKUP = "lookup"  # somebody wants to know and the database is not enough
    RECONCILE = "reconcile"  # nothing has been heard for a while
    AUDIT = "audit"  # nobody waits: what is settled is compared now and then


PURPOSES = tuple(Purpose)

# In percent of a budget.
_CEILINGS = {Purpose.CONFIRM: 100, Purpose.LOOKUP: 80, Purpose.RECONCILE: 60, Purpose.AUDIT: 40}
_RESERVES = {Purpose.CONFIRM: 20, Purpose.LOOKUP: 10, Purpose.RECONCILE: 5, Purpose.AUDIT: 2}
# From so many calls on, a reserve is at least one.
_SHARED_FROM = 20


def ceiling(budget: int, purpose: Purpose) -> int:
    """Return at how many calls, for whatever purpose, `purpose` stops once its reserve is spent."""
    return budget * _CEILINGS[purpose] // 100


def reserves(budget: int) -> tuple[int, ...]:
    """Return how many calls each purpose has for itself, in the order of `Purpose`."""
    least = 1 if budget >= _SHARED_FROM else 0
    return tuple(max(least, budget * _RESERVES[purpose] // 100) for purpose in PURPOSES)


def allows(budget: int, spent: Sequence[int], purpose: Purpose) -> bool:
    """Say whether one more call may be made; `spent` holds those made, in the order of `Purpose`.

    >>> allows(100, (83, 0, 0, 0), Purpose.CONFIRM), allows(100, (83, 0, 0, 0), Purpose.LOOKUP)
    (False, True)
    """
    total = sum(spent)
    own = PURPOSES.index(purpose)
    kept = [max(0, reserve - used) for reserve, used in zip(reserves(budget), spent, strict=True)]
    if kept[own]:
        return total < budget
    return total < ceiling(budget, purpose) and total + sum(kept) < budget


@dataclass(frozen=True, slots=True)
class Budget:
    """Calls in an hour and in a minute. Raises ValueError for less than one.

    Too low starves confirmations: payments show `processing` until the next hour. Too high runs
    into the provider's limit. Without `per_minute` it is what Flutterwave has published, or a
    fiftieth of the hour's budget if that is more.
    """

    per_hour: int
    per_minute: int = 0

    def __post_init__(self) -> None:
        if self.per_hour < 1:
            raise ValueError("an hourly budget of at least one call is needed")
        if self.per_minute < 1:
            most = max(PUBLISHED_PER_MINUTE, self.per_hour // _FASTEST_MINUTES)
            object.__setattr__(self, "per_minute", most)

    @property
    def per_window(self) -> int:
        """Calls in one window, so that no minute has more than `per_minute`, wherever it begins."""
        return max(1, self.per_minute // _WINDOWS_IN_A_MINUTE)


class Spending:
    """The calls of this hour and of this window, by purpose, as far as one process knows."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.hour = 0
        self.window = 0
        self.of_hour = [0] * len(PURPOSES)
        self.of_window = [0] * len(PURPOSES)

    def turn(self, now: float) -> None:
        """Begin to count anew where the hour or the window is another one; `now` epoch seconds."""
        hour, window = int(now // HOUR_S), int(now // WINDOW_S)
        if hour != self.hour:
            self.hour, self.of_hour = hour, [0] * len(PURPOSES)
        # A clock that is a little behind the others counts in their window. One that is far off
        # must not hold everybody up until its time has come.
        if window > self.window or window < self.window - 1:
            self.window, self.of_window = window, [0] * len(PURPOSES)

    def refusal(self, purpose: Purpose) -> str | None:
        """Return why no call may be made for `purpose`: `budget_spent`, `pace_spent`, or None."""
        if not allows(self.budget.per_hour, self.of_hour, purpose):
            return "budget_spent"
        if not allows(self.budget.per_window, self.of_window, purpose):
            return "pace_spent"
        return None

    def spend(self, purpose: Purpose) -> None:
        """Count one call."""
        own = PURPOSES.index(purpose)
        self.of_hour[own] += 1
        self.of_window[own] += 1

    def learn(
        self, hour: int, of_hour: Sequence[int], window: int, of_window: Sequence[int]
    ) -> None:
        """Take over what all processes have counted, unless it is of another time by now."""
        if hour == self.hour:
            self.of_hour = [max(a, b) for a, b in zip(self.of_hour, of_hour, strict=True)]
        if window >= self.window:
            mine = self.of_window if window == self.window else [0] * len(PURPOSES)
            self.of_window = [max(a, b) for a, b in zip(mine, of_window, strict=True)]
            self.window = window

    def wait_s(self, reason: str, now: float) -> float:
        """Return how long until what is spent for `reason` begins anew, in seconds."""
        length_s = HOUR_S if reason == "budget_spent" else WINDOW_S
        return length_s - now % length_s
