"""The customer's page: one payment's status, live, for whoever has its link. Nothing else is shown.

A link is read at every request and for as long as a stream is open. What it opens is looked up like
any other question, so the page is bound by the same promises.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import orjson
from aiohttp import web

from paystate.changes import iso_utc
from paystate.errors import LinkRefused, PaymentNotFound, TransientError
from paystate.feed import Feed
from paystate.links import Link, Links
from paystate.listeners import Subscription
from paystate.payments.answers import StatusAnswer
from paystate.payments.lookup import Lookups
from paystate.shapes import Bounded, Moment, Version
from paystate.status import Status
from webhook_server.files import Files, wants_page
from webhook_server.middleware import LOG_FIELDS
from webhook_server.parameters import whole_number
from webhook_server.problems import Refused
from webhook_server.sse import KEEP_ALIVE_S, end, open_stream, send, still_here

__all__ = ["PayEndpoints", "ViewJson"]

LONGEST_WAIT_S = 60.0
# Without the feed, changes are not heard of: the database is asked this often.
UNHEARD_S = 1.0
# A webhook may never come. A lookup asks Flutterwave when a payment has been pending for long.
LOOK_AGAIN_S = 30.0

_STATUS_OF = {"link_expired": 410}
_NO_STORE = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
}


class ViewJson(TypedDict):
    """What a customer may see of a payment."""

    status: Annotated[str, Bounded(words=Status)]
    terminal: bool
    version: Annotated[Version, "0: nobody has heard of it yet."]
    fresh: bool
    held: Annotated[bool, "A person has to look first."]
    as_of: Moment | None


@dataclass(frozen=True, slots=True)
class View:
    """What a customer may see: `version` orders it, and 0 is a payment nobody has heard of."""

    status: Status
    terminal: bool
    version: int
    fresh: bool
    held: bool
    as_of_ms: int | None

    @classmethod
    def of(cls, answer: StatusAnswer) -> View:
        """Return what may be seen of an answer."""
        return cls(
            answer.status, answer.terminal, answer.version, answer.fresh, answer.held,
            answer.as_of_ms,
        )  # fmt: skip

    @property
    def state(self) -> str:
        """What the page shows: a status, or that a person has to look first."""
        return "held" if self.held and not self.terminal else self.status.value

    def to_json(self) -> ViewJson:
        """Return the public form."""
        return {
            "status": self.status.value,
            "terminal": self.terminal,
            "version": self.version,
            "fresh": self.fresh,
            "held": self.held,
            "as_of": iso_utc(self.as_of_ms) if self.as_of_ms is not None else None,
        }


class PayEndpoints:
    """The handlers of ``/pay/{token}``."""

    def __init__(self, links: Links, lookups: Lookups, feed: Feed, files: Files) -> None:
        self._links = links
        self._lookups = lookups
        self._feed = feed
        self._files = files

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/pay/{token}", self.page),
            web.get("/pay/{token}/status", self.status),
            web.get("/pay/{token}/events", self.events),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """``GET /pay/{token}``: the page, with the status as it is now already in it."""
        try:
            link = self._links.read(request.match_info["token"])
        except LinkRefused as e:
            if not wants_page(request):
                raise _refused(e) from e
            request[LOG_FIELDS]["reason"] = e.reason
            state = e.reason.removeprefix("link_")
            return self._page(state, status=_STATUS_OF.get(e.reason, 403))
        try:
            view = await self._now(link)
        except TransientError:
            # The page asks again by itself.
            return self._page("unavailable", status=503, headers={"Retry-After": "2"})
        return self._page(view.state, view.version)

    def _page(
        self, state: str, version: int = -1, *, status: int = 200, headers: Any = None
    ) -> web.Response:
        values = {"state": state, "version": str(version)}
        return self._files.page(
            "pay", values, status=status, headers={**_NO_STORE, **(headers or {})}
        )

    async def status(self, request: web.Request) -> web.Response:
        """``GET /pay/{token}/status?wait=&after_version=``: JSON, by long poll if asked for."""
        link = self._read(request)
        wait_s = whole_number(request.query.get("wait"), "wait")
        after = whole_number(request.query.get("after_version"), "after_version")
        view = await self._waited(link, float(wait_s or 0), after or 0)
        return web.Response(
            body=orjson.dumps(view.to_json()), content_type="application/json", headers=_NO_STORE
        )

    async def events(self, request: web.Request) -> web.StreamResponse:
        """``GET /pay/{token}/events``: a ``status`` event now and at each change."""
        link = self._read(request)
        with self._feed.subscribe(entity=link.entity) as news:
            view = await self._now(link)
            stream = await open_stream(request, {**_NO_STORE, "Cache-Control": "no-store"})
            await send(stream, "status", view.to_json())
            why = "closing"
            try:
                why = await self._follow(link, news, view, stream)
            except TransientError as e:
                request[LOG_FIELDS]["reason"] = e.reason  # too late for another status code
            return await end(stream, why)

    async def _follow(
        self, link: Link, news: Subscription, view: View, stream: web.StreamResponse
    ) -> str:
        """Tell of each change until the link expires; return why it ended."""
        silent_s = 0.0
        while not news.closed:
            left_s = self._links.seconds_left(link)
            if left_s <= 0:
                return "expired"
            change = await news.next(min(KEEP_ALIVE_S, left_s))
            if news.lagged:
                return "lagged"
            silent_s = 0.0 if change else silent_s + KEEP_ALIVE_S
            if change is None:
                await still_here(stream)
            if change is not None or (silent_s >= LOOK_AGAIN_S and not view.terminal):
                silent_s = 0.0
                seen = await self._now(link, change.version if change else 0)
                if seen.version > view.version:
                    view = seen
                    await send(stream, "status", view.to_json())
        return "closing"

    async def _waited(self, link: Link, wait_s: float, after: int) -> View:
        """Return what is seen once its version is greater than `after`, or when time is up."""
        with self._feed.subscribe(entity=link.entity) as news:
            view = await self._now(link)
            deadline = time.monotonic() + min(
                wait_s, LONGEST_WAIT_S, self._links.seconds_left(link)
            )
            while view.version <= after and not news.closed:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                await news.next(left_s if self._feed.live else min(left_s, UNHEARD_S))
                view = await self._now(link, after + 1)
        return view

    async def _now(self, link: Link, min_version: int = 0) -> View:
        """Return what is seen now. Raises StoreUnavailable."""
        try:
            return View.of(await self._lookups.status(link.entity, min_version=min_version))
        except PaymentNotFound as e:
            # A shop may give its customer the link before the payment has begun.
            return View(Status.UNKNOWN, False, 0, e.retry_after_s is None, False, None)

    def _read(self, request: web.Request) -> Link:
        try:
            return self._links.read(request.match_info["token"])
        except LinkRefused as e:
            raise _refused(e) from e


def _refused(error: LinkRefused) -> Refused:
    return Refused(_STATUS_OF.get(error.reason, 403), error.reason, str(error))
