"""What is true at the sandbox: its payments, their attempts and how they came to their status.

Pure state: no clock, no network. Time comes in as an argument and every choice comes from one
seeded `random.Random`, so a seed and the same calls give the same ids, customers and references.
A webhook may be lost, late or doubled; the truth is what the APIs answer from and what a drill
compares paystate with.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from decimal import Decimal

from paystate.flutterwave.sandbox.records import (
    Change,
    Chargeback,
    Customer,
    Form,
    Method,
    Payment,
    Refund,
    TruthRefused,
)
from paystate.status import TERMINAL, Status, from_provider
from paystate.updates import Kind

__all__ = [
    "Change",
    "Customer",
    "Form",
    "Method",
    "Payment",
    "Refund",
    "Truth",
    "TruthRefused",
]

# A day of traffic at one payment per second; the oldest are forgotten beyond it.
MAX_PAYMENTS = 100_000
CUSTOMERS = 40
MAX_TX_REF_LENGTH = 100
CHARGEBACK_WORDS = ("pending", "initiated", "declined", "accepted", "won", "lost")

_LETTERS = string.ascii_letters + string.digits
_FIRST = ("Ada", "Bola", "Chidi", "Dayo", "Efe", "Femi", "Gbenga", "Halima", "Ife", "Jide")
_LAST = ("Example", "Sample", "Synthetic", "Testing")
_SETTLED = TERMINAL | {Status.PENDING, Status.PROCESSING}


class Truth:
    """All payments of one sandbox, newest last."""

    def __init__(self, seed: int, *, max_payments: int = MAX_PAYMENTS) -> None:
        self._rng = random.Random(f"{seed}:truth")
        self._max_payments = max_payments
        self._payments: dict[tuple[Kind, str], Payment] = {}
        self._by_reference: dict[str, list[Payment]] = {}
        self._refunds: dict[str, tuple[Payment, Refund]] = {}
        # Far apart between seeds, so that a second run does not settle the first run's payments.
        self._next_id = self._rng.randrange(10**8, 9 * 10**8)
        self.customers = tuple(self._customer(n) for n in range(CUSTOMERS))

    def __iter__(self) -> Iterator[Payment]:
        return iter(self._payments.values())

    def newest_first(self) -> Iterator[Payment]:
        """Return all payments, the last one first."""
        return reversed(self._payments.values())

    def __len__(self) -> int:
        return len(self._payments)

    def create(
        self,
        *,
        at: float,
        amount: Decimal,
        currency: str,
        form: Form = Form.V3,
        kind: Kind = Kind.CHARGE,
        tx_ref: str | None = None,
        payment_id: str | None = None,
    ) -> Payment:
        """Make a pending payment at time `at`; id and reference are made up where not given.

        Raises TruthRefused: `invalid` for an amount, currency, reference or id that the real one
        could not have, `conflict` if the id is taken.
        """
        _check(amount, currency, tx_ref)
        payment = Payment(
            id=self._id(form, kind, payment_id),
            form=form,
            kind=kind,
            tx_ref=tx_ref if tx_ref is not None else f"order-{self._letters(12)}",
            amount=amount,
            currency=currency,
            method=self._rng.choice(tuple(Method)),
            customer=self._rng.choice(self.customers),
            created_at=at,
            history=[Change(at, Status.PENDING)],
        )
        if payment.key in self._payments:
            raise TruthRefused("conflict", f"there is a {kind} with this id")
        self._payments[payment.key] = payment
        self._by_reference.setdefault(payment.tx_ref, []).append(payment)
        while len(self._payments) > self._max_payments:
            self._forget_oldest()
        return payment

    def settle(self, payment: Payment, word: str, *, at: float) -> Payment:
        """Make the status that `word` means true at time `at`; the same status again is no change.

        A successful payment stays so, and a failed one may still turn out successful; anything
        else raises TruthRefused, as does a word without a meaning.
        """
        status = from_provider(word)
        if status not in _SETTLED:
            raise TruthRefused("invalid", "that word is no status of a payment")
        if status is Status.VOIDED and payment.form is not Form.V4:
            raise TruthRefused("invalid", "v3 has no word for a voided payment")
        if status is payment.status:
            return payment
        if payment.status in TERMINAL and status is not Status.SUCCESSFUL:
            raise TruthRefused("settled", f"the payment is {payment.status} already")
        payment.history.append(Change(at, status))
        return payment

    def refund(
        self, payment: Payment, *, at: float, amount: Decimal | None = None, word: str | None = None
    ) -> Refund:
        """Give back `amount` (all of it by default) of a successful charge.

        `word` is the provider's status of the refund, by default a final one. Raises TruthRefused
        where there is nothing to give back.
        """
        if payment.kind is not Kind.CHARGE or payment.status is not Status.SUCCESSFUL:
            raise TruthRefused("settled", "only a successful charge can be refunded")
        left = payment.amount - sum((r.amount for r in payment.refunds), Decimal(0))
        amount = left if amount is None else amount
        if not 0 < amount <= left:
            raise TruthRefused("invalid", "more than is left of the charge")
        is_v4 = payment.form is Form.V4
        refund = Refund(
            id=self._refund_id(payment.form),
            amount=amount,
            status=word or ("succeeded" if is_v4 else "completed-bank-transfer"),
            at=at,
        )
        payment.refunds.append(refund)
        self._refunds[str(refund.id)] = payment, refund
        return refund

    def charge_back(
        self, payment: Payment, *, at: float, amount: Decimal | None = None, word: str
    ) -> Chargeback:
        """Have a successful charge disputed (all of it by default), or take the dispute further.

        `word` is the provider's status of it. Raises TruthRefused where there is nothing to
        dispute.
        """
        if payment.kind is not Kind.CHARGE or payment.status is not Status.SUCCESSFUL:
            raise TruthRefused("settled", "only a successful charge can be disputed")
        if word not in CHARGEBACK_WORDS:
            words = ", ".join(CHARGEBACK_WORDS)
            raise TruthRefused("invalid", f"the status of a chargeback is one of {words}")
        if payment.chargebacks:
            payment.chargebacks[-1].status = word
            return payment.chargebacks[-1]
        amount = payment.amount if amount is None else amount
        if not 0 < amount <= payment.amount:
            raise TruthRefused("invalid", "more than was paid")
        is_v4 = payment.form is Form.V4
        own_id = f"chb_{self._letters(10)}" if is_v4 else self._rng.randrange(10**3, 10**6)
        payment.chargebacks.append(Chargeback(own_id, amount, word, at))
        return payment.chargebacks[-1]

    def reverse(self, payment: Payment, *, at: float) -> Payment:
        """Note that a successful v4 transfer came back at time `at`; its status stays.

        Raises TruthRefused for anything else, and for the second time.
        """
        if payment.kind is not Kind.TRANSFER or payment.form is not Form.V4:
            raise TruthRefused("invalid", "only a transfer of v4 can be reversed")
        if payment.status is not Status.SUCCESSFUL or payment.reversed_at is not None:
            raise TruthRefused("settled", "only a successful transfer comes back, and once")
        payment.reversed_at = at
        return payment

    def find(self, payment_id: str, kind: Kind | None = None) -> Payment | None:
        """Return the payment with this id: of `kind`, or else the charge, or else the transfer."""
        for candidate in (kind,) if kind else (Kind.CHARGE, Kind.TRANSFER):
            if found := self._payments.get((candidate, payment_id)):
                return found
        return None

    def find_refund(self, refund_id: str) -> tuple[Payment, Refund] | None:
        """Return the refund with this id and the charge it gives money back on."""
        return self._refunds.get(refund_id)

    def customer(self, v4_id: str) -> Customer | None:
        """Return the customer with this id of v4's, which alone has customers of their own."""
        return next((c for c in self.customers if c.v4_id == v4_id), None)

    def attempts(self, tx_ref: str, kind: Kind = Kind.CHARGE) -> list[Payment]:
        """Return the payments of a reference, oldest first."""
        return [p for p in self._by_reference.get(tx_ref, ()) if p.kind is kind]

    def _forget_oldest(self) -> None:
        key = next(iter(self._payments))
        payment = self._payments.pop(key)
        for refund in payment.refunds:
            self._refunds.pop(str(refund.id), None)
        rest = [p for p in self._by_reference[payment.tx_ref] if p is not payment]
        if rest:
            self._by_reference[payment.tx_ref] = rest
        else:
            del self._by_reference[payment.tx_ref]

    def _id(self, form: Form, kind: Kind, given: str | None) -> int | str:
        if form is Form.V4:
            prefix = "chg" if kind is Kind.CHARGE else "trf"
            if given is not None and (given.isdigit() or not given.isprintable() or not given):
                raise TruthRefused("invalid", "a v4 id looks like chg_... or trf_...")
            return given if given is not None else f"{prefix}_{self._letters(14)}"
        if given is None:
            self._next_id += self._rng.randrange(1, 9)
            while (kind, str(self._next_id)) in self._payments:
                self._next_id += 1
            return self._next_id
        if not (given.isascii() and given.isdigit() and len(given) <= 18):
            raise TruthRefused("invalid", "a v3 id is an integer")
        return int(given)

    def _refund_id(self, form: Form) -> int | str:
        if form is Form.V4:
            return f"rfd_{self._letters(10)}"
        number = self._rng.randrange(10**5, 10**9)
        while str(number) in self._refunds:
            number += 1
        return number

    def _letters(self, count: int) -> str:
        return "".join(self._rng.choices(_LETTERS, k=count))

    def _customer(self, number: int) -> Customer:
        first, last = _FIRST[number % len(_FIRST)], _LAST[number // len(_FIRST) % len(_LAST)]
        return Customer(
            v3_id=self._rng.randrange(10**8, 9 * 10**8),
            v4_id=f"cus_{self._letters(10)}",
            first_name=first,
            last_name=last,
            email=f"{first}.{last}@example.com".lower(),
            phone=f"+2340000000{number:03d}",
        )


def _check(amount: Decimal, currency: str, tx_ref: str | None) -> None:
    if not amount.is_finite() or amount <= 0 or Decimal(repr(float(amount))) != amount:
        raise TruthRefused("invalid", "an amount is positive and has at most 15 digits")
    if not (len(currency) == 3 and currency.isascii() and currency.isupper()):
        raise TruthRefused("invalid", "a currency has three capital letters")
    if tx_ref is not None and not 0 < len(tx_ref) <= MAX_TX_REF_LENGTH:
        raise TruthRefused("invalid", f"a tx_ref has 1 to {MAX_TX_REF_LENGTH} characters")
