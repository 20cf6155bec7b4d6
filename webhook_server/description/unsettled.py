"""What has been silent for long, described."""

from __future__ import annotations

from paystate.payments.reconciliation import UnsettledJson
from webhook_server.description.operations import Answer, Example, Operation, Parameter
from webhook_server.description.parameters import Number, in_query

__all__ = ["OPERATIONS"]

OPERATIONS = (
    Operation(
        "GET", "/api/unsettled", "What has been silent for long", "operators", "operate",
        (Answer(200, "Counts of what is watched, and what is flagged.", UnsettledJson),),
        parameters=(
            *in_query("merchant"),
            Parameter("limit", "query", Number, "How many are listed, 500 at most. Default: 100."),
        ),
        refuses=("invalid_limit",),
        examples=(Example("Ask"),),
    ),
)  # fmt: skip
