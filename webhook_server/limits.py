"""How many calls of the API a token may make in a minute, over all processes.

A process takes calls for a token out of the minute's in small lots, and each call is one off the
lot it holds. So the lookups that come by the thousand cost a subtraction, and Redis is asked fifty
times a minute at most for each token. What is left of a lot when the minute ends is spent in the
next one: a process may be that much, one fiftieth of the limit, above it.

While Redis is away a process lets a token make a quarter of its calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from redis.exceptions import NoScriptError

from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.keys import DEFAULT_MERCHANT, Keys
from webhook_server.callers import Caller
from webhook_server.problems import Refused

__all__ = ["Limits"]

MINUTE_S = 60
LOTS = 50
ALONE = 4
# Beyond the minute, for clocks that differ.
KEEP_S = 2 * MINUTE_S

_SCRIPT = Path(__file__).with_name("limits.lua").read_text("utf-8")
_DIGEST = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Limits:
    """Lets callers in, or not. `clock` gives epoch seconds."""

    def __init__(
        self, redis: CacheClient, keys: Keys, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._clock = clock
        self._taking: dict[Caller, asyncio.Task[int]] = {}
        # The minute in which a caller was refused, and what it was let do without Redis in one.
        self._refused: dict[Caller, int] = {}
        self._alone: dict[Caller, tuple[int, int]] = {}

    async def admit(self, caller: Caller) -> None:
        """Count one call. Raises Refused (429) where there must be none."""
        while caller.left < 1:
            minute = int(self._clock() // MINUTE_S)
            if self._refused.get(caller) == minute:
                raise self._too_many(caller)
            task = self._taking.get(caller)
            if task is None:
                task = asyncio.get_running_loop().create_task(self._take(caller, minute))
                self._taking[caller] = task
                task.add_done_callback(lambda _: self._taking.pop(caller, None))
            if not await asyncio.shield(task):
                self._refused[caller] = minute
        caller.left -= 1

    def forget(self) -> None:
        """Forget who was refused: the limits may be others now."""
        self._refused.clear()

    def _too_many(self, caller: Caller) -> Refused:
        wait_s = MINUTE_S - self._clock() % MINUTE_S
        return Refused(
            429,
            "too_many_calls",
            f"this token may make {caller.per_minute} calls a minute",
            {"Retry-After": str(max(1, round(wait_s)))},
        )

    async def _take(self, caller: Caller, minute: int) -> int:
        """Add a lot to what the caller may do; return its size, 0 if the minute's are spent."""
        wanted = max(1, caller.per_minute // LOTS)
        key = self._keys.calls(caller.account, caller.merchant or DEFAULT_MERCHANT, minute)
        try:
            granted = int(await self._run(key, caller.per_minute, wanted, KEEP_S))
        except (*REDIS_FAILURES, TimeoutError):
            granted = self._take_alone(caller, minute, wanted)
        caller.left += granted
        return granted

    async def _run(self, key: str, *args: int) -> int:
        try:
            return int(await self._redis.evalsha(_DIGEST, 1, key, *args))
        except NoScriptError:
            return int(await self._redis.eval(_SCRIPT, 1, key, *args))

    def _take_alone(self, caller: Caller, minute: int, wanted: int) -> int:
        known, taken = self._alone.get(caller, (minute, 0))
        taken = taken if known == minute else 0
        granted = max(0, min(wanted, max(1, caller.per_minute // ALONE) - taken))
        self._alone[caller] = minute, taken + granted
        return granted
