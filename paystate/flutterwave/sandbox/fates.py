"""What may happen to a webhook, and how often: drawn from a seed, or told beforehand.

Every webhook takes the same number of draws, whatever comes of them. So the fate of the hundredth
depends on the seed and the rates alone, not on what became of the ninety-nine before it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = ["LIES", "Fate", "Mishap", "Rates", "draw_fate"]


class Mishap(StrEnum):
    """One thing that goes wrong with a webhook."""

    DROP = "drop"  # it is never sent
    DUPLICATE = "duplicate"  # it is sent twice
    DELAY = "delay"  # it is sent late
    REORDER = "reorder"  # it is sent after the next one of the same payment
    CONTRADICT = "contradict"  # it says another status than the API
    WRONG_AMOUNT = "wrong_amount"
    WRONG_CURRENCY = "wrong_currency"
    WRONG_REFERENCE = "wrong_reference"
    OLD_SECRET = "old_secret"  # noqa: S105 - signed with the previous one of a rotation
    BAD_SIGNATURE = "bad_signature"  # signed with what was never a secret


# What is wrong with the body itself, where the body has such a field.
LIES = frozenset(
    {Mishap.CONTRADICT, Mishap.WRONG_AMOUNT, Mishap.WRONG_CURRENCY, Mishap.WRONG_REFERENCE}
)


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each mishap happens, a share of all webhooks from 0 to 1.

    Raises ValueError for anything that is no share.
    """

    duplicate: float = 0.0
    delay: float = 0.0
    reorder: float = 0.0
    drop: float = 0.0
    contradict: float = 0.0
    wrong_amount: float = 0.0
    wrong_currency: float = 0.0
    wrong_reference: float = 0.0
    old_secret: float = 0.0
    bad_signature: float = 0.0

    def __post_init__(self) -> None:
        for name, rate in asdict(self).items():
            if isinstance(rate, bool) or not 0 <= rate <= 1:
                raise ValueError(f"the {name} rate is a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one webhook on its way; `delay_s` counts only with the mishap `delay`."""

    mishaps: frozenset[Mishap] = frozenset()
    delay_s: float = 0.0

    @classmethod
    def of(cls, mishaps: Iterable[Mishap], *, delay_s: float = 0.0) -> Fate:
        """Return the fate in which exactly `mishaps` happen."""
        wanted = frozenset(mishaps)
        return cls(wanted, delay_s if Mishap.DELAY in wanted else 0.0)

    @property
    def copies(self) -> int:
        """Return how often it is sent; 0: it is lost."""
        if Mishap.DROP in self.mishaps:
            return 0
        return 2 if Mishap.DUPLICATE in self.mishaps else 1

    @property
    def held(self) -> bool:
        """Say whether it waits until the next webhook of the same payment has gone out."""
        return Mishap.REORDER in self.mishaps


def draw_fate(rng: random.Random, rates: Rates, *, max_delay_s: float) -> Fate:
    """Return the fate of the next webhook; a delay is up to `max_delay_s` seconds."""
    drawn = {mishap: rng.random() for mishap in Mishap}
    share = rng.random()
    happens = [m for m, value in drawn.items() if value < getattr(rates, m.value)]
    return Fate.of(happens, delay_s=share * max_delay_s)
