"""What operators do over HTTP: list given-up events, explain a payment, release, reject, replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired, TypedDict

import orjson
from aiohttp import web

from paystate.errors import RulingRefused
from paystate.payments.explaining import Explainer, listing
from paystate.payments.explanations import ExplanationJson, ListingJson, OutcomeJson
from paystate.payments.operating import Operator
from paystate.resources import Resources
from paystate.shapes import Bounded
from paystate.store import Ending, Store
from paystate.store.operations import Wanted
from paystate.store.rulings import Action, Ruling
from webhook_server.access import Access, Caller
from webhook_server.bodies import read_within
from webhook_server.parameters import identifier, kind_of, whole_number
from webhook_server.problems import Refused

__all__ = ["OperationEndpoints", "ReplayedJson", "WhyJson"]

MOST_LISTED = 500
LISTED = 100
MOST_BYTES = 16 * 1024

_STATES = {
    None: (Ending.HELD.value, Ending.DEAD.value),
    "held": (Ending.HELD.value,),
    "dead": (Ending.DEAD.value,),
}
_PRIVATE = {"Cache-Control": "no-store", "Vary": "Authorization"}
# What is wrong with the request itself; every other refusal is about the event's state.
_STATUS_OF = {"unknown_event": 404, "reason_missing": 400, "reason_too_long": 400,
              "reason_unprintable": 400}  # fmt: skip


class WhyJson(TypedDict):
    """What an operator says of what they do."""

    reason: NotRequired[
        Annotated[
            str,
            Bounded(min_length=1, max_length=500),
            "Why, in one line of printable text. It is kept. A ruling needs it.",
        ]
    ]


class ReplayedJson(TypedDict):
    """An event that is open again; a worker looks at it."""

    event: Annotated[int, Bounded(minimum=1)]
    opened: Literal[True]


class OperationEndpoints:
    """The handlers that need an operator's token."""

    def __init__(self, resources: Resources, access: Access) -> None:
        self._store: Store = resources.store
        self._access = access
        self._merchants: Sequence[str] = resources.roster.names
        self._operator = Operator(
            resources.store, resources.cache, resources.queue, resources.settler, resources.metrics
        )
        self._explainer = Explainer(
            resources.store, resources.redis, resources.keys, lease_ms=resources.settings.lease_ms
        )

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/api/events", self.given_up),
            web.post("/api/events/{id}/release", self.release),
            web.post("/api/events/{id}/reject", self.reject),
            web.post("/api/events/{id}/replay", self.replay),
            web.get("/api/payments/{id}/explain", self.explain),
            web.get("/api/payments/by-ref/{tx_ref}/explain", self.explain_reference),
        ]

    def _caller(self, request: web.Request) -> Caller:
        """Return the operator who asks. Raises Refused (401, 403)."""
        return self._access.operator(request)

    async def given_up(self, request: web.Request) -> web.Response:
        """``GET /api/events?state=held|dead&merchant=&reason=&limit=``: held and dead events."""
        caller = self._caller(request)
        state = request.query.get("state")
        if state not in _STATES:
            raise Refused(400, "invalid_state", "state is held or dead")
        merchant = None  # of every merchant, to who may see all
        if caller.merchant is not None or "merchant" in request.query:
            merchant = self._access.merchant(request, self._merchants)
        most = whole_number(request.query.get("limit"), "limit") or LISTED
        reason = request.query.get("reason")
        if reason is not None:
            reason = identifier(reason, "reason")
        wanted = Wanted(_STATES[state], merchant, reason)
        found = await self._store.operations.given_up(wanted, most=min(most, MOST_LISTED))
        return _json(listing(found))

    async def explain(self, request: web.Request) -> web.Response:
        """``GET /api/payments/{id}/explain``."""
        self._caller(request)
        merchant = self._access.merchant(request, self._merchants)
        payment_id = identifier(request.match_info["id"], "id")
        kind = kind_of(request.query.get("kind"))
        return _json(await self._explainer.payment(merchant, payment_id, kind))

    async def explain_reference(self, request: web.Request) -> web.Response:
        """``GET /api/payments/by-ref/{tx_ref}/explain``."""
        self._caller(request)
        merchant = self._access.merchant(request, self._merchants)
        tx_ref = identifier(request.match_info["tx_ref"], "tx_ref")
        return _json(await self._explainer.reference(merchant, tx_ref))

    async def release(self, request: web.Request) -> web.Response:
        """``POST /api/events/{id}/release``: accept what a held or dead event says."""
        return await self._rule(request, Action.RELEASE)

    async def reject(self, request: web.Request) -> web.Response:
        """``POST /api/events/{id}/reject``: end a held or dead event without effect."""
        return await self._rule(request, Action.REJECT)

    async def _rule(self, request: web.Request, action: Action) -> web.Response:
        caller, inbox_id, why = await self._asked(request)
        try:
            outcome = await self._operator.rule(Ruling(inbox_id, action, caller.name, why))
        except RulingRefused as e:
            raise Refused(_STATUS_OF.get(e.reason, 409), e.reason, str(e)) from e
        return _json(outcome.to_json())

    async def replay(self, request: web.Request) -> web.Response:
        """``POST /api/events/{id}/replay``: have the worker look at a given-up event again."""
        caller, inbox_id, why = await self._asked(request)
        try:
            done = await self._operator.replay([inbox_id], operator=caller.name, why=why)
        except RulingRefused as e:
            raise Refused(_STATUS_OF.get(e.reason, 409), e.reason, str(e)) from e
        if done.skipped:
            reason = done.skipped[inbox_id]
            raise Refused(409, reason, f"event {inbox_id} cannot be opened again")
        return _json(ReplayedJson(event=inbox_id, opened=True))

    async def _asked(self, request: web.Request) -> tuple[Caller, int, str]:
        """Return who rules on which event, and why. Raises Refused (400, 401, 403, 404)."""
        caller = self._caller(request)
        inbox_id = whole_number(request.match_info["id"], "id") or 0
        event = await self._store.operations.event(inbox_id)
        if event is None or caller.merchant not in (None, event.merchant):
            raise Refused(404, "unknown_event", "there is no such event of a payment")
        try:
            body = orjson.loads(await read_within(request, MOST_BYTES) or b"{}")
        except orjson.JSONDecodeError:
            raise Refused(400, "not_json", "the body is not JSON") from None
        why = body.get("reason", "") if isinstance(body, dict) else None
        if not isinstance(why, str):
            raise Refused(400, "invalid_reason", 'send {"reason": "..."}')
        return caller, inbox_id, why.strip()


def _json(body: ExplanationJson | ListingJson | OutcomeJson | ReplayedJson) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers=_PRIVATE)
