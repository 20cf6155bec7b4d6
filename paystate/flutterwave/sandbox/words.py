"""The words and values that every body of the sandbox is made of."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from paystate.flutterwave.sandbox.records import Form, Payment
from paystate.status import Status
from paystate.updates import Kind

__all__ = [
    "ACCOUNT_NUMBER",
    "FINGERPRINT",
    "IP_ADDRESS",
    "SECRET_MARK",
    "Body",
    "iso_ms",
    "number",
    "provider_word",
]

Body = dict[str, Any]

SECRET_MARK = "synthetic-secret"  # noqa: S105 - it marks what must not be found anywhere
FINGERPRINT = f"{SECRET_MARK}-fingerprint"
IP_ADDRESS = "192.0.2.77"  # TEST-NET-1: documentation only
ACCOUNT_NUMBER = "0000000000"
_V4_SUCCESS = (Form.V4, Status.SUCCESSFUL)


def provider_word(payment: Payment) -> str:
    """Return the payment's status in the word that its API uses for it."""
    status = payment.status
    if payment.kind is Kind.TRANSFER:
        return "CANCELLED" if status is Status.VOIDED else status.upper()
    return "succeeded" if (payment.form, status) == _V4_SUCCESS else status.value


def number(amount: Decimal) -> int | float:
    """Return `amount` as JSON has it; exact, since the truth takes none that would not be."""
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def iso_ms(at: float) -> str:
    """Return epoch seconds as ISO 8601 with milliseconds."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
