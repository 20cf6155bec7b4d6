"""The near cache: successful answers in this process, while its news is live.

Only `successful` is kept, because it is final, and even that for a short time and not beyond the
news: what may still change of it (a link to a reference, an overlay) is heard of there. An answer
that was being read while a newer change came in, or while the news was lost, is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from paystate.changes import Change

__all__ = ["NEAR_AGE_S", "NearCache", "Ticket"]

T = TypeVar("T")

# How long an answer may be kept at most, whatever the news says or does not say.
NEAR_AGE_S = 30.0


class Ticket(NamedTuple):
    """Taken before a read: when it began, and in which life of the news."""

    at_s: float
    life: int


class NearCache(Generic[T]):
    """At most `size` answers by `Entity.row_key`, each at most `age_s` old by `clock` (seconds).

    The one read longest ago leaves first: it is the next to grow too old. It is told of the news
    by `heard`, `resubscribed` and `lost`, and holds nothing before the first subscription.
    """

    def __init__(self, size: int, *, age_s: float = NEAR_AGE_S, clock: Callable[[], float]) -> None:
        self._size = size
        self._age_s = age_s
        self._clock = clock
        self._life = 0
        self._live = False
        # Read when, good until when (by the clock), version, answer.
        self._held: dict[str, tuple[float, float, int, T]] = {}
        # The latest versions heard of: what is older and still on its way here is not kept.
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._latest: Mapping[str, int] = self._heard

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str) -> T | None:
        """Return the answer that is held, if it is not too old."""
        found = self._held.get(key)
        if found is None:
            return None
        if found[0] <= self._clock() <= found[1]:
            return found[3]
        del self._held[key]
        return None

    def ticket(self) -> Ticket:
        """Return what `put` needs to know of a read that begins now."""
        return Ticket(self._clock(), self._life)

    def put(self, key: str, version: int, answer: T, ticket: Ticket) -> None:
        """Keep a fresh `successful` answer that was read under `ticket`, if it may be kept."""
        if not self._size or not self._live or ticket.life != self._life:
            return
        if version < self._latest.get(key, 0):
            return
        held = self._held.pop(key, None)
        if held is not None and (held[2] > version or held[0] > ticket.at_s):
            self._held[key] = held
            return
        self._held[key] = (ticket.at_s, ticket.at_s + self._age_s, version, answer)
        if len(self._held) > self._size:
            del self._held[next(iter(self._held))]

    def follow(self, latest: Mapping[str, int]) -> None:
        """Go by the `latest` versions, by `Entity.row_key`, that somebody else takes note of."""
        self._latest = latest

    def heard(self, change: Change) -> None:
        """Drop what a change has overtaken."""
        self.overtaken(change.entity.row_key, change.version)

    def overtaken(self, key: str, version: int) -> None:
        """Drop what is older than `version`, of which has been heard."""
        held = self._held.get(key)
        if held is not None and held[2] < version:
            del self._held[key]
        if self._latest is not self._heard:
            return
        known = self._heard.get(key)
        if known is not None:
            self._heard.move_to_end(key)
            if version <= known:
                return
        self._heard[key] = version
        if len(self._heard) > max(self._size, 1):
            self._heard.popitem(last=False)

    def resubscribed(self) -> None:
        """Forget everything, for changes may have been missed; from now on they are heard."""
        self._forget()
        self._live = True

    def lost(self) -> None:
        """Forget everything: changes will be missed."""
        self._forget()
        self._live = False

    def _forget(self) -> None:
        self._life += 1
        self._held.clear()
        self._heard.clear()
