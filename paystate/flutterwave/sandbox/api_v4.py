"""The routes of v4 under ``/v4``, and the identity provider that grants its tokens."""

from __future__ import annotations

from aiohttp import web

from paystate.flutterwave.sandbox import bodies
from paystate.flutterwave.sandbox.lists import disputed, matching, page_of
from paystate.flutterwave.sandbox.provider import SANDBOX
from paystate.flutterwave.sandbox.records import Form, Payment
from paystate.updates import Kind

__all__ = ["ROUTES"]

PAGE_SIZE = 10
MOST_ON_A_PAGE = 50


async def _charge(request: web.Request) -> web.Response:
    payment = _find(request, Kind.CHARGE)
    if payment is None:
        return _not_found(request, "CHARGE_NOT_FOUND", "1110404", "Charge not found")
    return web.json_response(bodies.v4_charge_answer(payment))


async def _charges(request: web.Request) -> web.Response:
    return _list(request, Kind.CHARGE)


async def _transfers(request: web.Request) -> web.Response:
    return _list(request, Kind.TRANSFER)


def _list(request: web.Request, kind: Kind) -> web.Response:
    truth, reference = request.app[SANDBOX].truth, request.query.get("reference")
    candidates = truth.attempts(reference) if reference else truth
    of_v4 = (p for p in candidates if p.kind is kind and p.form is Form.V4)
    found = matching(of_v4, request.query)
    page = page_of(found, request.query, size=PAGE_SIZE, most=MOST_ON_A_PAGE)
    return web.json_response(bodies.v4_list_answer(kind, page))


async def _transfer(request: web.Request) -> web.Response:
    payment = _find(request, Kind.TRANSFER)
    if payment is None:
        return _not_found(request, "TRANSFER_NOT_FOUND", "301404", "Transfer not found")
    return web.json_response(bodies.v4_transfer_answer(payment))


async def _chargebacks(request: web.Request) -> web.Response:
    of_v4 = (p for p in request.app[SANDBOX].truth if p.form is Form.V4)
    found = disputed(of_v4, request.query)
    page = page_of(found, request.query, size=PAGE_SIZE, most=MOST_ON_A_PAGE)
    return web.json_response(bodies.v4_chargebacks_answer(page))


async def _refund(request: web.Request) -> web.Response:
    found = request.app[SANDBOX].truth.find_refund(request.match_info["id"])
    if found is None or found[0].form is not Form.V4:
        return _not_found(request, "REFUND_NOT_FOUND", "1130404", "Refund not found")
    return web.json_response(bodies.v4_refund_answer(*found))


async def _customer(request: web.Request) -> web.Response:
    customer = request.app[SANDBOX].truth.customer(request.match_info["id"])
    if customer is None:
        return _not_found(request, "CUSTOMER_NOT_FOUND", "1120404", "Customer not found")
    return web.json_response(bodies.v4_customer_answer(customer))


async def _customers(request: web.Request) -> web.Response:
    customers = request.app[SANDBOX].truth.customers
    page = page_of(customers, request.query, size=PAGE_SIZE, most=MOST_ON_A_PAGE)
    return web.json_response(bodies.v4_customers_answer(page))


async def _token(request: web.Request) -> web.Response:
    form = await request.post()
    if form.get("grant_type") != "client_credentials":
        return web.json_response({"error": "unsupported_grant_type"}, status=400)
    sandbox = request.app[SANDBOX]
    token = sandbox.grant_token(str(form.get("client_id", "")), str(form.get("client_secret", "")))
    if token is None:
        return web.json_response({"error": "invalid_client"}, status=401)
    lifetime_s = sandbox.api.token_lifetime_s
    return web.json_response(
        {"access_token": token, "expires_in": lifetime_s, "token_type": "Bearer"}
    )


ROUTES = [
    web.get("/v4/charges", _charges),
    web.get("/v4/charges/{id}", _charge),
    web.get("/v4/transfers", _transfers),
    web.get("/v4/transfers/{id}", _transfer),
    web.get("/v4/chargebacks", _chargebacks),
    web.get("/v4/refunds/{id}", _refund),
    web.get("/v4/customers", _customers),
    web.get("/v4/customers/{id}", _customer),
    web.post("/token", _token),
    web.post("/realms/flutterwave/protocol/openid-connect/token", _token),
]


def _find(request: web.Request, kind: Kind) -> Payment | None:
    payment = request.app[SANDBOX].truth.find(request.match_info["id"], kind)
    return payment if payment is not None and payment.form is Form.V4 else None


def _not_found(request: web.Request, error_type: str, code: str, message: str) -> web.Response:
    status = request.app[SANDBOX].api.not_found_code or 404
    return web.json_response(bodies.v4_error(error_type, code, message), status=status)
