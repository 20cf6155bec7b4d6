"""v4's objects as the sandbox writes them; a charge in a webhook is not a charge in an answer."""

from __future__ import annotations

from paystate.flutterwave.sandbox.records import Chargeback, Customer, Method, Payment, Refund
from paystate.flutterwave.sandbox.words import (
    ACCOUNT_NUMBER,
    FINGERPRINT,
    IP_ADDRESS,
    SECRET_MARK,
    Body,
    iso_ms,
    number,
    provider_word,
)
from paystate.status import Status

__all__ = [
    "charge_event",
    "charge_resource",
    "chargeback",
    "customer",
    "refund_event",
    "reversal",
    "transfer",
]

_CUSTOMER_SINCE = "2025-01-01T08:00:00.000Z"


def charge_event(payment: Payment) -> Body:
    """Return a charge as a webhook's `data` has it, its customer included."""
    return {
        "id": payment.id,
        "amount": number(payment.amount),
        "currency": payment.currency,
        "customer": customer(payment.customer),
        "description": None,
        "meta": {"note": f"{SECRET_MARK}-meta"},
        "payment_method": _method(payment)
        | {"customer_id": None, "device_fingerprint": FINGERPRINT, "client_ip": IP_ADDRESS},
        "redirect_url": f"https://shop.example.com/return?session={SECRET_MARK}",
        "reference": payment.tx_ref,
        "status": provider_word(payment),
        "processor_response": _processor_response(payment),
        "created_datetime": iso_ms(payment.created_at),
    }


def customer(person: Customer) -> Body:
    """Return a customer, the same in webhooks and answers."""
    return {
        "id": person.v4_id,
        "address": {
            "line1": f"{SECRET_MARK}-street",
            "line2": None,
            "city": "Lagos",
            "state": "Lagos",
            "postal_code": "100001",
            "country": "NG",
        },
        "email": person.email,
        "name": {"first": person.first_name, "middle": None, "last": person.last_name},
        "phone": {"country_code": "234", "number": person.phone.removeprefix("+234")},
        "meta": {"note": f"{SECRET_MARK}-meta"},
        "created_datetime": _CUSTOMER_SINCE,
    }


def charge_resource(payment: Payment) -> Body:
    """Return a charge as the API has it."""
    return {
        "id": payment.id,
        "amount": number(payment.amount),
        "fees": [{"type": t, "amount": 0} for t in ("vat", "app", "merchant", "stamp_duty")],
        "currency": payment.currency,
        "customer_id": payment.customer.v4_id,
        "settled": False,
        "settlement_id": [],
        "meta": {"note": f"{SECRET_MARK}-meta"},
        "payment_method_details": _method(payment),
        "reference": payment.tx_ref,
        "status": provider_word(payment),
        "processor_response": _processor_response(payment),
        "created_datetime": iso_ms(payment.created_at).replace("Z", "870937Z"),
    }


def transfer(payment: Payment) -> Body:
    """Return a transfer, the same in webhooks and answers."""
    amount = number(payment.amount)
    return {
        "id": payment.id,
        "type": "BANK",
        "source_currency": payment.currency,
        "destination_currency": payment.currency,
        "amount": amount,
        "reference": payment.tx_ref,
        "status": provider_word(payment),
        "bank": {
            "account_number": ACCOUNT_NUMBER,
            "code": "000",
            "branch": None,
            "name": f"{SECRET_MARK}-beneficiary",
            "routing_number": None,
            "swift_code": None,
        },
        "fee": {"currency": payment.currency, "value": 50},
        "debit_information": {
            "currency": payment.currency,
            "actual_debit_amount": amount,
            "rate_used": 1,
            "vat": 3.75,
        },
        "payment_information": {"proof": "000000000000000000000000000001"},
        "meta": {},
    }


def reversal(payment: Payment, *, at: float) -> Body:
    """Return a transfer that came back at epoch second `at`, as a webhook's `data` has it."""
    return transfer(payment) | {
        "status": "FAILED",
        "reversal": {
            "initial_status": "SUCCESSFUL",
            "reconciliation_status": "REVERSED",
            "reversal_datetime": iso_ms(at),
        },
    }


def refund_event(payment: Payment, refund: Refund) -> Body:
    """Return a refund as a webhook's `data` has it."""
    return {
        "id": refund.id,
        "amount_refunded": number(refund.amount),
        "meta": {},
        "reason": "requested_by_customer",
        "status": refund.status,
        "charge_id": payment.id,
        "created_datetime": iso_ms(refund.at),
    }


def chargeback(payment: Payment, dispute: Chargeback) -> Body:
    """Return a chargeback as the list of them has it."""
    return {
        "id": dispute.id,
        "charge_id": payment.id,
        "amount": number(dispute.amount),
        "meta": {},
        "stage": "new",
        "status": dispute.status,
        "type": "local",
        "due_datetime": iso_ms(dispute.at + 86_400),
        "created_datetime": iso_ms(dispute.at),
        "updated_datetime": iso_ms(dispute.at),
        "comment": f"{SECRET_MARK}-comment",
    }


def _method(payment: Payment) -> Body:
    details: dict[Method, Body] = {
        Method.CARD: {
            "expiry_month": 9,
            "expiry_year": 32,
            "first6": "000000",
            "last4": "0001",
            "network": "MASTERCARD",
            "billing_address": None,
            "cof": None,
            "card_holder_name": f"{SECRET_MARK}-holder",
        },
        Method.BANK_TRANSFER: {
            "originator_account_number": ACCOUNT_NUMBER,
            "originator_name": f"{SECRET_MARK}-originator",
        },
        Method.MOBILE_MONEY: {
            "network": "MTN",
            "country_code": "234",
            "phone_number": payment.customer.phone.removeprefix("+234"),
        },
    }
    return {
        "type": payment.method.value,
        payment.method.value: details[payment.method],
        "id": f"pmd_{str(payment.id)[-10:]}",
        "meta": {},
        "created_datetime": iso_ms(payment.created_at),
    }


def _processor_response(payment: Payment) -> Body:
    if payment.status is Status.SUCCESSFUL:
        return {"type": "approved", "code": "00"}
    if payment.status is Status.FAILED:
        return {"type": "insufficient_funds", "code": "51"}
    return {"type": "pending", "code": "02"}
