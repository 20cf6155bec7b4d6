"""What a webhook says where it does not say what is so: a copy of the payment, altered.

The body is built from the copy as from a true one, so that a lie is consistent in itself and
nothing but the API can tell.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from decimal import Decimal

from paystate.flutterwave.sandbox.fates import Mishap
from paystate.flutterwave.sandbox.records import Change, Form, Payment, Refund
from paystate.status import Status

__all__ = ["lie_about", "lie_about_refund"]

_MAX_TX_REF_LENGTH = 100


def lie_about(payment: Payment, mishaps: AbstractSet[Mishap]) -> Payment:
    """Return `payment` as a webhook with these mishaps tells of it."""
    told = replace(payment)
    if Mishap.CONTRADICT in mishaps:
        said = Status.FAILED if payment.status is Status.SUCCESSFUL else Status.SUCCESSFUL
        told.history = [*payment.history, Change(payment.history[-1].at, said)]
    if Mishap.WRONG_AMOUNT in mishaps:
        told.amount = _another(payment.amount)
    if Mishap.WRONG_CURRENCY in mishaps:
        told.currency = "EUR" if payment.currency == "USD" else "USD"
    if Mishap.WRONG_REFERENCE in mishaps:
        told.tx_ref = f"other-{payment.tx_ref}"[:_MAX_TX_REF_LENGTH]
    return told


def lie_about_refund(refund: Refund, form: Form, mishaps: AbstractSet[Mishap]) -> Refund:
    """Return `refund` as a webhook with these mishaps tells of it; it names no currency."""
    if Mishap.CONTRADICT in mishaps:
        done = "succeeded" if form is Form.V4 else "completed-bank-transfer"
        refund = replace(refund, status=done if refund.status == "failed" else "failed")
    if Mishap.WRONG_AMOUNT in mishaps:
        refund = replace(refund, amount=_another(refund.amount))
    return refund


def _another(amount: Decimal) -> Decimal:
    return amount - 1 if amount > 1 else amount + 1
