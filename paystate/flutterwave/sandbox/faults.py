"""How the sandbox's APIs misbehave on request: the weather of a drill."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Fault", "FaultMode", "Faults"]

# The real gateway gives up on a slow bank after 28 s; slower than any client should wait.
DEFAULT_DELAY_S = 28.0


class FaultMode(StrEnum):
    """What the APIs do instead of answering."""

    NONE = "none"
    SLOW = "slow"  # the right answer, late
    RATE_LIMITED = "429"
    UNAVAILABLE = "503"
    HTML = "html"  # a gateway's page, with 200


@dataclass(frozen=True, slots=True)
class Fault:
    """One way of misbehaving: until epoch second `until`, or until the next fault if that is None.

    `delay_s` is how late answers are when slow; `retry_after_s` goes into the header of a 429 or
    503, which has none if it is None.
    """

    mode: FaultMode = FaultMode.NONE
    until: float | None = None
    delay_s: float = DEFAULT_DELAY_S
    retry_after_s: int | None = None


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
