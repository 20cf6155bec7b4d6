"""Changes as they happen: server-sent events, a JSON log with a cursor, and the long poll.

Each follows one rule: subscribe first, then read, then tell only what is newer. A stream that does
not keep up is told so and ended; its client comes back with the last id it has seen, and the change
log has the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
from aiohttp import web

from paystate.changes import Change, Cursor
from paystate.feed import Feed, replayed
from paystate.keys import Entity
from paystate.listeners import Subscription
from paystate.payments.answers import StatusAnswer
from paystate.payments.lookup import Lookups
from paystate.store import Store
from webhook_server.access import Access
from webhook_server.answers import ChangesJson
from webhook_server.parameters import identifier, kind_of, whole_number
from webhook_server.problems import Refused
from webhook_server.sse import KEEP_ALIVE_S, end, open_stream, send, still_here

__all__ = ["StreamEndpoints", "wait_for_change"]

MOST_CHANGES = 1000


class StreamEndpoints:
    """The handlers of streams."""

    def __init__(
        self,
        feed: Feed,
        lookups: Lookups,
        store: Store,
        access: Access,
        merchants: Sequence[str],
    ) -> None:
        self._feed = feed
        self._lookups = lookups
        self._store = store
        self._access = access
        self._merchants = merchants

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/api/payments/by-ref/{tx_ref}/events", self.reference_events),
            web.get("/api/payments/{id}/events", self.payment_events),
            web.get("/api/changes", self.changes),
        ]

    # --- one payment ---

    async def payment_events(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/payments/{id}/events``."""
        merchant = self._access.merchant(request, self._merchants)
        payment_id = identifier(request.match_info["id"], "id")
        kind = kind_of(request.query.get("kind"))
        if kind is None:  # which one it is, the first answer says
            kind = (await self._lookups.payment(merchant, payment_id, None)).entity.kind
        return await self._follow(request, Entity(merchant, kind, payment_id))

    async def reference_events(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/payments/by-ref/{tx_ref}/events``."""
        merchant = self._access.merchant(request, self._merchants)
        tx_ref = identifier(request.match_info["tx_ref"], "tx_ref")
        return await self._follow(request, Entity.reference(merchant, tx_ref))

    async def _follow(self, request: web.Request, entity: Entity) -> web.StreamResponse:
        """Send the status as it is, then each change of it.

        The first event, ``status``, has the form of a lookup; those after it, ``change``, that of
        a change. A client that comes back is given the status anew: nothing can be missed.
        """
        with self._feed.subscribe(entity=entity) as news:
            answer = await self._lookups.status(entity)
            stream = await open_stream(request)
            await send(stream, "status", answer.to_json())
            version = answer.version
            while not news.closed:
                change = await news.next(KEEP_ALIVE_S)
                if news.lagged:
                    return await end(stream, "lagged")
                if change is None:
                    await still_here(stream)
                elif change.version > version:
                    version = change.version
                    await send(stream, "change", change.to_json(), str(change.cursor))
            return await end(stream, "closing")

    # --- everything ---

    async def changes(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/changes``: server-sent events if they are asked for, else JSON."""
        caller = self._access.caller(request)
        merchant = caller.merchant
        if merchant is not None or "merchant" in request.query:
            merchant = self._access.merchant(request, self._merchants)
        after = _cursor(request)
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await self._follow_all(request, merchant, after)
        return await self._page(request, merchant, after)

    async def _page(
        self, request: web.Request, merchant: str | None, after: Cursor | None
    ) -> web.Response:
        limit = whole_number(request.query.get("limit", "500"), "limit") or 0
        if not 0 < limit <= MOST_CHANGES:
            raise Refused(400, "invalid_limit", f"limit is from 1 to {MOST_CHANGES}")
        if after is None:
            now = await self._store.latest_cursor()
            return _json(ChangesJson(changes=[], cursor=str(now), more=False))
        # One answer goes as far as it can be gone on from: to page beyond a transaction that is
        # still open would lead past what it has yet to write.
        page = await self._store.changes_after(after, most=limit, merchant=merchant)
        return _json(
            ChangesJson(
                changes=[change.to_json() for change in page.changes],
                cursor=str(page.safe),
                more=page.more and page.safe > after,
            )
        )

    async def _follow_all(
        self, request: web.Request, merchant: str | None, after: Cursor | None
    ) -> web.StreamResponse:
        with self._feed.subscribe(merchant=merchant) as news:
            if after is not None:
                # Seen to be there before the stream begins: a pruned cursor is a 410, not an event.
                await self._store.changes_after(after, most=1)
            stream = await open_stream(request)
            told = _Told()
            if after is not None:
                async for change in replayed(self._store, after):
                    if merchant in (None, change.entity.merchant):
                        await told.tell(stream, change)
            return await self._stream(stream, news, told)

    async def _stream(
        self, stream: web.StreamResponse, news: Subscription, told: _Told
    ) -> web.StreamResponse:
        while not news.closed:
            change = await news.next(KEEP_ALIVE_S)
            if news.lagged:
                return await end(stream, "lagged")
            if change is None:
                await still_here(stream)
            else:
                await told.tell(stream, change)
        return await end(stream, "closing")


class _Told:
    """What a stream of everything has told, for as long as replay and news can overlap."""

    def __init__(self) -> None:
        self._versions: dict[Entity, int] = {}

    async def tell(self, stream: web.StreamResponse, change: Change) -> None:
        """Send a change unless as late a one was sent."""
        if change.version <= self._versions.get(change.entity, 0):
            return
        if len(self._versions) >= 10_000:  # the overlap is long over; the feed drops what is old
            self._versions.clear()
        self._versions[change.entity] = change.version
        await send(stream, "change", change.to_json(), str(change.cursor))


async def wait_for_change(
    feed: Feed, lookups: Lookups, entity: Entity, *, wait_s: float, after_version: int
) -> StatusAnswer:
    """Return the status once its version is greater than `after_version`, or when time is up.

    While the feed is not live, the database is asked every second.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    with feed.subscribe(entity=entity) as news:
        answer = await lookups.status(entity)
        while answer.version <= after_version and not news.closed:
            left = deadline - loop.time()
            if left <= 0:
                break
            change = await news.next(left if feed.live else min(left, 1.0))
            if change is None or change.version > after_version:
                answer = await lookups.status(entity, min_version=after_version + 1)
        return answer


def _cursor(request: web.Request) -> Cursor | None:
    text = request.headers.get("Last-Event-ID") or request.query.get("after")
    if text is None:
        return None
    try:
        return Cursor.parse(text)
    except ValueError:
        raise Refused(400, "invalid_cursor", "a cursor looks like 123.456") from None


def _json(body: ChangesJson) -> web.Response:
    return web.Response(
        body=orjson.dumps(body),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
