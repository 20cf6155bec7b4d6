"""Sample webhooks in the real shapes of Flutterwave's APIs; nobody's data is in them.

Pure: the same `Sample` and the same time give the same body.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from paystate.updates import Kind

__all__ = ["Sample", "Shape", "check_amount", "event_name", "provider_word", "to_body"]

Body = dict[str, Any]

_CUSTOMER_ID = 100_000_001


class Shape(StrEnum):
    """The family of bodies a webhook belongs to."""

    V3 = "v3"
    V4 = "v4"
    FLAT = "flat"  # older form of v3, without an envelope


# paystate's word → the API's own, where the two differ. Transfers shout in either API.
_V4_CHARGE = {"successful": "succeeded"}
_TRANSFER = {
    "successful": "SUCCESSFUL", "failed": "FAILED", "pending": "PENDING", "new": "NEW",
    "voided": "CANCELLED", "cancelled": "CANCELLED",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """One webhook to send. `status` is a word of paystate, or any other, which is sent as it is."""

    shape: Shape
    kind: Kind
    payment_id: str
    tx_ref: str
    status: str
    amount: Decimal
    currency: str
    event: str | None = None
    webhook_id: str = "wbk_sample"


def provider_word(shape: Shape, kind: Kind, status: str) -> str:
    """Return the word that the API of `shape` uses for `status`."""
    if kind is Kind.TRANSFER:
        return _TRANSFER.get(status, status)
    return _V4_CHARGE.get(status, status) if shape is Shape.V4 else status


def event_name(shape: Shape, kind: Kind) -> str:
    """Return the name that the API of `shape` gives to such an event."""
    if shape is Shape.FLAT:
        return "Transfer" if kind is Kind.TRANSFER else "CARD_TRANSACTION"
    if kind is Kind.CHARGE:
        return "charge.completed"
    return "transfer.completed" if shape is Shape.V3 else "transfer.disburse"


def check_amount(amount: Decimal) -> Decimal:
    """Return `amount`. Raises ValueError unless a JSON number carries it exactly."""
    if not amount.is_finite() or amount < 0 or Decimal(repr(float(amount))) != amount:
        raise ValueError("an amount is a number like 1500.25, of at most 15 digits")
    return amount


def to_body(sample: Sample, at: datetime) -> bytes:
    """Return the exact bytes of the webhook that `sample` describes, sent at `at`."""
    build = {Shape.V3: _v3, Shape.V4: _v4, Shape.FLAT: _flat}[sample.shape]
    return json.dumps(build(sample, at.astimezone(UTC))).encode()


def _v3(sample: Sample, at: datetime) -> Body:
    data = _v3_transfer(sample, at) if sample.kind is Kind.TRANSFER else _v3_charge(sample, at)
    name = sample.event or event_name(sample.shape, sample.kind)
    return {"event": name, "data": data, "event.type": event_name(Shape.FLAT, sample.kind)}


def _v3_charge(sample: Sample, at: datetime) -> Body:
    amount = _number(sample.amount)
    return {
        "id": int(sample.payment_id),
        "tx_ref": sample.tx_ref,
        "flw_ref": f"FLW-SAMPLE-{sample.payment_id}",
        "amount": amount,
        "currency": sample.currency,
        "charged_amount": amount,
        "app_fee": None,
        "merchant_fee": 0,
        "processor_response": "Declined" if sample.status == "failed" else "Approved",
        "auth_model": "PIN",
        "status": provider_word(sample.shape, sample.kind, sample.status),
        "payment_type": "card",
        "created_at": _iso(at),
        "account_id": 100_001,
        "customer": {
            "id": _CUSTOMER_ID,
            "name": "Sample Customer",
            "phone_number": None,
            "email": "sample@example.com",
            "created_at": _iso(at),
        },
        "card": {
            "first_6digits": "553188",
            "last_4digits": "2950",
            "issuer": "SAMPLE BANK",
            "country": "NG",
            "type": "MASTERCARD",
            "expiry": "09/32",
        },
    }


def _v3_transfer(sample: Sample, at: datetime) -> Body:
    return {
        "id": int(sample.payment_id),
        "bank_name": "SAMPLE BANK",
        "bank_code": "000",
        "created_at": _iso(at),
        "currency": sample.currency,
        "debit_currency": sample.currency,
        "amount": _number(sample.amount),
        "fee": 0,
        "status": provider_word(sample.shape, sample.kind, sample.status),
        "reference": sample.tx_ref,
        "meta": None,
        "complete_message": "",
        "requires_approval": 0,
        "is_approved": 1,
    }


def _v4(sample: Sample, at: datetime) -> Body:
    return {
        "webhook_id": sample.webhook_id,
        "timestamp": int(at.timestamp() * 1000),
        "type": sample.event or event_name(sample.shape, sample.kind),
        "data": _v4_transfer(sample) if sample.kind is Kind.TRANSFER else _v4_charge(sample, at),
    }


def _v4_charge(sample: Sample, at: datetime) -> Body:
    return {
        "id": sample.payment_id,
        "amount": _number(sample.amount),
        "currency": sample.currency,
        "customer": {
            "id": "cus_sample0001",
            "email": "sample@example.com",
            "name": {"first": "Sample", "middle": None, "last": "Customer"},
            "phone": None,
            "meta": {},
            "created_datetime": _iso(at),
        },
        "description": None,
        "meta": {},
        "payment_method": {
            "id": "pmd_sample0001",
            "type": "card",
            "card": {
                "expiry_month": 9,
                "expiry_year": 32,
                "first6": "553188",
                "last4": "2950",
                "network": "MASTERCARD",
            },
        },
        "reference": sample.tx_ref,
        "status": provider_word(sample.shape, sample.kind, sample.status),
        "processor_response": (
            {"type": "declined", "code": "51"}
            if sample.status == "failed"
            else {"type": "approved", "code": "00"}
        ),
        "created_datetime": _iso(at),
    }


def _v4_transfer(sample: Sample) -> Body:
    return {
        "id": sample.payment_id,
        "type": "BANK",
        "source_currency": sample.currency,
        "destination_currency": sample.currency,
        "amount": _number(sample.amount),
        "reference": sample.tx_ref,
        "status": provider_word(sample.shape, sample.kind, sample.status),
        "bank": {"code": "000"},
        "fee": {"currency": sample.currency, "value": 0},
        "meta": {},
    }


def _flat(sample: Sample, at: datetime) -> Body:
    name = sample.event or event_name(sample.shape, sample.kind)
    if sample.kind is Kind.TRANSFER:
        transfer = _v3_transfer(sample, at)
        transfer["date_created"] = transfer.pop("created_at")
        return {"event.type": name, "transfer": transfer}
    amount = _number(sample.amount)
    return {
        "id": int(sample.payment_id),
        "txRef": sample.tx_ref,
        "flwRef": f"FLW-SAMPLE-{sample.payment_id}",
        "orderRef": "URF_SAMPLE",
        "paymentPlan": None,
        "createdAt": _iso(at),
        "amount": amount,
        "charged_amount": amount,
        "status": provider_word(sample.shape, sample.kind, sample.status),
        "currency": sample.currency,
        "customer": {
            "id": _CUSTOMER_ID,
            "phone": None,
            "fullName": "Sample Customer",
            "customertoken": None,
            "email": "sample@example.com",
        },
        "entity": {"card6": "553188", "card_last4": "2950"},
        "event.type": name,
    }


def _number(amount: Decimal) -> int | float:
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
