"""The reconciler in the worker: a pass every minute or so, whatever else goes on."""

from __future__ import annotations

import asyncio

from paystate.payments.reconciliation import Reconciliation
from worker.loops import pause

__all__ = ["ReconcileLoop"]

# Where it is turned off.
NEVER_S = 24 * 3600.0


class ReconcileLoop:
    """Reconciles for as long as its worker runs: every `every_s` seconds, never if that is 0."""

    def __init__(
        self, reconciliation: Reconciliation, stop: asyncio.Event, *, every_s: int
    ) -> None:
        self._reconciliation = reconciliation
        self._stop = stop
        self._every_s = every_s

    async def work(self) -> None:
        """Do one pass, then wait. May be cancelled at any point: claims run out by themselves."""
        if self._every_s:
            await self._reconciliation.round()
        await pause(self._stop, self._every_s or NEVER_S)
