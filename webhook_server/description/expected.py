"""Expected payments, described."""

from __future__ import annotations

from typing import Annotated

from paystate.shapes import Bounded
from webhook_server.description.operations import Answer, Example, Operation
from webhook_server.description.parameters import in_header, in_query
from webhook_server.expected import MOST_KEY, ExpectedJson, RegisteredJson

__all__ = ["OPERATIONS"]

_KEY = Annotated[str, Bounded(pattern=f"^[!-~]{{1,{MOST_KEY}}}$")]
_REPLAYED = {"Idempotency-Replayed": "`true`, if that key has been answered before."}

OPERATIONS = (
    Operation(
        "POST", "/api/payments", "Register an expected payment", "payments", "operate",
        (
            Answer(201, "It is expected; the status is that of now.", RegisteredJson),
            Answer(200, "Just that was expected already.", RegisteredJson, headers=_REPLAYED),
        ),
        "Its reference is `pending` from the start, Flutterwave is asked if its webhook never "
        "comes, and what is paid is compared with it. A registration never changes a status.",
        parameters=(
            *in_query("merchant"),
            in_header("Idempotency-Key", _KEY, "The same key again is answered as the first."),
        ),
        body=ExpectedJson,
        body_too={"additionalProperties": False},
        refuses=("not_json", "not_an_object", "unknown_field", "invalid_tx_ref", "invalid_amount",
                 "invalid_currency", "invalid_idempotency_key", "expected_otherwise",
                 "idempotency_key_reused"),
        examples=(
            Example(
                "A payment that has not begun",
                body={"tx_ref": "order-7004", "amount": "1500.25", "currency": "NGN"}, status=201,
                answer={
                    "payment_id": None, "tx_ref": "order-7004", "kind": "reference",
                    "status": "pending", "terminal": False, "version": 1,
                    "as_of": "2026-11-23T10:20:30.123Z", "source": "database", "fresh": True,
                    "held": False, "amount": "1500.25", "currency": "NGN", "merchant": "default",
                },
            ),
        ),
    ),
)  # fmt: skip
