"""Synthetic webhook bodies, one builder for each family that reaches the endpoint.

Each builder takes overrides for the object that carries the payment, by its field names::

    v3_charge(status="failed", amount=Decimal("10.50"))

Every object holds personal data and secrets as real ones do, all invented.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from multidict import CIMultiDict, CIMultiDictProxy

from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4

Body = dict[str, Any]

SECRET = "north-ember-quartz-19"


def encode(body: Any) -> bytes:
    """Return `body` as the bytes of a JSON request, decimals as plain numbers."""
    marks: dict[str, str] = {}

    def mark(value: object) -> str:
        if not isinstance(value, Decimal):
            raise TypeError(type(value))
        marks[f'"decimal-{len(marks)}"'] = format(value, "f")
        return f"decimal-{len(marks) - 1}"

    text = json.dumps(body, default=mark)
    for placeholder, number in marks.items():
        text = text.replace(placeholder, number)
    return text.encode()


def encode_form(body: Body) -> bytes:
    """Return `body` as a form, nested objects in brackets and nulls as empty fields."""

    def flatten(prefix: str, value: Any) -> list[tuple[str, str]]:
        if isinstance(value, dict):
            named = [(f"{prefix}[{k}]" if prefix else k, v) for k, v in value.items()]
            return [pair for name, v in named for pair in flatten(name, v)]
        return [(prefix, "" if value is None else str(value))]

    return urlencode(flatten("", body)).encode()


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    """Return request headers of the type that aiohttp gives to a handler."""
    return CIMultiDictProxy(CIMultiDict(pairs))


def v3_headers(secret: str = SECRET) -> CIMultiDictProxy[str]:
    """Return the headers of a v3 webhook."""
    return headers((V3_HEADER, secret))


def v4_headers(raw: bytes, secret: str = SECRET) -> CIMultiDictProxy[str]:
    """Return the headers of a v4 webhook over `raw`."""
    return headers((V4_HEADER, sign_v4(raw, secret)))


def v3_charge(**data: Any) -> Body:
    """Return a v3 `charge.completed` for a card."""
    return {
        "event": "charge.completed",
        "event.type": "CARD_TRANSACTION",
        "data": {
            "id": 731_904_226,
            "tx_ref": "order 88/2041",
            "flw_ref": "ADAEZE/FLW730011",
            "device_fingerprint": "9f0c2d4417",
            "amount": Decimal("1500.25"),
            "currency": "NGN",
            "charged_amount": Decimal("1521.25"),
            "app_fee": Decimal("21.004"),
            "merchant_fee": 0,
            "processor_response": "Approved. Welcome back, Adaeze",
            "auth_model": "PIN",
            "ip": "203.0.113.77",
            "narration": "Two tickets for Ngozi",
            "status": "successful",
            "payment_type": "card",
            "created_at": "2026-03-04T10:20:30.000Z",
            "account_id": 55_120,
            "customer": {
                "id": 640_112_005,
                "name": "Adaeze Obi",
                "phone_number": "08030000001",
                "email": "adaeze@example.com",
                "created_at": "2026-03-04T10:20:29.000Z",
            },
            "card": {
                "first_6digits": "510510",
                "last_4digits": "0042",
                "issuer": "EXAMPLE BANK CREDIT",
                "country": "NG",
                "type": "MASTERCARD",
                "expiry": "08/31",
                "token": "flw-t1nf-synthetic-m03k",
            },
            **data,
        },
        "meta_data": {"seat": "14C"},
    }


def v3_transfer(**data: Any) -> Body:
    """Return a v3 `transfer.completed`."""
    return {
        "event": "transfer.completed",
        "event.type": "Transfer",
        "data": {
            "id": 90_441,
            "account_number": "0123456780",
            "bank_name": "EXAMPLE BANK",
            "bank_code": "999",
            "fullname": "Tunde Bello",
            "created_at": "2026-03-05T08:00:00.000Z",
            "currency": "NGN",
            "debit_currency": "NGN",
            "amount": 30_500,
            "fee": Decimal("26.875"),
            "status": "SUCCESSFUL",
            "reference": "payout-7781",
            "meta": None,
            "narration": "March salary",
            "complete_message": "Transaction was successful",
            **data,
        },
    }


def v4_charge(**data: Any) -> Body:
    """Return a v4 `charge.completed` for a card."""
    return {
        "webhook_id": "wbk_7Qm2sYxT01",
        "timestamp": 1_772_620_830_123,
        "type": "charge.completed",
        "data": {
            "id": "chg_Zk81LmPq0a",
            "amount": Decimal("2000.5"),
            "currency": "GHS",
            "customer": {
                "id": "cus_h2Wd90",
                "email": "kofi@example.com",
                "name": {"first": "Kofi", "middle": None, "last": "Mensah"},
                "phone": {"country_code": "233", "number": "200000001"},
                "address": {"line1": "1 Harbour Road", "city": "Tema", "country": "GH"},
                "created_datetime": "2026-01-01T00:00:00.000Z",
            },
            "description": "One lamp",
            "meta": {"basket": "b-17"},
            "payment_method": {
                "type": "card",
                "card": {
                    "expiry_month": 9,
                    "expiry_year": 32,
                    "first6": "411111",
                    "last4": "0007",
                    "network": "VISA",
                    "card_holder_name": "KOFI MENSAH",
                },
                "id": "pmd_18Kd",
                "device_fingerprint": "77ac31",
                "client_ip": "198.51.100.9",
            },
            "redirect_url": "https://shop.example.com/thanks",
            "reference": "3d8e3f1e-57f3-4f0a-9a1f-0a6c0f6f2f11",
            "status": "succeeded",
            "processor_response": {"type": "approved", "code": "00"},
            "created_datetime": "2026-03-04T10:20:30.207870937Z",
            **data,
        },
    }


def v4_transfer(**data: Any) -> Body:
    """Return a v4 `transfer.disburse` to a bank account."""
    return {
        "webhook_id": "wbk_p0Rr41Bn9Z",
        "timestamp": 1_772_700_000_000,
        "type": "transfer.disburse",
        "data": {
            "id": "trf_A9d8Ff03Kq",
            "type": "BANK",
            "source_currency": "NGN",
            "destination_currency": "KES",
            "amount": 50_000,
            "reference": "payout9920",
            "status": "SUCCESSFUL",
            "bank": {"account_number": "0987654321", "code": "998", "name": "EXAMPLE TRUST"},
            "fee": {"currency": "NGN", "value": 500},
            "debit_information": {"currency": "NGN", "actual_debit_amount": 610_000},
            "payment_information": {"proof": "550011223344"},
            "meta": {},
            **data,
        },
    }


def v4_reversal(**data: Any) -> Body:
    """Return a v4 `transfer.reversal` of a transfer that had been successful."""
    reversal = {
        "initial_status": "SUCCESSFUL",
        "reconciliation_status": "REVERSED",
        "reversal_datetime": "2026-03-06T09:00:00Z",
    }
    body = v4_transfer(**{"status": "FAILED", "reversal": reversal, **data})
    return {**body, "webhook_id": "wbk_Rv55Tq10", "type": "transfer.reversal"}


def v4_refund(**data: Any) -> Body:
    """Return a v4 `refund.completed`."""
    return {
        "webhook_id": "wbk_Rf09Lm33",
        "timestamp": 1_772_800_000_000,
        "type": "refund.completed",
        "data": {
            "id": "rfd_0bb1Cq",
            "amount_refunded": 150,
            "meta": {"asked_by": "Kofi"},
            "reason": "requested by Kofi Mensah",
            "status": "succeeded",
            "charge_id": "chg_Zk81LmPq0a",
            "created_datetime": "2026-03-07T11:08:17.517Z",
            **data,
        },
    }


def flat_charge(**data: Any) -> Body:
    """Return a charge in the older flat form."""
    return {
        "id": 126_877,
        "txRef": "flat-order-5",
        "flwRef": "FLW-MOCK-5a1c",
        "orderRef": "URF_5_1",
        "paymentPlan": None,
        "createdAt": "2026-02-01T11:00:23.000Z",
        "amount": 1000,
        "charged_amount": 1014,
        "status": "successful",
        "IP": "192.0.2.44",
        "currency": "NGN",
        "customer": {
            "id": 22_951,
            "phone": "08030000002",
            "fullName": "Bisi Ade",
            "customertoken": "flat-token-synthetic",
            "email": "bisi@example.com",
            "AccountId": 134,
        },
        "entity": {"card6": "539999", "card_last4": "8300"},
        "event.type": "CARD_TRANSACTION",
        **data,
    }


def flat_transfer(**data: Any) -> Body:
    """Return a transfer in the older flat form."""
    return {
        "event.type": "Transfer",
        "transfer": {
            "id": 612,
            "account_number": "0123456781",
            "bank_code": "999",
            "fullname": "Sade Cole",
            "date_created": "2026-02-02T14:07:49.000Z",
            "currency": "NGN",
            "amount": 9000,
            "fee": 45,
            "status": "FAILED",
            "reference": "flat-payout-2",
            "narration": "For the roof",
            "bank_name": "EXAMPLE BANK",
            **data,
        },
    }


def refund(**data: Any) -> Body:
    """Return a v3 refund, which has no event name."""
    return {
        "id": 99_310,
        "AmountRefunded": 100,
        "status": "completed",
        "FlwRef": "5512009",
        "destination": "payment_source",
        "comments": "Bisi changed her mind",
        "meta": '{"source":"ledgerbalance"}',
        "createdAt": "2026-02-03T08:35:45.000Z",
        "walletId": 684_001,
        "AccountId": 169_001,
        "TransactionId": 731_904_226,
        **data,
    }


def virtual_card_debit() -> Body:
    """Return what arrives when a virtual card is spent from."""
    return {
        "TransactionId": "5f1c4be2-0000-4000-8000-000000000001",
        "MerchantName": "Example Market",
        "Description": "CHARGE",
        "Status": "Successful",
        "Balance": Decimal("4.79"),
        "Amount": Decimal("0.21"),
        "CardId": "5f1c4be2-0000-4000-8000-000000000002",
        "MaskedPan": "411111******0007",
    }


def virtual_card_otp() -> Body:
    """Return what arrives when a virtual card's holder is asked for a password."""
    return {
        "Otp": "731904",
        "CardId": "5f1c4be2-0000-4000-8000-000000000002",
        "MaskedPan": "411111******0007",
    }


