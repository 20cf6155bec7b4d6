"""Streams and the change log, described."""

from __future__ import annotations

from paystate.changes import ChangeJson
from paystate.payments.answers import StatusAnswerJson
from webhook_server.answers import ChangesJson, EndJson
from webhook_server.description.operations import Answer, Example, Operation, Parameter, Stream
from webhook_server.description.parameters import Limit, in_path, in_query

__all__ = ["OPERATIONS"]

_ENDS = {"lagged": EndJson, "closing": EndJson}
_FOLLOWED = Answer(
    200,
    "`status` first, then a `change` for each that follows; a comment every 15 s. A client that "
    "comes back is given the status anew, so nothing can be missed.",
    Stream({"status": StatusAnswerJson, "change": ChangeJson, **_ENDS}),
    media="text/event-stream",
)
_UNKNOWN = ("unknown_payment", "unknown_and_unverified")
_CHANGE = {
    "payment_id": "7001",
    "tx_ref": None,
    "kind": "charge",
    "merchant": "default",
    "status": "processing",
    "previous_status": None,
    "terminal": False,
    "version": 1,
    "previous_version": 0,
    "changed_at": "2026-11-23T10:20:30.123Z",
    "cursor": "0.1",
}

OPERATIONS = (
    Operation(
        "GET", "/api/payments/{id}/events", "Follow a payment", "changes", "read", (_FOLLOWED,),
        parameters=(in_path("id"), *in_query("kind", "merchant")),
        refuses=("invalid_id", "invalid_kind", *_UNKNOWN),
        examples=(Example("Its status, and what comes of it", {"id": "7002"}),),
    ),
    Operation(
        "GET", "/api/payments/by-ref/{tx_ref}/events", "Follow a reference", "changes", "read",
        (_FOLLOWED,),
        parameters=(in_path("tx_ref"), *in_query("merchant")),
        refuses=("invalid_tx_ref", *_UNKNOWN),
        examples=(Example("Its status, and what comes of it", {"tx_ref": "order-7002"}),),
    ),
    Operation(
        "GET", "/api/changes", "Every change", "changes", "read",
        (
            Answer(200, "A page of the log.", ChangesJson),
            Answer(
                200,
                "With `Accept: text/event-stream`: each change as it happens, from the cursor on.",
                Stream({"change": ChangeJson, **_ENDS}),
                media="text/event-stream",
            ),
        ),
        "Versions order the changes of one payment, cursors the whole log. Some may come twice: "
        "apply one only if its version is greater than what you hold. Without a cursor the page is "
        "empty and has the cursor of now. The header `Last-Event-ID`, which browsers send when "
        "they come back to a stream, counts before `after`.",
        parameters=(
            *in_query("after", "merchant"),
            Parameter("limit", "query", Limit, "Changes on a page. Default: 500."),
        ),
        refuses=("invalid_cursor", "invalid_limit", "cursor_pruned"),
        examples=(
            Example(
                "The first change of the log", query={"after": "0.0", "limit": "1"},
                answer={"changes": [_CHANGE], "cursor": "0.1", "more": True},
            ),
            Example("A stream of what comes", headers={"Accept": "text/event-stream"}),
        ),
    ),
)  # fmt: skip
