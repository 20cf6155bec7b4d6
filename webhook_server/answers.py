"""The public forms of answers: details, many statuses at once, pages of changes."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from paystate.changes import ChangeJson
from paystate.payments.answers import StatusAnswerJson
from paystate.payments.details import CardJson, ComparedJson, DetailsJson
from paystate.shapes import Bounded, CursorText
from webhook_server.parameters import IdNumber, IdText

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

_Texts = Annotated[list[IdText], Bounded(max_items=MOST_AT_ONCE)]
_Ids = Annotated[list[IdText | IdNumber], Bounded(max_items=MOST_AT_ONCE)]


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
