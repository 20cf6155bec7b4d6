"""What a person does to events that were given up, done so that every rule of the protocol holds.

A release or rejection opens an event of the operator's own and is settled at once, as a worker
would settle it; if this process dies in between, the sweeper does it. A replay opens events again
and leaves them to the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from paystate.cache.statuses import StatusCache
from paystate.changes import Change
from paystate.errors import (
    CacheUnavailable,
    QueueUnavailable,
    RulingRefused,
)
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.explanations import OutcomeJson
from paystate.payments.settling import Settler
from paystate.queue import Queue
from paystate.state import EntityState
from paystate.store import Store
from paystate.store.reopening import Reopened
from paystate.store.rulings import Ruling

__all__ = ["Operator", "Outcome"]

log = logger()

# One transaction locks the payments of so many events; webhooks for those wait as long.
BATCH = 100
# What is kept of a person's words and name, in characters.
MOST_WHY = 500
MOST_NAME = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a ruling came to. `state` is the payment's row now; `through_id` the operator's event.

    `settled` False means that it will be: the event is open and the sweeper takes it. `repeated`
    means that the ruling had been given before.
    """

    inbox_id: int
    through_id: int
    repeated: bool
    settled: bool
    ending: str
    state: EntityState

    def to_json(self) -> OutcomeJson:
        """Return the public form."""
        return {
            "event": self.inbox_id,
            "through_event": self.through_id,
            "repeated": self.repeated,
            "settled": self.settled,
            "ending": self.ending,
            "kind": self.state.entity.kind.value,
            "payment_id": self.state.entity.id,
            "tx_ref": self.state.tx_ref,
            "merchant": self.state.entity.merchant,
            "status": self.state.shown.value,
            "held": self.state.held,
            "version": self.state.version,
        }


class Operator:
    """Carries out what operators decide. `sleep` takes seconds and is a parameter for tests."""

    def __init__(
        self,
        store: Store,
        cache: StatusCache,
        queue: Queue,
        settler: Settler,
        metrics: Metrics,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._cache = cache
        self._queue = queue
        self._settler = settler
        self._metrics = metrics
        self._sleep = sleep

    async def rule(self, ruling: Ruling) -> Outcome:
        """Release or reject a held or dead event, and settle what follows from it.

        Raises RulingRefused, and StoreUnavailable.
        """
        _check(ruling.operator, ruling.why)
        ruled = await self._store.operations.rule(ruling)
        # What was committed may have been cut off from its mark the first time: mark in any case.
        known = await self._store.states([ruled.entity])
        await self._announce(ruled.states or tuple(known.values()), ruled.changes)
        if not ruled.repeated:
            log.info("event_ruled_on", inbox_id=ruling.inbox_id, action=ruling.action.value,
                     operator=ruling.operator, through_id=ruled.through_id)  # fmt: skip
        await self._settler.settle([ruled.through_id])
        event = await self._store.operations.event(ruled.through_id)
        state = (await self._store.states([ruled.entity]))[ruled.entity]
        ending = event.state if event is not None else "pruned"
        return Outcome(
            ruling.inbox_id, ruled.through_id, ruled.repeated, ending != "open", ending, state
        )

    async def replay(self, ids: Sequence[int], *, operator: str, why: str) -> Reopened:
        """Open given-up events again, `BATCH` at a time, and have the worker look at them.

        Raises StoreUnavailable; batches before that stay open again.
        """
        _check(operator, why, needed=False)
        total = Reopened()
        for start in range(0, len(ids), BATCH):
            part = await self._store.operations.reopen(
                ids[start : start + BATCH], operator=operator, why=why
            )
            total.skipped |= part.skipped
            total.ids += part.ids
            total.states += part.states
            total.changes += part.changes
            if part.ids:
                await self._announce(part.states, part.changes)
                await self._enqueue(part.ids)
                log.info("events_replayed", events=len(part.ids), operator=operator)
        return total

    async def _announce(self, states: Sequence[EntityState], changes: Sequence[Change]) -> None:
        """Mark what has been committed, or wait until nothing older can be served."""
        try:
            await self._cache.announce(states, changes)
        except CacheUnavailable:
            wait_s = self._cache.run_out_s
            log.warning("mark_failed", entities=len(states), waiting_s=round(wait_s, 3))
            await self._sleep(wait_s)

    async def _enqueue(self, ids: Sequence[int]) -> None:
        try:
            await self._queue.settle(ids)
        except QueueUnavailable:
            self._metrics.queue_errors.labels("enqueue").inc()
            log.warning("enqueue_failed", events=len(ids))


def _check(operator: str, why: str, *, needed: bool = True) -> None:
    if needed and not why.strip():
        raise RulingRefused("reason_missing", "say why: the reason is kept")
    if len(why) > MOST_WHY or len(operator) > MOST_NAME:
        raise RulingRefused(
            "reason_too_long", f"a reason has {MOST_WHY} characters at most, a name {MOST_NAME}"
        )
    if not (why + operator).isprintable():
        raise RulingRefused("reason_unprintable", "a reason is one line of printable text")
