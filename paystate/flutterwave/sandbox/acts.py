"""What can be done to a sandbox, each from one JSON object: by a request, or by a script's step.

They raise what is wrong with the object: `TruthRefused`, LookupError for a payment or family that
is not there, ValueError, TypeError, KeyError or `decimal.InvalidOperation` for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from paystate.flutterwave.sandbox import levers
from paystate.flutterwave.sandbox.families import Family
from paystate.flutterwave.sandbox.fates import Mishap
from paystate.flutterwave.sandbox.provider import Sandbox
from paystate.flutterwave.sandbox.records import Form, Payment
from paystate.flutterwave.sandbox.teller import Manner
from paystate.updates import Kind

__all__ = ["ACTS", "Body", "Stage"]

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """A sandbox, and the payments that a script has given names."""

    sandbox: Sandbox
    names: dict[str, Payment] = field(default_factory=dict)

    def payment(self, body: Body) -> Payment:
        """Return what ``payment`` (a name or an id) and ``kind`` of `body` mean."""
        given = str(body["payment"])
        kind = Kind(body["kind"]) if body.get("kind") is not None else None
        found = self.names.get(given) or self.sandbox.truth.find(given, kind)
        if found is None:
            raise LookupError("there is no such payment")
        return found


def create(stage: Stage, body: Body) -> Body:
    """Make a pending payment; ``"announce": true`` sends its pending webhook."""
    payment = stage.sandbox.create(
        amount=_amount(body.get("amount", 1000)),
        currency=str(body.get("currency", "NGN")),
        form=Form(body.get("api", "v3")),
        kind=Kind(body.get("kind", "charge")),
        tx_ref=_text(body, "tx_ref"),
        payment_id=_text(body, "id"),
        announce=bool(body.get("announce", False)),
        manner=_manner(body),
    )
    if "as" in body:
        stage.names[str(body["as"])] = payment
    return payment.to_json()


def settle(stage: Stage, body: Body) -> Body:
    """Settle a payment and send its webhook, unless ``"announce": false``: that one is lost."""
    payment = stage.payment(body)
    announce = bool(body.get("announce", True))
    stage.sandbox.settle(payment, str(body["status"]), announce=announce, manner=_manner(body))
    return payment.to_json()


def refund(stage: Stage, body: Body) -> Body:
    """Refund ``amount`` (all that is left by default) of a charge and send the webhook."""
    payment = stage.payment(body)
    stage.sandbox.refund(
        payment,
        amount=None if body.get("amount") is None else _amount(body["amount"]),
        word=_text(body, "status"),
        manner=_manner(body),
    )
    return payment.to_json()


def charge_back(stage: Stage, body: Body) -> Body:
    """Have ``amount`` (all by default) of a charge disputed, or take the dispute to ``status``.

    No webhook tells of it: it stands in the list of chargebacks.
    """
    payment, sandbox = stage.payment(body), stage.sandbox
    sandbox.truth.charge_back(
        payment,
        at=sandbox.clock(),
        amount=None if body.get("amount") is None else _amount(body["amount"]),
        word=_text(body, "status") or "initiated",
    )
    return payment.to_json()


def reverse(stage: Stage, body: Body) -> Body:
    """Take a successful v4 transfer back and send the webhook."""
    payment = stage.payment(body)
    return stage.sandbox.reverse(payment, manner=_manner(body)).to_json()


def announce(stage: Stage, body: Body) -> Body:
    """Send the webhook of a payment as it is now, once more."""
    payment = stage.payment(body)
    stage.sandbox.announce(payment, _manner(body))
    return payment.to_json()


def send(stage: Stage, body: Body) -> Body:
    """Send one webhook of ``family``; what it is about is made, and comes true, first."""
    payment = stage.sandbox.send(
        Family(str(body["family"])),
        status=str(body.get("status", "successful")),
        tx_ref=_text(body, "tx_ref"),
        amount=_amount(body.get("amount", "1500.25")),
        currency=str(body.get("currency", "NGN")),
        manner=_manner(body),
    )
    if payment is not None and "as" in body:
        stage.names[str(body["as"])] = payment
    return {"family": str(body["family"]), "payment": payment and payment.to_json()}


Act = Callable[[Stage, Body], Body]


def _lever(move: Callable[[Sandbox, Body], Body]) -> Act:
    return lambda stage, body: move(stage.sandbox, body)


_MANNER = frozenset({"faults", "delay_s", "form_encoded"})
_PAYMENT = frozenset({"payment", "kind"})
_POLICY = frozenset({"rates", "retries", "retry_interval_s", "max_delay_s", "hold_s"})

# What a script's `do` may be → the act, and the fields that it takes.
ACTS: dict[str, tuple[Act, frozenset[str]]] = {
    "create": (
        create,
        _MANNER | {"as", "id", "tx_ref", "amount", "currency", "api", "kind", "announce"},
    ),
    "settle": (settle, _MANNER | _PAYMENT | {"status", "announce"}),
    "refund": (refund, _MANNER | _PAYMENT | {"amount", "status"}),
    "chargeback": (charge_back, _PAYMENT | {"amount", "status"}),
    "reverse": (reverse, _MANNER | _PAYMENT),
    "announce": (announce, _MANNER | _PAYMENT),
    "send": (send, _MANNER | {"as", "family", "status", "tx_ref", "amount", "currency"}),
    "fault": (
        _lever(levers.fault),
        frozenset(
            {"mode", "seconds", "delay_s", "retry_after_s", "html", "code", "share", "webhook",
             "count"}
        ),
    ),
    "webhooks": (_lever(levers.webhooks), _POLICY | {"form_encoded"}),
    "api": (
        _lever(levers.api),
        frozenset(
            {"not_found_code", "token_lifetime_s", "calls_per_minute", "cool_off_s",
             "retry_after", "revoke_tokens"}
        ),
    ),
}  # fmt: skip


def _manner(body: Body) -> Manner:
    faults, as_form = body.get("faults"), body.get("form_encoded")
    if faults is not None and not isinstance(faults, list):
        raise TypeError("faults is a list of names")
    return Manner(
        faults=None if faults is None else frozenset(Mishap(str(m)) for m in faults),
        delay_s=levers.delay_s_of(body),
        form_encoded=None if as_form is None else bool(as_form),
    )


def _amount(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise TypeError("an amount is a number or a decimal string")
    return Decimal(value)


def _text(body: Body, name: str) -> str | None:
    return None if body.get(name) is None else str(body[name])
