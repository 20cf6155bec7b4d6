"""``/openapi.json`` and ``/docs``: open to all, for they say nothing of any payment."""

from __future__ import annotations

from functools import cache

import orjson
from aiohttp import web

from webhook_server.description.document import make_document
from webhook_server.description.page import POLICY, render
from webhook_server.files import SECURITY

__all__ = ["description_routes"]

_CACHING = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}


@cache
def _document() -> bytes:
    return orjson.dumps(make_document())


@cache
def _page() -> str:
    return render(make_document())


async def _openapi(_request: web.Request) -> web.Response:
    return web.Response(body=_document(), content_type="application/json", headers=_CACHING)


async def _docs(_request: web.Request) -> web.Response:
    headers = {**SECURITY, **_CACHING, "Content-Security-Policy": POLICY}
    return web.Response(text=_page(), content_type="text/html", headers=headers)


def description_routes() -> list[web.RouteDef]:
    """Return both routes; what they answer with is made when it is first asked for."""
    return [web.get("/openapi.json", _openapi), web.get("/docs", _docs)]
