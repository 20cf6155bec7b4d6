"""What every call to the sandbox's APIs passes first: faults, the rate limit, credentials."""

from __future__ import annotations

import math

from aiohttp import web
from aiohttp.typedefs import Handler

from paystate.flutterwave.sandbox import bodies
from paystate.flutterwave.sandbox.faults import FaultMode
from paystate.flutterwave.sandbox.provider import SANDBOX, Sandbox

__all__ = ["MIDDLEWARES"]

_PAGE = (
    "<!DOCTYPE html><html><head><title>{title}</title></head>"
    "<body><center><h1>{title}</h1></center><hr><center>nginx</center></body></html>"
)
_TITLES = {429: "429 Too Many Requests", 503: "503 Service Temporarily Unavailable"}
_APIS = ("/v3/", "/v4/")


@web.middleware
async def _misbehave(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not request.path.startswith(_APIS):
        return await handler(request)
    sandbox = request.app[SANDBOX]
    if not sandbox.limiter.admit(sandbox.clock()):
        return _cooling_off(sandbox)
    fault = sandbox.fault_now()
    if fault.mode is FaultMode.NONE:
        return await handler(request)
    if fault.waits_s:
        await sandbox.faults.wait(fault.waits_s)
    if fault.mode is FaultMode.SLOW:
        return await handler(request)
    if fault.mode is FaultMode.HTML:
        title = "502 Bad Gateway" if fault.code == 200 else f"{fault.code} Error"
        return _page(title, fault.code, None)
    return _refusal(int(fault.mode), fault.retry_after_s, as_page=fault.html)


@web.middleware
async def _check_credentials(request: web.Request, handler: Handler) -> web.StreamResponse:
    sandbox = request.app[SANDBOX]
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer":
        credential = ""
    if request.path.startswith("/v3/") and not sandbox.accepts_key(credential):
        return web.json_response(bodies.v3_error("Invalid authorization key"), status=401)
    if request.path.startswith("/v4/") and not sandbox.accepts_token(credential):
        error = bodies.v4_error("UNAUTHORIZED", "10401", "Unauthorized")
        return web.json_response(error, status=401)
    return await handler(request)


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn a question without sense into each API's own 400."""
    try:
        return await handler(request)
    except ValueError as problem:
        if request.path.startswith("/v3/"):
            return web.json_response(bodies.v3_error(str(problem)), status=400)
        error = bodies.v4_error("REQUEST_NOT_VALID", "10400", str(problem))
        return web.json_response(error, status=400)


MIDDLEWARES = (_misbehave, _check_credentials, _explain)


def _cooling_off(sandbox: Sandbox) -> web.Response:
    limit = sandbox.limiter.limit
    wait_s = math.ceil(sandbox.limiter.cooling_s(sandbox.clock()))
    return _refusal(429, wait_s if limit is not None and limit.retry_after else None)


def _refusal(code: int, retry_after_s: int | None, *, as_page: bool = False) -> web.Response:
    if as_page:
        return _page(_TITLES[code], code, retry_after_s)
    return web.json_response(
        bodies.v3_error("Please try again later"), status=code, headers=_headers(retry_after_s)
    )


def _page(title: str, code: int, retry_after_s: int | None) -> web.Response:
    return web.Response(
        text=_PAGE.format(title=title),
        status=code,
        content_type="text/html",
        headers=_headers(retry_after_s),
    )


def _headers(retry_after_s: int | None) -> dict[str, str] | None:
    return None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
