"""Flutterwave's objects, in each of their spellings, as observations of a payment.

A charge looks much the same in a v3 webhook, in the older flat one and in the answer of the verify
API; a v4 charge has names of its own. Each function here reads one kind of object and returns None
if it holds no usable id. What has no field in `PaymentUpdate` or `Overlay` ends here: tokens,
names, addresses, the merchant's `meta`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from paystate.flutterwave import fields
from paystate.status import from_provider
from paystate.updates import Card, Kind, Overlay, OverlayStatus, OverlayType, PaymentUpdate

__all__ = [
    "parse_chargeback",
    "parse_refund",
    "parse_reversal",
    "parse_v3_transaction",
    "parse_v3_transfer",
    "parse_v4_charge",
    "parse_v4_transfer",
]

T = TypeVar("T")

# v3 says `completed` when a refund has been accepted, and `completed-<channel>` when it is done.
_REFUND_WORDS = {
    "completed": OverlayStatus.INITIATED,
    "new": OverlayStatus.INITIATED,
    "initiated": OverlayStatus.INITIATED,
    "processing": OverlayStatus.PENDING,
    "failed": OverlayStatus.FAILED,
    "succeeded": OverlayStatus.COMPLETED,
    "successful": OverlayStatus.COMPLETED,
}

# Declined is the merchant's word: it has sent its proof, and the bank has yet to say.
_CHARGEBACK_WORDS = {
    "pending": OverlayStatus.INITIATED,
    "initiated": OverlayStatus.INITIATED,
    "declined": OverlayStatus.PENDING,
    "won": OverlayStatus.FAILED,
    "accepted": OverlayStatus.COMPLETED,
    "lost": OverlayStatus.COMPLETED,
}

_REVERSAL_WORDS = {
    "new": OverlayStatus.INITIATED,
    "initiated": OverlayStatus.INITIATED,
    "pending": OverlayStatus.PENDING,
    "processing": OverlayStatus.PENDING,
    "failed": OverlayStatus.FAILED,
}


def parse_v3_transaction(data: Mapping[str, Any]) -> PaymentUpdate | None:
    """Return what a v3 charge says: of a webhook, flat or not, or of the verify API."""
    payment_id = fields.identifier(data.get("id"))
    if payment_id is None:
        return None
    return _observation(
        Kind.CHARGE,
        payment_id,
        data,
        tx_ref=_first(data, "tx_ref", "txRef"),
        flw_ref=fields.provider_reference(_first(data, "flw_ref", "flwRef")),
        charged_amount=fields.money(data.get("charged_amount")),
        app_fee=fields.money(_first(data, "app_fee", "appfee")),
        payment_type=fields.word(data.get("payment_type")),
        customer_id=_customer_id(data),
        card=_v3_card(data),
    )


def parse_v4_charge(data: Mapping[str, Any]) -> PaymentUpdate | None:
    """Return what a v4 charge says: of a webhook, or of the charges API."""
    payment_id = fields.identifier(data.get("id"))
    if payment_id is None:
        return None
    method = _object(_first(data, "payment_method", "payment_method_details"))
    return _observation(
        Kind.CHARGE,
        payment_id,
        data,
        tx_ref=data.get("reference"),
        payment_type=fields.word(method.get("type")),
        processor_code=fields.code(_object(data.get("processor_response")).get("code")),
        customer_id=_customer_id(data),
        card=_v4_card(_object(method.get("card"))),
    )


def parse_v3_transfer(data: Mapping[str, Any]) -> PaymentUpdate | None:
    """Return what a v3 transfer says: of a webhook, flat or not, or of the transfers API."""
    payment_id = fields.identifier(data.get("id"))
    if payment_id is None:
        return None
    return _observation(Kind.TRANSFER, payment_id, data, tx_ref=data.get("reference"))


def parse_v4_transfer(data: Mapping[str, Any]) -> PaymentUpdate | None:
    """Return what a v4 transfer says: of a webhook, or of the transfers API.

    Its amount is in the currency that the payee gets, unless it says otherwise.
    """
    payment_id = fields.identifier(data.get("id"))
    if payment_id is None:
        return None
    return _observation(
        Kind.TRANSFER,
        payment_id,
        {**data, **_v4_transfer_money(data)},
        tx_ref=data.get("reference"),
    )


def parse_refund(data: Mapping[str, Any]) -> Overlay | None:
    """Return what a refund says, v3 or v4, of a webhook or of the refunds API.

    An unfamiliar status is `INITIATED`, the lowest, with the flaw ``status``.
    """
    payment_id = fields.identifier(_first(data, "TransactionId", "charge_id", "tx_id"))
    overlay_id = fields.identifier(data.get("id"))
    if payment_id is None or overlay_id is None:
        return None
    provider_status = fields.provider_status(data.get("status"))
    status = _refund_status(provider_status)
    flaws = [] if status else ["status"]
    return Overlay(
        kind=Kind.CHARGE,
        payment_id=payment_id,
        type=OverlayType.REFUND,
        overlay_id=overlay_id,
        status=status or OverlayStatus.INITIATED,
        provider_status=provider_status,
        amount=_used(
            flaws, "amount", fields.money, _first(data, "AmountRefunded", "amount_refunded")
        ),
        currency=_used(flaws, "currency", fields.currency, data.get("currency")),
        flaws=tuple(flaws),
    )


def parse_chargeback(data: Mapping[str, Any]) -> Overlay | None:
    """Return what a chargeback says, of the chargebacks API of v3 or v4.

    It is `COMPLETED` once the money is gone (lost, or accepted), and `FAILED` if it was won. Its
    amount is in the currency of the charge. An unfamiliar status is `INITIATED`, with the flaw
    ``status``.
    """
    payment_id = fields.identifier(_first(data, "charge_id", "transaction_id"))
    overlay_id = fields.identifier(data.get("id"))
    if payment_id is None or overlay_id is None:
        return None
    provider_status = fields.provider_status(data.get("status"))
    status = _CHARGEBACK_WORDS.get(provider_status.lower())
    flaws = [] if status else ["status"]
    return Overlay(
        kind=Kind.CHARGE,
        payment_id=payment_id,
        type=OverlayType.CHARGEBACK,
        overlay_id=overlay_id,
        status=status or OverlayStatus.INITIATED,
        provider_status=provider_status,
        amount=_used(flaws, "amount", fields.money, data.get("amount")),
        currency=_used(flaws, "currency", fields.currency, data.get("currency")),
        flaws=tuple(flaws),
    )


def parse_reversal(data: Mapping[str, Any]) -> Overlay | None:
    """Return what the reversal of a v4 transfer says.

    The reversal goes by the transfer's id: it has none of its own, a transfer goes back once, and
    a notice that is sent again under another webhook id must not count its amount twice. How far
    it has come stands in `reversal`; `status` beside it is the transfer's, which is FAILED once
    the money is back. Without a word it is completed.
    """
    payment_id = fields.identifier(data.get("id"))
    if payment_id is None:
        return None
    own_word = _object(data.get("reversal")).get("reconciliation_status")
    provider_status = fields.provider_status(data.get("status") if own_word is None else own_word)
    money = _v4_transfer_money(data)
    flaws: list[str] = []
    return Overlay(
        kind=Kind.TRANSFER,
        payment_id=payment_id,
        type=OverlayType.REVERSAL,
        overlay_id=payment_id,
        status=_REVERSAL_WORDS.get(provider_status.lower(), OverlayStatus.COMPLETED),
        provider_status=provider_status,
        tx_ref=_used(flaws, "tx_ref", fields.reference, data.get("reference")),
        amount=_used(flaws, "amount", fields.money, money["amount"]),
        currency=_used(flaws, "currency", fields.currency, money["currency"]),
        flaws=tuple(flaws),
    )


def _observation(
    kind: Kind, payment_id: str, data: Mapping[str, Any], *, tx_ref: Any, **kept: Any
) -> PaymentUpdate:
    """Build an update from what every spelling has in common, and `kept`, which is read already."""
    flaws: list[str] = []
    return PaymentUpdate(
        kind=kind,
        payment_id=payment_id,
        status=from_provider(data.get("status")),
        provider_status=fields.provider_status(data.get("status")),
        tx_ref=_used(flaws, "tx_ref", fields.reference, tx_ref),
        amount=_used(flaws, "amount", fields.money, data.get("amount")),
        currency=_used(flaws, "currency", fields.currency, data.get("currency")),
        created_at=fields.instant(
            _first(data, "created_at", "created_datetime", "createdAt", "date_created")
        ),
        flaws=tuple(flaws),
        **kept,
    )


def _used(flaws: list[str], name: str, read: Callable[[Any], T | None], value: Any) -> T | None:
    """Return what `read` makes of `value`; a value that is there and unusable is a flaw."""
    if value is None:
        return None
    result = read(value)
    if result is None:
        flaws.append(name)
    return result


def _first(data: Mapping[str, Any], *names: str) -> Any:
    """Return the value of the first of `names` that has one."""
    for name in names:
        if (value := data.get(name)) is not None:
            return value
    return None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _customer_id(data: Mapping[str, Any]) -> str | None:
    held = _object(data.get("customer")).get("id")
    return fields.identifier(data.get("customer_id") if held is None else held)


def _v3_card(data: Mapping[str, Any]) -> Card | None:
    card = _object(data.get("card"))
    entity = _object(data.get("entity"))  # the flat form's
    return fields.card(
        _first(card, "first_6digits") or entity.get("card6"),
        _first(card, "last_4digits") or entity.get("card_last4"),
        card.get("type"),
        card.get("expiry"),
    )


def _v4_card(card: Mapping[str, Any]) -> Card | None:
    month, year = card.get("expiry_month"), card.get("expiry_year")
    expiry = None
    if type(month) is int and type(year) is int and 0 < month <= 12 and 0 <= year < 10_000:
        expiry = _expiry(month, year)
    return fields.card(card.get("first6"), card.get("last4"), card.get("network"), expiry)


@lru_cache(maxsize=1024)
def _expiry(month: int, year: int) -> str:
    return f"{month:02}/{year % 100:02}"


def _v4_transfer_money(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `amount` and `currency` of a v4 transfer, as they came.

    The amount is a number, or a number with the side it applies to.
    """
    amount, side = data.get("amount"), "destination_currency"
    if isinstance(amount, dict):
        if amount.get("applies_to") == "source_currency":
            side = "source_currency"
        amount = amount.get("value")
    return {"amount": amount, "currency": _first(data, "currency", side)}


def _refund_status(word: str) -> OverlayStatus | None:
    word = word.lower()
    if word.startswith("completed-") and word != "completed-":
        return OverlayStatus.COMPLETED
    if word.startswith("pending"):
        return OverlayStatus.PENDING
    return _REFUND_WORDS.get(word)
