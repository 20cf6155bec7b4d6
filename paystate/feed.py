"""News of changes: at once where the wire holds, and certainly where it does not.

Changes arrive by Redis pub/sub, which may lose any of them without a word, and by the change log,
which loses none and is read whenever something may have been lost:

* after every subscription, a silent reconnect included (redis-py shows it by another ``subscribe``
  message and by nothing else);
* when no heartbeat has come for a while: the connection may be half open, so it is dropped;
* when a version does not follow the one before it;
* every `POLL_S` in any case. This alone would do.

Whoever listens gets each change once, by version: what is older than what an entity has shown is
dropped here. The cursor that comes with a change says how far everything has been told: that of a
change heard on the wire is the one that the log was last read up to. Queues are bounded: who does
not keep up is told so, and catches up from the log.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

import hiredis
import msgspec
import orjson
from redis.exceptions import ConnectionError as RedisConnectionError

from paystate.backoff import delay_s
from paystate.changes import MOST, Change, Cursor
from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import CursorPruned, TransientError
from paystate.heartbeat import SILENCE_S
from paystate.keys import Entity, EntityKind, Keys
from paystate.listeners import Listeners, Subscription
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.near import NearCache

__all__ = ["Feed", "replayed"]

log = logger()

POLL_S = 20.0
# Versions remembered for dropping what is old. What is forgotten is delivered once more.
REMEMBERED = 200_000


_Version = Annotated[int, msgspec.Meta(ge=0, le=MOST)]


class _Heard(msgspec.Struct, gc=False):
    """What must be known of a change that nobody listens to; the rest of it is passed over."""

    kind: EntityKind = EntityKind.CHARGE
    merchant: str = ""
    payment_id: str | None = None
    tx_ref: str | None = None
    version: _Version = -1
    previous_version: _Version = -1

    @property
    def entity(self) -> Entity:
        """What it is about. Raises ValueError if it names nothing."""
        own_id = self.tx_ref if self.kind is EntityKind.REFERENCE else self.payment_id
        if not (own_id and self.merchant) or self.previous_version < 0:
            raise ValueError("not a change")
        return Entity(self.merchant, self.kind, own_id)


_HEARD = msgspec.json.Decoder(_Heard)


class Replay(Protocol):
    """Reads the change log; `paystate.store.Store` does."""

    async def changes_after(self, position: Cursor, *, safe: Cursor | None = None) -> Any:
        """Return a page: `changes`, `position`, `safe`, `more`."""

    async def versions_after(self, position: Cursor, *, safe: Cursor | None = None) -> Any:
        """Return a page with `versions` in place of changes; None if that is no cheaper."""

    async def latest_cursor(self) -> Cursor:
        """Return the cursor of now."""


class Feed:
    """Listens once for a whole process and tells everyone in it. `run` does the work.

    `merchants` may be another set later, once `merchants_changed` has been called.
    """

    def __init__(
        self,
        redis: CacheClient,
        replay: Replay,
        keys: Keys,
        merchants: Iterable[str],
        metrics: Metrics,
        *,
        silence_s: float = SILENCE_S,
        poll_s: float = POLL_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        near: NearCache[Any] | None = None,
    ) -> None:
        self._redis = redis
        self._replay = replay
        self._near = near
        self._heard_at = 0.0
        self._keys = keys
        self._merchants = merchants
        self._added = False
        self._metrics = metrics
        self._silence_s = silence_s
        self._poll_s = poll_s
        self._sleep = sleep
        self._cursor: Cursor | None = None
        self._versions: OrderedDict[str, int] = OrderedDict()  # by row key
        if near is not None:
            near.follow(self._versions)
        self._listeners = Listeners()
        self._resync = asyncio.Event()
        self.listening = asyncio.Event()

    @property
    def live(self) -> bool:
        """Whether news is coming in: subscribed, and a heartbeat not long ago.

        By the clock, not only by the listener's word: the event loop may have been held up.
        """
        return self.listening.is_set() and time.monotonic() - self._heard_at < self._silence_s

    # --- listeners ---

    @contextmanager
    def subscribe(
        self, *, entity: Entity | None = None, merchant: str | None = None
    ) -> Iterator[Subscription]:
        """Listen to one entity, or to a merchant's changes, or to all. Subscribe, then read."""
        with self._listeners.subscribe(entity, merchant) as subscription:
            self._metrics.subscribers.inc()
            try:
                yield subscription
            finally:
                self._metrics.subscribers.dec()

    def close(self) -> None:
        """End every listener's wait, so that a stopping process is not held up by streams."""
        self._listeners.close()

    def _tell(self, change: Change) -> None:
        """Hand a change to whoever wants it, unless they have been told of as late a one."""
        key = change.entity.row_key
        if self._is_news(key, change.version, change.previous_version):
            self._listeners.offer(change)

    def _is_news(self, key: str, version: int, previous_version: int) -> bool:
        """Take note of a version; False if as late a one was known. Sees what was missed between.

        This is all that is done for a change to which nobody listens.
        """
        if self._near is not None:
            self._near.overtaken(key, version)
        known = self._versions.get(key)
        if known is not None:
            if version <= known:
                return False
            if previous_version > known:
                self._metrics.feed_gaps.labels("version").inc()
                self._resync.set()
            self._versions.move_to_end(key)
        self._versions[key] = version
        if len(self._versions) > REMEMBERED:
            self._versions.popitem(last=False)
        return True

    def merchants_changed(self) -> None:
        """Listen to those as well that have been added. Those that are gone say nothing more."""
        self._added = True

    # --- the wire ---

    async def run(self) -> None:
        """Listen until cancelled."""
        polling = asyncio.create_task(self._catch_up_for_ever())
        failures = 0
        try:
            while True:
                try:
                    await self._listen()
                    failures = 0
                except (*REDIS_FAILURES, TimeoutError) as e:
                    failures += 1
                    log.warning("feed_disconnected", error=type(e).__name__, failures=failures)
                finally:
                    self.listening.clear()
                    if self._near is not None:
                        self._near.lost()
                await self._sleep(delay_s(failures, first_s=0.1, most_s=2, draw=0.5))
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)

    async def _listen(self) -> None:
        """Listen on one connection until it breaks or falls silent."""
        async with self._redis.pubsub() as pubsub:
            heard: set[str] = set()
            self._added = True
            while True:
                if self._added:  # the next heartbeat, and so this line, is never far
                    self._added = False
                    channels = set(map(self._keys.all_changes, self._merchants)) - heard
                    heard |= channels
                    if channels:
                        await pubsub.subscribe(*channels)
                message = await pubsub.get_message(timeout=self._silence_s)
                if message is None:
                    self._metrics.feed_gaps.labels("silence").inc()
                    raise TimeoutError("no heartbeat")
                self._heard_at = time.monotonic()
                self._take(message)
                # What has come with it is read without a task and a timeout for each.
                for reply in _at_hand(pubsub):
                    if reply[0] == b"message":
                        self._hear(reply[2])
                    else:
                        self._take(await pubsub.handle_message(reply))

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._metrics.feed_gaps.labels("subscribed").inc()
            if self._near is not None:
                self._near.resubscribed()
            self.listening.set()
            self._resync.set()
        elif message["type"] == "message":
            self._hear(message["data"])

    def _hear(self, data: bytes) -> None:
        try:
            heard = _HEARD.decode(data)
            if heard.version < 0:
                return  # a heartbeat
            entity = heard.entity
            if self._listeners.wanted(entity):
                change = Change.from_json(orjson.loads(data))
                # Its own cursor says that it was committed, not that all before it was published.
                # A client that goes on from here must be told whatever the wire has lost.
                self._tell(change._replace(cursor=self._cursor or Cursor()))
            else:
                self._is_news(entity.row_key, heard.version, heard.previous_version)
        except (ValueError, KeyError, RecursionError):
            log.warning("news_unreadable", bytes=len(data))

    # --- the log ---

    async def _catch_up_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._resync.wait()
            except TimeoutError:
                pass
            self._resync.clear()
            try:
                await self.catch_up()
            except TransientError as e:
                log.warning("feed_behind", reason=e.reason)
                await self._sleep(1.0)
                self._resync.set()

    async def _begin(self) -> None:
        """Take the cursor of now; an earlier one that another call has taken meanwhile stays."""
        now = await self._replay.latest_cursor()
        if self._cursor is None:
            self._cursor = now

    async def catch_up(self) -> None:
        """Tell of everything in the change log since the last safe cursor.

        The first time it only takes the cursor of now, so it must come before anybody listens.
        """
        if self._cursor is None:
            await self._begin()
            return
        position = safe = self._cursor
        more = True
        while more:
            try:
                position, safe, more = await self._read_on(position, safe)
            except CursorPruned:
                # Nobody can be told what was missed; everybody is, that something was.
                self._cursor = await self._replay.latest_cursor()
                self._listeners.lag()
                return
        self._cursor = safe

    async def _read_on(self, position: Cursor, safe: Cursor) -> tuple[Cursor, Cursor, bool]:
        """Tell of a page of the log; return where it ends, the safe cursor, and if there is more.

        While nobody listens, only versions are taken note of.
        """
        if not self._listeners:
            brief = await self._replay.versions_after(position, safe=safe)
            # Whoever has come meanwhile is to be told in full.
            if brief is not None and not self._listeners:
                known = self._versions
                for key, version, previous_version in brief.versions:
                    if version > known.get(key, -1):  # nearly all has come by the wire
                        self._is_news(key, version, previous_version)
                return brief.position, brief.safe, brief.more
        page = await self._replay.changes_after(position, safe=safe)
        for change in page.changes:
            self._tell(change)
        return page.position, page.safe, page.more


def _at_hand(pubsub: Any) -> Iterator[Any]:
    """Yield the replies that have been received behind the one that `pubsub` has just given.

    They lie in hiredis' reader; another parser has none to give. Raises redis-py's ConnectionError
    for an error reply: the connection is not to be trusted any more.
    """
    reader = getattr(getattr(pubsub.connection, "_parser", None), "_reader", None)
    if not isinstance(reader, hiredis.Reader):
        return
    while isinstance(reply := reader.gets(), list):
        yield reply
    if isinstance(reply, Exception):
        raise RedisConnectionError("the server sent an error in place of news")


async def replayed(replay: Replay, after: Cursor) -> AsyncIterator[Change]:
    """Yield every change after `after` that is visible now. Raises CursorPruned."""
    position = safe = after
    more = True
    while more:
        page = await replay.changes_after(position, safe=safe)
        for change in page.changes:
            yield change
        position, safe, more = page.position, page.safe, page.more
