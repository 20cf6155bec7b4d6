"""What a payment's status can be, and what two observations of it make together.

Flutterwave names the same few states in many words (v3, v4, transfers in capitals). Here they are
six, on a ladder::

    unknown < pending < processing < failed, voided < successful

Webhooks arrive twice, late and in any order, so a status is never *set*: it is merged. The merge
takes the higher of the two, which makes it commutative, associative and idempotent but for one tie
(`failed` against `voided`: the first one wins), so that every order of arrival ends in one result.
Only `successful` absorbs everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

__all__ = [
    "STATUSES",
    "TERMINAL",
    "Status",
    "from_provider",
    "is_terminal",
    "merge",
    "of_reference",
    "shown",
    "shown_reference",
]


class Status(StrEnum):
    """A payment's state, in the words every interface of paystate uses."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    PROCESSING = "processing"
    FAILED = "failed"
    VOIDED = "voided"
    SUCCESSFUL = "successful"


# By word: a dictionary answers five times as fast as the enum's own call.
STATUSES = {status.value: status for status in Status}

TERMINAL = frozenset({Status.FAILED, Status.VOIDED, Status.SUCCESSFUL})

_RANK = {
    Status.UNKNOWN: 0,
    Status.PENDING: 1,
    Status.PROCESSING: 2,
    Status.FAILED: 3,
    Status.VOIDED: 3,
    Status.SUCCESSFUL: 4,
}

# Every word that Flutterwave's documentation and captures show, casefolded. `success` is missing
# on purpose: it is the status of an API envelope, which says nothing about a payment.
_WORDS = {
    "new": Status.PENDING,
    "initiated": Status.PENDING,
    "pending": Status.PENDING,
    "success-pending-validation": Status.PENDING,
    "processing": Status.PROCESSING,
    "successful": Status.SUCCESSFUL,
    "succeeded": Status.SUCCESSFUL,
    "failed": Status.FAILED,
    "cancelled": Status.VOIDED,
    "voided": Status.VOIDED,
}


def from_provider(word: object) -> Status:
    """Return the status that `word` of a webhook or an API answer means.

    An unfamiliar word, or anything that is not a word, is `unknown`: a reason to ask the provider,
    never a guess.
    """
    if not isinstance(word, str):
        return Status.UNKNOWN
    return _WORDS.get(word.strip().casefold(), Status.UNKNOWN)


def is_terminal(status: Status) -> bool:
    """Say whether a payment in `status` has come to its end (a correction apart, see `merge`)."""
    return status in TERMINAL


def merge(held: Status, seen: Status, *, proven: bool) -> Status:
    """Return the later of two observations of one payment, whichever arrived first.

    `proven` says that `seen` comes from the verify API or under a v4 signature. A `successful`
    that follows `failed` or `voided` is a correction and needs it: whoever saw one v3 webhook can
    forge the body of another.
    """
    if held in TERMINAL and seen is Status.SUCCESSFUL and not proven:
        return held
    return seen if _RANK[seen] > _RANK[held] else held


def shown(status: Status, *, open_events: int, held_events: int) -> Status:
    """Return what a caller is told of a payment whose row says `status`.

    While an acknowledged event is open, or one is held for a person, an unsettled payment is
    `processing`: its row may already have been overtaken.
    """
    if status in TERMINAL or (open_events == 0 and held_events == 0):
        return status
    return Status.PROCESSING


def shown_reference(status: Status, *, open_events: int, held_events: int) -> Status:
    """Return what a caller is told of a merchant reference whose row says `status`.

    Only `successful` ends a reference: after a failed attempt the customer may try again.
    """
    if status is Status.SUCCESSFUL or (open_events == 0 and held_events == 0):
        return status
    return Status.PROCESSING


def of_reference(attempts: Iterable[Status]) -> Status:
    """Return the status of a merchant reference over the statuses of its attempts.

    `successful` if any attempt is; else what the furthest unsettled attempt says; else `failed`
    if any failed, `voided` if all that ended were voided. A reference without attempts is
    `pending`: it has been announced and nothing has happened yet.
    """
    seen = frozenset(attempts)
    if not seen:
        return Status.PENDING
    for status in (
        Status.SUCCESSFUL,
        Status.PROCESSING,
        Status.PENDING,
        Status.UNKNOWN,
        Status.FAILED,
    ):
        if status in seen:
            return status
    return Status.VOIDED
