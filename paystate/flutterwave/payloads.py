"""From a webhook's body to the one thing it says.

One endpoint gets bodies of many families: which one arrives depends on the API, on boxes ticked in
a dashboard, and on the age of the account. They are told apart by their shape, never by their
headers. Whatever a verified body holds becomes an `Event`; a body that says nothing about a
payment becomes an `Ignored` one, because refusing it would only have it sent again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from paystate.flutterwave import fields
from paystate.flutterwave.objects import (
    parse_refund,
    parse_reversal,
    parse_v3_transaction,
    parse_v3_transfer,
    parse_v4_charge,
    parse_v4_transfer,
)
from paystate.updates import Api, Event, Ignored, Overlay, PaymentUpdate

__all__ = [
    "parse_event",
    "parse_refund",
    "parse_v3_transaction",
    "parse_v3_transfer",
    "parse_v4_charge",
    "parse_v4_transfer",
]

Subject = PaymentUpdate | Overlay | Ignored
Parser = Callable[[Mapping[str, Any]], PaymentUpdate | Overlay | None]

# A virtual card's spending, or the password its holder needs for it.
_SENSITIVE = frozenset({"MaskedPan", "maskedPan", "CardId", "cardId", "OTP", "Otp", "otp"})

# Flutterwave documents `charge.completed`, `transfer.completed` and `transfer.disburse`, each for
# every outcome. A name that only words an outcome differently is read in the same way, since the
# status comes from `data` all the same; any other word after the dot may be another object's.
_OUTCOME = r"(?:completed|disburse|successful|succeeded|failed|pending|cancelled|voided|updated)"
_CHARGE = re.compile(rf"charge\.{_OUTCOME}")
_TRANSFER = re.compile(rf"transfer\.{_OUTCOME}")
_REFUND = re.compile(r"refund\.[a-z_-]+")
_REVERSAL = re.compile(r"transfer\.reversal")

# Flat bodies carry the references of a charge also where they are about something else.
# ("transfer" alone is money out; "bank_transfer_transaction" is how a customer paid).
_NOT_A_CHARGE = re.compile(r"bill|bvn|subscription|^transfer$")


def parse_event(api: Api, body: dict[str, Any], raw: bytes) -> Event:
    """Return what the verified webhook `body` says; `raw` are the exact bytes it was read from.

    `api` is that of its signature. Never raises: a payment without a usable id is
    ``Ignored("malformed:id")``, an envelope without its object ``Ignored("malformed:data")``. Any
    other field that cannot be used is left out; `flaws` names those that a payment is checked by:
    ``tx_ref``, ``amount``, ``currency`` (and ``status`` of a refund).
    """
    event_type, subject = _read(body)
    return Event(api, event_type, _dedupe(api, body, raw), subject)


def _read(body: dict[str, Any]) -> tuple[str, Subject]:
    if not _SENSITIVE.isdisjoint(body):
        return "virtual_card", Ignored("sensitive")
    name, legacy_name = _name(body, "event", "type"), _name(body, "event.type")
    if "chargeback" in name or "chargeback" in legacy_name:
        return fields.event_type(name or legacy_name), Ignored("not_a_payment")
    data = body.get("data")
    parser = _enveloped(name, v4=not isinstance(body.get("event"), str))
    if parser and isinstance(data, dict):
        return fields.event_type(name), _subject(parser, data)
    if (parser or not name) and (flat := _flat(body, legacy_name)):
        return flat
    if isinstance(data, dict) and not _SENSITIVE.isdisjoint(data):
        return "virtual_card", Ignored("sensitive")
    reason = "malformed:data" if parser else "not_a_payment"
    return fields.event_type(name or legacy_name), Ignored(reason)


def _enveloped(name: str, *, v4: bool) -> Parser | None:
    """Return what reads the `data` of an event called `name`; None if that is not a payment."""
    if _CHARGE.fullmatch(name):
        return parse_v4_charge if v4 else parse_v3_transaction
    if _TRANSFER.fullmatch(name):
        return parse_v4_transfer if v4 else parse_v3_transfer
    if _REFUND.fullmatch(name):
        return parse_refund
    return parse_reversal if _REVERSAL.fullmatch(name) else None


def _flat(body: dict[str, Any], legacy_name: str) -> tuple[str, Subject] | None:
    """Read a body that has no envelope; None if it is about no payment."""
    if "TransactionId" in body and "AmountRefunded" in body:
        return "refund", _subject(parse_refund, body)
    if legacy_name == "transfer" and "transfer" in body:
        transfer = body["transfer"]
        if not isinstance(transfer, dict):
            return "flat.transfer", Ignored("malformed:data")
        return "flat.transfer", _subject(parse_v3_transfer, transfer)
    if ("txRef" in body or "flwRef" in body) and not _NOT_A_CHARGE.search(legacy_name):
        return "flat.charge", _subject(parse_v3_transaction, body)
    return None


def _subject(parse: Parser, data: Mapping[str, Any]) -> Subject:
    return parse(data) or Ignored("malformed:id")


def _name(body: dict[str, Any], *keys: str) -> str:
    """Return the first text under `keys` in lower case, or nothing."""
    for key in keys:
        value = body.get(key)
        if isinstance(value, str):
            return value.lower()
    return ""


def _dedupe(api: Api, body: dict[str, Any], raw: bytes) -> str:
    """Return what makes this event that one event.

    Only a v4 signature covers the webhook's id. Of anything else the exact body counts, so that a
    forged id cannot pass a new event off as one already seen.
    """
    if api is Api.V4 and "type" in body:
        webhook_id = fields.identifier(body.get("webhook_id"))
        if webhook_id is not None:
            return webhook_id
        own_id = fields.identifier(body.get("id"))
        if own_id is not None and own_id.startswith("wbk_"):
            return own_id
    return hashlib.sha256(raw).hexdigest()
