"""Follow changes: look each up again at 10 ms, 100 ms, 1 s and 60 s after the news of it.

News is published after the cache has been told, so from then on no lookup may show less. Only so
many changes a second are followed. While no more may be, the audit does not even listen, so a busy
system costs it no more than a quiet one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable

import orjson

from paystate.audit.checking import Checker
from paystate.audit.ledger import SCALES_S, Ledger
from paystate.changes import Change
from paystate.connections import CacheClient
from paystate.errors import TransientError
from paystate.heartbeat import HEARTBEAT_S
from paystate.keys import Keys
from paystate.logs import logger, place_of
from paystate.status import is_terminal
from paystate.store.sampling import Sampling

__all__ = ["Allowance", "Follower"]

log = logger()

SILENCE_S = 3 * HEARTBEAT_S
# Seconds' worth of changes that may be followed at once after a quiet time: a payment and its
# reference change four times while one webhook is settled.
BURST_S = 4


class Allowance:
    """At most `per_s` changes a second, over time; `clock` is in seconds, monotonic."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._most = max(1.0, per_s * BURST_S)
        self._left = self._most
        self._at = clock()

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now

    @property
    def is_spent(self) -> bool:
        """Whether not one more may be followed now."""
        self._refill()
        return self._left < 1

    @property
    def wait_s(self) -> float:
        """How long to wait, once spent, until listening is worth it again."""
        self._refill()
        return max(0.0, (self._most / 2 - self._left) / self._per_s)

    def take(self, draw: float) -> bool:
        """Say whether to follow one more; `draw` in [0, 1) decides where little is left.

        So that of a burst not only what comes first is ever followed.
        """
        self._refill()
        if self._left < 1 or (self._left < self._most / 2 and draw < 0.5):
            return False
        self._left -= 1
        return True


class Follower:
    """Hears of changes and follows some. `draw` gives numbers in [0, 1)."""

    def __init__(
        self,
        redis: CacheClient,
        keys: Keys,
        merchants: Iterable[str],
        sampling: Sampling,
        checker: Checker,
        ledger: Ledger,
        *,
        per_s: int,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._merchants = merchants
        self._sampling = sampling
        self._checker = checker
        self._ledger = ledger
        self._clock = clock
        self._draw = draw
        self._allowance = Allowance(per_s, clock) if per_s else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed = 0
        self._so_far: int | None = None
        self.listening = asyncio.Event()

    async def hear(self) -> None:
        """Listen until enough has been heard for now. Raises what redis-py raises, TimeoutError."""
        if self._allowance is None:
            await asyncio.Event().wait()  # until cancelled
            return
        if self._allowance.is_spent:
            await asyncio.sleep(self._allowance.wait_s)
        try:
            async with self._redis.pubsub() as pubsub:
                heard: set[str] = set()
                while not self._allowance.is_spent:
                    channels = set(map(self._keys.all_changes, self._merchants)) - heard
                    if channels:  # of merchants that have been added, too
                        await pubsub.subscribe(*channels)
                        heard |= channels
                    message = await pubsub.get_message(timeout=SILENCE_S)
                    if message is None:
                        raise TimeoutError("no heartbeat")
                    if message["type"] == "subscribe":
                        self.listening.set()
                    elif message["type"] == "message":
                        self._consider(message["data"], self._allowance)
        finally:
            self.listening.clear()

    def _consider(self, data: bytes, allowance: Allowance) -> None:
        heard_at = self._clock()
        try:
            body = orjson.loads(data)
            if "version" not in body or not allowance.take(self._draw()):
                return
            change = Change.from_json(body)
        except (ValueError, KeyError, TypeError):
            log.warning("news_unreadable", bytes=len(data))
            return
        self._followed += 1
        task = asyncio.get_running_loop().create_task(self._guarded(change, heard_at))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, change: Change, heard_at: float) -> None:
        try:
            await self._follow(change, heard_at)
        except TransientError as e:
            log.info("audit_follow_ended", reason=e.reason)
        except Exception as e:
            log.error("audit_follow_failed", error=type(e).__name__, where=place_of(e))

    async def _follow(self, change: Change, heard_at: float) -> None:
        is_shown = False
        for scale, after_s in SCALES_S.items():
            await asyncio.sleep(max(0.0, heard_at + after_s - self._clock()))
            shown = await self._checker.lookup(change.entity, scale, heard=change.version)
            if is_shown or shown is None or shown.version < change.version:
                continue
            is_shown = True
            await self._note_visible(change, heard_at, self._clock())

    async def _note_visible(self, change: Change, heard_at: float, shown_at: float) -> None:
        """Note how long after its webhook a settled payment was in the news, and was shown."""
        if change.entity.is_reference or not is_terminal(change.status):
            return
        age_ms = await self._sampling.webhook_age_ms(change.entity, change.changed_ms)
        if age_ms is None:
            return
        came_at = self._clock() - age_ms / 1000
        self._ledger.visible("news", max(0.0, heard_at - came_at))
        self._ledger.visible("lookup", max(0.0, shown_at - came_at))

    async def count(self) -> None:
        """Bring the count of what was followed and left out up to date. Raises StoreUnavailable."""
        so_far = await self._sampling.changes_so_far()
        since = 0 if self._so_far is None else so_far - self._so_far
        self._ledger.followed(self._followed, max(0, since - self._followed))
        self._followed, self._so_far = 0, so_far

    async def end(self) -> None:
        """Give up what is being followed."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
