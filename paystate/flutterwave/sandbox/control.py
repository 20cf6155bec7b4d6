"""The control API's payments and deliveries: the truth, and the means to change it.

How the sandbox behaves is set in `steering`; how requests are read is in `asking`.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from paystate.flutterwave.sandbox import acts, levers
from paystate.flutterwave.sandbox.acts import Stage
from paystate.flutterwave.sandbox.asking import answering, read_object
from paystate.flutterwave.sandbox.lists import page_of
from paystate.flutterwave.sandbox.provider import SANDBOX
from paystate.flutterwave.sandbox.truth import Truth
from paystate.status import of_reference
from paystate.updates import Kind

__all__ = ["ROUTES"]

DEFAULT_LIMIT = 1_000
TRUTH_PAGE_SIZE = 1_000
MOST_ON_A_PAGE = 5_000

_Body = dict[str, Any]


async def _list_payments(request: web.Request) -> web.Response:
    """Answer with the truth, newest first: ``?limit=``, ``?status=``, ``?tx_ref=``."""
    limit = int(request.query.get("limit", DEFAULT_LIMIT))
    wanted = {name: request.query.get(name) for name in ("status", "tx_ref")}
    shown: list[_Body] = []
    for payment in request.app[SANDBOX].truth.newest_first():
        if len(shown) >= limit:
            break
        body = payment.to_json()
        if all(value in (None, body[name]) for name, value in wanted.items()):
            shown.append(body)
    return web.json_response({"payments": shown})


async def _show_payment(request: web.Request) -> web.Response:
    body = _of_address(request, {})
    return web.json_response(Stage(request.app[SANDBOX]).payment(body).to_json())


async def _create_payment(request: web.Request) -> web.Response:
    """Make a payment: see `acts.create`."""
    made = acts.create(Stage(request.app[SANDBOX]), await read_object(request))
    return web.json_response(made, status=201)


async def _change_payment(request: web.Request) -> web.Response:
    """Settle, refund, dispute, reverse or announce a payment: see the act of that name."""
    body = _of_address(request, await read_object(request))
    act = _CHANGES[request.match_info["act"]]
    return web.json_response(act(Stage(request.app[SANDBOX]), body))


async def _set_fault(request: web.Request) -> web.Response:
    """Make the APIs, or the next webhooks, misbehave: see `levers.fault`."""
    return web.json_response(levers.fault(request.app[SANDBOX], await read_object(request)))


async def _list_deliveries(request: web.Request) -> web.Response:
    """Answer with the tries to deliver a webhook, oldest first.

    ``?payment_id=``; ``?after=`` a number, for those that came later; ``?limit=``, the last ones.
    """
    payment_id, after = request.query.get("payment_id"), int(request.query.get("after", 0))
    tries = request.app[SANDBOX].sender.deliveries
    listed = [d.to_json() for d in tries if d.number > after and payment_id in (None, d.payment_id)]
    limit = int(request.query.get("limit", len(listed)))
    return web.json_response({"deliveries": listed[max(0, len(listed) - max(0, limit)) :]})


async def _show_truth(request: web.Request) -> web.Response:
    """Answer with what is so, for whoever compares: ``?ids=``, ``?refs=`` or page by page.

    An id may name its kind (``transfer:12``), else it is the charge or else the transfer; null
    stands for a payment that does not exist. Pages (``?page=``, ``?size=``) have the oldest first.
    """
    truth, query = request.app[SANDBOX].truth, request.query
    answer: _Body = {}
    if "ids" in query:
        answer["payments"] = {i: _truth_of(truth, i) for i in query["ids"].split(",") if i}
    if "refs" in query:
        answer["references"] = {r: _reference(truth, r) for r in query["refs"].split(",") if r}
    if not answer:
        page = page_of(list(truth), query, size=TRUTH_PAGE_SIZE, most=MOST_ON_A_PAGE)
        answer = {"payments": [p.to_truth() for p in page.items], "page_info": page.info}
    return web.json_response(answer)


_CHANGES = {
    "settle": acts.settle,
    "refund": acts.refund,
    "chargeback": acts.charge_back,
    "reverse": acts.reverse,
    "announce": acts.announce,
}

ROUTES = [
    web.get("/sandbox/payments", answering(_list_payments)),
    web.post("/sandbox/payments", answering(_create_payment)),
    web.get("/sandbox/payments/{id}", answering(_show_payment)),
    web.post(f"/sandbox/payments/{{id}}/{{act:{'|'.join(_CHANGES)}}}", answering(_change_payment)),
    web.post("/sandbox/faults", answering(_set_fault)),
    web.get("/sandbox/deliveries", answering(_list_deliveries)),
    web.get("/sandbox/truth", answering(_show_truth)),
]


def _of_address(request: web.Request, body: _Body) -> _Body:
    """Return `body` with the payment that the request's address names."""
    return body | {"payment": request.match_info["id"], "kind": request.query.get("kind")}


def _truth_of(truth: Truth, name: str) -> _Body | None:
    kind, colon, payment_id = name.partition(":")
    named = colon and kind in {k.value for k in Kind}
    payment = truth.find(payment_id, Kind(kind)) if named else truth.find(name)
    return None if payment is None else payment.to_truth()


def _reference(truth: Truth, tx_ref: str) -> _Body | None:
    attempts = truth.attempts(tx_ref)
    if not attempts:
        return None
    status = of_reference(payment.status for payment in attempts)
    return {"status": status.value, "payments": [str(payment.id) for payment in attempts]}
