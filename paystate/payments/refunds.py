"""What has gone back of a payment: sums and states over its overlays.

A refund counts once its money has left: v3's `completed` is only initiated, `completed-<channel>`
is final (`paystate.flutterwave.objects`). Overlays are counted by their own ids, so a webhook that
comes twice counts once. Nothing is hidden: more than was paid may be said to have been refunded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Context, Decimal, Inexact
from enum import StrEnum
from typing import Annotated, Any, TypedDict

from paystate.shapes import Bounded, Money
from paystate.updates import OverlayJson, OverlayStatus, OverlayType

__all__ = ["RefundFlag", "RefundsJson", "refunds_of"]

# An amount has 24 digits at most, so a sum would have to have 10^26 parts to be rounded; it is
# refused then.
_EXACT = Context(prec=50, traps=[Inexact])

_ON_THEIR_WAY = frozenset({OverlayStatus.INITIATED, OverlayStatus.PENDING})

# Of several chargebacks, the one that matters most is told: money that is gone before money that
# may go, and what came to nothing last.
_WEIGHT = (
    OverlayStatus.FAILED, OverlayStatus.INITIATED, OverlayStatus.PENDING, OverlayStatus.COMPLETED,
)  # fmt: skip


class RefundFlag(StrEnum):
    """Why a person should look at a payment's refunds before trusting their sums."""

    OVER_REFUNDED = "over_refunded"  # what has been refunded is more than what was paid
    CURRENCY_DIFFERS = "currency_differs"  # a refund in another currency is in no sum
    AMOUNT_UNKNOWN = "amount_unknown"  # a refund without a readable amount is in no sum


class RefundsJson(TypedDict):
    """What has gone back of a payment, in major units of its currency."""

    refunded_amount: Annotated[Money, "Sum of the refunds that are completed."]
    refund_pending_amount: Annotated[Money, "Sum of the refunds that are on their way."]
    refund_flags: Annotated[
        list[Annotated[str, Bounded(words=RefundFlag)]], "Why a person should look at them."
    ]
    chargeback: Annotated[
        str | None, Bounded(words=OverlayStatus), "How far it has come; null if there is none."
    ]
    reversal: Annotated[
        str | None, Bounded(words=OverlayStatus), "How far it has come; null if there is none."
    ]


def refunds_of(known: Mapping[str, Any], overlays: Collection[OverlayJson]) -> RefundsJson:
    """Return the sums and states of `overlays` in their public form.

    `known` holds the payment's `amount` and `currency`, where they are known. Sums are decimal
    strings in the payment's currency; a refund that names none is in that. Where the payment's
    is not known, it is the one that the refunds name, if they name only one.
    """
    refunds = [
        (OverlayStatus(overlay["status"]), overlay["amount"], overlay["currency"])
        for overlay in overlays
        if overlay["type"] == OverlayType.REFUND and overlay["status"] != OverlayStatus.FAILED
    ]
    currency = known.get("currency") or _only(named for _, _, named in refunds)
    refunded = pending = Decimal(0)
    flags = set()
    for status, text, named in refunds:
        if named is not None and named != currency:
            flags.add(RefundFlag.CURRENCY_DIFFERS)
        elif text is None:
            flags.add(RefundFlag.AMOUNT_UNKNOWN)
        elif status in _ON_THEIR_WAY:
            pending = _EXACT.add(pending, Decimal(text))
        else:
            refunded = _EXACT.add(refunded, Decimal(text))
    paid = known.get("amount")
    if paid is not None and refunded > Decimal(paid):
        flags.add(RefundFlag.OVER_REFUNDED)
    return {
        "refunded_amount": f"{refunded:f}",
        "refund_pending_amount": f"{pending:f}",
        "refund_flags": sorted(flag.value for flag in flags),
        "chargeback": _state(OverlayType.CHARGEBACK, overlays),
        "reversal": _state(OverlayType.REVERSAL, overlays),
    }


def _only(named: Iterable[str | None]) -> str | None:
    """Return the one currency that is named, None if there is none or more than one."""
    currencies = {name for name in named if name is not None}
    return currencies.pop() if len(currencies) == 1 else None


def _state(kind: OverlayType, overlays: Collection[OverlayJson]) -> str | None:
    """Return how far the payment's overlays of `kind` have come, None if there are none."""
    found = [OverlayStatus(one["status"]) for one in overlays if one["type"] == kind]
    return max(found, key=_WEIGHT.index).value if found else None
