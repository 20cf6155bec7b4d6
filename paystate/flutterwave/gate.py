"""When Flutterwave may be asked: not while it has had enough of us, and within a budget.

After a 429 nobody asks (the *cool-off*), and once that is over one call at a time finds out whether
it really is. How many calls may be made, and for what, is in `budget`. `LocalGate` keeps count for
one process, `shared_gate.RedisGate` for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from paystate.errors import ProviderUnavailable
from paystate.flutterwave.budget import Budget, Purpose, Spending

__all__ = [
    "FIRST_COOL_OFF_S",
    "MOST_COOL_OFF_S",
    "TRIAL_S",
    "Gate",
    "LocalGate",
    "Purpose",
    "cool_off_s",
    "cooling_off",
]

FIRST_COOL_OFF_S = 2.0
# The provider's own penalty for going over the limit; a longer Retry-After is not believed.
MOST_COOL_OFF_S = 30 * 60.0
# A call that is out to see whether a cool-off is over has failed, or its process has died, when it
# has not come back after this; longer than any call may take.
TRIAL_S = 10.0
# Who is kept away by that call comes back after this at the latest.
TRIAL_WAIT_S = 1.0


def cool_off_s(strikes: int, retry_after_s: float | None) -> float:
    """Return the seconds to keep away after the `strikes`-th 429 in a row (from 1)."""
    first_s = retry_after_s or FIRST_COOL_OFF_S
    return min(MOST_COOL_OFF_S, first_s * 2.0 ** min(strikes - 1, 30))


class Gate(Protocol):
    """Passed before every call to the provider, and told how the call went."""

    async def enter(self, purpose: Purpose) -> None:
        """Count one call for `purpose`.

        Raises ProviderUnavailable, with `retry_after_s`: `cooling_off`, `budget_spent` (of the
        hour) or `pace_spent` (of ten seconds).
        """

    async def cool_off(self, retry_after_s: float | None) -> None:
        """Keep everybody away after a 429; `retry_after_s` is what its header asked for.

        The first waits that or 2 s, each further one in a row doubles it, up to half an hour. A
        429 of a call that was under way when the cool-off began is not another one.
        """

    async def succeeded(self) -> None:
        """Note that a call was answered, which ends the row of 429s (not a running cool-off)."""


class LocalGate:
    """A gate for one process: what there is without Redis. `clock` gives epoch seconds.

    `hourly_budget` and `per_minute` are calls, as for `Budget`.
    """

    def __init__(
        self, *, hourly_budget: int, per_minute: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self.spending = Spending(Budget(hourly_budget, per_minute))
        self._clock = clock
        self.until = 0.0
        self.strikes = 0
        self._trial_until = 0.0

    async def enter(self, purpose: Purpose) -> None:
        """See `Gate`."""
        now = self._clock()
        self.refuse_while_cooling()
        if self.strikes and now < self._trial_until:
            raise cooling_off(min(TRIAL_WAIT_S, self._trial_until - now))
        self.spending.turn(now)
        reason = self.spending.refusal(purpose)
        if reason is not None:
            raise self.spent(reason)
        self.spending.spend(purpose)
        if self.strikes:
            self._trial_until = now + TRIAL_S

    async def cool_off(self, retry_after_s: float | None) -> None:
        """See `Gate`."""
        now = self._clock()
        if now >= self.until or self.strikes == 0:
            self.strikes += 1
        self.until = max(self.until, now + cool_off_s(self.strikes, retry_after_s))
        self._trial_until = 0.0

    async def succeeded(self) -> None:
        """See `Gate`."""
        if self._clock() >= self.until:
            self.strikes = 0
            self._trial_until = 0.0

    def refuse_while_cooling(self) -> None:
        """Raise ProviderUnavailable (`cooling_off`) if that is so."""
        left_s = self.until - self._clock()
        if left_s > 0:
            raise cooling_off(min(left_s, MOST_COOL_OFF_S))

    def spent(self, reason: str) -> ProviderUnavailable:
        """Return the error for what is spent, with the time until there is more."""
        return ProviderUnavailable(
            reason, retry_after_s=self.spending.wait_s(reason, self._clock())
        )


def cooling_off(wait_s: float) -> ProviderUnavailable:
    """Return the error of who is kept away, and for how long, in seconds."""
    return ProviderUnavailable("cooling_off", retry_after_s=wait_s)
