"""The public forms of what operators are told: explanations, given-up events, what a ruling did."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from paystate.keys import EntityKind
from paystate.shapes import Bounded, CursorText, Moment, Version
from paystate.status import Status
from paystate.updates import Api, OverlayJson

__all__ = [
    "CachedJson",
    "ChangedStep",
    "EndedStep",
    "ExplanationJson",
    "GivenUpCount",
    "GivenUpJson",
    "ListingJson",
    "OutcomeJson",
    "ReceivedStep",
    "RulingStep",
    "StateJson",
    "Step",
    "StuckJson",
]

_Kind = Annotated[str, Bounded(words=EntityKind)]
_Status = Annotated[str, Bounded(words=Status)]
_Api = Annotated[str, Bounded(words=Api), "Where it came from; `operator` is a person."]
_Event = Annotated[int, Bounded(minimum=1), "The number of the inbox row."]
_Seconds = Annotated[int, Bounded(minimum=0), "Seconds."]
_Claim = Annotated[dict[str, Any] | None, "What it says, without card or customer; null: pruned."]
_Meaning = Annotated[str, "The state and the reason in a sentence."]


class GivenUpJson(TypedDict):
    """An event that was held or given up."""

    event: _Event
    state: str
    reason: str | None
    meaning: _Meaning
    merchant: str
    kind: _Kind
    payment_id: str
    api: _Api
    type: Annotated[str, "The provider's name for this kind of event."]
    received_at: Moment
    age_s: _Seconds
    attempts: Annotated[int, Bounded(minimum=0)]
    claim: _Claim


class GivenUpCount(TypedDict):
    """How many events were given up in one state for one reason."""

    state: str
    reason: str | None
    events: Annotated[int, Bounded(minimum=0)]


class ListingJson(TypedDict):
    """The events that wait for a person, newest first, and how many there are of each kind."""

    events: list[GivenUpJson]
    counts: list[GivenUpCount]
    total: Annotated[int, Bounded(minimum=0), "Of all, not of those listed."]


class StateJson(TypedDict):
    """A row of the database, and what is shown of it."""

    kind: _Kind
    id: str
    merchant: str
    payment_id: str | None
    tx_ref: str | None
    shown: _Status
    row_status: _Status
    terminal: bool
    version: Version
    open_events: Annotated[int, Bounded(minimum=0)]
    held_events: Annotated[int, Bounded(minimum=0)]
    held: bool
    changed_at: Moment


class CachedJson(TypedDict):
    """What the cache holds now, and whether it would answer with that."""

    key: str
    reachable: bool
    error: NotRequired[Annotated[str, "Only if it is not reachable."]]
    holds: NotRequired[dict[str, str]]
    served: NotRequired[bool]
    why: NotRequired[str]


class StuckJson(TypedDict):
    """An event that can be ruled on, with the commands that do so."""

    event: _Event
    state: str
    reason: str | None
    meaning: _Meaning
    age_s: _Seconds
    claim: _Claim
    release: str
    reject: str
    replay: str


class ReceivedStep(TypedDict):
    """An event came."""

    at: Moment
    what: Literal["received"]
    event: _Event
    kind: _Kind
    payment_id: str
    api: _Api
    type: str
    claim: _Claim


class EndedStep(TypedDict):
    """How an event ended, or that it has not."""

    at: Moment
    what: Literal["ended"]
    event: _Event
    kind: _Kind
    payment_id: str
    state: str
    reason: str | None
    meaning: _Meaning
    attempts: Annotated[int, Bounded(minimum=0)]
    settled_by: Annotated[str | None, "The process that settled it, or the last that tried."]
    due_at: NotRequired[Annotated[Moment, "When it is looked at next, while it is open."]]


class ChangedStep(TypedDict):
    """What is shown changed."""

    at: Moment
    what: Literal["changed"]
    kind: _Kind
    id: str
    version: Version
    previous_version: Version
    status: _Status
    previous_status: Annotated[str | None, Bounded(words=Status)]
    payment_id: str | None
    tx_ref: str | None
    cursor: CursorText
    told_on: Annotated[list[str], "The channels on which it was published."]


class RulingStep(TypedDict):
    """What a person decided."""

    at: Moment
    what: Literal["ruling"]
    event: _Event
    action: str
    by: str
    why: str
    was_state: str
    was_reason: str | None
    through_event: Annotated[int | None, "The event through which it was carried out."]


Step = ReceivedStep | EndedStep | ChangedStep | RulingStep


class ExplanationJson(TypedDict):
    """Everything that is known of one payment or reference."""

    now: StateJson
    attempts: Annotated[list[StateJson], "The payments of a reference."]
    cache: CachedJson
    overlays: list[OverlayJson]
    to_rule_on: list[StuckJson]
    timeline: Annotated[list[Step], "In the order in which it came."]
    older_events_left_out: bool
    not_kept: Annotated[list[str], "What cannot be told, and why."]


class OutcomeJson(TypedDict):
    """What a ruling came to, and the payment as it is then."""

    event: _Event
    through_event: Annotated[int, "The operator's event, through which it was carried out."]
    repeated: Annotated[bool, "The same ruling had been given before."]
    settled: Annotated[bool, "False: it is open, and a worker settles it."]
    ending: str
    kind: _Kind
    payment_id: str | None
    tx_ref: str | None
    merchant: str
    status: _Status
    held: bool
    version: Version
