"""Errors as RFC 9457 problem documents: what went wrong, in words a person can act on."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Annotated, TypedDict

import orjson
from aiohttp import web

from paystate.errors import (
    BodyRejected,
    CursorPruned,
    CustomerErased,
    CustomerNotFound,
    PaymentNotFound,
    PaystateError,
    RequestRejected,
    SignatureRejected,
    TransientError,
)
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER
from paystate.shapes import Bounded

__all__ = ["ProblemJson", "Refused", "from_error", "problem"]

PROBLEM_TYPE = "urn:paystate:problem:"


class ProblemJson(TypedDict):
    """What went wrong (RFC 9457)."""

    type: Annotated[str, "`urn:paystate:problem:` and the reason."]
    title: Annotated[str, "The status code in words."]
    status: Annotated[int, Bounded(minimum=400, maximum=599)]
    detail: Annotated[str, "What to do about it, for a person."]
    reason: Annotated[str, "The stable name of what went wrong, for a program."]


class Refused(RequestRejected):
    """A request refused with a status code of its own, and headers that go with it."""

    def __init__(
        self, status: int, reason: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(reason, message)
        self.status = status
        self.headers = headers or {}


def problem(
    status: int, reason: str, detail: str, headers: dict[str, str] | None = None
) -> web.Response:
    """Return a problem document; `reason` is its stable, machine-readable name."""
    body: ProblemJson = {
        "type": PROBLEM_TYPE + reason,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "reason": reason,
    }
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


# What to do about it, for whoever sets the webhook up; a forger learns nothing that is not public.
_SIGNATURE = {
    "missing": f"there is neither a {V4_HEADER} nor a {V3_HEADER} header: set a secret hash where "
    "Flutterwave's dashboard has the webhook",
    "repeated": "a signature header stands more than once: is there a proxy that adds one?",
    "malformed": "the signature header is empty, or has no signature's form: is there a proxy that "
    "changes it?",
    "mismatch": "the signature is of no secret that this merchant has, or the body was changed on "
    "its way: FLW_SECRET_HASH and the dashboard's secret hash must be the same",
    "other_api": "this merchant takes the webhooks of the other API only: FLW_API, or `api` in "
    "MERCHANTS_FILE, says which",
}


def _status(error: PaystateError) -> int:
    match error:
        case Refused():
            return error.status
        case SignatureRejected():
            return 401
        case PaymentNotFound() | CustomerNotFound():
            return 404
        case CursorPruned() | CustomerErased():
            return 410
        case BodyRejected() | RequestRejected():
            return 400
        case TransientError():
            return 503
        case _:
            return 500


def from_error(error: PaystateError) -> web.Response:
    """Return the problem document for one of our errors."""
    headers = dict(error.headers) if isinstance(error, Refused) else {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if isinstance(error, TransientError) and retry_after_s is None:
        retry_after_s = 1.0
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    detail = _SIGNATURE[error.reason] if isinstance(error, SignatureRejected) else str(error)
    return problem(_status(error), error.reason, detail, headers)
