"""What one webhook, or one answer of the verify API, says about a payment.

These are the only forms in which the provider's words travel on: the parser builds them from a
body (`paystate.flutterwave.payloads`), the inbox stores them, the worker applies them. They have no
field for what must not be kept, so it cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self, TypedDict

from paystate.status import STATUSES, Status

__all__ = [
    "Api",
    "Card",
    "Event",
    "Ignored",
    "Kind",
    "Overlay",
    "OverlayJson",
    "OverlayStatus",
    "OverlayType",
    "PaymentUpdate",
    "Person",
]


class Kind(StrEnum):
    """Money in (a charge) or money out (a transfer); their v3 ids are both plain integers."""

    CHARGE = "charge"
    TRANSFER = "transfer"


class Api(StrEnum):
    """Where an event came from, which decides how far its body is believed."""

    V3 = "v3"  # the webhook carries a shared secret that is not bound to its body
    V4 = "v4"  # the webhook is signed over its exact bytes
    VERIFY = "verify"  # the provider's own API, asked by us
    OPERATOR = "operator"  # a person or a shop, by CLI, board or API
    RECONCILER = "reconciler"  # nobody has said anything for long


class Card(NamedTuple):
    """What may be kept of a card. There is no field for a token, a name or a full number."""

    first_6: str | None = None
    last_4: str | None = None
    type: str | None = None
    expiry: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return the fields that are known."""
        named = zip(self._fields, self, strict=True)
        return {name: value for name, value in named if value is not None}


@dataclass(frozen=True, slots=True)
class Person:
    """What the provider's API says of a customer, who is mute in `repr`.

    Only answers of the API are made into one. No webhook is: a body can be forged.
    """

    name: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
    since: str | None = field(default=None, repr=False)

    def columns(self) -> dict[str, str | None]:
        """Return it as the customer's row keeps it."""
        return {
            "name": self.name, "email": self.email, "phone": self.phone, "since": self.since,
        }  # fmt: skip


class PaymentUpdate(NamedTuple):
    """One observation of a payment; a tuple, made in a fifth of a frozen dataclass' time.

    `amount` and its relatives are exact decimals in major units of `currency`. `flaws` names the
    fields that were there and could not be used (``"amount"``); a flawed body is never believed
    without the verify API.
    """

    kind: Kind
    payment_id: str
    status: Status
    provider_status: str
    tx_ref: str | None = None
    amount: Decimal | None = None
    currency: str | None = None
    charged_amount: Decimal | None = None
    app_fee: Decimal | None = None
    payment_type: str | None = None
    flw_ref: str | None = None
    processor_code: str | None = None
    created_at: str | None = None
    customer_id: str | None = None
    card: Card | None = None
    flaws: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return this as plain JSON values, decimals as strings, unknown fields left out."""
        named = zip(self._fields, self, strict=True)
        out: dict[str, Any] = {name: value for name, value in named if value is not None}
        for name in _DECIMALS:
            if name in out:
                out[name] = format(out[name], "f")
        if self.card is not None:
            out["card"] = self.card.to_json()
        if self.flaws:
            out["flaws"] = list(self.flaws)
        else:
            del out["flaws"]
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return what `to_json` was given, leaving out fields that a newer version has added."""
        if data.keys() <= _UPDATE_FIELDS:
            values = dict(data)
        else:
            values = {name: value for name, value in data.items() if name in _UPDATE_FIELDS}
        for name in _DECIMALS:
            if name in values:
                values[name] = Decimal(values[name])
        if "card" in values:
            held = values["card"].items()
            values["card"] = Card(**{name: value for name, value in held if name in _CARD_FIELDS})
        # By dictionary, as far as the words are known: an enum's own call takes five times as long.
        values["kind"] = _KINDS.get(values["kind"]) or Kind(values["kind"])
        values["status"] = STATUSES.get(values["status"]) or Status(values["status"])
        values["flaws"] = tuple(values.get("flaws", ()))
        return cls(**values)


_KINDS = {kind.value: kind for kind in Kind}
_CARD_FIELDS = frozenset(Card._fields)
_UPDATE_FIELDS = frozenset(PaymentUpdate._fields)
_DECIMALS = ("amount", "charged_amount", "app_fee")


class OverlayJson(TypedDict):
    """A refund, reversal or chargeback on a payment that stays successful."""

    type: Annotated[str, "`refund`, `reversal` or `chargeback`."]
    id: str
    status: str
    amount: Annotated[str | None, "Decimal, in major units of the currency."]
    currency: str | None


class OverlayType(StrEnum):
    """What can happen to a settled payment without changing its status."""

    REFUND = "refund"
    REVERSAL = "reversal"
    CHARGEBACK = "chargeback"


class OverlayStatus(StrEnum):
    """How far an overlay has come; it only ever moves down this list."""

    INITIATED = "initiated"
    PENDING = "pending"
    FAILED = "failed"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Overlay:
    """One refund, reversal or chargeback of a payment, by its own id."""

    kind: Kind
    payment_id: str
    type: OverlayType
    overlay_id: str
    status: OverlayStatus
    provider_status: str
    tx_ref: str | None = None
    amount: Decimal | None = None
    currency: str | None = None
    flaws: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return this as plain JSON values, decimals as strings, unknown fields left out."""
        out = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) not in (None, ())}
        if self.amount is not None:
            out["amount"] = format(self.amount, "f")
        if self.flaws:
            out["flaws"] = list(self.flaws)
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return what `to_json` was given, leaving out fields that a newer version has added."""
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        if "amount" in values:
            values["amount"] = Decimal(values["amount"])
        values["kind"] = Kind(values["kind"])
        values["type"] = OverlayType(values["type"])
        values["status"] = OverlayStatus(values["status"])
        values["flaws"] = tuple(values.get("flaws", ()))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A genuine webhook that says nothing about a payment's status.

    `reason` is one of ``not_a_payment`` (counted and stored by type), ``sensitive`` (a virtual
    card or an OTP: never stored) or ``malformed:<field>`` (a payment event that names no payment
    we can use: stored by type, counted, and worth an operator's look).
    """

    reason: str

    @property
    def stored(self) -> bool:
        """Say whether its type may be recorded at all."""
        return self.reason != "sensitive"


class Event(NamedTuple):
    """One verified webhook: what it is called, what makes it that one event, and what it says.

    `dedupe` is the provider's event id (v4) or the SHA-256 of the exact body (v3), never anything
    from an unsigned header.
    """

    api: Api
    type: str
    dedupe: str
    subject: PaymentUpdate | Overlay | Ignored
