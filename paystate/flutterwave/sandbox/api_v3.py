"""The routes of v3 under ``/v3``."""

from __future__ import annotations

from aiohttp import web

from paystate.flutterwave.sandbox import bodies
from paystate.flutterwave.sandbox.lists import disputed, matching, page_of
from paystate.flutterwave.sandbox.provider import SANDBOX
from paystate.flutterwave.sandbox.records import Form, Payment
from paystate.updates import Kind

__all__ = ["ROUTES"]

PAGE_SIZE = 10
MOST_ON_A_PAGE = 100


async def _charge(request: web.Request) -> web.Response:
    payment = _find(request, Kind.CHARGE)
    if payment is None:
        return _not_found(request, "No transaction was found for this id", 400)
    return web.json_response(bodies.v3_charge_answer(payment))


async def _by_reference(request: web.Request) -> web.Response:
    attempts = request.app[SANDBOX].truth.attempts(request.query.get("tx_ref", ""))
    of_v3 = [p for p in attempts if p.form is not Form.V4]
    if not of_v3:
        return _not_found(request, "No transaction was found for this id", 404)
    return web.json_response(bodies.v3_charge_answer(of_v3[-1]))


async def _charges(request: web.Request) -> web.Response:
    return _list(request, Kind.CHARGE, "tx_ref")


async def _transfers(request: web.Request) -> web.Response:
    return _list(request, Kind.TRANSFER, "reference")


def _list(request: web.Request, kind: Kind, named: str) -> web.Response:
    truth, reference = request.app[SANDBOX].truth, request.query.get(named)
    candidates = truth.attempts(reference) if reference else truth
    of_v3 = (p for p in candidates if p.kind is kind and p.form is not Form.V4)
    found = matching(of_v3, request.query)
    page = page_of(found, request.query, size=PAGE_SIZE, most=MOST_ON_A_PAGE)
    return web.json_response(bodies.v3_list_answer(kind, page))


async def _resend(request: web.Request) -> web.Response:
    payment = _find(request, Kind.CHARGE)
    if payment is None:
        return _not_found(request, "No transaction was found for this id", 400)
    request.app[SANDBOX].announce(payment)
    return web.json_response({"status": "success", "message": "hook sent", "data": None})


async def _transfer(request: web.Request) -> web.Response:
    payment = _find(request, Kind.TRANSFER)
    if payment is None:
        return _not_found(request, "Transfer not found", 404)
    return web.json_response(bodies.v3_transfer_answer(payment))


async def _chargebacks(request: web.Request) -> web.Response:
    of_v3 = (p for p in request.app[SANDBOX].truth if p.form is not Form.V4)
    found = disputed(of_v3, request.query)
    page = page_of(found, request.query, size=PAGE_SIZE, most=MOST_ON_A_PAGE)
    return web.json_response(bodies.v3_chargebacks_answer(page))


async def _refund(request: web.Request) -> web.Response:
    found = request.app[SANDBOX].truth.find_refund(request.match_info["id"])
    if found is None or found[0].form is Form.V4:
        return _not_found(request, "Refund not found", 404)
    return web.json_response(bodies.v3_refund_answer(*found))


ROUTES = [
    web.get("/v3/transactions", _charges),
    web.get("/v3/transactions/verify_by_reference", _by_reference),
    web.get("/v3/transactions/{id}/verify", _charge),
    web.post("/v3/transactions/{id}/resend-hook", _resend),
    web.get("/v3/transfers", _transfers),
    web.get("/v3/transfers/{id}", _transfer),
    web.get("/v3/chargebacks", _chargebacks),
    web.get("/v3/refunds/{id}", _refund),
]


def _find(request: web.Request, kind: Kind) -> Payment | None:
    payment = request.app[SANDBOX].truth.find(request.match_info["id"], kind)
    return None if payment is None or payment.form is Form.V4 else payment


def _not_found(request: web.Request, message: str, code: int) -> web.Response:
    # The code differs between accounts of the real one too: only the body means anything.
    code = request.app[SANDBOX].api.not_found_code or code
    return web.json_response(bodies.v3_error(message), status=code)
