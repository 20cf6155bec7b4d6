"""Who waits for one payment: woken by a change of it, and by every doubt about the news."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from paystate.changes import Change
from paystate.keys import Entity

__all__ = ["Watch", "Watches"]


class Watch:
    """One who waits. `change` is the latest change heard of `entity` since the watch began."""

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.change: Change | None = None
        self.woken = asyncio.Event()

    def note(self, change: Change) -> None:
        """Take a change of this entity or of one that bears on it."""
        held = self.change.version if self.change else 0
        if change.entity == self.entity and change.version > held:
            self.change = change
        self.woken.set()

    async def pause(self, at_most_s: float) -> None:
        """Return when there is a reason to look again, or after `at_most_s`."""
        try:
            async with asyncio.timeout(at_most_s):
                await self.woken.wait()
        except TimeoutError:
            pass  # looked at again in any case
        self.woken.clear()


class Watches:
    """Everyone who waits, by what they wait for: a change costs only those whom it concerns."""

    def __init__(self) -> None:
        self._by_entity: dict[Entity, set[Watch]] = {}

    @contextmanager
    def watch(self, entities: Sequence[Entity]) -> Iterator[Watch]:
        """Watch the first of `entities`, and be woken by changes of the others."""
        watch = Watch(entities[0])
        for entity in entities:
            self._by_entity.setdefault(entity, set()).add(watch)
        try:
            yield watch
        finally:
            for entity in entities:
                waiting = self._by_entity[entity]
                waiting.discard(watch)
                if not waiting:
                    del self._by_entity[entity]

    def heard(self, change: Change) -> None:
        """Wake those whom a change concerns."""
        for watch in self._by_entity.get(change.entity, ()):
            watch.note(change)

    def resubscribed(self) -> None:
        """Wake everybody: a change may have been missed."""
        self._wake_all()

    def lost(self) -> None:
        """Wake everybody: they must ask until the news is back."""
        self._wake_all()

    def _wake_all(self) -> None:
        for waiting in self._by_entity.values():
            for watch in waiting:
                watch.woken.set()
