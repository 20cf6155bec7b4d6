"""Parameters that several operations take."""

from __future__ import annotations

from typing import Annotated, Literal

from paystate.shapes import Bounded, CursorText
from webhook_server.description.operations import Parameter
from webhook_server.parameters import IdText

__all__ = ["Limit", "Number", "in_header", "in_path", "in_query"]

# What `parameters.whole_number` takes.
Number = Annotated[int, Bounded(minimum=0, maximum=10**18 - 1)]
Limit = Annotated[int, Bounded(minimum=1, maximum=1000)]

_MEANINGS = {
    "id": "The payment's id: a whole number in v3, `chg_...` or `trf_...` in v4.",
    "tx_ref": "The merchant reference.",
    "event": "The number of the inbox row.",
    "merchant": "Whose payments. Default: those of the token, else of the default merchant.",
    "kind": "What the id is of. Default: the charge of that id, else the transfer.",
    "min_version": "Refuse (409) to answer with an earlier version than this one.",
    "wait": "Wait for a later version, so many seconds at most (60 at most).",
    "after_version": "Later than which version, for `wait`. Default: the one at arrival.",
    "after": "What came after this cursor.",
}

_TYPES = {
    "merchant": Annotated[str, Bounded(pattern="^[a-z0-9_-]{1,40}$")],
    "kind": Literal["charge", "transfer"],
    "min_version": Number,
    "wait": Number,
    "after_version": Number,
    "after": CursorText,
}


def in_path(name: str, meaning: str = "", kind: object = None) -> Parameter:
    """Return a parameter of the path."""
    return Parameter(name, "path", kind or IdText, meaning or _MEANINGS[name])


def in_query(*names: str) -> tuple[Parameter, ...]:
    """Return parameters of the query string that are known here by name."""
    return tuple(
        Parameter(name, "query", _TYPES.get(name, IdText), _MEANINGS[name]) for name in names
    )


def in_header(name: str, kind: object, meaning: str) -> Parameter:
    """Return a header."""
    return Parameter(name, "header", kind, meaning)
