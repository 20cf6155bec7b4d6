"""The sweeper: what makes an acknowledged webhook certain to be settled.

It takes rows that are due and that nobody holds: their job was lost with the queue, their worker
was killed, or their retry has come. It needs no queue, and its batches are bounded, so that a
backlog is worked off at a steady pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.settling import Settler
from paystate.store import Store
from worker.loops import pause

__all__ = ["Sweeper"]

log = logger()

EVERY_S = 1.0
MEASURE_S = 5.0
# A new row belongs to the queue this long.
GRACE_MS = 2000
BATCH = 200


class Sweeper:
    """Sweeps the inbox; one for each worker process, and any number beside each other.

    `crowded` says whether this worker has more jobs than it can settle at once.
    """

    def __init__(
        self,
        settler: Settler,
        store: Store,
        metrics: Metrics,
        stop: asyncio.Event,
        *,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._crowded = crowded
        self._stop = stop
        self._settler = settler
        self._store = store
        self._metrics = metrics

    async def work(self) -> None:
        """Sweep until nothing is due, then wait a moment.

        While jobs wait for each other too: what is due longest is then what they are at.
        """
        taken, ended = await self._settler.sweep(grace_ms=GRACE_MS, most=BATCH)
        if taken:
            self._metrics.swept.inc(taken)
            log.info("sweep_finished", events=taken, ended=ended)
        if taken < BATCH or self._crowded():
            await pause(self._stop, EVERY_S)

    async def measure(self) -> None:
        """Bring the gauges of the inbox up to date, then wait."""
        gauges = await self._store.gauges()
        self._metrics.inbox_open.set(gauges.open)
        self._metrics.inbox_oldest.set(gauges.oldest_ms / 1000)
        self._metrics.inbox_stuck.labels("held").set(gauges.held)
        self._metrics.inbox_stuck.labels("dead").set(gauges.dead)
        await pause(self._stop, MEASURE_S)
