"""``GET /api/unsettled``: what the reconciler watches, and what of it a person should look at."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from aiohttp import web

from paystate.payments.reconciliation import overview
from paystate.resources import Resources
from webhook_server.access import Access
from webhook_server.parameters import whole_number
from webhook_server.problems import Refused

__all__ = ["UnsettledEndpoint"]

MOST_LISTED = 500
LISTED = 100

_PRIVATE = {"Cache-Control": "no-store", "Vary": "Authorization"}


class UnsettledEndpoint:
    """Lists what has been silent for long, for operators' tokens."""

    def __init__(self, resources: Resources, access: Access) -> None:
        self._store = resources.store
        self._access = access
        self._merchants: Sequence[str] = resources.roster.names

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/api/unsettled", self.unsettled)]

    async def unsettled(self, request: web.Request) -> web.Response:
        """``GET /api/unsettled?merchant=&limit=``: counts, and what is flagged."""
        caller = self._access.caller(request)
        if not caller.operator:
            raise Refused(403, "operators_only", "this token may read statuses, not operate")
        merchant = None  # of every merchant, to who may see all
        if caller.merchant is not None or "merchant" in request.query:
            merchant = self._access.merchant(request, self._merchants)
        most = whole_number(request.query.get("limit"), "limit") or LISTED
        found = await overview(self._store, merchant, most=min(most, MOST_LISTED))
        return web.Response(
            body=orjson.dumps(found), content_type="application/json", headers=_PRIVATE
        )
