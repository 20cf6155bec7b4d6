"""What surrounds every request: errors become problem documents, and one line is logged."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import Counter

from paystate.errors import PaystateError
from paystate.logs import logger, place_of
from paystate.metrics import Metrics
from webhook_server.front import take_failure
from webhook_server.problems import from_error, problem
from webhook_server.sse import StreamUnread

__all__ = ["LOG_FIELDS", "surround"]

# What a handler adds to the request's one log line.
LOG_FIELDS: web.RequestKey[dict[str, object]] = web.RequestKey("log_fields", dict[str, object])

log = logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# What nginx counts a caller as that has gone before its answer was whole; nobody is sent it.
CALLER_GONE = 499

# Asked every few seconds by machines; a line for each would drown the rest.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})

# The questions that come fifty thousand times a minute, and those of pages that are open. What was
# answered is counted; a line for each costs more than the answer, so there is one with
# LOG_LEVEL=DEBUG only. Refusals are logged.
_LOOKUPS = frozenset(
    {
        "/api/payments/{id}/status",
        "/api/payments/by-ref/{tx_ref}/status",
        "/api/payments/status",
        "/api/board",
        "/pages/{name}",
        "/pay/{token}/status",
    }
)


def _http_problem(error: web.HTTPException) -> web.Response:
    reasons = {
        404: ("no_such_path", "there is nothing at this path; /docs lists what there is"),
        405: ("method_not_allowed", "this path takes other methods"),
        413: ("body_too_large", "the body is larger than this endpoint takes"),
    }
    reason, detail = reasons.get(error.status, ("http_error", error.reason))
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return problem(error.status, reason, detail, headers)


def _answer_to(
    error: Exception, request: web.Request, fields: dict[str, object]
) -> web.StreamResponse:
    """Return what a request is answered that ended in `error`; `fields` go into its line."""
    match error:
        case PaystateError():
            fields["reason"] = error.reason
            return from_error(error)
        case web.HTTPException():
            return _http_problem(error)
        case StreamUnread():
            fields["reason"] = "caller_does_not_read"
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=CALLER_GONE)
        case TimeoutError():
            fields["reason"] = "slow_body"
            return problem(408, "slow_body", "the body took too long to arrive")
        case ConnectionError() if request.transport is None or request.transport.is_closing():
            fields["reason"] = "caller_gone"
            return web.Response(status=CALLER_GONE)
    # The message may quote what was sent; its type and place do not.
    log.error("request_broke", error=type(error).__name__, where=place_of(error))
    return problem(500, "internal_error", "a fault of ours; it has been logged")


def surround(
    metrics: Metrics, *, admit: Callable[[web.Request], Awaitable[None]], verbose: bool
) -> Middleware:
    """Return the middleware; `verbose` has it log the lookups that were answered too.

    `admit` raises for a request that must not be handled.
    """
    counters: dict[tuple[str, int], Counter] = {}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        response: web.StreamResponse
        fields: dict[str, object] = {}
        request[LOG_FIELDS] = fields
        failure = take_failure(request)
        try:
            if failure is not None:
                started = failure.asked_s
                fields |= failure.fields
                raise failure.error
            await admit(request)
            response = await handler(request)
        except Exception as e:
            response = _answer_to(e, request, fields)
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        counter = counters.get((route, response.status))
        if counter is None:
            counter = metrics.requests.labels(route, response.status)
            counters[route, response.status] = counter
        counter.inc()
        answered = route in _LOOKUPS and response.status in (200, 304)
        if route not in _QUIET and not (answered and not verbose):
            log.info(
                "request_finished",
                method=request.method,
                route=route,
                status=response.status,
                duration_ms=round((time.perf_counter() - started) * 1000, 2),
                **fields,
            )
        return response

    return middleware
