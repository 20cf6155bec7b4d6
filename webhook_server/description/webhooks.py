"""The webhook endpoint, described."""

from __future__ import annotations

from typing import Any

from paystate.flutterwave.signatures import V3_HEADER
from webhook_server.description.operations import Answer, Example, Operation
from webhook_server.description.parameters import in_path
from webhook_server.webhooks import AcknowledgedJson

__all__ = ["OPERATIONS"]

_UNREADABLE = (
    "empty", "not_json", "not_an_object", "not_form", "not_utf8", "too_deep", "too_many_fields",
    "unknown_merchant", "not_recorded",
)  # fmt: skip
_MEANING = (
    "Flutterwave's v3 and v4, told apart by the header of their signature. A 200 means: committed, "
    "or of no concern to us; anything else means that it should be sent again."
)
_BODY: dict[str, Any] = {
    "event": "charge.completed",
    "data": {
        "id": 7009, "tx_ref": "order-7009", "status": "successful", "amount": 1500.25,
        "currency": "NGN",
    },
}  # fmt: skip
_ACKNOWLEDGED = (Answer(200, "It need not come again.", AcknowledgedJson),)

OPERATIONS = (
    Operation(
        "POST", "/webhooks/flutterwave", "Receive a webhook", "webhooks", "signature",
        _ACKNOWLEDGED, _MEANING,
        body=dict[str, Any], form=True, refuses=_UNREADABLE,
        examples=(
            Example(
                "A v3 charge", headers={V3_HEADER: "$FLW_SECRET_HASH"}, body=_BODY,
                answer={"status": "recorded", "reason": "new"},
            ),
            Example("Without a signature", body=_BODY, status=401),
        ),
    ),
    Operation(
        "POST", "/webhooks/flutterwave/{merchant}", "Receive a merchant's webhook", "webhooks",
        "signature", _ACKNOWLEDGED, _MEANING,
        parameters=(in_path("merchant", "The merchant's name in MERCHANTS_FILE."),),
        body=dict[str, Any], form=True, refuses=_UNREADABLE,
        examples=(
            Example("No such merchant", {"merchant": "nobody"}, body=_BODY, status=404),
        ),
    ),
)  # fmt: skip
