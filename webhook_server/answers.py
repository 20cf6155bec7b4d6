"""The public forms of answers: details, many statuses at once, pages of changes."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from paystate.changes import ChangeJson
from paystate.expected import Verdict
from paystate.keys import MAX_ID_LENGTH
from paystate.payments.answers import StatusAnswerJson
from paystate.payments.refunds import RefundsJson
from paystate.shapes import Bounded, CursorText, Money
from paystate.updates import OverlayJson

__all__ = [
    "MOST_AT_ONCE",
    "CardJson",
    "ChangesJson",
    "ComparedJson",
    "DetailsJson",
    "EndJson",
    "ManyJson",
    "UnknownJson",
    "WantedJson",
]

# How many statuses are asked for at once.
MOST_AT_ONCE = 200

_Text = Annotated[str, Bounded(min_length=1, max_length=MAX_ID_LENGTH)]
_Texts = Annotated[list[_Text], Bounded(max_items=MOST_AT_ONCE)]
_Ids = Annotated[list[_Text | int], Bounded(max_items=MOST_AT_ONCE)]


class CardJson(TypedDict):
    """What may be kept of a card; what is not known is left out."""

    first_6: NotRequired[str]
    last_4: NotRequired[str]
    type: NotRequired[str]
    expiry: NotRequired[str]


class ComparedJson(TypedDict):
    """What was expected, and how what was paid differs from that; null where nothing was."""

    expected_amount: Money | None
    expected_currency: str | None
    mismatch: Annotated[str | None, Bounded(words=Verdict)]


class DetailsJson(StatusAnswerJson, RefundsJson, ComparedJson):
    """A status, and what else is known; null where nothing is. Money is decimal strings."""

    amount: Annotated[Money | None, "In major units of the currency."]
    currency: str | None
    charged_amount: Money | None
    app_fee: Money | None
    payment_type: Annotated[str | None, "Such as `card` or `bank_transfer`."]
    flw_ref: str | None
    processor_code: str | None
    provider_status: Annotated[str | None, "Flutterwave's own word."]
    created_at: Annotated[str | None, "When it was begun, as Flutterwave says it."]
    customer_id: str | None
    card: CardJson | None
    overlays: list[OverlayJson]


class WantedJson(TypedDict):
    """Which statuses: ids and references, 1 to 200 in all."""

    ids: NotRequired[Annotated[_Ids, "Ids of payments; numbers are taken too."]]
    tx_refs: NotRequired[Annotated[_Texts, "Merchant references."]]
    kind: NotRequired[Annotated[Literal["charge", "transfer"] | None, "What the ids are of."]]


class UnknownJson(TypedDict):
    """What nobody knows."""

    ids: list[str]
    tx_refs: list[str]


class ManyJson(TypedDict):
    """The statuses that are known, in the order of the question, and what is not known."""

    statuses: list[StatusAnswerJson]
    unknown: UnknownJson


class ChangesJson(TypedDict):
    """A page of the change log."""

    changes: list[ChangeJson]
    cursor: Annotated[CursorText, "Ask for what comes after it next time."]
    more: Annotated[bool, "Whether there is more already."]


class EndJson(TypedDict):
    """Why a stream ends. Come back with the last id that was seen."""

    reason: Annotated[
        Literal["lagged", "closing", "expired"], "`lagged`: the client did not keep up."
    ]
