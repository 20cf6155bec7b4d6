"""Record: from a verified webhook to the acknowledgement.

Commit, then mark, then acknowledge. Webhooks that arrive together share a commit; what follows it
(marks, news, the job) shares a round trip. If the cache cannot be told, the acknowledgement waits
until whatever it may still serve has run out.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from paystate.batch import Batcher
from paystate.cache.statuses import StatusCache
from paystate.errors import CacheUnavailable, QueueUnavailable
from paystate.keys import Entity
from paystate.observability import Metrics, logger
from paystate.queue import Queue
from paystate.store import NewEvent, Recorded, Store
from paystate.updates import Api, Event, Ignored, PaymentUpdate

__all__ = ["Recorder", "new_event", "observation"]

log = logger()

# Leases to wait where the cache cannot be told: one for what is already being served or promised,
# half of one for clocks that do not run alike.
LEASES_TO_WAIT = 1.5


def _event_key(*parts: str) -> str:
    """Return one key for what makes an event that event; no two lists of parts share one."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()


def new_event(merchant: str, event: Event) -> NewEvent:
    """Return the inbox row for a webhook.

    Its key holds the merchant, the API, the provider's event id or the body's hash, the payment
    and its status: the same event with another status is another event.
    """
    subject = event.subject
    if isinstance(subject, Ignored):
        key = _event_key(merchant, event.api, event.dedupe, event.type, subject.reason)
        return NewEvent(merchant, event.api, event.type, key, "ignored", reason=subject.reason)
    key = _event_key(
        merchant,
        event.api,
        event.dedupe,
        subject.kind,
        subject.payment_id,
        subject.provider_status,
        subject.status,
    )
    return NewEvent(
        merchant=merchant,
        api=event.api,
        type=event.type,
        event_key=key,
        subject="payment" if isinstance(subject, PaymentUpdate) else "overlay",
        entity=Entity.payment(merchant, subject.kind, subject.payment_id),
        tx_ref=subject.tx_ref,
        content=subject.to_json(),
    )


def observation(merchant: str, update: PaymentUpdate, version: int) -> NewEvent:
    """Return the inbox row for an answer of the verify API that differs from what we have.

    Its key holds the version that it was compared with, so that many who see the same difference
    at once record it once.
    """
    key = _event_key(
        merchant, Api.VERIFY, update.kind, update.payment_id, update.status, str(version)
    )
    return NewEvent(
        merchant=merchant,
        api=Api.VERIFY,
        type="verify",
        event_key=key,
        subject="payment",
        entity=Entity.payment(merchant, update.kind, update.payment_id),
        tx_ref=update.tx_ref,
        content=update.to_json(),
    )


@dataclass(slots=True)
class _Committed:
    event: NewEvent
    recorded: Recorded
    enqueue: bool


class Recorder:
    """Records events; one for each process.

    `sleep` and `clock` (seconds, monotonic) are parameters for tests.
    """

    def __init__(
        self,
        store: Store,
        cache: StatusCache,
        queue: Queue,
        metrics: Metrics,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cache = cache
        self._queue = queue
        self._metrics = metrics
        self._sleep = sleep
        self._clock = clock
        # SQLite has one writer at a time; PostgreSQL commits two batches side by side.
        writers = 1 if store.dialect == "sqlite" else 2
        self._commits: Batcher[NewEvent, Recorded] = Batcher(
            store.acknowledge, most=200, in_flight=writers
        )
        self._announcements: Batcher[_Committed, bool] = Batcher(
            self._announce, most=200, in_flight=8
        )

    async def record(self, event: NewEvent, *, enqueue: bool = True) -> Recorded:
        """Record `event` and return once it may be acknowledged.

        Raises StoreUnavailable if it could not be committed: then it must not be.
        """
        recorded = await self._commits(event)
        committed = self._clock()
        if not recorded.states:
            return recorded
        marked = await self._announcements(_Committed(event, recorded, enqueue))
        if not marked:
            await self._outlive_leases(committed)
        return recorded

    async def _outlive_leases(self, since: float) -> None:
        wait_s = LEASES_TO_WAIT * self._cache.lease_ms / 1000 - (self._clock() - since)
        if wait_s > 0:
            await self._sleep(wait_s)

    async def _announce(self, batch: Sequence[_Committed]) -> list[bool | BaseException]:
        marked, _ = await asyncio.gather(self._mark(batch), self._enqueue(batch))
        return [marked] * len(batch)

    async def _mark(self, batch: Sequence[_Committed]) -> bool:
        states = [state for item in batch for state in item.recorded.states]
        changes = [change for item in batch for change in item.recorded.changes]
        try:
            await self._cache.announce(states, changes)
        except CacheUnavailable:
            log.warning("mark_failed", entities=len(states), lease_ms=self._cache.lease_ms)
            return False
        return True

    async def _enqueue(self, batch: Sequence[_Committed]) -> None:
        ids = [
            item.recorded.inbox_id
            for item in batch
            if item.enqueue and item.recorded.inbox_id is not None
        ]
        if not ids:
            return
        try:
            await self._queue.settle(ids)
        except QueueUnavailable:
            self._metrics.queue_errors.labels("enqueue").inc()
            log.warning("enqueue_failed", events=len(ids))

    async def drain(self) -> None:
        """Wait until nothing is under way any more."""
        await self._commits.drain()
        await self._announcements.drain()
