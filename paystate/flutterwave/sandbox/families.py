"""Every family of bodies that reaches a webhook endpoint, and those that are about no payment.

A family about a payment is written by `bodies` from the truth. The others are here: made up from
one number, with the fields that must never be kept marked as everywhere in the sandbox.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from paystate.flutterwave.sandbox.records import Form
from paystate.flutterwave.sandbox.words import SECRET_MARK, Body
from paystate.updates import Kind

__all__ = ["OTHERS", "PAYMENTS", "REFUNDS", "Family", "Other", "family_of"]


class Family(StrEnum):
    """What a body looks like, and what it is about."""

    V3_CHARGE = "v3_charge"
    V3_TRANSFER = "v3_transfer"
    V3_REFUND = "v3_refund"
    V4_CHARGE = "v4_charge"
    V4_TRANSFER = "v4_transfer"
    V4_REVERSAL = "v4_reversal"
    V4_REFUND = "v4_refund"
    V4_ORDER_AUTHORIZATION = "v4_order_authorization"
    FLAT_CHARGE = "flat_charge"
    FLAT_TRANSFER = "flat_transfer"
    SUBSCRIPTION_CANCELLED = "subscription_cancelled"
    SINGLE_BILL_PAYMENT = "single_bill_payment"
    BVN_COMPLETED = "bvn_completed"
    VIRTUAL_CARD_DEBIT = "virtual_card_debit"
    VIRTUAL_CARD_OTP = "virtual_card_otp"
    UNKNOWN_EVENT = "unknown_event"
    UNKNOWN_V4_EVENT = "unknown_v4_event"


PAYMENTS = {
    Family.V3_CHARGE: (Form.V3, Kind.CHARGE),
    Family.V3_TRANSFER: (Form.V3, Kind.TRANSFER),
    Family.V4_CHARGE: (Form.V4, Kind.CHARGE),
    Family.V4_TRANSFER: (Form.V4, Kind.TRANSFER),
    Family.FLAT_CHARGE: (Form.FLAT, Kind.CHARGE),
    Family.FLAT_TRANSFER: (Form.FLAT, Kind.TRANSFER),
}
REFUNDS = {Family.V3_REFUND: Form.V3, Family.V4_REFUND: Form.V4}

_FAMILIES = {shape: family for family, shape in PAYMENTS.items()}


def family_of(form: Form, kind: Kind) -> Family:
    """Return the family of the webhooks that tell of such a payment."""
    return _FAMILIES[form, kind]


@dataclass(frozen=True, slots=True)
class Other:
    """A family about no payment: how it is signed, what it is called, its body from a number.

    A body of v4 is what goes into the envelope's `data`.
    """

    form: Form
    type: str
    body: Callable[[int], Body]


def _subscription(number: int) -> Body:
    return {
        "event": "subscription.cancelled",
        "data": {
            "status": "deactivated",
            "currency": "NGN",
            "amount": 200,
            "customer": {"email": f"{SECRET_MARK}@example.com", "full_name": "Synthetic Payer"},
            "plan": {
                "id": number,
                "name": "monthly",
                "amount": 200,
                "currency": "NGN",
                "interval": "monthly",
                "duration": 1,
                "status": "cancel",
            },
        },
    }


def _bill(number: int) -> Body:
    return {
        "event": "singlebillpayment.status",
        "event.type": "SingleBillPayment",
        "data": {
            "customer": "+2340000000999",
            "amount": 200,
            "network": "MTN",
            "tx_ref": f"CF-SANDBOX-{number}",
            "flw_ref": f"BPSANDBOX{number}",
            "batch_reference": None,
            "customer_reference": f"bill-{number}",
            "status": "success",
            "message": f"{SECRET_MARK}-message",
            "reference": None,
        },
    }


def _bvn(number: int) -> Body:
    return {
        "event": "bvn.completed",
        "event.type": "BVN",
        "data": {
            "id": number,
            "reference": f"FLWSANDBOX{number}",
            "status": "COMPLETED",
            "firstname": f"{SECRET_MARK}-firstname",
            "lastname": f"{SECRET_MARK}-lastname",
            "callback_url": f"https://shop.example.com/bvn?session={SECRET_MARK}",
            "AccountId": 100003,
            "bvn_data": {
                "dateOfBirth": f"{SECRET_MARK}-birth",
                "email": f"{SECRET_MARK}@example.com",
                "surname": f"{SECRET_MARK}-surname",
            },
        },
    }


def _card_debit(number: int) -> Body:
    return {
        "TransactionId": f"00000000-0000-4000-8000-{number:012d}",
        "MerchantName": f"{SECRET_MARK}-merchant",
        "Description": "CHARGE",
        "Status": "Successful",
        "Balance": 4.79,
        "Amount": 0.21,
        "Type": "Debit",
        "CardId": f"{SECRET_MARK}-card",
        "MaskedPan": "000000******0001",
    }


def _card_otp(number: int) -> Body:
    return {
        "Otp": f"{SECRET_MARK}-otp-{number}",
        "CardId": f"{SECRET_MARK}-card",
        "MaskedPan": "000000******0001",
    }


def _order(number: int) -> Body:
    return {
        "id": f"ord_{number}",
        "amount": 10,
        "currency": "NGN",
        "reference": f"order-{number}",
        "status": "authorized",
        "meta": {"note": f"{SECRET_MARK}-meta"},
    }


def _unknown(number: int) -> Body:
    return {"event": "wallet.rebalanced", "data": {"id": number, "note": f"{SECRET_MARK}-note"}}


def _unknown_v4(number: int) -> Body:
    return {"id": f"wlt_{number}", "note": f"{SECRET_MARK}-note"}


OTHERS = {
    Family.V4_ORDER_AUTHORIZATION: Other(Form.V4, "order.authorization", _order),
    Family.SUBSCRIPTION_CANCELLED: Other(Form.V3, "subscription.cancelled", _subscription),
    Family.SINGLE_BILL_PAYMENT: Other(Form.V3, "singlebillpayment.status", _bill),
    Family.BVN_COMPLETED: Other(Form.V3, "bvn.completed", _bvn),
    Family.VIRTUAL_CARD_DEBIT: Other(Form.V3, "virtual_card.debit", _card_debit),
    Family.VIRTUAL_CARD_OTP: Other(Form.V3, "virtual_card.otp", _card_otp),
    Family.UNKNOWN_EVENT: Other(Form.V3, "wallet.rebalanced", _unknown),
    Family.UNKNOWN_V4_EVENT: Other(Form.V4, "wallet.rebalanced", _unknown_v4),
}
