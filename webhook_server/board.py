"""The operators' board: one page, its sign-in, and the numbers on it.

The numbers come from the database's own rows, from the queue, and from what every process has
counted (`paystate.cache.reports`), so they are the same whichever web process is asked. However
many look, a process makes one query at a time and one each second; a viewer is given the next one
that begins after the question, never one that is under way: what it shows has not been overtaken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import orjson
from aiohttp import web

from paystate.batch import Coalescer
from paystate.cache.reports import Report, read_reports
from paystate.cluster import ClusterDegraded
from paystate.connections import REDIS_FAILURES
from paystate.errors import CacheUnavailable, PaystateError, QueueUnavailable, StoreUnavailable
from paystate.resources import Resources
from paystate.store.overview import Overview
from webhook_server.access import Access, Caller
from webhook_server.bodies import read_within
from webhook_server.callers import EVERYONE
from webhook_server.figures import fleet, merchant_figures
from webhook_server.files import Files
from webhook_server.middleware import LOG_FIELDS
from webhook_server.problems import Refused
from webhook_server.sessions import COOKIE, is_own_page, set_cookie
from webhook_server.standing import BoardJson, YouJson

__all__ = ["BoardEndpoints"]

PACE_S = 1.0
MOST_BYTES = 4096


class BoardEndpoints:
    """The handlers of ``/`` and of what it needs."""

    def __init__(self, resources: Resources, access: Access, files: Files) -> None:
        self._resources = resources
        self._access = access
        self._files = files
        self._merchants: Sequence[str] = resources.roster.names
        self._overviews: Coalescer[str | None, Overview] = Coalescer(
            self._load, most=100, pace_s=PACE_S
        )

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/", self.page),
            web.post("/sign-in", self.sign_in),
            web.post("/sign-out", self.sign_out),
            web.get("/api/board", self.data),
        ]

    # --- the page and its sign-in ---

    async def page(self, request: web.Request) -> web.Response:
        """``GET /``: the board, or the form that asks for a token."""
        try:
            self._access.caller(request)
        except Refused as e:
            ended = e.reason == "session_ended"
            return self._form("Your session has ended: sign in again." if ended else "")
        return self._files.page("board")

    def _form(self, said: str, status: int = 200) -> web.Response:
        return self._files.page("sign-in", {"said": said}, status=status)

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """``POST /sign-in`` with the form's token: a cookie, and on to the board."""
        if not is_own_page(request):
            raise Refused(403, "other_site", "sign in on the board's own page")
        body = await read_within(request, MOST_BYTES)
        token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        if self._access.known(token) is None:
            request[LOG_FIELDS]["reason"] = "token_unknown"
            return self._form("That is none of the tokens in API_TOKENS.", status=401)
        answer = web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
        set_cookie(request, answer, self._access.sessions.make(token))
        return answer

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """``POST /sign-out``."""
        if not is_own_page(request):
            raise Refused(403, "other_site", "sign out on the board's own page")
        answer = web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
        set_cookie(request, answer, "")
        return answer

    # --- the numbers ---

    async def data(self, request: web.Request) -> web.Response:
        """``GET /api/board?merchant=``: how everything stands that the caller may see."""
        caller = self._access.caller(request)
        merchant = None  # all of them, to who may see all
        if caller.merchant is not None or "merchant" in request.query:
            merchant = self._access.merchant(request, self._merchants)
        found, cache, queue, reports = await asyncio.gather(
            _said(self._overview(merchant)),
            _said(self._resources.redis.ping()),
            _said(self._resources.queue.depth()),
            _said(read_reports(self._resources.redis, self._resources.keys)),
        )
        heard = reports if isinstance(reports, list) else []
        figures = merchant_figures(found if isinstance(found, Overview) else None)
        body: BoardJson = {
            "you": self._you(request, caller),
            "merchant": merchant,
            "health": {
                "database": _state(found),
                "cache": _state(cache),
                "queue": _state(queue),
                "news": "ok" if self._resources.feed.live else "silent",
                "worker": _workers(reports),
                "provider": await self._provider(merchant),
            },
            "as_of": figures["as_of"],
            "inbox": figures["inbox"],
            "visible": figures["visible"],
            "statuses": figures["statuses"],
            "payments": figures["payments"],
        }
        if caller.merchant is None:  # what is counted for all of them together
            body["queue_depth"] = queue if isinstance(queue, int) else None
            body["fleet"] = fleet(heard)
        return web.Response(
            body=orjson.dumps(body),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    def _you(self, request: web.Request, caller: Caller) -> YouJson:
        return {
            "name": caller.name,
            "merchant": caller.merchant,
            "operator": caller.operator,
            "merchants": list(self._merchants) if caller.merchant is None else [caller.merchant],
            "session": caller.account != EVERYONE and COOKIE in request.cookies,
        }

    async def _overview(self, merchant: str | None) -> Overview:
        found = await self._overviews(merchant)
        if found is None:
            raise StoreUnavailable("overview_missing")
        return found

    async def _load(
        self, merchants: Sequence[str | None]
    ) -> Mapping[str | None, Overview | BaseException]:
        """Look once for each of `merchants`, one after the other."""
        found: dict[str | None, Overview | BaseException] = {}
        for merchant in merchants:
            try:
                found[merchant] = await self._resources.store.operations.overview(merchant)
            except PaystateError as e:
                found[merchant] = e
        return found

    async def _provider(self, merchant: str | None) -> str:
        """Say whether Flutterwave has had enough of us."""
        resources = self._resources
        names = self._merchants if merchant is None else (merchant,)
        keys = [resources.keys.rate(name, "cooloff") for name in names[:20]]
        try:
            held = await asyncio.gather(*(resources.redis.hmget(k, ["until_ms"]) for k in keys))
        except REDIS_FAILURES:
            return "unknown"
        now_ms = time.time() * 1000
        cooling = any(int(until or 0) > now_ms for [until] in held)
        return "cooling off" if cooling else "ok"


async def _said(work: Any) -> Any:
    """Return what `work` gives, or the failure that says how a part of the whole stands."""
    try:
        return await work
    except (StoreUnavailable, QueueUnavailable, CacheUnavailable) as e:
        return e
    except ClusterDegraded:
        return CacheUnavailable("degraded")
    except REDIS_FAILURES:
        return CacheUnavailable("unreachable")


def _state(found: object) -> str:
    return found.reason if isinstance(found, PaystateError) else "ok"


def _workers(reports: list[Report] | PaystateError) -> str:
    if isinstance(reports, PaystateError):
        return "unknown"
    return "ok" if any(report.role == "worker" for report in reports) else "none heard"
