"""What callers put into paths and query strings, checked."""

from __future__ import annotations

from typing import Annotated

from paystate.keys import MAX_ID_LENGTH, EntityKind
from paystate.shapes import Bounded
from webhook_server.problems import Refused

__all__ = ["IdNumber", "IdText", "id_or_number", "identifier", "kind_of", "whole", "whole_number"]

IdText = Annotated[str, Bounded(min_length=1, max_length=MAX_ID_LENGTH, pattern="^[^\\u0000]*$")]
# What every reader of JSON keeps exact that keeps whole numbers at all.
_MOST_NUMBER = 2**63 - 1
IdNumber = Annotated[int, Bounded(minimum=0, maximum=_MOST_NUMBER)]

_KINDS = {kind.value: kind for kind in (EntityKind.CHARGE, EntityKind.TRANSFER)}


def identifier(text: object, name: str) -> str:
    """Return an id or reference from outside. Raises Refused (400)."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_ID_LENGTH or "\0" in text:
        raise Refused(
            400,
            f"invalid_{name}",
            f"{name} is a text of 1 to {MAX_ID_LENGTH} characters, NUL not among them",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(400, f"invalid_{name}", f"{name} is not valid Unicode") from None
    return text


def id_or_number(value: object, name: str) -> str:
    """Return an id from a JSON body, where it may be a number. Raises Refused (400)."""
    number = whole(value)
    if number is None:
        return identifier(value, name)
    if not 0 <= number <= _MOST_NUMBER:
        raise Refused(400, f"invalid_{name}", f"{name} is a number of 0 to {_MOST_NUMBER}")
    return str(number)


def kind_of(text: object) -> EntityKind | None:
    """Return the kind of payment that is asked for, if one is. Raises Refused (400)."""
    if text is None:
        return None
    kind = _KINDS.get(text) if isinstance(text, str) else None
    if kind is None:
        raise Refused(400, "invalid_kind", "kind is charge or transfer")
    return kind


def whole(value: object) -> int | None:
    """Return a whole number from a JSON body, where 60.0 is one too; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def whole_number(text: str | None, name: str) -> int | None:
    """Return a number of 0 or more, None if it is not given. Raises Refused (400)."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Refused(400, f"invalid_{name}", f"{name} is a whole number")
    return int(text)
