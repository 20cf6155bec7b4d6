"""The near cache: successful answers in this process, while its news is live.

Only `successful` is kept, because it is final, and even that for a short time and not beyond the
feed: what may still change of it (a link to a reference, an overlay's version) is heard of there.
An answer that was being read while a newer change came in, or while the feed was lost, is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from paystate.changes import Change
from paystate.keys import Entity
from paystate.reader.answers import PaymentStatus
from paystate.status import Status

__all__ = ["NearCache", "Ticket"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """Taken before a read: when it began, and in which life of the feed."""

    at_s: float
    life: int


class NearCache:
    """At most `size` answers, each at most `age_s` old by `clock`, the least recently used leaves.

    It listens to the news; whoever reads from it has made sure that the news is live.
    """

    def __init__(self, size: int, *, age_s: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._age_s = age_s
        self._clock = clock
        self._life = 0
        self._held: OrderedDict[Entity, tuple[float, PaymentStatus]] = OrderedDict()
        # The latest versions heard of: what is older and still on its way here is not kept.
        self._heard: OrderedDict[Entity, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, entity: Entity) -> PaymentStatus | None:
        """Return the answer that is held, if it is not too old."""
        found = self._held.get(entity)
        if found is None:
            return None
        at_s, answer = found
        if not 0 <= self._clock() - at_s <= self._age_s:
            del self._held[entity]
            return None
        self._held.move_to_end(entity)
        return answer

    def ticket(self) -> Ticket:
        """Return what `put` needs to know of a read that begins now."""
        return Ticket(self._clock(), self._life)

    def put(self, merchant: str, answer: PaymentStatus, ticket: Ticket) -> None:
        """Keep an answer that was read under `ticket`, if it may be kept."""
        if answer.status is not Status.SUCCESSFUL or not answer.fresh or ticket.life != self._life:
            return
        entity = Entity(merchant, answer.kind, answer.id)
        if answer.version < self._heard.get(entity, 0):
            return
        held = self._held.get(entity)
        if held is not None and held[1].version > answer.version:
            return
        self._held[entity] = (ticket.at_s, replace(answer, source="cache"))
        self._held.move_to_end(entity)
        while len(self._held) > self._size:
            self._held.popitem(last=False)

    def heard(self, change: Change) -> None:
        """Drop what a change has overtaken."""
        held = self._held.get(change.entity)
        if held is not None and held[1].version < change.version:
            del self._held[change.entity]
        self._heard[change.entity] = max(change.version, self._heard.get(change.entity, 0))
        self._heard.move_to_end(change.entity)
        while len(self._heard) > max(self._size, 1):
            self._heard.popitem(last=False)

    def resubscribed(self) -> None:
        """Forget everything: changes may have been missed."""
        self._forget()

    def lost(self) -> None:
        """Forget everything: changes will be missed."""
        self._forget()

    def _forget(self) -> None:
        self._life += 1
        self._held.clear()
        self._heard.clear()
