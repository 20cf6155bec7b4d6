"""Pruning in the background: small batches with pauses, so that nobody waits for it."""

from __future__ import annotations

import asyncio

from paystate.logs import logger
from paystate.payments.retention import Pruner
from worker.loops import pause

__all__ = ["PruningLoop"]

log = logger()

# Between two batches while there is more to do, and between two looks while there is not.
BUSY_S = 1.0
IDLE_S = 15 * 60.0


class PruningLoop:
    """Prunes for as long as its worker runs."""

    def __init__(self, pruner: Pruner, stop: asyncio.Event) -> None:
        self._pruner = pruner
        self._stop = stop

    async def work(self) -> None:
        """Do one batch, then wait. May be cancelled at any point."""
        more = await self._pruner.batch()
        done = self._pruner.done
        if not more and (done.emptied or done.removed or done.changes):
            log.info("pruning_finished", emptied=done.emptied, removed=done.removed,
                     changes=done.changes)  # fmt: skip
            done.emptied = done.removed = done.changes = 0
        await pause(self._stop, BUSY_S if more else IDLE_S)
