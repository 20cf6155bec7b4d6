"""Customers over HTTP: profiles, their payments, and what they may ask to be done with it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
from aiohttp import web

from paystate.payments.asking import FAILED_S
from paystate.payments.customers import CustomerId, ProfileJson
from paystate.payments.desk import Desk
from paystate.payments.erasing import ErasedJson, ExportJson
from paystate.payments.history import HistoryJson
from webhook_server.access import Access
from webhook_server.parameters import identifier, whole_number
from webhook_server.problems import Refused

__all__ = ["CustomerEndpoints"]

# 100,000 payments of one customer. What is asked for beyond that is a mistake.
MOST_PAGES = 5000

# It is about a person: no proxy and no browser keeps it.
_PRIVATE = {"Cache-Control": "private, no-store", "Vary": "Authorization"}
_NONE: Mapping[str, str] = {}


class CustomerEndpoints:
    """The handlers of ``/api/customers``."""

    def __init__(self, desk: Desk, access: Access, merchants: Sequence[str]) -> None:
        self._desk = desk
        self._access = access
        self._merchants = merchants

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/api/customers/{id}", self.profile),
            web.get("/api/customers/{id}/payments", self.payments),
            web.get("/api/customers/{id}/export", self.export),
            web.delete("/api/customers/{id}", self.erase),
        ]

    def _who(self, request: web.Request) -> CustomerId:
        """Return whom a request is about. Raises Refused (400, 401, 403, 404)."""
        merchant = self._access.merchant(request, self._merchants)
        return CustomerId(merchant, identifier(request.match_info["id"], "id"))

    async def profile(self, request: web.Request) -> web.Response:
        """``GET /api/customers/{id}``."""
        profile = await self._desk.profiles.profile(self._who(request))
        # When Flutterwave may be asked again: whoever asks sooner is told the same.
        later = {} if profile["fresh"] else {"Retry-After": str(FAILED_S)}
        return _json(profile, later)

    async def payments(self, request: web.Request) -> web.Response:
        """``GET /api/customers/{id}/payments?page=`` or ``?cursor=``."""
        who = self._who(request)
        number = whole_number(request.query.get("page"), "page")
        cursor = whole_number(request.query.get("cursor"), "cursor")
        if number is not None and cursor is not None:
            raise Refused(400, "page_or_cursor", "name a page or a cursor, not both")
        if number is not None and not 0 < number <= MOST_PAGES:
            raise Refused(400, "invalid_page", f"pages count from 1 to {MOST_PAGES}")
        page = await self._desk.history.page(who, number or 1, before=cursor)
        return _json(page.to_json())

    async def export(self, request: web.Request) -> web.Response:
        """``GET /api/customers/{id}/export``: all that is kept of a customer."""
        self._access.operator(request)
        return _json(await self._desk.personal.export(self._who(request)))

    async def erase(self, request: web.Request) -> web.Response:
        """``DELETE /api/customers/{id}``: forget a customer; their payments keep their statuses."""
        caller = self._access.operator(request)
        return _json(await self._desk.personal.erase(self._who(request), operator=caller.name))


def _json(
    body: ProfileJson | HistoryJson | ExportJson | ErasedJson, headers: Mapping[str, str] = _NONE
) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), content_type="application/json", headers={**_PRIVATE, **headers}
    )
