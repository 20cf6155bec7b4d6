"""What callers put into paths and query strings, checked."""

from __future__ import annotations

from paystate.keys import MAX_ID_LENGTH, EntityKind
from webhook_server.problems import Refused

__all__ = ["identifier", "kind_of", "whole_number"]

_KINDS = {kind.value: kind for kind in (EntityKind.CHARGE, EntityKind.TRANSFER)}


def identifier(text: object, name: str) -> str:
    """Return an id or reference from outside. Raises Refused (400)."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_ID_LENGTH or "\0" in text:
        raise Refused(
            400, f"invalid_{name}", f"{name} is a text of 1 to {MAX_ID_LENGTH} characters"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(400, f"invalid_{name}", f"{name} is not valid Unicode") from None
    return text


def kind_of(text: object) -> EntityKind | None:
    """Return the kind of payment that is asked for, if one is. Raises Refused (400)."""
    if text is None:
        return None
    kind = _KINDS.get(text) if isinstance(text, str) else None
    if kind is None:
        raise Refused(400, "invalid_kind", "kind is charge or transfer")
    return kind


def whole_number(text: str | None, name: str) -> int | None:
    """Return a number of 0 or more, None if it is not given. Raises Refused (400)."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Refused(400, f"invalid_{name}", f"{name} is a whole number")
    return int(text)
