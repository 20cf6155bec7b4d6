"""The one listener of a reader: a merchant's changes on Redis pub/sub, and whether it is live.

Pub/sub loses messages without a word, so this says what it can know of that: whoever listens is
told when the connection is lost and when it is subscribed again. redis-py reconnects on its own
and shows it by another ``subscribe`` message and by nothing else; any such message therefore means
that changes may have been missed until now. A connection on which no heartbeat comes may be half
open, so it is dropped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import WeakSet

from redis.asyncio import Connection

from paystate.backoff import delay_s
from paystate.changes import Change
from paystate.connections import CacheClient

__all__ = ["Listener", "News", "parse_change"]

log = logging.getLogger("paystate.reader")

# A change has a few hundred bytes; whatever is far larger is not one.
MOST_BYTES = 16_384


class Listener(Protocol):
    """Is told of the news; none of it may wait."""

    def heard(self, change: Change) -> None:
        """Take a change from the wire: it may be old, repeated, or follow one that was lost."""

    def resubscribed(self) -> None:
        """Changes may have been missed until now; from now on they are heard."""

    def lost(self) -> None:
        """Changes are not heard until `resubscribed`."""


def parse_change(data: Mapping[str, Any]) -> Change:
    """Return the change in `data`. Raises ValueError if there is none."""
    try:
        change = Change.from_json(dict(data))
    except (KeyError, TypeError) as e:
        raise ValueError("not a change") from e
    if change.version < 1:
        raise ValueError("not a change")
    return change


class News:
    """Listens to `channel` until cancelled (`run`) and tells every listener.

    `silence_s` without a heartbeat or a change ends a connection. Listeners are held weakly: who
    is gone need not say so.
    """

    def __init__(
        self,
        redis: CacheClient,
        channel: str,
        merchant: str,
        *,
        silence_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._redis = redis
        self._channel = channel
        self._merchant = merchant
        self._silence_s = silence_s
        self._draw = draw
        self._clock: Callable[[], float] = time.monotonic
        # When it counts as silent, by the loop's clock, unless something is heard before.
        self._silent_at = 0.0
        self.subscribed = False
        # Set once it is known whether the first subscription has worked: subscribe, then read.
        self.tried = asyncio.Event()
        self.listeners: WeakSet[Listener] = WeakSet()

    @property
    def live(self) -> bool:
        """Whether every change is heard: subscribed, and not silent for too long.

        By the clock, not only by the listener's word: the event loop may have been held up.
        """
        return self.subscribed and self._clock() < self._silent_at

    def _hear(self) -> None:
        """Note that the connection is alive."""
        self._silent_at = self._clock() + self._silence_s

    async def run(self) -> None:
        """Listen until cancelled, on one connection after another."""
        self._clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            began = self._clock()
            why = "silent"
            try:
                await self._listen()
            except Exception as e:  # redis-py's own faults too: the next connection is a new start
                why = type(e).__name__
            finally:
                had_news = self._lose()
            if had_news or not failures:
                log.warning("news_lost: %s", why)
            self.tried.set()
            failures = 1 if self._clock() - began >= self._silence_s else failures + 1
            await asyncio.sleep(delay_s(failures, first_s=0.05, most_s=2, draw=self._draw()))

    def _lose(self) -> bool:
        """Tell everybody that nothing is heard; return whether anything was until now."""
        if not self.subscribed:
            return False
        self.subscribed = False
        for listener in list(self.listeners):
            listener.lost()
        return True

    async def _listen(self) -> None:
        """Listen on one connection; returns when it has fallen silent, raises when it breaks."""
        pubsub = self._redis.pubsub()
        try:
            self._hear()
            await pubsub.subscribe(self._channel)
            while (left := self._silent_at - self._clock()) > 0:
                message = await pubsub.get_message(timeout=left)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._subscribe()
                elif message["type"] == "message":
                    self._take(message["data"])
        finally:
            # At once: a connection to a server that hangs would be waited for, and then leaked.
            connection: Connection | None = getattr(pubsub, "connection", None)
            if connection is not None:
                await connection.disconnect(nowait=True)
            await pubsub.aclose()

    def _subscribe(self) -> None:
        self._hear()
        self.subscribed = True
        for listener in list(self.listeners):
            listener.resubscribed()
        self.tried.set()

    def _take(self, data: bytes) -> None:
        """Tell of the change in a message; anything that is neither that nor a heartbeat is not
        ours and counts for nothing.
        """
        if len(data) > MOST_BYTES:
            return
        try:
            body = json.loads(data)
            if not isinstance(body, dict):
                return
            if body.get("heartbeat") is True:
                self._hear()
                return
            change = parse_change(body)
        except (ValueError, RecursionError):
            return
        if change.entity.merchant != self._merchant:
            return
        self._hear()
        for listener in list(self.listeners):
            listener.heard(change)
