"""Turns what has happened into webhooks: which body, which lies in it, which bytes."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from paystate.flutterwave.sandbox import bodies
from paystate.flutterwave.sandbox.deliveries import Webhook
from paystate.flutterwave.sandbox.encoding import FORM_TYPE, JSON_TYPE, encode_form, encode_json
from paystate.flutterwave.sandbox.families import OTHERS, Family, family_of
from paystate.flutterwave.sandbox.fates import LIES, Fate, Mishap
from paystate.flutterwave.sandbox.lies import lie_about, lie_about_refund
from paystate.flutterwave.sandbox.records import Form, Payment, Refund
from paystate.flutterwave.sandbox.sender import Sender
from paystate.updates import Kind

__all__ = ["Manner", "Teller"]

_LETTERS = string.ascii_letters + string.digits

_OF_REFUNDS = frozenset({Mishap.CONTRADICT, Mishap.WRONG_AMOUNT})
_OF_REVERSALS = LIES - {Mishap.CONTRADICT}


@dataclass(frozen=True, slots=True)
class Manner:
    """How one webhook is to be told, where that is not left to the rates and the policy.

    `faults` are the only mishaps it meets; None draws them. `delay_s` is how late it is if delayed,
    None as late as it can be. `form_encoded` None is the policy's.
    """

    faults: frozenset[Mishap] | None = None
    delay_s: float | None = None
    form_encoded: bool | None = None


AS_IT_COMES = Manner()


class Teller:
    """Hands webhooks to the sender. `clock` gives epoch seconds; ids come from the seed."""

    def __init__(self, sender: Sender, seed: int, clock: Callable[[], float]) -> None:
        self._sender = sender
        self._clock = clock
        self._rng = random.Random(f"{seed}:teller")

    def tell(self, payment: Payment, manner: Manner = AS_IT_COMES) -> None:
        """Send the webhook that tells of `payment` as it is now."""
        fate = self._fate(manner)
        told = lie_about(payment, fate.mishaps)
        body = bodies.webhook(told, webhook_id=self._webhook_id(), at=self._clock())
        family = family_of(payment.form, payment.kind)
        word = bodies.provider_word(told)
        self._submit(body, fate, manner, _about(payment, family, _type(body), word, LIES))

    def tell_refund(self, payment: Payment, refund: Refund, manner: Manner = AS_IT_COMES) -> None:
        """Send the webhook that tells of a refund."""
        fate = self._fate(manner)
        told = lie_about_refund(refund, payment.form, fate.mishaps)
        body = bodies.refund_webhook(payment, told, webhook_id=self._webhook_id(), at=self._clock())
        family = Family.V4_REFUND if payment.form is Form.V4 else Family.V3_REFUND
        event_type = str(body.get("type", "refund"))
        about = _about(payment, family, event_type, told.status, _OF_REFUNDS)
        self._submit(body, fate, manner, about)

    def tell_reversal(self, payment: Payment, manner: Manner = AS_IT_COMES) -> None:
        """Send the webhook that tells of a transfer that came back."""
        fate = self._fate(manner)
        told = lie_about(payment, fate.mishaps & _OF_REVERSALS)
        body = bodies.reversal_webhook(told, webhook_id=self._webhook_id(), at=self._clock())
        status = str(body["data"]["status"])
        about = _about(payment, Family.V4_REVERSAL, _type(body), status, _OF_REVERSALS)
        self._submit(body, fate, manner, about)

    def tell_other(self, family: Family, manner: Manner = AS_IT_COMES) -> None:
        """Send a webhook of a family that is about no payment."""
        fate = self._fate(manner)
        other = OTHERS[family]
        body = other.body(self._rng.randrange(10**5, 10**9))
        if other.form is Form.V4:
            body = bodies.v4_envelope(
                other.type, body, webhook_id=self._webhook_id(), at=self._clock()
            )
        about = _About(other.form, Kind.CHARGE, "", "", family, other.type, "", frozenset())
        self._submit(body, fate, manner, about)

    def letters(self, count: int) -> str:
        """Return so many letters and digits out of the seed."""
        return "".join(self._rng.choices(_LETTERS, k=count))

    def _fate(self, manner: Manner) -> Fate:
        if manner.faults is None:
            return self._sender.draw()
        delay_s = self._sender.policy.max_delay_s if manner.delay_s is None else manner.delay_s
        return Fate.of(manner.faults, delay_s=delay_s)

    def _submit(self, body: bodies.Body, fate: Fate, manner: Manner, about: _About) -> None:
        wanted = manner.form_encoded
        as_form = self._sender.policy.form_encoded if wanted is None else wanted
        webhook = Webhook(
            form=about.form,
            kind=about.kind,
            payment_id=about.payment_id,
            tx_ref=about.tx_ref,
            type=about.type,
            status=about.status,
            raw=encode_form(body) if as_form else encode_json(body),
            family=about.family.value,
            content_type=FORM_TYPE if as_form else JSON_TYPE,
            lies=_names(fate.mishaps & about.can_lie),
        )
        self._sender.submit(webhook, fate)

    def _webhook_id(self) -> str:
        return f"wbk_{self.letters(20)}"


@dataclass(frozen=True, slots=True)
class _About:
    """What a webhook is about, what it says, and what it is able to lie about."""

    form: Form
    kind: Kind
    payment_id: str
    tx_ref: str
    family: Family
    type: str
    status: str
    can_lie: frozenset[Mishap]


def _about(
    payment: Payment, family: Family, event_type: str, status: str, can_lie: frozenset[Mishap]
) -> _About:
    payment_id = str(payment.id)
    return _About(
        payment.form, payment.kind, payment_id, payment.tx_ref, family, event_type, status, can_lie
    )


def _type(body: bodies.Body) -> str:
    return str(body.get("type") or body.get("event") or body["event.type"])


def _names(mishaps: Iterable[Mishap]) -> tuple[str, ...]:
    wanted = frozenset(mishaps)
    return tuple(m.value for m in Mishap if m in wanted)
