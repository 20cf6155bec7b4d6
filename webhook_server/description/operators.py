"""What operators do over HTTP, described."""

from __future__ import annotations

from typing import Annotated, Literal

from paystate.payments.explanations import ExplanationJson, ListingJson, OutcomeJson
from paystate.shapes import Bounded
from webhook_server.description.operations import Answer, Example, Operation, Parameter
from webhook_server.description.parameters import Number, in_path, in_query
from webhook_server.operations import ReplayedJson, WhyJson

__all__ = ["OPERATIONS"]

_Row = Annotated[int, Bounded(minimum=0, maximum=10**18 - 1)]
_ROW = in_path("id", "The number of the inbox row, as `GET /api/events` lists it.", _Row)
_RULED = Answer(200, "What it came to. The same ruling again is answered alike.", OutcomeJson)
_RULING = (
    "invalid_id", "unknown_event", "not_json", "invalid_reason", "reason_missing",
    "reason_too_long", "reason_unprintable", "not_given_up", "ruled_otherwise",
    "already_successful", "claim_unreadable",
)  # fmt: skip
_NOT_OPENED = (
    "invalid_id", "unknown_event", "not_json", "invalid_reason", "reason_too_long",
    "reason_unprintable", "pruned", "already_successful", "is_open", "is_applied", "is_superseded",
    "is_ignored", "is_released", "is_rejected",
)  # fmt: skip
_UNKNOWN_EVENT = Example("There is no such event", {"id": "999999"}, body={}, status=404)

OPERATIONS = (
    Operation(
        "GET", "/api/events", "Events that wait for a person", "operators", "operate",
        (Answer(200, "Held and dead events, newest first.", ListingJson),),
        parameters=(
            Parameter("state", "query", Literal["held", "dead"], "Only those. Default: both."),
            *in_query("merchant"),
            Parameter("reason", "query", Annotated[str, Bounded(min_length=1, max_length=200)],
                      "Only those given up for this reason."),
            Parameter("limit", "query", Number, "How many are listed, 500 at most. Default: 100."),
        ),
        refuses=("invalid_state", "invalid_reason", "invalid_limit"),
        examples=(Example("Those that are held", query={"state": "held"}),),
    ),
    Operation(
        "POST", "/api/events/{id}/release", "Accept what an event says", "operators", "operate",
        (_RULED,), "As if Flutterwave had confirmed it.",
        parameters=(_ROW,), body=WhyJson, refuses=_RULING, examples=(_UNKNOWN_EVENT,),
    ),
    Operation(
        "POST", "/api/events/{id}/reject", "End an event without effect", "operators", "operate",
        (_RULED,), "It stays as evidence, and is not opened again when it is delivered again.",
        parameters=(_ROW,), body=WhyJson, refuses=_RULING, examples=(_UNKNOWN_EVENT,),
    ),
    Operation(
        "POST", "/api/events/{id}/replay", "Look at an event again", "operators", "operate",
        (Answer(200, "It is open again; a worker settles it.", ReplayedJson),),
        parameters=(_ROW,), body=WhyJson, body_required=False, refuses=_NOT_OPENED,
        examples=(_UNKNOWN_EVENT,),
    ),
    Operation(
        "GET", "/api/payments/{id}/explain", "Explain a payment", "operators", "operate",
        (Answer(200, "Every event, what was decided and why, every change.", ExplanationJson),),
        parameters=(in_path("id"), *in_query("kind", "merchant")),
        refuses=("invalid_id", "invalid_kind", "unknown_payment"),
        examples=(Example("A payment", {"id": "7001"}),),
    ),
    Operation(
        "GET", "/api/payments/by-ref/{tx_ref}/explain", "Explain a reference", "operators",
        "operate",
        (Answer(200, "The same, over all of its attempts.", ExplanationJson),),
        parameters=(in_path("tx_ref"), *in_query("merchant")),
        refuses=("invalid_tx_ref", "unknown_payment"),
        examples=(Example("A reference", {"tx_ref": "order-7001"}),),
    ),
)  # fmt: skip
