"""What the sandbox knows of its people and payments: plain records, without a will of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from paystate.status import Status
from paystate.updates import Kind

__all__ = [
    "Change",
    "Chargeback",
    "Customer",
    "Form",
    "Method",
    "Payment",
    "Refund",
    "TruthRefused",
]


class Form(StrEnum):
    """The API a payment was made with, which decides its ids and the shape of its webhooks."""

    V3 = "v3"
    V4 = "v4"
    FLAT = "flat"  # made with v3, webhooks without an envelope (the older form)


class Method(StrEnum):
    """How a charge is paid."""

    CARD = "card"
    BANK_TRANSFER = "bank_transfer"
    MOBILE_MONEY = "mobile_money"


class TruthRefused(Exception):
    """A change that the truth does not allow; `reason` is `conflict`, `invalid` or `settled`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Customer:
    """A made-up person: e-mail addresses at example.com, numbers nobody has."""

    v3_id: int
    v4_id: str
    first_name: str
    last_name: str
    email: str
    phone: str


@dataclass(frozen=True, slots=True)
class Change:
    """A status and when it became true (epoch seconds)."""

    at: float
    status: Status


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back on a charge; `status` is the provider's own word."""

    id: int | str
    amount: Decimal
    status: str
    at: float


@dataclass(slots=True)
class Chargeback:
    """A charge that its customer's bank disputes; `status` is the provider's own word."""

    id: int | str
    amount: Decimal
    status: str
    at: float


@dataclass(slots=True)
class Payment:
    """One charge or transfer. `amount` is exact, in major units; `created_at` is epoch seconds.

    `reversed_at` is when a v4 transfer that had been successful came back, which leaves its status
    as it is.
    """

    id: int | str
    form: Form
    kind: Kind
    tx_ref: str
    amount: Decimal
    currency: str
    method: Method
    customer: Customer
    created_at: float
    history: list[Change] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    chargebacks: list[Chargeback] = field(default_factory=list)
    reversed_at: float | None = None

    @property
    def status(self) -> Status:
        """Return the status that is true now."""
        return self.history[-1].status

    @property
    def key(self) -> tuple[Kind, str]:
        """Return what the truth knows it by: v3 ids of a charge and a transfer may be the same."""
        return self.kind, str(self.id)

    def to_json(self) -> dict[str, Any]:
        """Return it as the control API shows it; amounts are decimal strings."""
        is_v4 = self.form is Form.V4
        return {
            "id": str(self.id),
            "kind": self.kind.value,
            "api": self.form.value,
            "tx_ref": self.tx_ref,
            "amount": format(self.amount, "f"),
            "currency": self.currency,
            "status": self.status.value,
            "customer_id": self.customer.v4_id if is_v4 else str(self.customer.v3_id),
            "created_at": self.created_at,
            "history": [{"at": c.at, "status": c.status.value} for c in self.history],
            "refunds": [
                {"id": str(r.id), "amount": format(r.amount, "f"), "status": r.status}
                for r in self.refunds
            ],
            "chargebacks": [
                {"id": str(c.id), "amount": format(c.amount, "f"), "status": c.status}
                for c in self.chargebacks
            ],
            "reversed_at": self.reversed_at,
        }

    def to_truth(self) -> dict[str, Any]:
        """Return what an oracle compares with: the status and little else."""
        return {
            "id": str(self.id),
            "kind": self.kind.value,
            "tx_ref": self.tx_ref,
            "status": self.status.value,
            "amount": format(self.amount, "f"),
            "currency": self.currency,
            "refunded": format(sum((r.amount for r in self.refunds), Decimal(0)), "f"),
            "reversed": self.reversed_at is not None,
            "changed_at": self.history[-1].at,
        }
