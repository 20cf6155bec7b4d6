"""The state of one entity as the database has it, and what of it is shown.

Pure values: the store reads and writes them, the cache keeps them, the flows reason about them.
"""

from __future__ import annotations

from typing import NamedTuple

from paystate.keys import Entity, EntityKind
from paystate.status import Status, is_terminal, shown, shown_reference

__all__ = ["Attempt", "EntityState"]


class Attempt(NamedTuple):
    """The payment that decides the status of a merchant reference."""

    kind: EntityKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @classmethod
    def parse(cls, text: str | None) -> Attempt | None:
        """Return the attempt in `text`, or None for nothing or nonsense."""
        kind, colon, payment_id = (text or "").partition(":")
        if not colon or kind not in _PAYMENTS:
            return None
        return cls(_PAYMENTS[kind], payment_id)

    def short(self) -> str:
        """Return it as the cache keeps it: a charge by its id alone, a size of allocation less."""
        return self.id if self.kind is EntityKind.CHARGE and ":" not in self.id else str(self)

    @classmethod
    def parse_short(cls, text: str | None) -> Attempt | None:
        """Return the attempt in what the cache keeps, or None for nothing or nonsense."""
        if text and ":" not in text:
            return cls(EntityKind.CHARGE, text)
        return cls.parse(text)


_PAYMENTS = {kind.value: kind for kind in (EntityKind.CHARGE, EntityKind.TRANSFER)}


class EntityState(NamedTuple):
    """A payment's or reference's row; a tuple, because a batch makes thousands of them.

    `link` is the payment's tx_ref, or the reference's deciding attempt (`Attempt` as text).
    `held_events` counts events held or dead; for a reference it counts those of its unsettled
    attempts. `changed_ms` is when the version last rose, in ms since the epoch.
    """

    entity: Entity
    status: Status
    version: int
    open_events: int
    held_events: int
    link: str | None
    changed_ms: int

    @property
    def shown(self) -> Status:
        """What a caller is told."""
        if not (self.open_events or self.held_events):  # as either rule has it
            return self.status
        rule = shown_reference if self.entity.is_reference else shown
        return rule(self.status, open_events=self.open_events, held_events=self.held_events)

    @property
    def terminal(self) -> bool:
        """Whether what is shown has come to its end; for a reference only `successful` has."""
        if self.entity.is_reference:
            return self.status is Status.SUCCESSFUL
        return is_terminal(self.status)

    @property
    def held(self) -> bool:
        """Whether a person must look: an event is held or dead, and the payment is unsettled."""
        return self.held_events > 0 and not self.terminal

    @property
    def cacheable(self) -> bool:
        """Whether this may be cached at all: settled for good, or with no event open or held."""
        return self.status is Status.SUCCESSFUL or not (self.open_events or self.held)

    @property
    def visible(self) -> tuple[Status, bool, str | None]:
        """What a version stands for: it rises when this changes, or an overlay, and only then."""
        return self.shown, self.held, self.link

    @property
    def tx_ref(self) -> str | None:
        """The merchant reference this is, or belongs to."""
        return self.entity.id if self.entity.is_reference else self.link

    @property
    def payment_id(self) -> str | None:
        """The payment this is, or that decides this reference."""
        if not self.entity.is_reference:
            return self.entity.id
        attempt = Attempt.parse(self.link)
        return attempt.id if attempt else None
