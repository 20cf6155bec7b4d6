"""Who in this process waits for changes: each has a bounded queue of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paystate.changes import Change
from paystate.keys import Entity

__all__ = ["Listeners", "Subscription"]

QUEUE = 256


class Subscription:
    """One listener's queue. `lagged` says that it was full: what is in it is not all there was."""

    def __init__(self, wanted: Callable[[Change], bool]) -> None:
        self.wanted = wanted
        self.lagged = False
        self.closed = False
        self._changes: asyncio.Queue[Change | None] = asyncio.Queue(QUEUE)

    def offer(self, change: Change) -> None:
        """Put a change into the queue, or mark the queue as lagged."""
        if self.lagged or self.closed:
            return
        try:
            self._changes.put_nowait(change)
        except asyncio.QueueFull:
            self.lagged = True

    def close(self) -> None:
        """End the listener's wait: there will be nothing more."""
        self.closed = True
        if not self._changes.full():
            self._changes.put_nowait(None)

    async def next(self, timeout_s: float) -> Change | None:
        """Return the next change, or None after `timeout_s` without one, or at the end."""
        if self.closed and self._changes.empty():
            return None
        try:
            async with asyncio.timeout(timeout_s):
                return await self._changes.get()
        except TimeoutError:
            return None


class Listeners:
    """All listeners of a process, by what they listen to."""

    def __init__(self) -> None:
        self._by_entity: dict[Entity, set[Subscription]] = {}
        self._wide: set[Subscription] = set()
        self._closed = False

    @contextmanager
    def subscribe(self, entity: Entity | None, merchant: str | None) -> Iterator[Subscription]:
        """Listen to one entity, or to a merchant's changes, or to all."""
        subscription = Subscription(
            lambda change: merchant is None or change.entity.merchant == merchant
        )
        if self._closed:
            subscription.close()
        group = self._wide if entity is None else self._by_entity.setdefault(entity, set())
        group.add(subscription)
        try:
            yield subscription
        finally:
            group.discard(subscription)
            if entity is not None and not group:
                self._by_entity.pop(entity, None)

    def __bool__(self) -> bool:
        return bool(self._wide or self._by_entity)

    def wanted(self, entity: Entity) -> bool:
        """Say whether anybody would be offered a change of `entity`."""
        return bool(self._wide) or entity in self._by_entity

    def offer(self, change: Change) -> None:
        """Put a change into the queue of each that wants it."""
        for subscription in (*self._by_entity.get(change.entity, ()), *self._wide):
            if subscription.wanted(change):
                subscription.offer(change)

    def lag(self) -> None:
        """Tell all that something was missed which nobody can tell them."""
        for subscription in self._all():
            subscription.lagged = True

    def close(self) -> None:
        """End everybody's wait, now and from now on."""
        self._closed = True
        for subscription in self._all():
            subscription.close()

    def _all(self) -> Iterator[Subscription]:
        for group in (self._wide, *self._by_entity.values()):
            yield from group
