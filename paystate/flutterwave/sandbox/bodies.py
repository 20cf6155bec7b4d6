"""The words of the sandbox: webhook bodies and API answers, in every shape Flutterwave uses.

They hold what the real ones hold, the fields that must never be kept included (a reusable card
token, addresses, bank accounts, free text), so that whatever leaks in paystate leaks here first.
All of it is made up, and most forbidden values say so: a test can search for `SECRET_MARK`.
"""

from __future__ import annotations

from typing import Any

from paystate.flutterwave.sandbox import bodies_v3, bodies_v4
from paystate.flutterwave.sandbox.lists import Dispute, Page
from paystate.flutterwave.sandbox.records import Customer, Form, Payment, Refund
from paystate.flutterwave.sandbox.words import SECRET_MARK, Body, provider_word
from paystate.updates import Kind

__all__ = [
    "SECRET_MARK",
    "Body",
    "provider_word",
    "refund_webhook",
    "reversal_webhook",
    "v3_charge_answer",
    "v3_chargebacks_answer",
    "v3_error",
    "v3_list_answer",
    "v3_refund_answer",
    "v3_transfer_answer",
    "v4_charge_answer",
    "v4_chargebacks_answer",
    "v4_customer_answer",
    "v4_customers_answer",
    "v4_envelope",
    "v4_error",
    "v4_list_answer",
    "v4_refund_answer",
    "v4_transfer_answer",
    "webhook",
]


def webhook(payment: Payment, *, webhook_id: str, at: float) -> Body:
    """Return the webhook that tells of `payment` as it is now, in the shape of its form.

    `webhook_id` (``wbk_...``) and `at` (epoch seconds) stand in the body of v4 only.
    """
    is_charge = payment.kind is Kind.CHARGE
    if payment.form is Form.V4:
        event_type = "charge.completed" if is_charge else "transfer.disburse"
        data = bodies_v4.charge_event(payment) if is_charge else bodies_v4.transfer(payment)
        return v4_envelope(event_type, data, webhook_id=webhook_id, at=at)
    if payment.form is Form.FLAT:
        return bodies_v3.flat_charge(payment) if is_charge else bodies_v3.flat_transfer(payment)
    if not is_charge:
        data = bodies_v3.transfer(payment)
        return {"event": "transfer.completed", "event.type": "Transfer", "data": data}
    return {
        "event": "charge.completed",
        "data": bodies_v3.charge(payment),
        "meta_data": {"note": f"{SECRET_MARK}-meta"},
        "event.type": bodies_v3.event_type(payment),
    }


def refund_webhook(payment: Payment, refund: Refund, *, webhook_id: str, at: float) -> Body:
    """Return the webhook that tells of a refund: an envelope in v4, PascalCase in v3."""
    if payment.form is not Form.V4:
        return bodies_v3.flat_refund(payment, refund)
    data = bodies_v4.refund_event(payment, refund)
    return v4_envelope("refund.completed", data, webhook_id=webhook_id, at=at)


def v4_envelope(event_type: str, data: Body, *, webhook_id: str, at: float) -> Body:
    """Return what v4 wraps an event in; `at` is epoch seconds."""
    return {
        "webhook_id": webhook_id,
        "timestamp": round(at * 1000),
        "type": event_type,
        "data": data,
    }


def reversal_webhook(payment: Payment, *, webhook_id: str, at: float) -> Body:
    """Return the webhook that tells of a v4 transfer that came back."""
    data = bodies_v4.reversal(payment, at=at)
    return v4_envelope("transfer.reversal", data, webhook_id=webhook_id, at=at)


def v3_charge_answer(payment: Payment) -> Body:
    """Return what ``/transactions/{id}/verify`` says of a charge; the card has its token here."""
    data = bodies_v3.charge(payment)
    if "card" in data:
        data["card"]["token"] = f"flw-t1nf-{SECRET_MARK}-m03k"
    data |= {"meta": {"note": f"{SECRET_MARK}-meta"}, "amount_settled": data["amount"]}
    return _envelope("Transaction fetched successfully", data)


def v3_transfer_answer(payment: Payment) -> Body:
    """Return what ``/v3/transfers/{id}`` says."""
    return _envelope("Transfer fetched", bodies_v3.transfer(payment))


def v3_refund_answer(payment: Payment, refund: Refund) -> Body:
    """Return what ``/v3/refunds/{id}`` says."""
    return _envelope("Transaction refund fetched", bodies_v3.refund_resource(payment, refund))


def v4_refund_answer(payment: Payment, refund: Refund) -> Body:
    """Return what ``/v4/refunds/{id}`` says."""
    return _envelope("Refund fetched", bodies_v4.refund_event(payment, refund))


def v4_charge_answer(payment: Payment) -> Body:
    """Return what ``/v4/charges/{id}`` says."""
    return _envelope("Charge fetched", bodies_v4.charge_resource(payment))


def v4_transfer_answer(payment: Payment) -> Body:
    """Return what ``/v4/transfers/{id}`` says."""
    return _envelope("Transfer fetched", bodies_v4.transfer(payment))


def v3_list_answer(kind: Kind, page: Page[Payment]) -> Body:
    """Return one page of ``/v3/transactions``, where ids are strings, or of ``/v3/transfers``."""
    if kind is Kind.TRANSFER:
        return _listed("Transfers fetched", [bodies_v3.transfer(p) for p in page.items], page)
    shown = [bodies_v3.charge(p) | {"id": str(p.id)} for p in page.items]
    return _listed("Transactions fetched", shown, page)


def v4_list_answer(kind: Kind, page: Page[Payment]) -> Body:
    """Return one page of ``/v4/charges`` or of ``/v4/transfers``."""
    if kind is Kind.TRANSFER:
        return _listed("Transfers fetched", [bodies_v4.transfer(p) for p in page.items], page)
    return _listed("Charges fetched", [bodies_v4.charge_resource(p) for p in page.items], page)


def v3_chargebacks_answer(page: Page[Dispute]) -> Body:
    """Return one page of ``/v3/chargebacks``."""
    return _listed("Chargebacks fetched", [bodies_v3.chargeback(*one) for one in page.items], page)


def v4_chargebacks_answer(page: Page[Dispute]) -> Body:
    """Return one page of ``/v4/chargebacks``."""
    return _listed("Chargebacks fetched", [bodies_v4.chargeback(*one) for one in page.items], page)


def v4_customer_answer(customer: Customer) -> Body:
    """Return what ``/v4/customers/{id}`` says."""
    return _envelope("Customer fetched", bodies_v4.customer(customer))


def v4_customers_answer(page: Page[Customer]) -> Body:
    """Return one page of ``/v4/customers``."""
    return _listed("Customers fetched", [bodies_v4.customer(c) for c in page.items], page)


def v3_error(message: str) -> Body:
    """Return an error in v3's envelope."""
    return {"status": "error", "message": message, "data": None}


def v4_error(error_type: str, code: str, message: str) -> Body:
    """Return an error in v4's envelope."""
    return {
        "status": "failed",
        "error": {"type": error_type, "code": code, "message": message, "validation_errors": []},
    }


def _listed(message: str, data: list[Body], page: Page[Any]) -> Body:
    return _envelope(message, data) | {"meta": {"page_info": page.info}}


def _envelope(message: str, data: Any) -> Body:
    return {"status": "success", "message": message, "data": data}
