"""Changes for one listener: each once, by version, and every gap announced.

News comes from the wire into a bounded queue. Whenever something may have been lost the change log
is read from the last safe cursor, through the HTTP API, if there is one: after a new subscription,
after a version that does not follow the last, after an overflow of the queue, and every `poll_s`
in any case. What came before, by version, is left out, so that a replay repeats nothing.

All work is done while somebody waits for the next item: who is slow slows nobody else down, and an
iterator that is dropped leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from paystate.backoff import delay_s
from paystate.changes import Change, Cursor
from paystate.errors import CursorPruned
from paystate.keys import Entity
from paystate.reader.api import Api, ChangePage
from paystate.reader.errors import ApiUnavailable
from paystate.reader.news import News

__all__ = ["ChangeFeed", "Gap", "GapReason"]


class GapReason(StrEnum):
    """What may have lost changes."""

    RESUBSCRIBED = "resubscribed"  # the connection was lost, or fell silent, and is there again
    VERSION_GAP = "version_gap"  # a change does not follow the one before it
    LAGGED = "lagged"  # this iterator did not keep up with the news
    MISSED_NEWS = "missed_news"  # the change log has what was never heard
    CURSOR_PRUNED = "cursor_pruned"  # the change log no longer reaches back that far
    NO_API = "no_api"  # asked to start at a cursor, without an API to replay from
    API_UNAVAILABLE = "api_unavailable"  # the replay that this begins with was not possible


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes may have been lost here.

    `recovered` True: they follow, read from the change log after `since_cursor`. False: they do not
    follow now; look at what matters to you again. With an API they still come, once it answers,
    unless `reason` is ``cursor_pruned``.
    """

    reason: GapReason
    since_cursor: Cursor | None
    recovered: bool


@dataclass(slots=True)
class _Replay:
    """A reading of the change log that is due; `then` is the change that showed the gap."""

    reason: GapReason
    then: Change | None = None
    announced: bool = False

    def worth_saying(self, missed: bool) -> bool:
        """Say whether a success is announced: a poll or a beginning that lost nothing is not."""
        if self.announced or self.reason in (GapReason.API_UNAVAILABLE, GapReason.CURSOR_PRUNED):
            return False
        return missed or self.reason is not GapReason.MISSED_NEWS

    @property
    def silent_failure(self) -> bool:
        """Whether a failure loses nothing that was not announced: it is simply tried again."""
        return self.reason in (GapReason.MISSED_NEWS, GapReason.CURSOR_PRUNED)


