"""Pruning as the settings say: one bounded batch of everything at a time."""

from __future__ import annotations

from dataclasses import dataclass

from paystate.store import Store
from paystate.store.pruning import Prunable

__all__ = ["BATCH", "Pruner", "Retention"]

# Rows a transaction. It holds SQLite's one writer for some milliseconds, and webhooks wait as long.
BATCH = 500

_DAY_MS = 24 * 3600 * 1000
# Idempotency keys: whoever asks again does so within a day or two.
_KEYS_MS = 7 * _DAY_MS
# What is kept for ever: older than anything.
_EVER_MS = 200 * 366 * _DAY_MS


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days what is kept; 0 is for ever. See the settings of these names."""

    inbox_days: int
    event_keys_days: int
    changes_days: int

    @property
    def content_ms(self) -> int:
        """Age at which an ended event loses its content, in milliseconds."""
        return _age_ms(self.inbox_days)

    @property
    def keys_ms(self) -> int:
        """Age at which its row goes, in milliseconds."""
        return _age_ms(self.event_keys_days)

    @property
    def changes_ms(self) -> int:
        """Age at which a change goes, in milliseconds."""
        return _age_ms(self.changes_days)


def _age_ms(days: int) -> int:
    return days * _DAY_MS if days else _EVER_MS


@dataclass(slots=True)
class Swept:
    """What pruning has done: events emptied, events removed, changes removed."""

    emptied: int = 0
    removed: int = 0
    changes: int = 0


class Pruner:
    """Prunes in batches of `most`; any number beside each other do no harm."""

    def __init__(self, store: Store, retention: Retention, *, most: int = BATCH) -> None:
        self._store = store
        self._retention = retention
        self._most = most
        self.done = Swept()

    async def batch(self) -> bool:
        """Do one batch; return whether there may be more. Raises StoreUnavailable."""
        kept = self._retention
        pruned = await self._store.operations.prune_events(
            content_ms=kept.content_ms, keys_ms=kept.keys_ms, most=self._most
        )
        changes = await self._store.prune_changes(older_than_ms=kept.changes_ms, most=self._most)
        await self._store.expectations.prune_keys(older_than_ms=_KEYS_MS, most=self._most)
        self.done.emptied += pruned.emptied
        self.done.removed += pruned.removed
        self.done.changes += changes
        return pruned.more or changes == self._most

    async def count(self) -> Prunable:
        """Count what there is to do. Raises StoreUnavailable."""
        kept = self._retention
        return await self._store.operations.prunable(
            content_ms=kept.content_ms, keys_ms=kept.keys_ms, changes_ms=kept.changes_ms
        )
