"""The standing audit: a bounded round every few seconds, and some changes followed as they come.

A part that cannot be done now is left to the next round: the audit must never stand in the way of
the work that it watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from paystate.audit import Audit
from paystate.errors import TransientError
from paystate.logs import logger
from worker.loops import pause

__all__ = ["Auditor"]

log = logger()


class Auditor:
    """Audits; one for each worker process. `sample` things are compared every `every_s` seconds.

    `sample` 0 leaves out cached entries and rows.
    """

    def __init__(self, audit: Audit, stop: asyncio.Event, *, every_s: int, sample: int) -> None:
        self._audit = audit
        self._stop = stop
        self._every_s = every_s
        self._sample = sample

    async def work(self) -> None:
        """Do one round, then wait. May be cancelled at any point."""
        if self._sample:
            await self._try("entries", self._entries)
            await self._try("rows", self._rows)
            await self._try("claims", self._audit.rows.claims)
        await self._try("changes", self._audit.follower.count)
        await pause(self._stop, self._every_s)

    async def hear(self) -> None:
        """Follow changes until cancelled."""
        await self._audit.follower.hear()

    async def _entries(self) -> None:
        await self._audit.entries.round(self._sample)

    async def _rows(self) -> None:
        page, _ = await self._audit.rows.round(self._sample)
        await self._audit.provider.one_of(page)

    async def _try(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        if self._stop.is_set():
            return
        try:
            await work()
        except TransientError as e:
            log.info("audit_put_off", part=part, reason=e.reason)