class ChangeFeed:
    """An async iterator over `Change` and `Gap`; also an async context manager.

    It hears everything from the moment it was made, or entered, on. `cursor` is a safe place to go
    on from later: everything up to it has been handed out and, as the next item was asked for,
    dealt with.
    """

    def __init__(
        self,
        news: News,
        api: Api | None,
        after: Cursor | None,
        *,
        queue_size: int,
        remembered: int,
        poll_s: float,
        page_size: int = 500,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._news = news
        self._api = api
        self._safe = after
        self.cursor = after
        self._queue_size = queue_size
        self._remembered = remembered
        self._poll_s = poll_s
        self._page_size = page_size
        self._draw = draw
        self._queue: deque[Change | GapReason] = deque()
        self._ready: deque[Change | Gap | Cursor] = deque()
        self._versions: OrderedDict[Entity, int] = OrderedDict()
        self._replay: _Replay | None = None
        self._failures = 0
        self._poll_at = 0.0
        self._begun = False
        self._closed = False
        self._on_wire = news.subscribed
        self._wake = asyncio.Event()
        news.listeners.add(self)

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        """Return when it listens, and knows where in the change log it begins."""
        while not self._closed and not self._ready and (not self._begun or self._replay):
            await self._advance()
        while self._ready and isinstance(first := self._ready[0], Cursor):
            self.cursor = first
            self._ready.popleft()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it: there is nothing more to come."""
        self.end()

    def end(self) -> None:
        """End it from outside: who waits for the next item waits no longer."""
        self._closed = True
        self._news.listeners.discard(self)
        self._wake.set()

    async def __anext__(self) -> Change | Gap:
        """Return the next change, or the announcement of a gap. Raises ApiRefused.

        Cancelling it loses nothing.
        """
        while not self._closed:
            if not self._ready:
                await self._advance()
            elif isinstance(item := self._ready.popleft(), Cursor):
                self.cursor = item
            else:
                return item
        raise StopAsyncIteration

    # --- what the news tells ---

    def heard(self, change: Change) -> None:
        """Queue a change; who does not keep up loses the queue, and is told so."""
        self._push(change)

    def resubscribed(self) -> None:
        """Note that changes may have been missed, unless this is where it all begins."""
        if self._on_wire or self._begun:
            self._push(GapReason.RESUBSCRIBED)
        self._on_wire = True

    def lost(self) -> None:
        """Wait for the next subscription, which says the same with a place in the order."""

    def _push(self, item: Change | GapReason) -> None:
        if len(self._queue) >= self._queue_size:
            self._queue.clear()
            self._queue.append(GapReason.LAGGED)
        self._queue.append(item)
        self._wake.set()

    # --- what is done about it ---

    async def _advance(self) -> None:
        """Do one step towards the next item."""
        now = asyncio.get_running_loop().time()
        if not self._begun:
            await self._begin()
        elif self._api is not None and self._replay is not None:
            await self._read_log(self._api, self._replay)
        elif self._api is not None and self._poll_due(now):
            self._replay = _Replay(GapReason.MISSED_NEWS)
        elif self._queue:
            self._take(self._queue.popleft())
        else:
            await self._wait(None if self._api is None else self._poll_at - now)

    async def _begin(self) -> None:
        """Subscribe first, then read: wait until the wire has been tried."""
        await self._news.tried.wait()
        self._begun = True
        if self._api is not None:
            self._replay = _Replay(GapReason.API_UNAVAILABLE)
        elif self._safe is not None:
            self._ready.append(Gap(GapReason.NO_API, self._safe, recovered=False))

    def _poll_due(self, now: float) -> bool:
        """Say whether to read the log in any case: after what is queued, but not for ever."""
        return now >= self._poll_at + (self._poll_s if self._queue else 0)

    async def _wait(self, at_most_s: float | None) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(at_most_s):
                await self._wake.wait()
        except TimeoutError:
            pass  # time to read the log

    def _take(self, item: Change | GapReason) -> None:
        """Deal with the next item from the wire."""
        if isinstance(item, GapReason):
            self._open(_Replay(item))
            return
        held = self._versions.get(item.entity)
        if held is not None and item.version > held and item.previous_version != held:
            self._open(_Replay(GapReason.VERSION_GAP, then=item))
        else:
            self._emit(item)

    def _emit(self, change: Change) -> None:
        """Hand a change out, unless as late a one of its entity has been."""
        if change.version <= self._versions.get(change.entity, 0):
            return
        self._versions[change.entity] = change.version
        self._versions.move_to_end(change.entity)
        if len(self._versions) > self._remembered:
            self._versions.popitem(last=False)
        self._ready.append(change)

    # --- the change log ---

    def _open(self, replay: _Replay) -> None:
        """Read the log because something was lost; without an API, say that it is lost."""
        self._replay = replay
        if self._api is None:
            self._announce(replay, recovered=False)
            self._finish(replay)

    def _announce(self, replay: _Replay, *, recovered: bool) -> None:
        self._ready.append(Gap(replay.reason, self._safe, recovered))
        replay.announced = True

    async def _read_log(self, api: Api, replay: _Replay) -> None:
        """Read one page of the log."""
        try:
            page = await asyncio.to_thread(api.changes, self._safe, self._page_size)
        except CursorPruned:
            replay.reason = GapReason.CURSOR_PRUNED
            self._announce(replay, recovered=False)
            self._safe = None
        except ApiUnavailable:
            if not replay.silent_failure:
                self._announce(replay, recovered=False)
            self._failures += 1
            self._finish(replay)
        else:
            self._failures = 0
            self._take_page(replay, page)

    def _take_page(self, replay: _Replay, page: ChangePage) -> None:
        unseen = [c for c in page.changes if c.version > self._versions.get(c.entity, 0)]
        queued = {(c.entity, c.version) for c in self._queue if isinstance(c, Change)}
        missed = any((c.entity, c.version) not in queued for c in unseen)
        if replay.worth_saying(missed):
            self._announce(replay, recovered=self._safe is not None)
        for change in unseen:
            self._emit(change)
        moved = page.cursor != self._safe
        self._safe = page.cursor
        self._ready.append(page.cursor)
        if not (page.more and moved):
            self._finish(replay)

    def _finish(self, replay: _Replay) -> None:
        self._replay = None
        wait_s = self._poll_s
        if self._failures:
            wait_s = delay_s(
                self._failures, first_s=min(1.0, wait_s), most_s=wait_s, draw=self._draw()
            )
        self._poll_at = asyncio.get_running_loop().time() + wait_s
        if replay.then is not None:
            self._emit(replay.then)