def bvn() -> Body:
    """Return the end of an identity check."""
    return {
        "event": "bvn.completed",
        "event.type": "BVN",
        "data": {
            "id": 19,
            "reference": "FLWSYNTHETIC53B2",
            "status": "COMPLETED",
            "firstname": "Adaeze",
            "bvn_data": {"surname": "Obi", "email": "adaeze@example.com"},
        },
    }


def subscription() -> Body:
    """Return the end of a subscription."""
    return {
        "event": "subscription.cancelled",
        "data": {"status": "deactivated", "amount": 200, "plan": {"id": 10_001}},
    }


def bill() -> Body:
    """Return the end of a bill payment, which looks much like a charge."""
    return {
        "event": "singlebillpayment.status",
        "event.type": "SingleBillPayment",
        "data": {
            "customer": "+2348030000001",
            "amount": 200,
            "tx_ref": "CF-SYNTHETIC-1",
            "flw_ref": "BPSYNTHETIC1",
            "status": "success",
        },
    }


def order_authorization() -> Body:
    """Return a v4 order that was authorised."""
    return {
        "webhook_id": "wbk_Or12",
        "type": "order.authorization",
        "data": {"id": "ord_1", "amount": 10, "reference": "order-12", "status": "authorized"},
    }


def chargeback() -> Body:
    """Return a chargeback, in a guess at its shape."""
    return {
        "type": "chargeback.created",
        "data": {"id": "chb_1", "charge_id": "chg_Zk81LmPq0a", "amount": 200, "status": "new"},
    }


PAYMENTS: dict[str, Callable[..., Body]] = {
    "v3_charge": v3_charge,
    "v3_transfer": v3_transfer,
    "v4_charge": v4_charge,
    "v4_transfer": v4_transfer,
    "v4_reversal": v4_reversal,
    "v4_refund": v4_refund,
    "flat_charge": flat_charge,
    "flat_transfer": flat_transfer,
    "refund": refund,
}
OTHERS: dict[str, Callable[[], Body]] = {
    "virtual_card_debit": virtual_card_debit,
    "virtual_card_otp": virtual_card_otp,
    "bvn": bvn,
    "subscription": subscription,
    "bill": bill,
    "order_authorization": order_authorization,
    "chargeback": chargeback,
}
