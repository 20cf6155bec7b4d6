"""The control API of the sandbox: the truth, and the means to change it and to disturb it.

It has no credentials of its own: the sandbox binds loopback unless told otherwise, and all it
holds is made up. Errors are ``{"error": reason, "message": text}`` with 400, 404 or 409.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from aiohttp import web

from paystate.flutterwave.sandbox.faults import DEFAULT_DELAY_S, Fault, FaultMode
from paystate.flutterwave.sandbox.provider import SANDBOX
from paystate.flutterwave.sandbox.truth import Form, Payment, TruthRefused
from paystate.updates import Kind

__all__ = ["ROUTES"]

DEFAULT_LIMIT = 1_000

_Route = Callable[[web.Request], Awaitable[web.Response]]
_Body = dict[str, Any]


def _answering(route: _Route) -> _Route:
    """Turn what the truth refuses, and a body without sense, into an answer."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return await route(request)
        except TruthRefused as refused:
            status = 400 if refused.reason == "invalid" else 409
            return _error(refused.reason, str(refused), status=status)
        except (ValueError, TypeError, KeyError, InvalidOperation) as problem:
            return _error("invalid", f"the request makes no sense: {problem}", status=400)
        except LookupError as missing:
            return _error("not_found", str(missing), status=404)

    return answer


async def _list_payments(request: web.Request) -> web.Response:
    """Answer with the truth, newest first: ``?limit=``, ``?status=``, ``?tx_ref=``."""
    limit = int(request.query.get("limit", DEFAULT_LIMIT))
    wanted = {name: request.query.get(name) for name in ("status", "tx_ref")}
    shown: list[_Body] = []
    for payment in reversed(list(request.app[SANDBOX].truth)):
        body = payment.to_json()
        if all(value in (None, body[name]) for name, value in wanted.items()):
            shown.append(body)
        if len(shown) >= limit:
            break
    return web.json_response({"payments": shown})


async def _show_payment(request: web.Request) -> web.Response:
    return web.json_response(_payment(request).to_json())


async def _create_payment(request: web.Request) -> web.Response:
    """Make a pending payment; ``"announce": true`` sends its pending webhook."""
    body = await _read(request)
    payment_id = body.get("id")
    payment = request.app[SANDBOX].create(
        amount=_amount(body.get("amount", 1000)),
        currency=str(body.get("currency", "NGN")),
        form=Form(body.get("api", "v3")),
        kind=Kind(body.get("kind", "charge")),
        tx_ref=None if body.get("tx_ref") is None else str(body["tx_ref"]),
        payment_id=None if payment_id is None else str(payment_id),
        announce=bool(body.get("announce", False)),
    )
    return web.json_response(payment.to_json(), status=201)


async def _settle_payment(request: web.Request) -> web.Response:
    """Settle a payment and send its webhook, unless ``"announce": false``: that one is lost."""
    payment, body = _payment(request), await _read(request)
    announce = bool(body.get("announce", True))
    request.app[SANDBOX].settle(payment, str(body["status"]), announce=announce)
    return web.json_response(payment.to_json())


async def _refund_payment(request: web.Request) -> web.Response:
    """Refund ``amount`` (all that is left by default) of a charge and send the webhook."""
    payment, body = _payment(request), await _read(request)
    word = body.get("status")
    request.app[SANDBOX].refund(
        payment,
        amount=None if body.get("amount") is None else _amount(body["amount"]),
        word=None if word is None else str(word),
    )
    return web.json_response(payment.to_json())


async def _set_fault(request: web.Request) -> web.Response:
    """Make the APIs misbehave: `mode` for `seconds`, or until the next fault without them.

    ``delay_s`` is how late a slow answer is, ``retry_after_s`` the header of a 429 or 503.
    """
    sandbox, body = request.app[SANDBOX], await _read(request)
    seconds, retry_after = body.get("seconds"), body.get("retry_after_s")
    fault = Fault(
        mode=FaultMode(str(body.get("mode", "none"))),
        until=None if seconds is None else sandbox.clock() + float(seconds),
        delay_s=float(body.get("delay_s", DEFAULT_DELAY_S)),
        retry_after_s=None if retry_after is None else int(retry_after),
    )
    sandbox.faults.set(fault)
    return web.json_response({"mode": fault.mode.value, "until": fault.until})


async def _list_deliveries(request: web.Request) -> web.Response:
    """Answer with the tries to deliver a webhook, oldest first: ``?payment_id=``."""
    payment_id = request.query.get("payment_id")
    tries = request.app[SANDBOX].sender.deliveries
    listed = [d.to_json() for d in tries if payment_id in (None, d.payment_id)]
    return web.json_response({"deliveries": listed})


ROUTES = [
    web.get("/sandbox/payments", _answering(_list_payments)),
    web.post("/sandbox/payments", _answering(_create_payment)),
    web.get("/sandbox/payments/{id}", _answering(_show_payment)),
    web.post("/sandbox/payments/{id}/settle", _answering(_settle_payment)),
    web.post("/sandbox/payments/{id}/refund", _answering(_refund_payment)),
    web.post("/sandbox/faults", _answering(_set_fault)),
    web.get("/sandbox/deliveries", _answering(_list_deliveries)),
]


def _payment(request: web.Request) -> Payment:
    kind = Kind(request.query["kind"]) if "kind" in request.query else None
    payment = request.app[SANDBOX].truth.find(request.match_info["id"], kind)
    if payment is None:
        raise LookupError("there is no such payment")
    return payment


async def _read(request: web.Request) -> _Body:
    raw = await request.read()
    body = json.loads(raw, parse_float=Decimal) if raw else {}
    if not isinstance(body, dict):
        raise TypeError("a JSON object is needed")
    return body


def _amount(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise TypeError("an amount is a number or a decimal string")
    return Decimal(value)


def _error(reason: str, message: str, *, status: int) -> web.Response:
    return web.json_response({"error": reason, "message": message}, status=status)
