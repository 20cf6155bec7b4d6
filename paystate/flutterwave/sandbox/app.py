"""The sandbox's routes: the APIs that paystate asks, under their credentials and faults.

``/v3`` and ``/v4`` stand for the two base addresses and ``/token`` for the identity provider. The
open control API under ``/sandbox`` is in `control`.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from paystate.flutterwave.sandbox import bodies, control
from paystate.flutterwave.sandbox.faults import Fault, FaultMode
from paystate.flutterwave.sandbox.provider import SANDBOX, TOKEN_LIFETIME_S, Sandbox
from paystate.flutterwave.sandbox.truth import Form, Payment
from paystate.updates import Kind

__all__ = ["make_app"]

_GATEWAY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


def make_app(sandbox: Sandbox) -> web.Application:
    """Return an application that answers as Flutterwave would, out of the truth of `sandbox`."""
    app = web.Application(middlewares=[_misbehave, _check_credentials], client_max_size=64 * 1024)
    app[SANDBOX] = sandbox
    app.add_routes(
        [
            web.get("/v3/transactions/verify_by_reference", _v3_by_reference),
            web.get("/v3/transactions/{id}/verify", _v3_charge),
            web.get("/v3/transfers/{id}", _v3_transfer),
            web.get("/v3/refunds/{id}", _v3_refund),
            web.get("/v4/charges", _v4_charges),
            web.get("/v4/charges/{id}", _v4_charge),
            web.get("/v4/transfers/{id}", _v4_transfer),
            web.get("/v4/refunds/{id}", _v4_refund),
            web.post("/token", _token),
            *control.ROUTES,
        ]
    )
    app.on_shutdown.append(_end_faults)
    return app


async def _end_faults(app: web.Application) -> None:
    app[SANDBOX].faults.set(Fault())


@web.middleware
async def _misbehave(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not request.path.startswith(("/v3/", "/v4/")):
        return await handler(request)
    sandbox = request.app[SANDBOX]
    fault = sandbox.faults.at(sandbox.clock())
    if fault.mode is FaultMode.HTML:
        return web.Response(text=_GATEWAY_PAGE, content_type="text/html")
    if fault.mode in (FaultMode.RATE_LIMITED, FaultMode.UNAVAILABLE):
        wait = fault.retry_after_s
        return web.json_response(
            bodies.v3_error("Please try again later"),
            status=int(fault.mode),
            headers=None if wait is None else {"Retry-After": str(wait)},
        )
    if fault.mode is FaultMode.SLOW:
        await sandbox.faults.wait(fault.delay_s)
    return await handler(request)


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


async def _v3_charge(request: web.Request) -> web.Response:
    payment = _find(request, Kind.CHARGE)
    if payment is None or payment.form is Form.V4:
        # The code differs between accounts of the real one too: only the body means anything.
        return web.json_response(
            bodies.v3_error("No transaction was found for this id"), status=400
        )
    return web.json_response(bodies.v3_charge_answer(payment))


async def _v3_by_reference(request: web.Request) -> web.Response:
    attempts = request.app[SANDBOX].truth.attempts(request.query.get("tx_ref", ""))
    of_v3 = [p for p in attempts if p.form is not Form.V4]
    if not of_v3:
        return web.json_response(
            bodies.v3_error("No transaction was found for this id"), status=404
        )
    return web.json_response(bodies.v3_charge_answer(of_v3[-1]))


async def _v3_transfer(request: web.Request) -> web.Response:
    payment = _find(request, Kind.TRANSFER)
    if payment is None or payment.form is Form.V4:
        return web.json_response(bodies.v3_error("Transfer not found"), status=404)
    return web.json_response(bodies.v3_transfer_answer(payment))


async def _v3_refund(request: web.Request) -> web.Response:
    found = request.app[SANDBOX].truth.find_refund(request.match_info["id"])
    if found is None or found[0].form is Form.V4:
        return web.json_response(bodies.v3_error("Refund not found"), status=404)
    return web.json_response(bodies.v3_refund_answer(*found))


async def _v4_refund(request: web.Request) -> web.Response:
    found = request.app[SANDBOX].truth.find_refund(request.match_info["id"])
    if found is None or found[0].form is not Form.V4:
        error = bodies.v4_error("REFUND_NOT_FOUND", "1130404", "Refund not found")
        return web.json_response(error, status=404)
    return web.json_response(bodies.v4_refund_answer(*found))


async def _v4_charge(request: web.Request) -> web.Response:
    payment = _find(request, Kind.CHARGE)
    if payment is None or payment.form is not Form.V4:
        error = bodies.v4_error("CHARGE_NOT_FOUND", "1110404", "Charge not found")
        return web.json_response(error, status=404)
    return web.json_response(bodies.v4_charge_answer(payment))


async def _v4_charges(request: web.Request) -> web.Response:
    attempts = request.app[SANDBOX].truth.attempts(request.query.get("reference", ""))
    return web.json_response(bodies.v4_list_answer([p for p in attempts if p.form is Form.V4]))


async def _v4_transfer(request: web.Request) -> web.Response:
    payment = _find(request, Kind.TRANSFER)
    if payment is None or payment.form is not Form.V4:
        error = bodies.v4_error("TRANSFER_NOT_FOUND", "301404", "Transfer not found")
        return web.json_response(error, status=404)
    return web.json_response(bodies.v4_transfer_answer(payment))


async def _token(request: web.Request) -> web.Response:
    form = await request.post()
    if form.get("grant_type") != "client_credentials":
        return web.json_response({"error": "unsupported_grant_type"}, status=400)
    token = request.app[SANDBOX].grant_token(
        str(form.get("client_id", "")), str(form.get("client_secret", ""))
    )
    if token is None:
        return web.json_response({"error": "invalid_client"}, status=401)
    return web.json_response(
        {"access_token": token, "expires_in": TOKEN_LIFETIME_S, "token_type": "Bearer"}
    )


def _find(request: web.Request, kind: Kind) -> Payment | None:
    return request.app[SANDBOX].truth.find(request.match_info["id"], kind)
