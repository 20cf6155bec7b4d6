"""v3's objects as the sandbox writes them, with an envelope's names and in the older flat form."""

from __future__ import annotations

from decimal import Decimal

from paystate.flutterwave.sandbox.records import Chargeback, Method, Payment, Refund
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

__all__ = [
    "charge",
    "chargeback",
    "event_type",
    "flat_charge",
    "flat_refund",
    "flat_transfer",
    "refund_resource",
    "transfer",
]

_PAYMENT_TYPES = {
    Method.CARD: "card",
    Method.BANK_TRANSFER: "bank_transfer",
    Method.MOBILE_MONEY: "mobilemoneygh",
}
_EVENT_TYPES = {
    Method.CARD: "CARD_TRANSACTION",
    Method.BANK_TRANSFER: "BANK_TRANSFER_TRANSACTION",
    Method.MOBILE_MONEY: "MOBILEMONEYGH_TRANSACTION",
}


def event_type(payment: Payment) -> str:
    """Return the older name of a charge's event."""
    return _EVENT_TYPES[payment.method]


def charge(payment: Payment) -> Body:
    """Return a charge as a webhook's `data` has it."""
    amount, customer = number(payment.amount), payment.customer
    data: Body = {
        "id": payment.id,
        "tx_ref": payment.tx_ref,
        "flw_ref": _flw_ref(payment),
        "device_fingerprint": FINGERPRINT,
        "amount": amount,
        "currency": payment.currency,
        "charged_amount": amount,
        "app_fee": number((payment.amount * Decimal("0.014")).quantize(Decimal("0.01"))),
        "merchant_fee": 0,
        "processor_response": "Approved by Financial Institution",
        "auth_model": "PIN",
        "ip": IP_ADDRESS,
        "narration": f"{SECRET_MARK}-narration",
        "status": provider_word(payment),
        "payment_type": _PAYMENT_TYPES[payment.method],
        "created_at": iso_ms(payment.created_at),
        "account_id": 100003,
        "customer": {
            "id": customer.v3_id,
            "name": f"{customer.first_name} {customer.last_name}",
            "phone_number": customer.phone,
            "email": customer.email,
            "created_at": iso_ms(payment.created_at),
        },
    }
    if payment.method is Method.CARD:
        data["card"] = {
            "first_6digits": "000000",
            "last_4digits": "0001",
            "issuer": "EXAMPLE BANK",
            "country": "NG",
            "type": "MASTERCARD",
            "expiry": "09/32",
        }
    return data


def chargeback(payment: Payment, dispute: Chargeback) -> Body:
    """Return a chargeback as the list of them has it."""
    return {
        "id": dispute.id,
        "amount": number(dispute.amount),
        "flw_ref": _flw_ref(payment),
        "status": dispute.status,
        "stage": "new",
        "comment": f"{SECRET_MARK}-comment",
        "meta": {"uploaded_proof": None, "history": []},
        "due_date": iso_ms(dispute.at + 2 * 86_400),
        "settlement_id": "N/A",
        "created_at": iso_ms(dispute.at),
        "transaction_id": payment.id,
        "tx_ref": payment.tx_ref,
    }


def transfer(payment: Payment) -> Body:
    """Return a transfer, the same in webhooks and answers."""
    return {
        "id": payment.id,
        "account_number": ACCOUNT_NUMBER,
        "bank_name": "EXAMPLE BANK",
        "bank_code": "000",
        "fullname": f"{SECRET_MARK}-beneficiary",
        "created_at": iso_ms(payment.created_at),
        "currency": payment.currency,
        "debit_currency": payment.currency,
        "amount": number(payment.amount),
        "fee": 26.875,
        "status": provider_word(payment),
        "reference": payment.tx_ref,
        "meta": None,
        "narration": f"{SECRET_MARK}-narration",
        "approver": None,
        "complete_message": "Successful",
        "requires_approval": 0,
        "is_approved": 1,
    }


def flat_charge(payment: Payment) -> Body:
    """Return the whole webhook of a charge in the older form."""
    amount, customer, made = (
        number(payment.amount),
        payment.customer,
        iso_ms(payment.created_at),
    )
    return {
        "id": payment.id,
        "txRef": payment.tx_ref,
        "flwRef": _flw_ref(payment),
        "orderRef": f"URF_{payment.id}",
        "paymentPlan": None,
        "createdAt": made,
        "amount": amount,
        "charged_amount": amount,
        "status": provider_word(payment),
        "IP": IP_ADDRESS,
        "currency": payment.currency,
        "customer": {
            "id": customer.v3_id,
            "phone": customer.phone,
            "fullName": f"{customer.first_name} {customer.last_name}",
            "customertoken": f"{SECRET_MARK}-customertoken",
            "email": customer.email,
            "createdAt": made,
            "updatedAt": made,
            "deletedAt": None,
            "AccountId": 100003,
        },
        "entity": {"card6": "000000", "card_last4": "0001"}
        if payment.method is Method.CARD
        else {"account_number": ACCOUNT_NUMBER, "first_name": "Synthetic", "last_name": "Payer"},
        "event.type": _EVENT_TYPES[payment.method],
    }


def flat_transfer(payment: Payment) -> Body:
    """Return the whole webhook of a transfer in the older form."""
    body = transfer(payment)
    for absent in ("debit_currency", "meta"):
        del body[absent]
    body["date_created"] = body.pop("created_at")
    return {"event.type": "Transfer", "transfer": body}


def refund_resource(payment: Payment, refund: Refund) -> Body:
    """Return a refund as the refunds API has it."""
    return {
        "id": refund.id,
        "account_id": 73_362,
        "tx_id": payment.id,
        "flw_ref": f"URF_{refund.id}",
        "wallet_id": 74_639,
        "amount_refunded": number(refund.amount),
        "status": refund.status,
        "destination": "payment_source",
        "meta": {"source": "availablebalance"},
        "created_at": iso_ms(refund.at),
    }


def flat_refund(payment: Payment, refund: Refund) -> Body:
    """Return a refund's webhook: PascalCase, without an event name."""
    return {
        "id": refund.id,
        "AmountRefunded": number(refund.amount),
        "status": refund.status,
        "FlwRef": _flw_ref(payment),
        "destination": "payment_source",
        "comments": f"{SECRET_MARK}-comment",
        "settlement_id": "100001",
        "meta": '{"source":"ledgerbalance"}',
        "createdAt": iso_ms(refund.at),
        "updatedAt": iso_ms(refund.at),
        "deletedAt": None,
        "walletId": 100002,
        "AccountId": 100003,
        "TransactionId": payment.id,
    }


def _flw_ref(payment: Payment) -> str:
    return f"Sandbox/FLW{payment.id}"
