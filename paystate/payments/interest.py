"""Which unsettled payments somebody is asking for: those the reconciler asks about first.

A lookup only remembers the name in its process; every few seconds the process tells Redis all that
it has been asked for in one command. What is lost with either is an order of work, nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import orjson
from redis.exceptions import NoScriptError

from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.keys import Entity, Keys
from paystate.logs import logger

__all__ = ["Interest"]

log = logger()

# What nobody has asked for so long is asked about in its turn.
WINDOW_S = 15 * 60
MOST = 5000
# Remembered by a process between two tellings; of more, the latest.
MOST_NOTED = 1000
EVERY_S = 5.0

_SCRIPT = files("paystate.payments").joinpath("wanted.lua").read_text("utf-8")
_DIGEST = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Interest:
    """Notes what is asked for; one for each process. `clock` is in seconds, monotonic."""

    def __init__(
        self,
        redis: CacheClient,
        keys: Keys,
        *,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
    ) -> None:
        self._redis = redis
        self._key = keys.wanted
        self._clock = clock
        self._every_s = every_s
        self._noted: dict[str, None] = {}
        self._told_at = -every_s
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None

    def note(self, entity: Entity) -> None:
        """Remember that somebody asks for `entity`, which is unsettled. Never waits or fails."""
        key = entity.row_key
        if key in self._noted:
            return
        if len(self._noted) >= MOST_NOTED:
            del self._noted[next(iter(self._noted))]
        self._noted[key] = None
        if self._timer is None:
            wait_s = max(0.0, self._told_at + self._every_s - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._told_at = self._clock()
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        noted, self._noted = list(self._noted), {}
        try:
            await self._ask(noted, 0)
        except REDIS_FAILURES as e:
            log.info("interest_not_told", payments=len(noted), error=type(e).__name__)

    async def recent(self, most: int) -> list[str]:
        """Return the row keys that were asked for last, the latest first; none if Redis is away."""
        try:
            return [key.decode() for key in await self._ask([], most)]
        except REDIS_FAILURES:
            return []

    async def _ask(self, noted: Sequence[str], most: int) -> Any:
        arguments = (WINDOW_S, MOST, most, orjson.dumps(noted) if noted else "[]")
        try:
            return await self._redis.evalsha(_DIGEST, 1, self._key, *arguments)
        except NoScriptError:
            return await self._redis.eval(_SCRIPT, 1, self._key, *arguments)

    async def drain(self) -> None:
        """Tell what has been noted, and wait for nothing else."""
        if self._timer is not None:
            self._timer.cancel()
            self._begin()
        if self._telling is not None:
            await asyncio.wait([self._telling], timeout=2)
