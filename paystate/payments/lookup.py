"""Look up: cache, then database, then, where it is worth it, the provider.

An answer is only ever one that is proven: a cache entry that the protocol vouches for, or a row of
the primary. A row cannot be stale: it is `processing` from the moment a webhook is acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from prometheus_client import Counter

from paystate.batch import Batcher, Coalescer
from paystate.cache.answers import Miss
from paystate.cache.statuses import StatusCache
from paystate.errors import PaymentNotFound
from paystate.keys import Entity, EntityKind
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.near import NearCache, Ticket
from paystate.payments.answers import Source, StatusAnswer, from_cache, from_database
from paystate.payments.asking import Asker, Outcome
from paystate.payments.interest import Interest
from paystate.state import EntityState
from paystate.status import Status
from paystate.store import Store

__all__ = ["Lookups"]

log = logger()

# Versions remembered as marked. What is forgotten is marked once more.
FORESTALLED = 10_000

_UNSETTLED = frozenset({Status.UNKNOWN, Status.PENDING, Status.PROCESSING})


class _Forestalled(NamedTuple):
    """A version that this process marks, and when it may be told: at once (0), or at a time.

    The time is of the process's `clock`, in seconds.
    """

    version: int
    safe_at: asyncio.Future[float]


class Lookups:
    """Answers questions; one for each process.

    `now_ms` is the wall clock, ms since the epoch; `pace_s` the least time between two queries of
    the database; `interest` is told what unsettled payments are asked for. `sleep` and `clock`
    (seconds, monotonic) are parameters for tests.
    """

    def __init__(
        self,
        store: Store,
        cache: StatusCache,
        asker: Asker,
        metrics: Metrics,
        *,
        recheck_s: int,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        near: NearCache[StatusAnswer] | None = None,
        pace_s: float = 0.0,
        interest: Interest | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cache = cache
        self._asker = asker
        self._metrics = metrics
        self._recheck_ms = recheck_s * 1000
        self._now_ms = now_ms
        self._near = near if near is not None else NearCache(0, clock=time.monotonic)
        self._counters: dict[tuple[Source, bool], Counter] = {}
        self._near_hits = metrics.lookups.labels("near", "true")
        # One query at a time for each process: a stampede on pending payments becomes one query
        # that is larger, never a second one beside it.
        self._rows: Coalescer[Entity, EntityState] = Coalescer(self._load, most=500, pace_s=pace_s)
        self._fills: set[asyncio.Future[str]] = set()
        self._marks: Batcher[EntityState, float] = Batcher(self._mark, most=256, in_flight=2)
        self._forestalled: dict[Entity, _Forestalled] = {}
        self._interest = interest
        self._sleep = sleep
        self._clock = clock

    async def _load(self, entities: Sequence[Entity]) -> dict[Entity, EntityState]:
        self._metrics.database_reads.inc()
        return await self._store.states(entities)

    def near(self, key: str, *, min_version: int = 0) -> StatusAnswer | None:
        """Return the successful answer that this process holds of an entity, by its `row_key`."""
        answer = self._near.get(key)
        if answer is None or answer.version < min_version:
            return None
        self._near_hits.inc()
        return answer

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
        ticket = self._near.ticket()
        hit = await self._cached(charge, min_version, ticket)
        if isinstance(hit, StatusAnswer):
            return hit
        row = await self._rows(charge)
        if row is not None:
            return await self._uncached(charge, row, hit, ticket)
        transfer = Entity(merchant, EntityKind.TRANSFER, payment_id)
        other = await self._rows(transfer)
        if other is not None or payment_id.startswith("trf_"):
            if other is not None and other.status is Status.UNKNOWN:
                # Nobody has confirmed it: a forged transfer must not stand before a charge.
                with suppress(PaymentNotFound):
                    return await self._uncached(charge, None, hit, ticket)
            return await self._uncached(transfer, other, None, ticket)
        return await self._uncached(charge, None, hit, ticket)

    async def status(self, entity: Entity, *, min_version: int = 0) -> StatusAnswer:
        """Return the status of a charge, transfer or reference.

        A cached answer below `min_version` is not used. Raises PaymentNotFound and
        StoreUnavailable.
        """
        ticket = self._near.ticket()
        hit = await self._cached(entity, min_version, ticket)
        if isinstance(hit, StatusAnswer):
            return hit
        return await self._uncached(entity, await self._rows(entity), hit, ticket)

    async def recorded(self, entity: Entity) -> StatusAnswer | None:
        """Return the status as it is recorded, without a question to the provider.

        For lists: a page of abandoned checkouts must not cost a question for each. Where the
        provider would have been asked the answer is not `fresh`. None if nothing is known of
        `entity`. Raises StoreUnavailable.
        """
        ticket = self._near.ticket()
        hit = await self._cached(entity, 0, ticket)
        if isinstance(hit, StatusAnswer):
            return hit
        state = await self._rows(entity)
        if state is None:
            return None
        if self._worth_asking(state):  # not offered to the cache either: there it would be fresh
            return self._count(from_database(state, self._now_ms(), Source.DATABASE).stale(None))
        return await self._from_row(state, hit, ticket)

    async def _cached(
        self, entity: Entity, min_version: int, ticket: Ticket
    ) -> StatusAnswer | str | None:
        """Return what is held near or in the cache, or the token to fill that with, or None.

        The token is granted before the database is read, or it would prove nothing.
        """
        near = self.near(entity.row_key, min_version=min_version)
        if near is not None:
            return near
        found = await self._cache.read(entity)
        if isinstance(found, Miss):
            return found.take_token()
        if found.version < min_version:
            return None
        return self._keep(self._count(from_cache(entity, found)), ticket)

    def _keep(self, answer: StatusAnswer, ticket: Ticket) -> StatusAnswer:
        """Hold a successful answer near; nothing else is ever held there."""
        if answer.status is Status.SUCCESSFUL:
            self._near.put(answer.entity.row_key, answer.version, answer.from_near(), ticket)
        return answer

    async def _uncached(
        self, entity: Entity, state: EntityState | None, token: str | None, ticket: Ticket
    ) -> StatusAnswer:
        if self._interest is not None and state is not None and state.status in _UNSETTLED:
            self._interest.note(entity)
        if state is not None and not self._worth_asking(state):
            return await self._from_row(state, token, ticket)
        asked = await self._asker.ask(entity, state)
        # The question took its time, and a webhook may have been acknowledged meanwhile: what was
        # read before it is no answer any more.
        read_ms = self._now_ms()
        state = await self._rows(entity)
        if state is None:
            raise _not_found(asked.outcome, asked.retry_after_s)
        state, as_of_ms = await self._forestall(state, read_ms)
        answered = asked.outcome is Outcome.ANSWERED
        source = Source.PROVIDER if answered and asked.just_now else Source.DATABASE
        answer = from_database(state, as_of_ms, source)
        unsure = asked.outcome is Outcome.FAILED or (state.shown is Status.UNKNOWN and not answered)
        if unsure and state.status in _UNSETTLED:
            return self._count(answer.stale(asked.retry_after_s))
        if asked.outcome is not Outcome.ASKING:
            self._offer(state, token)  # what is kept would be served as fresh
        return self._count(answer)

    async def _from_row(
        self, state: EntityState, token: str | None, ticket: Ticket
    ) -> StatusAnswer:
        state, as_of_ms = await self._forestall(state, self._now_ms())
        self._offer(state, token)
        answer = self._count(from_database(state, as_of_ms, Source.DATABASE))
        return self._keep(answer, ticket)

    async def _forestall(self, state: EntityState, as_of_ms: int) -> tuple[EntityState, int]:
        """Return what may be told in place of `state`, and when that was read; mostly the same.

        Between a webhook's commit and its mark another reader may hold a token, and have read the
        row from before. If it filled now, the caller would be told the earlier status next. So
        whoever would tell a version with an event open marks it first, once for each process; where
        the cache cannot be told, which others may reach, leases are waited out. That the caller
        holds a token itself helps nobody: it may have been forgotten, and given to another.

        What is `successful` is no other version for an event that is open.
        """
        safe = 0
        while (
            state.open_events
            and state.version > safe
            and state.status is not Status.SUCCESSFUL
            and self._cache.lease_ms
        ):
            known = self._marking(state)
            in_time = known.safe_at.done()
            safe, safe_at = known.version, await asyncio.shield(known.safe_at)
            wait_s = max(0.0, safe_at - self._clock())
            if wait_s or (safe_at and not in_time):  # to try has taken time as well
                await self._sleep(wait_s)
                as_of_ms = self._now_ms()
                state = await self._rows(state.entity) or state
        return state, as_of_ms

    def _marking(self, state: EntityState) -> _Forestalled:
        """Return what has become of marking this version; whoever comes first begins it."""
        known = self._forestalled.get(state.entity)
        if known is None or known.version < state.version or _failed(known.safe_at):
            known = _Forestalled(state.version, self._marks.submit(state))
            self._forestalled[state.entity] = known
            if len(self._forestalled) > FORESTALLED:
                del self._forestalled[next(iter(self._forestalled))]
        return known

    async def _mark(self, states: Sequence[EntityState]) -> list[float]:
        """Mark what has been read; return from when on each may be told, in `clock` seconds."""
        read_at = self._clock()
        sure = await self._cache.mark_each(states)
        if not all(sure):
            wait_s = self._cache.run_out_s
            log.warning("mark_failed", entities=sure.count(False), waiting_s=round(wait_s, 3))
        return [0.0 if marked else read_at + self._cache.run_out_s for marked in sure]

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
        offered = self._cache.offer(state, token)
        if offered is not None:
            self._fills.add(offered)
            offered.add_done_callback(self._fills.discard)

    def _count(self, answer: StatusAnswer) -> StatusAnswer:
        counter = self._counters.get((answer.source, answer.fresh))
        if counter is None:
            counter = self._metrics.lookups.labels(answer.source, str(answer.fresh).lower())
            self._counters[answer.source, answer.fresh] = counter
        counter.inc()
        return answer

    async def drain(self) -> None:
        """Wait until nothing is under way any more."""
        await self._marks.drain()
        while self._fills:
            await asyncio.wait(self._fills)


def _failed(future: asyncio.Future[float]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)


def _not_found(outcome: Outcome, retry_after_s: float | None) -> PaymentNotFound:
    if outcome in (Outcome.ASKING, Outcome.FAILED):
        return PaymentNotFound(
            "unknown_and_unverified",
            "nothing is known of it here, and Flutterwave could not be asked yet; ask again",
            retry_after_s=retry_after_s or 1.0,
        )
    said = "neither we nor Flutterwave know it"
    if outcome is Outcome.IMPOSSIBLE:
        said = "nothing is known of it here, and there are no credentials to ask Flutterwave with"
    return PaymentNotFound("unknown_payment", said)
