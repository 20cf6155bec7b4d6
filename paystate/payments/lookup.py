"""Look up: cache, then database, then, where it is worth it, the provider.

An answer is only ever one that is proven: a cache entry that the protocol vouches for, or a row of
the primary. A row cannot be stale: it is `processing` from the moment a webhook is acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from paystate.batch import Coalescer
from paystate.cache.statuses import Miss, StatusCache
from paystate.errors import PaymentNotFound
from paystate.keys import Entity, EntityKind
from paystate.observability import Metrics
from paystate.payments.answers import Source, StatusAnswer, from_cache, from_database
from paystate.payments.asking import Asker, Outcome
from paystate.state import EntityState
from paystate.status import Status
from paystate.store import Store

__all__ = ["Lookups"]

_UNSETTLED = frozenset({Status.UNKNOWN, Status.PENDING, Status.PROCESSING})


class Lookups:
    """Answers questions; one for each process. `now_ms` is the wall clock, ms since the epoch."""

    def __init__(
        self,
        store: Store,
        cache: StatusCache,
        asker: Asker,
        metrics: Metrics,
        *,
        recheck_s: int,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._cache = cache
        self._asker = asker
        self._metrics = metrics
        self._recheck_ms = recheck_s * 1000
        self._now_ms = now_ms
        # One query at a time for each process: a stampede on pending payments becomes one query
        # that is larger, never a second one beside it.
        self._rows: Coalescer[Entity, EntityState] = Coalescer(self._load, most=500)
        self._fills: set[asyncio.Task[Any]] = set()

    async def _load(self, entities: Sequence[Entity]) -> dict[Entity, EntityState]:
        self._metrics.database_reads.inc()
        return await self._store.states(entities)

    async def payment(
        self, merchant: str, payment_id: str, kind: EntityKind | None, *, min_version: int = 0
    ) -> StatusAnswer:
        """Return the status of a payment; without `kind`, of the charge, else of the transfer.

        A cached answer below `min_version` is not used. Raises PaymentNotFound and
        StoreUnavailable.
        """
        if kind is not None:
            return await self.status(Entity(merchant, kind, payment_id), min_version=min_version)
        charge = Entity(merchant, EntityKind.CHARGE, payment_id)
        transfer = Entity(merchant, EntityKind.TRANSFER, payment_id)
        hit = await self._cached(charge, min_version)
        if isinstance(hit, StatusAnswer):
            return hit
        rows = await asyncio.gather(self._rows(charge), self._rows(transfer))
        if rows[0] is None and (rows[1] is not None or payment_id.startswith("trf_")):
            return await self._uncached(transfer, rows[1], None)
        return await self._uncached(charge, rows[0], hit)

    async def status(self, entity: Entity, *, min_version: int = 0) -> StatusAnswer:
        """Return the status of a charge, transfer or reference.

        A cached answer below `min_version` is not used. Raises PaymentNotFound and
        StoreUnavailable.
        """
        hit = await self._cached(entity, min_version)
        if isinstance(hit, StatusAnswer):
            return hit
        return await self._uncached(entity, await self._rows(entity), hit)

    async def _cached(self, entity: Entity, min_version: int) -> StatusAnswer | str | None:
        """Return the cache's answer, or the token to fill it with, or None.

        The token is granted before the database is read, or it would prove nothing.
        """
        found = await self._cache.read(entity)
        if isinstance(found, Miss):
            return found.take_token()
        return self._count(from_cache(entity, found)) if found.version >= min_version else None

    async def _uncached(
        self, entity: Entity, state: EntityState | None, token: str | None
    ) -> StatusAnswer:
        if state is not None and not self._worth_asking(state):
            self._offer(state, token)
            return self._count(from_database(state, self._now_ms(), Source.DATABASE))
        asked = await self._asker.ask(entity, state)
        # The question took its time, and a webhook may have been acknowledged meanwhile: what was
        # read before it is no answer any more.
        read_ms = self._now_ms()
        state = await self._rows(entity)
        if state is None:
            raise _not_found(asked.outcome, asked.retry_after_s)
        answered = asked.outcome is Outcome.ANSWERED
        source = Source.PROVIDER if answered and asked.just_now else Source.DATABASE
        answer = from_database(state, read_ms, source)
        unsure = asked.outcome is Outcome.FAILED or (state.shown is Status.UNKNOWN and not answered)
        if unsure and state.status in _UNSETTLED:
            return self._count(answer.stale(asked.retry_after_s))
        if asked.outcome is not Outcome.ASKING:
            self._offer(state, token)  # what is kept would be served as fresh
        return self._count(answer)

    def _worth_asking(self, state: EntityState) -> bool:
        """Say whether the provider may know more than the row: nothing is on its way, and it is
        unsettled, and old (or of unknown status, which only the provider can mend).

        What is held waits for a person, but the payment need not: an event that was forged must
        not keep it from settling.
        """
        if state.open_events or state.status not in _UNSETTLED:
            return False
        old = self._now_ms() - state.changed_ms > self._recheck_ms
        return old or (state.status is Status.UNKNOWN and not state.held)

    def _offer(self, state: EntityState, token: str | None) -> None:
        """Fill the cache behind the answer's back."""
        if token is None and state.status is not Status.SUCCESSFUL:
            return
        task = asyncio.get_running_loop().create_task(self._cache.fill(state, token))
        self._fills.add(task)
        task.add_done_callback(self._fills.discard)

    def _count(self, answer: StatusAnswer) -> StatusAnswer:
        self._metrics.lookups.labels(answer.source, str(answer.fresh).lower()).inc()
        return answer

    async def drain(self) -> None:
        """Wait until nothing is under way any more."""
        while self._fills:
            await asyncio.wait(self._fills)


def _not_found(outcome: Outcome, retry_after_s: float | None) -> PaymentNotFound:
    if outcome in (Outcome.ASKING, Outcome.FAILED):
        return PaymentNotFound(
            "unknown_and_unverified",
            "nothing is known of it here, and Flutterwave could not be asked yet; ask again",
            retry_after_s=retry_after_s or 1.0,
        )
    return PaymentNotFound("unknown_payment", "neither we nor Flutterwave know it")
