"""What the cache answers, and what it makes of a state: pure values and functions.

An answer is proven (`Hit`) or none (`Miss`); an entry is what `paystate.cache.statuses` keeps of a
payment's or a reference's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from paystate.keys import Entity
from paystate.state import Attempt, EntityState
from paystate.status import Status

__all__ = ["Hit", "Miss", "hit", "is_foreign", "kept_link", "latest"]

_WORDS = {status.value.encode(): status for status in Status}


class Hit(NamedTuple):
    """A proven answer. `as_of_ms`: when it was known to be so (for `successful`: became so)."""

    status: Status
    version: int
    link: str | None
    changed_ms: int
    as_of_ms: int


@dataclass(slots=True)
class Miss:
    """No proven answer. `unreachable` says that the cache could not be asked at all."""

    token: str | None = None
    unreachable: bool = False

    def take_token(self) -> str | None:
        """Return the token for filling, to the first of those who share this miss."""
        token, self.token = self.token, None
        return token


def kept_link(state: EntityState) -> str:
    """Return the link of a state as its entry keeps it."""
    link = state.link
    if link is None or not state.entity.is_reference:
        return link or ""
    attempt = Attempt.parse(link)
    return attempt.short() if attempt is not None else link


def is_foreign(error: Exception) -> bool:
    """Say whether the key holds something that is no hash: not ours, to be deleted."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def latest(states: Sequence[EntityState]) -> list[EntityState]:
    """Return one state for each entity, the one with the greatest version."""
    found: dict[Entity, EntityState] = {}
    for state in states:
        held = found.get(state.entity)
        if held is None or state.version >= held.version:
            found[state.entity] = state
    return list(found.values())


def hit(status: Any, version: Any, at: Any, link: Any, as_of: Any) -> Hit | None:
    """Return the entry, or None if it is not something we wrote."""
    try:
        return Hit(
            _WORDS[status], int(version), link.decode() or None if link else None,
            int(at or 0), int(as_of or 0),
        )  # fmt: skip
    except (LookupError, ValueError, TypeError, AttributeError):
        return None
