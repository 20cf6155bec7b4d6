"""How the control API reads a request, and says what is wrong with it.

It has no credentials of its own: the sandbox binds loopback unless told otherwise, and all it
holds is made up. But a browser on this machine may show anybody's page, so what changes something
is refused where it comes from another one's. Errors are ``{"error": reason, "message": text}``
with 400, 403, 404 or 409.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from paystate.flutterwave.sandbox.records import TruthRefused

__all__ = ["Route", "answering", "error", "read_object", "read_value"]

Route = Callable[[web.Request], Awaitable[web.Response]]


def answering(route: Route) -> Route:
    """Turn what the truth refuses, and a body without sense, into an answer."""

    async def answer(request: web.Request) -> web.Response:
        if request.method != "GET" and _is_foreign(request):
            return error("foreign", "another site's page may not direct this sandbox", status=403)
        try:
            return await route(request)
        except TruthRefused as refused:
            status = 400 if refused.reason == "invalid" else 409
            return error(refused.reason, str(refused), status=status)
        except (ValueError, TypeError, KeyError, InvalidOperation) as problem:
            return error("invalid", f"the request makes no sense: {problem}", status=400)
        except LookupError as missing:
            return error("not_found", str(missing), status=404)

    return answer


async def read_value(request: web.Request) -> Any:
    """Return the JSON in the body, decimals exact; an empty body is an empty object."""
    raw = await request.read()
    return json.loads(raw, parse_float=Decimal) if raw else {}


async def read_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in the body. Raises TypeError for anything else."""
    body = await read_value(request)
    if not isinstance(body, dict):
        raise TypeError("a JSON object is needed")
    return body


def error(reason: str, message: str, *, status: int) -> web.Response:
    """Return an error's answer."""
    return web.json_response({"error": reason, "message": message}, status=status)


def _is_foreign(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host
