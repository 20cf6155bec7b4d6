"""How the sandbox's APIs misbehave on request: the weather of a drill."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ApiSettings", "Fault", "FaultMode", "Faults", "Limit", "Limiter"]

# The real gateway gives up on a slow bank after 28 s; slower than any client should wait.
DEFAULT_DELAY_S = 28.0
TOKEN_LIFETIME_S = 600
NOT_FOUND_CODES = (200, 400, 404)

_WINDOW_S = 60.0


class FaultMode(StrEnum):
    """What the APIs do instead of answering."""

    NONE = "none"
    SLOW = "slow"  # the right answer, late
    RATE_LIMITED = "429"
    UNAVAILABLE = "503"
    HTML = "html"  # a gateway's page, with 200 or `code`


@dataclass(frozen=True, slots=True)
class Fault:
    """One way of misbehaving: until epoch second `until`, or until the next fault if that is None.

    `delay_s` is how late answers are: 28 s when slow, at once otherwise, where it is None.
    `retry_after_s` goes into the header of a 429 or 503, which has none if it is None; with `html`
    these two come as a page. `share` is how many of the calls meet the fault, from 0 to 1.
    """

    mode: FaultMode = FaultMode.NONE
    until: float | None = None
    delay_s: float | None = None
    retry_after_s: int | None = None
    html: bool = False
    code: int = 200
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError("the share of a fault is from 0 to 1")
        if not 200 <= self.code <= 599:
            raise ValueError("the code of a page is from 200 to 599")
        if self.delay_s is not None and not 0 <= self.delay_s <= 3600:
            raise ValueError("a delay is a number of seconds, up to an hour")

    @property
    def waits_s(self) -> float:
        """Return how late an answer is."""
        if self.delay_s is not None:
            return self.delay_s
        return DEFAULT_DELAY_S if self.mode is FaultMode.SLOW else 0.0


class Faults:
    """The fault that is on now."""

    def __init__(self) -> None:
        self._fault = Fault()
        self._changed = asyncio.Event()
        self.held_back = asyncio.Event()  # set once a slow fault has an answer to hold

    def set(self, fault: Fault) -> None:
        """Put `fault` in place of the one before; answers held back by that one go out."""
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        self.held_back.clear()

    def at(self, now: float) -> Fault:
        """Return the fault at time `now` (epoch seconds)."""
        if self._fault.until is not None and now >= self._fault.until:
            return Fault()
        return self._fault

    async def wait(self, delay_s: float) -> None:
        """Wait `delay_s` seconds, or until the fault is another one."""
        self.held_back.set()
        try:
            await asyncio.wait_for(self._changed.wait(), delay_s)
        except TimeoutError:
            return


@dataclass(frozen=True, slots=True)
class Limit:
    """So many calls a minute; over it, everything is a 429 for `cool_off_s` seconds.

    The real one is 300 and half an hour. With `retry_after` the answers say when it is over.
    """

    calls_per_minute: int = 300
    cool_off_s: float = 1800.0
    retry_after: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.calls_per_minute <= 1_000_000:
            raise ValueError("calls_per_minute is at least 1")
        if not 0 < self.cool_off_s <= 86_400:
            raise ValueError("cool_off_s is a number of seconds, up to a day")


class Limiter:
    """Counts calls against a limit. Time is an argument: epoch seconds."""

    def __init__(self, limit: Limit | None = None) -> None:
        self.limit = limit
        self._calls: deque[float] = deque()
        self._until = 0.0

    def cooling_s(self, now: float) -> float:
        """Return for how long everything is refused yet, 0 if it is not."""
        return max(0.0, self._until - now)

    def admit(self, now: float) -> bool:
        """Count a call at time `now`; False if it is refused. A refused one counts no further."""
        if self.limit is None:
            return True
        if self._until > now:
            return False
        while self._calls and self._calls[0] <= now - _WINDOW_S:
            self._calls.popleft()
        if len(self._calls) >= self.limit.calls_per_minute:
            self._until = now + self.limit.cool_off_s
            self._calls.clear()
            return False
        self._calls.append(now)
        return True


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What differs between accounts of the real one.

    `not_found_code` is the HTTP code of "not found", 200, 400 or 404; None leaves it to each
    address, 400 for an id of v3 and 404 elsewhere. Tokens are good for `token_lifetime_s` seconds.
    """

    not_found_code: int | None = None
    token_lifetime_s: int = TOKEN_LIFETIME_S

    def __post_init__(self) -> None:
        if self.not_found_code not in (None, *NOT_FOUND_CODES):
            raise ValueError("not_found_code is 200, 400 or 404")
        if not 1 <= self.token_lifetime_s <= 86_400:
            raise ValueError("token_lifetime_s is a number of seconds, up to a day")
