"""When everything is served normally again after a fault."""

from __future__ import annotations

import asyncio

__all__ = ["Recovery"]

NEEDED = 100


class Recovery:
    """Waits for `NEEDED` requests in a row, begun after the fault's end, that all go well.

    Times are seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._ended_at: float | None = None
        self._in_a_row = 0
        self.over = asyncio.Event()
        self.seconds: float | None = None

    def begin(self, fault_ended_at: float) -> None:
        """Begin to count: the fault is over."""
        self._ended_at = fault_ended_at

    def outcome(self, began_at: float, normal: bool, now: float) -> None:
        """Take how a request went: answered, and by an answer that is proven, is normal."""
        if self._ended_at is None or self.over.is_set() or began_at < self._ended_at:
            return
        self._in_a_row = self._in_a_row + 1 if normal else 0
        if self._in_a_row == NEEDED:
            self.seconds = now - self._ended_at
            self.over.set()
