"""Every problem that the API answers with, by its reason: its status code and what it means.

A test holds this against the code that refuses. Who adds a refusal adds a line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from webhook_server.description.operations import Operation

__all__ = ["PROBLEMS", "Problem", "refusals"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason's status code, and what it means in a sentence."""

    status: int
    meaning: str


def _invalid(*names: str) -> dict[str, Problem]:
    return {f"invalid_{name}": Problem(400, f"`{name}` is not what it can be.") for name in names}


PROBLEMS: dict[str, Problem] = {
    **_invalid(
        "id", "tx_ref", "kind", "min_version", "after_version", "wait", "limit", "state", "reason",
        "ids", "tx_refs", "ttl_s", "amount", "currency", "idempotency_key", "page",
    ),
    "invalid_cursor": Problem(400, "The cursor is none of those that are given out."),
    "page_or_cursor": Problem(400, "A page or a cursor must be named, not both."),
    "tx_ref_missing": Problem(400, "The reference is not named."),
    "id_or_tx_ref": Problem(400, "Either an id or a reference must be named, not both."),
    "unknown_field": Problem(400, "The body has a field that is not known."),
    "wrong_number": Problem(400, "No id and no reference, or too many."),
    "not_json": Problem(400, "The body is not JSON."),
    "not_an_object": Problem(400, "The body is JSON, but no object."),
    "empty": Problem(400, "The webhook has no body."),
    "not_form": Problem(400, "The webhook says that it is a form, and is none."),
    "not_utf8": Problem(400, "The webhook's body is not UTF-8."),
    "too_deep": Problem(400, "The webhook's body is nested too deeply."),
    "too_many_fields": Problem(400, "The webhook's form has too many fields."),
    "reason_missing": Problem(400, "A ruling needs a reason; it is kept."),
    "reason_too_long": Problem(400, "The reason or the name is too long."),
    "reason_unprintable": Problem(400, "A reason is one line of printable text."),
    "http_error": Problem(400, "The request is not one that HTTP knows."),
    "token_missing": Problem(401, "There is no `Authorization: Bearer` header."),
    "token_unknown": Problem(401, "The token is none of API_TOKENS."),
    "session_ended": Problem(401, "The session of the board has ended: sign in again."),
    "missing": Problem(401, "The webhook has no signature."),
    "repeated": Problem(401, "The webhook has more than one signature."),
    "malformed": Problem(401, "The webhook's signature cannot be one."),
    "mismatch": Problem(401, "The webhook's signature is of another secret."),
    "other_api": Problem(401, "The webhook is signed as the API that this merchant does not use."),
    "other_merchant": Problem(403, "The token is bound to another merchant."),
    "other_site": Problem(403, "A page of another site may not do this."),
    "operators_only": Problem(403, "The token may read, not operate."),
    "link_invalid": Problem(403, "The link is damaged, or was not made here."),
    "no_such_path": Problem(404, "There is nothing at this path."),
    "unknown_merchant": Problem(404, "No such merchant is configured."),
    "unknown_payment": Problem(404, "Neither we nor Flutterwave know it. Ask again later."),
    "unknown_customer": Problem(404, "Nothing is known of such a customer."),
    "unknown_and_unverified": Problem(404, "Unknown here; Flutterwave could not be asked yet."),
    "unknown_event": Problem(404, "There is no such event of a payment."),
    "method_not_allowed": Problem(405, "The path takes other methods: see `Allow`."),
    "slow_body": Problem(408, "The body took too long to arrive."),
    "version_not_reached": Problem(409, "The version that was asked for is not there yet."),
    "not_given_up": Problem(409, "The event is neither held nor dead."),
    "ruled_otherwise": Problem(409, "The event has had the opposite ruling."),
    "already_successful": Problem(409, "The payment is successful and learns nothing more."),
    "claim_unreadable": Problem(409, "What the event says cannot be read."),
    "pruned": Problem(409, "What the event said has been removed."),
    **{
        f"is_{state}": Problem(409, f"The event is {state}, not given up.")
        for state in ("open", "applied", "superseded", "ignored", "released", "rejected")
    },
    "expected_otherwise": Problem(409, "Something else is expected for that reference."),
    "cursor_pruned": Problem(410, "Changes after this cursor have been removed: begin anew."),
    "customer_erased": Problem(410, "The customer was erased; nothing of them is kept."),
    "link_expired": Problem(410, "The link has expired."),
    "body_too_large": Problem(413, "The body is larger than this operation takes."),
    "idempotency_key_reused": Problem(422, "The key was used for another registration."),
    "too_many_calls": Problem(429, "The token has had its calls of this minute."),
    "internal_error": Problem(500, "A fault of ours; it has been logged."),
    "link_key_missing": Problem(501, "LINK_KEY is not set: no links can be made."),
    "database_unreachable": Problem(503, "The database cannot be reached."),
    "database_unavailable": Problem(503, "The database cannot answer now."),
    "database_read_only": Problem(503, "The database takes no writes now."),
    "database_is_a_replica": Problem(503, "The database is not the primary."),
    "database_commits_late": Problem(503, "The database confirms what it may still lose."),
    "database_forbids": Problem(503, "The database's role lacks a privilege."),
    "database_not_migrated": Problem(503, "The tables are missing, or of an earlier release."),
    "overview_missing": Problem(503, "The numbers could not be read now."),
    "documents_failed": Problem(503, "The database has forgotten; the cache has not: do it again."),
    "not_recorded": Problem(503, "The webhook could not be recorded: send it again."),
}  # fmt: skip

_DATABASE = tuple(reason for reason in PROBLEMS if reason.startswith("database_"))
_EVERYWHERE = ("http_error", "internal_error")
_TOKEN = ("token_missing", "token_unknown", "session_ended", "other_site", "too_many_calls")
_MERCHANT = ("other_merchant", "unknown_merchant")
_BY_ACCESS: dict[str, tuple[str, ...]] = {
    "open": (),
    "signature": ("missing", "repeated", "malformed", "mismatch", "other_api", *_DATABASE),
    "read": (*_TOKEN, *_MERCHANT, *_DATABASE),
    "operate": (*_TOKEN, "operators_only", *_MERCHANT, *_DATABASE),
}
_WITH_BODY = ("body_too_large", "slow_body")


def refusals(operation: Operation) -> dict[int, Sequence[str]]:
    """Return the reasons with which an operation refuses, by status code."""
    reasons = [*operation.refuses, *_EVERYWHERE, *_BY_ACCESS[operation.access]]
    if operation.body is not None or operation.form:
        reasons += _WITH_BODY
    found: dict[int, list[str]] = {}
    for reason in dict.fromkeys(reasons):
        found.setdefault(PROBLEMS[reason].status, []).append(reason)
    return dict(sorted(found.items()))
