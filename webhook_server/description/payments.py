"""Lookups, described."""

from __future__ import annotations

from typing import Any

from paystate.payments.answers import StatusAnswerJson
from webhook_server.answers import DetailsJson, ManyJson, WantedJson
from webhook_server.description.operations import Answer, Example, Operation, Parameter
from webhook_server.description.parameters import in_path, in_query
from webhook_server.parameters import IdText

__all__ = ["OPERATIONS"]

STATUS = {
    "payment_id": "7001",
    "tx_ref": "order-7001",
    "kind": "charge",
    "status": "successful",
    "terminal": True,
    "version": 3,
    "as_of": "2026-11-23T10:20:30.123Z",
    "source": "cache",
    "fresh": True,
    "held": False,
}
REFERENCE = {**STATUS, "kind": "reference"}
PENDING = {
    **STATUS, "payment_id": "7002", "tx_ref": "order-7002", "status": "pending", "terminal": False,
    "version": 2, "source": "database",
}  # fmt: skip
_DETAILS: dict[str, Any] = {
    "amount": "1500.25",
    "currency": "NGN",
    "charged_amount": None,
    "app_fee": None,
    "payment_type": "card",
    "flw_ref": None,
    "processor_code": None,
    "provider_status": "successful",
    "created_at": None,
    "customer_id": "9001",
    "card": None,
    "confirmed": False,
    "overlays": [],
    "refunded_amount": "0",
    "refund_pending_amount": "0",
    "refund_flags": [],
    "chargeback": None,
    "reversal": None,
    "expected_amount": None,
    "expected_currency": None,
    "mismatch": None,
}

_LATER = {"Retry-After": "Seconds, if it is not fresh."}
_TAGGED = {"ETag": "Weak: what is said, not when.", **_LATER}
_STATUS = Answer(200, "The status.", StatusAnswerJson, headers=_TAGGED)
_UNCHANGED = Answer(304, "It is what `If-None-Match` says.", media="", headers=_TAGGED)
_ASKING = ("merchant", "min_version", "wait", "after_version")
_NUMBERS = ("invalid_min_version", "invalid_wait", "invalid_after_version", "version_not_reached")
_UNKNOWN = ("unknown_payment", "unknown_and_unverified")

_FRESHNESS = (
    "Once a webhook of the payment has been acknowledged, its earlier `pending` is not given again "
    "as `fresh`; until a worker has settled the webhook, the status is `processing`."
)


def _some(name: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"minItems": 1}}}


OPERATIONS = (
    Operation(
        "GET", "/api/payments/{id}/status", "Status of a payment", "statuses", "read",
        (_STATUS, _UNCHANGED), _FRESHNESS,
        parameters=(in_path("id"), *in_query("kind", *_ASKING)),
        refuses=("invalid_id", "invalid_kind", *_NUMBERS, *_UNKNOWN),
        examples=(
            Example("A payment that was successful", {"id": "7001"}, answer=STATUS),
            Example("Wait for what comes of it", {"id": "7002"}, {"wait": "1"}, answer=PENDING),
            Example("No earlier than version 9", {"id": "7002"}, {"min_version": "9"}, status=409),
            Example("Nobody knows it", {"id": "404"}, status=404),
        ),
    ),
    Operation(
        "GET", "/api/payments/by-ref/{tx_ref}/status", "Status of a reference", "statuses", "read",
        (_STATUS, _UNCHANGED),
        "A reference is successful if any of its attempts is. " + _FRESHNESS,
        parameters=(in_path("tx_ref"), *in_query(*_ASKING)),
        refuses=("invalid_tx_ref", *_NUMBERS, *_UNKNOWN),
        examples=(Example("A reference", {"tx_ref": "order-7001"}, answer=REFERENCE),),
    ),
    Operation(
        "GET", "/api/payments/status", "Status of a reference with slashes", "statuses", "read",
        (_STATUS, _UNCHANGED), _FRESHNESS,
        parameters=(
            Parameter("tx_ref", "query", IdText, "The merchant reference.", required=True),
            *in_query(*_ASKING),
        ),
        refuses=("tx_ref_missing", "invalid_tx_ref", *_NUMBERS, *_UNKNOWN),
        examples=(
            Example("The same", query={"tx_ref": "order-7001"}, answer=REFERENCE),
        ),
    ),
    Operation(
        "POST", "/api/payments/status", "Many statuses at once", "statuses", "read",
        (
            Answer(
                200, "The statuses that are known.", ManyJson,
                headers={"Retry-After": "Seconds, if Flutterwave could not be asked of all."},
            ),
        ), _FRESHNESS,
        parameters=in_query("merchant"),
        body=WantedJson,
        body_too={"anyOf": [_some("ids"), _some("tx_refs")], "additionalProperties": False},
        refuses=("not_json", "not_an_object", "unknown_field", "invalid_id", "invalid_tx_ref",
                 "invalid_ids", "invalid_tx_refs", "invalid_kind", "wrong_number"),
        examples=(
            Example(
                "A payment, a reference, and one that nobody knows",
                body={"ids": ["7001", "404"], "tx_refs": ["order-7002"]},
                answer={
                    "statuses": [STATUS, {**PENDING, "kind": "reference"}],
                    "unknown": {"ids": ["404"], "tx_refs": []},
                },
            ),
        ),
    ),
    Operation(
        "GET", "/api/payments/{id}", "Details of a payment", "payments", "read",
        (Answer(200, "What is known of it.", DetailsJson, headers=_LATER),),
        parameters=(in_path("id"), *in_query("kind", "merchant")),
        refuses=("invalid_id", "invalid_kind", *_UNKNOWN),
        examples=(
            Example("A payment", {"id": "7001"}, answer={**STATUS, **_DETAILS}),
        ),
    ),
    Operation(
        "GET", "/api/payments/by-ref/{tx_ref}", "Details of a reference", "payments", "read",
        (
            Answer(
                200, "The reference, and the attempt that decides it.", DetailsJson, headers=_LATER
            ),
        ),
        parameters=(in_path("tx_ref"), *in_query("merchant")),
        refuses=("invalid_tx_ref", *_UNKNOWN),
        examples=(
            Example("A reference", {"tx_ref": "order-7001"}, answer={**REFERENCE, **_DETAILS}),
        ),
    ),
)  # fmt: skip
