"""Record: from a verified webhook to the acknowledgement.

Commit, then mark, then acknowledge. Webhooks that arrive together share a commit, and what follows
it: one round trip of marks and news, and one job. If the cache cannot be told, the acknowledgement
waits until whatever it may still serve has run out.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence

from paystate.batch import Batcher, Receiver
from paystate.cache.statuses import StatusCache
from paystate.errors import CacheUnavailable, QueueUnavailable
from paystate.keys import Entity
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.queue import Queue
from paystate.store import NewEvent, Recorded, Store
from paystate.updates import Api, Event, Ignored, Overlay, PaymentUpdate

__all__ = ["Recorder", "disputed", "new_event", "observation", "silence"]

log = logger()

# Events in one commit. More wait longer for each other; fewer pay for more commits.
BATCH = 200


def _event_key(*parts: str) -> str:
    """Return one key for what makes an event that event; no two lists of parts share one."""
    joined = "".join([f"{len(part)}:{part}" for part in parts])
    if joined.isascii():  # then letters are bytes
        return hashlib.sha256(joined.encode()).hexdigest()
    encoded = [part.encode() for part in parts]
    return hashlib.sha256(b"".join([b"%d:%b" % (len(raw), raw) for raw in encoded])).hexdigest()


def _claim(subject: PaymentUpdate | Overlay) -> str:
    """Return what else a body claims that is compared with the provider's answer."""
    own_id = subject.overlay_id if isinstance(subject, Overlay) else None
    return repr((own_id, subject.tx_ref, subject.amount, subject.currency, subject.flaws))


def new_event(merchant: str, event: Event) -> NewEvent:
    """Return the inbox row for a webhook.

    Its key holds the merchant, the API, the provider's event id or the body's hash, and all that
    it is judged by: the same event with another status is another event, and a forged one that
    borrows a genuine one's id and changes its amount does not take its place.
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
        _claim(subject),
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


def observation(
    merchant: str, update: PaymentUpdate, version: int | str, *, type_: str = "verify"
) -> NewEvent:
    """Return the inbox row for an answer of the provider's that differs from what we have.

    Its key holds the version that it was compared with (or what else makes it that difference), so
    that many who see the same at once record it once. `type_` says who asked.
    """
    key = _event_key(
        merchant, Api.VERIFY, update.kind, update.payment_id, update.status, str(version)
    )
    return NewEvent(
        merchant=merchant,
        api=Api.VERIFY,
        type=type_,
        event_key=key,
        subject="payment",
        entity=Entity.payment(merchant, update.kind, update.payment_id),
        tx_ref=update.tx_ref,
        content=update.to_json(),
    )


def disputed(merchant: str, overlay: Overlay) -> NewEvent:
    """Return the inbox row for a chargeback that stands in the provider's list.

    Its key holds how far it has come, so that whoever reads it again records it once.
    """
    key = _event_key(
        merchant, Api.VERIFY, overlay.kind, overlay.payment_id, overlay.type, overlay.overlay_id,
        overlay.provider_status, overlay.status, str(overlay.amount),
    )  # fmt: skip
    return NewEvent(
        merchant=merchant,
        api=Api.VERIFY,
        type="listing",
        event_key=key,
        subject="overlay",
        entity=Entity.payment(merchant, overlay.kind, overlay.payment_id),
        content=overlay.to_json(),
    )


def silence(entity: Entity, version: int) -> NewEvent:
    """Return the inbox row that says that nothing has been heard of `entity` for long.

    Its key holds the version: as long as nothing changes, it is said once.
    """
    return NewEvent(
        merchant=entity.merchant,
        api=Api.RECONCILER,
        type="silence",
        event_key=_event_key(entity.merchant, Api.RECONCILER, entity.row_key, str(version)),
        subject="silence",
        entity=entity,
        content={},
    )


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
        self._commits = self._batcher(self._tell_and_enqueue)
        self._observations = self._batcher(self._tell)

    def _batcher(
        self, then: Callable[[Sequence[NewEvent], Sequence[Recorded]], Awaitable[None]]
    ) -> Batcher[NewEvent, Recorded]:
        # SQLite has one writer at a time; PostgreSQL commits two batches side by side.
        writers = 1 if self._store.dialect == "sqlite" else 2
        return Batcher(self._store.acknowledge, most=BATCH, in_flight=writers, then=then)

    async def record(self, event: NewEvent, *, enqueue: bool = True) -> Recorded:
        """Record `event` and return once it may be acknowledged.

        A caller that is cancelled does not undo what is being committed. Raises StoreUnavailable if
        it could not be committed: then it must not be acknowledged.
        """
        return await (self._commits if enqueue else self._observations)(event)

    def submit(self, event: NewEvent, receiver: Receiver[Recorded]) -> None:
        """Give `receiver` what `record` returns or raises, without a task to wait in."""
        self._commits.put(event, receiver)

    async def _tell(self, _: Sequence[NewEvent], recorded: Sequence[Recorded]) -> None:
        """Mark what a commit has changed; where that cannot be, wait out what may be served."""
        committed = self._clock()
        states = [state for one in recorded for state in one.states]
        changes = [change for one in recorded for change in one.changes]
        if not states:
            return
        try:
            await self._cache.announce(states, changes)
        except CacheUnavailable:
            log.warning("mark_failed", entities=len(states), lease_ms=self._cache.lease_ms)
            wait_s = self._cache.run_out_s - (self._clock() - committed)
            if wait_s > 0:
                await self._sleep(wait_s)

    async def _tell_and_enqueue(
        self, events: Sequence[NewEvent], recorded: Sequence[Recorded]
    ) -> None:
        await asyncio.gather(self._tell(events, recorded), self._enqueue(recorded))

    async def _enqueue(self, recorded: Sequence[Recorded]) -> None:
        ids = [one.inbox_id for one in recorded if one.inbox_id is not None]
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
        await self._observations.drain()
