"""What a merchant expects to be paid for a reference, and how a payment compares with that.

Pure: standard library only. Amounts are exact decimals in major units of their currency, compared
as numbers and never as floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Self

__all__ = ["HOLDING", "Expected", "Verdict"]


class Verdict(StrEnum):
    """How what was paid differs from what was expected."""

    UNDERPAID = "underpaid"
    OVERPAID = "overpaid"
    WRONG_CURRENCY = "wrong_currency"
    AMOUNT_UNKNOWN = "amount_unknown"  # it cannot be compared, so it is not believed


# What is held for a person. Too much is paid all the same, and only flagged.
HOLDING = frozenset({Verdict.UNDERPAID, Verdict.WRONG_CURRENCY, Verdict.AMOUNT_UNKNOWN})


@dataclass(frozen=True, slots=True)
class Expected:
    """An amount above 0, in major units of `currency` (three capital letters)."""

    amount: Decimal
    currency: str

    def __str__(self) -> str:
        """Return the form that the database keeps: ``1500.25 NGN``."""
        return f"{self.amount:f} {self.currency}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `str` was made of. Raises ValueError or ArithmeticError for anything else."""
        amount, currency = text.split(" ")
        return cls(Decimal(amount), currency)

    def verdict(self, amount: Decimal | None, currency: str | None) -> Verdict | None:
        """Return what is wrong with a payment of `amount`, None if it is just what was expected."""
        if currency is None or amount is None:
            return Verdict.AMOUNT_UNKNOWN
        if currency != self.currency:
            return Verdict.WRONG_CURRENCY
        if amount == self.amount:
            return None
        return Verdict.UNDERPAID if amount < self.amount else Verdict.OVERPAID
