"""``POST /api/payments``: what a shop expects to be paid, told before the customer pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

import orjson
from aiohttp import web

from paystate.errors import BodyRejected, ExpectationRefused
from paystate.expected import Expected
from paystate.flutterwave import exact, fields
from paystate.keys import MAX_ID_LENGTH, Entity
from paystate.payments.answers import StatusAnswerJson
from paystate.payments.expecting import Registrar, idempotency_key_of
from paystate.resources import Resources
from paystate.shapes import Bounded, Money
from paystate.store.expectations import Outcome, Registered
from webhook_server.access import Access
from webhook_server.bodies import read_within
from webhook_server.middleware import LOG_FIELDS
from webhook_server.problems import Refused

__all__ = ["MOST_KEY", "ExpectedEndpoint", "ExpectedJson", "RegisteredJson"]

MOST_BYTES = 16 * 1024
MOST_KEY = 255

_FIELDS = ("tx_ref", "amount", "currency")
_STATUS_OF = {"expected_otherwise": 409, "idempotency_key_reused": 422}
_PRIVATE = {"Cache-Control": "no-store", "Vary": "Authorization"}


_Text = Annotated[str, Bounded(pattern=r"^([1-9][0-9]{0,13}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])$")]
_Whole = Annotated[int, Bounded(minimum=1, maximum=10**15 - 1)]


class ExpectedJson(TypedDict):
    """What a shop expects to be paid; other fields are refused."""

    tx_ref: Annotated[
        str,
        Bounded(min_length=1, max_length=MAX_ID_LENGTH),
        "The reference: printable text of any script.",
    ]
    amount: Annotated[_Text | _Whole, "In major units; as a text, so that it is exact."]
    currency: Annotated[str, Bounded(pattern="^[A-Za-z]{3}$")]


class _Amounts(TypedDict):
    amount: Money
    currency: str


class RegisteredJson(StatusAnswerJson, _Amounts):
    """The reference's status, and what is expected for it."""

    merchant: str


class ExpectedEndpoint:
    """Registers expected payments, for operators' tokens."""

    def __init__(self, resources: Resources, access: Access) -> None:
        self._access = access
        self._merchants: Sequence[str] = resources.roster.names
        self._lookups = resources.lookups
        self._metrics = resources.metrics
        self._registrar = Registrar(
            resources.store, resources.cache, resources.settler, resources.metrics
        )

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.post("/api/payments", self.register)]

    async def register(self, request: web.Request) -> web.Response:
        """``POST /api/payments`` with ``{"tx_ref": ..., "amount": "1500.25", "currency": "NGN"}``.

        201 the first time, and 200 when the same is expected already; the status is that of now.
        """
        caller = self._access.caller(request)
        if not caller.operator:
            raise Refused(403, "operators_only", "this token may read statuses, not operate")
        merchant = self._access.merchant(request, self._merchants)
        key = _idempotency_key(request)
        try:
            tx_ref, expected = _wanted(await read_within(request, MOST_BYTES))
            reference = Entity.reference(merchant, tx_ref)
            registered = await self._registrar.register(
                reference, expected, operator=caller.name,
                idempotency_key=idempotency_key_of(merchant, caller.account, key),
            )  # fmt: skip
        except (ExpectationRefused, Refused) as e:
            self._metrics.expected.labels(e.reason).inc()
            if isinstance(e, Refused):
                raise
            raise Refused(_STATUS_OF[e.reason], e.reason, str(e)) from e
        request[LOG_FIELDS]["registration"] = registered.outcome.value
        answer = await self._lookups.status(reference)
        body: RegisteredJson = {
            **answer.to_json(), **_amounts(expected), "merchant": merchant,
        }  # fmt: skip
        return web.Response(
            body=orjson.dumps(body),
            status=200 if registered.outcome is Outcome.REPEATED else 201,
            content_type="application/json",
            headers=_headers(registered),
        )


def _headers(registered: Registered) -> dict[str, str]:
    return {**_PRIVATE, "Idempotency-Replayed": "true"} if registered.replayed else _PRIVATE


def _amounts(expected: Expected) -> _Amounts:
    return {"amount": f"{expected.amount:f}", "currency": expected.currency}


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not 0 < len(keys[0]) <= MOST_KEY or not keys[0].isprintable():
        raise Refused(
            400, "invalid_idempotency_key", f"Idempotency-Key is one text of 1 to {MOST_KEY} "
            "printable characters",
        )  # fmt: skip
    return keys[0]


def _wanted(raw: bytes) -> tuple[str, Expected]:
    """Return the reference and the amount that a body names. Raises Refused (400)."""
    try:
        body = exact.loads(raw)
    except BodyRejected:
        raise Refused(400, "not_json", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "not_an_object", 'send {"tx_ref": ..., "amount": ..., "currency": ...}')
    unknown = sorted(set(body) - set(_FIELDS))
    if unknown:
        raise Refused(400, "unknown_field", f"a body has just the fields {', '.join(_FIELDS)}")
    return _reference(body), Expected(_amount(body), _currency(body))


def _reference(body: Mapping[str, Any]) -> str:
    tx_ref = fields.reference(body.get("tx_ref"))
    try:
        (tx_ref or "").encode()
    except UnicodeEncodeError:
        tx_ref = None
    if tx_ref is None:
        raise Refused(
            400, "invalid_tx_ref", f"tx_ref is a printable text of 1 to {MAX_ID_LENGTH} characters"
        )
    return tx_ref


def _amount(body: Mapping[str, Any]) -> Any:
    amount = fields.money(body.get("amount"))
    if not amount:
        raise Refused(
            400, "invalid_amount", 'amount is a decimal above 0 in major units, as in "1500.25", '
            "with at most 9 decimal places",
        )  # fmt: skip
    return amount


def _currency(body: Mapping[str, Any]) -> str:
    currency = fields.currency(body.get("currency"))
    if currency is None:
        raise Refused(400, "invalid_currency", 'currency has three letters, as in "NGN"')
    return currency
