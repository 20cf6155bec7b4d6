"""A breaker: a provider that answers nothing is not asked by everybody at once.

After five questions in a row without an answer it opens: nobody waits out another timeout, and no
budget is spent. Soon one question is let through; what comes of it closes the breaker or keeps it
open for longer. Never for long, because what was acknowledged must settle within 30 s of the
provider's return. Each process has its own: what cannot be reached from here may be from there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from paystate.backoff import delay_s
from paystate.errors import ProviderUnavailable

__all__ = ["Breaker"]

# Fewer, and a provider that drops one call in three would be taken for one that is down.
FAILURES = 5
FIRST_S = 1.0
MOST_S = 5.0
# Longer than a question may take: whoever was let through has been cancelled.
TRIAL_S = 10.0
TRIAL_WAIT_S = 1.0


class Breaker:
    """Passed before every question to one API of one merchant, and told how it went.

    `clock` is monotonic seconds, `draw` gives numbers in [0, 1).
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._failures = 0
        self._openings = 0
        self._open_until = 0.0
        self._trial_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it is open, or a single question is finding out whether it should be."""
        return self._openings > 0

    def enter(self) -> None:
        """Let a question through. Raises ProviderUnavailable (`breaker_open`)."""
        if not self._openings:
            return
        now = self._clock()
        left_s = self._open_until - now
        if left_s <= 0:
            left_s = min(TRIAL_WAIT_S, self._trial_until - now)
        if left_s > 0:
            raise ProviderUnavailable("breaker_open", retry_after_s=left_s)
        self._trial_until = now + TRIAL_S

    def succeeded(self) -> None:
        """Note an answer, whatever it said."""
        self._failures = self._openings = 0
        self._trial_until = 0.0

    def released(self) -> None:
        """Note that the question was not asked after all, or nobody waited for what it came to."""
        self._trial_until = 0.0

    def failed(self) -> bool:
        """Note that there was none; say whether that has opened the breaker."""
        self._failures += 1
        now = self._clock()
        # Those that were under way when it opened come back one by one, and say nothing new.
        if self._failures < FAILURES or (self._openings and now < self._open_until):
            return False
        self._openings += 1
        self._open_until = now + delay_s(
            self._openings, first_s=FIRST_S, most_s=MOST_S, draw=self._draw()
        )
        self._trial_until = 0.0
        return True
