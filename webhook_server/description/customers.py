"""Customers, described."""

from __future__ import annotations

from typing import Annotated

from paystate.payments.customers import ProfileJson
from paystate.payments.erasing import ErasedJson, ExportJson
from paystate.payments.history import HistoryJson
from paystate.shapes import Bounded
from webhook_server.customers import MOST_PAGES
from webhook_server.description.operations import Answer, Example, Operation, Parameter
from webhook_server.description.parameters import Number, in_path, in_query

__all__ = ["OPERATIONS"]

_ID = in_path("id", "The customer's id: a whole number in v3, `cus_...` in v4.")
_PAGE = Annotated[int, Bounded(minimum=1, maximum=MOST_PAGES)]
_UNKNOWN = ("invalid_id", "unknown_customer", "customer_erased")
_NOBODY = Example("Nobody knows them", {"id": "9002"}, status=404)
_PAID = {
    "payment_id": "7001", "tx_ref": "order-7001", "kind": "charge", "amount": "1500.25",
    "currency": "NGN", "payment_type": "card", "created_at": None, "status": "successful",
    "terminal": True, "version": 3, "fresh": True, "held": False,
}  # fmt: skip
_PROFILE = {
    "customer_id": "9001", "name": None, "email": None, "phone": None, "created_at": None,
    "payment_methods": [{"type": "card", "last_four": None, "brand": None, "expiry": None}],
    "payments": 1, "first_seen_at": "2026-11-23T10:20:30.123Z",
    "last_active_at": "2026-11-23T10:20:30.123Z", "version": 1,
    "as_of": "2026-11-23T10:20:31.123Z", "source": "database", "fresh": True,
}  # fmt: skip

OPERATIONS = (
    Operation(
        "GET", "/api/customers/{id}", "A customer's profile", "customers", "read",
        (
            Answer(
                200, "What is known of them.", ProfileJson,
                headers={"Retry-After": "Seconds, if it is not fresh."},
            ),
        ),
        "Flutterwave is asked where it may know something newer. A means of payment has a type, "
        "the last four digits, a brand and an expiry, and nothing else.",
        parameters=(_ID, *in_query("merchant")),
        refuses=(*_UNKNOWN, "unknown_and_unverified"),
        examples=(Example("A customer", {"id": "9001"}, answer=_PROFILE), _NOBODY),
    ),
    Operation(
        "GET", "/api/customers/{id}/payments", "A customer's payments", "customers", "read",
        (Answer(200, "A page of them, newest first.", HistoryJson),),
        "The statuses are those of now, as a lookup of each would say them.",
        parameters=(
            _ID,
            Parameter("page", "query", _PAGE, "Which page, from 1; 20 are on each."),
            Parameter("cursor", "query", Number, "`next_cursor` of another page, in its place."),
            *in_query("merchant"),
        ),
        refuses=(*_UNKNOWN, "invalid_page", "invalid_cursor", "page_or_cursor"),
        examples=(
            Example("The newest", {"id": "9001"}, answer={
                "customer_id": "9001", "page": 1, "pages": 1, "total": 1, "next_cursor": None,
                "payments": [_PAID],
            }),
            _NOBODY,
        ),
    ),
    Operation(
        "GET", "/api/customers/{id}/export", "All that is kept of a customer", "customers",
        "operate", (Answer(200, "All of it.", ExportJson),),
        parameters=(_ID, *in_query("merchant")), refuses=_UNKNOWN,
        examples=(Example("A customer", {"id": "9001"}), _NOBODY),
    ),
    Operation(
        "DELETE", "/api/customers/{id}", "Forget a customer", "customers", "operate",
        (Answer(200, "It is done, in the database and in the cache.", ErasedJson),),
        "Payments keep their statuses, amounts and references. Done again it changes nothing more; "
        "after a 503 it must be.",
        parameters=(_ID, *in_query("merchant")),
        refuses=("invalid_id", "unknown_customer", "documents_failed"),
        examples=(
            Example("A customer", {"id": "9001"}, answer={
                "customer_id": "9001", "merchant": "default", "erased": True, "payments": 1,
            }),
            _NOBODY,
        ),
    ),
)  # fmt: skip
