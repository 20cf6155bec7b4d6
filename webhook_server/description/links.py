"""Links to customers' pages, and the pages, described."""

from __future__ import annotations

from webhook_server.answers import EndJson
from webhook_server.description.operations import Answer, Example, Operation, Parameter, Stream
from webhook_server.description.parameters import Number, in_path, in_query
from webhook_server.links import LinkedJson, LinkForJson, LinkJson
from webhook_server.pay import ViewJson

__all__ = ["OPERATIONS"]

_TOKEN = in_path("token", "The signed token of a link, which says which payment it opens.")
_MADE = (Answer(201, "The link. Whoever has it sees the status, and nothing else.", LinkedJson),)
_BODY = ("not_json", "not_an_object", "invalid_ttl_s", "link_key_missing")
_UNKNOWN = ("unknown_payment", "unknown_and_unverified")
_LINK = ("link_invalid", "link_expired")
_LINKED = {
    "url": "http://127.0.0.1:8080/pay/$LINK",
    "path": "/pay/$LINK",
    "expires_at": "2026-11-23T11:20:30.000Z",
    "kind": "charge",
    "id": "7001",
}
_VIEW = {
    "status": "successful", "terminal": True, "version": 2, "fresh": True, "held": False,
    "as_of": "2026-11-23T10:20:30.123Z",
}  # fmt: skip
_DAMAGED = Example("A damaged link", {"token": "damaged"}, status=403)

OPERATIONS = (
    Operation(
        "POST", "/api/payments/{id}/link", "Make a link to a payment's page", "links", "read",
        _MADE,
        parameters=(in_path("id"), *in_query("kind", "merchant")),
        body=LinkJson, body_required=False,
        refuses=("invalid_id", "invalid_kind", *_BODY, *_UNKNOWN),
        examples=(
            Example("For ten minutes", {"id": "7001"}, body={"ttl_s": 600}, status=201,
                    answer=_LINKED),
        ),
    ),
    Operation(
        "POST", "/api/payments/by-ref/{tx_ref}/link", "Make a link to a reference's page", "links",
        "read", _MADE, "The payment need not have begun.",
        parameters=(in_path("tx_ref"), *in_query("merchant")),
        body=LinkJson, body_required=False, refuses=("invalid_tx_ref", "invalid_kind", *_BODY),
        examples=(Example("A reference", {"tx_ref": "order-7001"}, body={}, status=201),),
    ),
    Operation(
        "POST", "/api/payments/link", "Make a link, named in the body", "links", "read", _MADE,
        parameters=in_query("merchant"),
        body=LinkForJson,
        body_too={"oneOf": [{"required": ["id"]}, {"required": ["tx_ref"]}]},
        refuses=("invalid_id", "invalid_tx_ref", "invalid_kind", "id_or_tx_ref", *_BODY, *_UNKNOWN),
        examples=(
            Example("A reference with slashes", body={"tx_ref": "order/7"}, status=201),
        ),
    ),
    Operation(
        "GET", "/pay/{token}", "A customer's page", "links", "open",
        (
            Answer(200, "The page, which changes by itself.", str, media="text/html"),
            Answer(403, "A page that says that the link is damaged.", str, media="text/html"),
            Answer(410, "A page that says that the link has expired.", str, media="text/html"),
            Answer(503, "A page that asks again by itself.", str, media="text/html"),
        ),
        "Status only. A problem document in place of a page to who does not take HTML.",
        parameters=(_TOKEN,), refuses=_LINK,
        examples=(Example("Read", {"token": "$LINK"}), _DAMAGED),
    ),
    Operation(
        "GET", "/pay/{token}/status", "What a customer's page shows", "links", "open",
        (Answer(200, "The status.", ViewJson),),
        parameters=(
            _TOKEN,
            Parameter("wait", "query", Number, "Wait for a later version: seconds, 60 at most."),
            Parameter("after_version", "query", Number, "Later than which one. Default: 0."),
        ),
        refuses=(*_LINK, "invalid_wait", "invalid_after_version", "database_unreachable",
                 "database_unavailable"),
        examples=(Example("Ask", {"token": "$LINK"}, answer=_VIEW), _DAMAGED),
    ),
    Operation(
        "GET", "/pay/{token}/events", "Follow what a customer's page shows", "links", "open",
        (
            Answer(
                200, "A `status` now and at each change.",
                Stream({"status": ViewJson, "lagged": EndJson, "closing": EndJson,
                        "expired": EndJson}),
                media="text/event-stream",
            ),
        ),
        parameters=(_TOKEN,),
        refuses=(*_LINK, "database_unreachable", "database_unavailable"),
        examples=(Example("Listen", {"token": "$LINK"}), _DAMAGED),
    ),
    Operation(
        "GET", "/pages/{name}", "A page's style or script", "links", "open",
        (
            Answer(200, "The file.", str, media="text/css"),
            Answer(200, "The file.", str, media="text/javascript"),
            Answer(200, "The file.", str, media="image/svg+xml"),
            Answer(304, "It is what `If-None-Match` says.", media=""),
        ),
        parameters=(in_path("name", "The file's name."),), refuses=("no_such_path",),
        examples=(
            Example("A style", {"name": "pay.css"}),
            Example("There is no such file", {"name": "x.css"}, status=404),
        ),
    ),
)  # fmt: skip
