"""Settle: from recorded events to committed statuses that everyone can see.

Claim, confirm, mark, commit, put and publish. Each row of a batch ends by itself: what the provider
cannot confirm now, or the database refuses, is put off alone. Every step may die and be done again;
the inbox row stays open until the transaction that ends it has committed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from paystate.backoff import delay_s
from paystate.cache import StatusCache
from paystate.errors import CacheUnavailable, ProviderRejected, ProviderUnavailable
from paystate.flutterwave.client import FlutterwaveClient
from paystate.flutterwave.gate import Purpose
from paystate.keys import Entity
from paystate.observability import Metrics, logger
from paystate.payments.deciding import NOT_ASKED, NotAsked, Retry, decide, needs_provider
from paystate.payments.recording import LEASES_TO_WAIT
from paystate.settings import Confirm
from paystate.state import EntityState
from paystate.store import Claimed, Decision, Ending, RefusedDecision, Settled, Store
from paystate.updates import Kind, PaymentUpdate

__all__ = ["Provider", "Settler"]

log = logger()

# As long as a job may run, and a little: a worker that died gives its rows back after this.
CLAIM_MS = 15_000
# A provider that is down is asked again this often at most by each row, so that everything has
# settled within 30 s of its return.
OUTAGE_RETRY_S = 12.0
# Counted attempts after which a row that only ever fails is a dead letter. Contradictions and
# unknown payments end by age instead.
MAX_FAILURES = 12
CONFIRMATIONS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Provider:
    """One merchant's provider: its client, when it must be asked, and whether by reference too."""

    client: FlutterwaveClient
    confirm: Confirm
    can_find_references: bool


class Settler:
    """Settles inbox rows; one for each process, `holder` naming it in their claims.

    `sleep`, `clock` (seconds, monotonic) and `draw` (a number in [0, 1)) are parameters for tests.
    """

    def __init__(
        self,
        store: Store,
        cache: StatusCache,
        providers: Mapping[str, Provider],
        metrics: Metrics,
        *,
        holder: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._cache = cache
        self._providers = providers
        self._metrics = metrics
        self._holder = holder
        self._sleep = sleep
        self._clock = clock
        self._draw = draw
        self._confirmations = asyncio.Semaphore(CONFIRMATIONS_AT_ONCE)

    async def settle(self, inbox_ids: Sequence[int]) -> int:
        """Settle those of `inbox_ids` that are due and free; return how many have ended."""
        return await self._settle(
            await self._store.claim(
                self._holder, claim_ms=CLAIM_MS, ids=inbox_ids, most=len(inbox_ids)
            )
        )

    async def sweep(self, *, grace_ms: int, most: int) -> tuple[int, int]:
        """Settle rows whose job never came or died; return how many were taken, and ended."""
        rows = await self._store.claim(
            self._holder, claim_ms=CLAIM_MS, grace_ms=grace_ms, most=most
        )
        return len(rows), await self._settle(rows)

    async def _settle(self, rows: Sequence[Claimed]) -> int:
        if not rows:
            return 0
        claimed_at = self._clock()
        states = await self._store.states([row.entity for row in rows])
        by_entity: dict[Entity, list[Claimed]] = {}
        for row in rows:
            by_entity.setdefault(row.entity, []).append(row)
        verdicts = await asyncio.gather(
            *(self._judge(mine, states.get(entity)) for entity, mine in by_entity.items())
        )
        decisions = [v for group in verdicts for v in group if isinstance(v, Decision)]
        retries = [v for group in verdicts for v in group if isinstance(v, Retry)]
        ended = await self._apply(decisions, rows, claimed_at) if decisions else 0
        await self._put_off(retries)
        return ended

    # --- confirm ---

    async def _judge(
        self, rows: Sequence[Claimed], state: EntityState | None
    ) -> list[Decision | Retry]:
        """Decide the rows of one payment, with at most one question to the provider."""
        if state is None:  # acknowledging made the row; without it nothing can be said
            return [Retry(row.id, 1000, "row_missing", counted=True) for row in rows]
        provider = self._providers.get(state.entity.merchant)
        asking = [r for r in rows if _must_ask(r, state, provider)]
        answer: PaymentUpdate | NotAsked | None = NOT_ASKED
        if asking and provider is not None:
            try:
                answer = await self._ask(provider, asking[0])
            except (ProviderUnavailable, ProviderRejected) as e:
                retries = [self._outage(row, e) for row in asking]
                rest = [row for row in rows if row not in asking]
                return [*retries, *(self._decide(row, state, NOT_ASKED) for row in rest)]
        return [self._decide(r, state, answer if r in asking else NOT_ASKED) for r in rows]

    def _decide(
        self, row: Claimed, state: EntityState, answer: PaymentUpdate | NotAsked | None
    ) -> Decision | Retry:
        try:
            return decide(row, state, answer, draw=self._draw())
        except (ValueError, KeyError, TypeError) as e:
            log.error("event_undecidable", inbox_id=row.id, error=type(e).__name__)
            return self._failure(row.id, row.entity, row.attempts, "undecidable")

    async def _ask(self, provider: Provider, row: Claimed) -> PaymentUpdate | None:
        kind = Kind(row.content["kind"])
        async with self._confirmations:
            try:
                answer = await provider.client.payment(kind, row.entity.id, purpose=Purpose.CONFIRM)
            except (ProviderUnavailable, ProviderRejected) as e:
                self._metrics.provider_calls.labels(Purpose.CONFIRM, e.reason).inc()
                raise
        outcome = "found" if answer else "not_found"
        self._metrics.provider_calls.labels(Purpose.CONFIRM, outcome).inc()
        return answer

    def _outage(self, row: Claimed, error: ProviderUnavailable | ProviderRejected) -> Retry:
        age_s = max(1.0, (row.now_ms - row.received_ms) / 1000)
        wait_s = min(OUTAGE_RETRY_S, age_s) * (1 - self._draw() / 2)
        if isinstance(error, ProviderUnavailable) and error.retry_after_s is not None:
            wait_s = max(wait_s, error.retry_after_s + self._draw())
        return Retry(row.id, int(wait_s * 1000), f"provider_{error.reason}")

    def _failure(
        self, inbox_id: int, entity: Entity, attempts: int, reason: str
    ) -> Decision | Retry:
        if attempts + 1 >= MAX_FAILURES:
            return Decision(inbox_id, entity, Ending.DEAD, reason)
        wait_s = delay_s(attempts + 1, first_s=1, most_s=60, draw=self._draw())
        return Retry(inbox_id, int(wait_s * 1000), reason, counted=True)

    async def _put_off(self, retries: Sequence[Retry]) -> None:
        groups: dict[tuple[int, str, bool], list[int]] = {}
        for retry in retries:
            # Waits within a quarter of a second are one: an outage puts off a thousand at once.
            wait_ms = max(250, -(-retry.wait_ms // 250) * 250)
            groups.setdefault((wait_ms, retry.reason, retry.counted), []).append(retry.inbox_id)
            self._metrics.event_retries.labels(retry.reason).inc()
        for (wait_ms, reason, counted), ids in groups.items():
            await self._store.defer(ids, wait_ms=wait_ms, reason=reason, counted=counted)
            log.info("events_put_off", events=len(ids), wait_ms=wait_ms, reason=reason)

    # --- write through ---

    async def _apply(
        self, decisions: Sequence[Decision], rows: Sequence[Claimed], claimed_at: float
    ) -> int:
        by_id = {row.id: row for row in rows}
        results = await self._commit(decisions, [by_id[d.inbox_id] for d in decisions], claimed_at)
        ended = 0
        failed: list[Decision | Retry] = []
        for result in results:
            if isinstance(result, RefusedDecision):
                row = by_id[result.decision.inbox_id]
                log.error("decision_refused", inbox_id=row.id, error=str(result))
                failed.append(
                    self._failure(row.id, row.entity, row.attempts, "refused_by_database")
                )
            elif isinstance(result, Settled):
                ended += len(result.endings)
                await self._tell(result)
        await self._put_off([f for f in failed if isinstance(f, Retry)])
        dead = [f for f in failed if isinstance(f, Decision)]
        if dead and any(d.ending is not Ending.DEAD for d in decisions):
            ended += await self._apply(dead, rows, claimed_at)
        return ended

    async def _commit(
        self, decisions: Sequence[Decision], rows: Sequence[Claimed], claimed_at: float
    ) -> list[Settled | Exception]:
        """Commit with the mark before it; where the cache cannot be told, wait out its leases.

        The wait is counted from the youngest event's arrival: since then every reader of the
        database has seen an open event, and stored nothing.
        """
        lease_s = LEASES_TO_WAIT * self._cache.lease_ms / 1000
        youngest_ms = min(row.now_ms - row.received_ms for row in rows)

        def remaining_s() -> float:
            return lease_s - youngest_ms / 1000 - (self._clock() - claimed_at)

        async def mark(states: Sequence[EntityState]) -> None:
            try:
                await self._cache.mark(states)
            except CacheUnavailable:
                if remaining_s() > 0:
                    raise

        try:
            return await self._store.settle(decisions, mark)
        except CacheUnavailable:
            log.warning("mark_failed", entities=len(decisions), waiting_s=round(remaining_s(), 3))
            await self._sleep(max(0.0, remaining_s()))
            return await self._store.settle(decisions, mark)

    async def _tell(self, settled: Settled) -> None:
        for inbox_id, (ending, reason) in settled.endings.items():
            self._metrics.events.labels(ending, reason or "none").inc()
            self._metrics.event_seconds.observe(settled.waited_ms[inbox_id] / 1000)
            log.info("event_ended", inbox_id=inbox_id, ending=ending.value, reason=reason or None,
                     waited_ms=settled.waited_ms[inbox_id])  # fmt: skip
        for change in settled.changes:
            self._metrics.changes.labels(change.status).inc()
            log.info("payment_changed", kind=change.entity.kind.value, id=change.entity.id,
                     merchant=change.entity.merchant, status=change.status.value,
                     version=change.version)  # fmt: skip
        try:
            await self._cache.put(settled.states, settled.changes)
        except CacheUnavailable:
            # The entries were marked, so nothing stale is served; the change log has the news.
            log.warning("put_failed", entities=len(settled.states))


def _must_ask(row: Claimed, state: EntityState, provider: Provider | None) -> bool:
    if provider is None or not needs_provider(row, state, provider.confirm):
        return False
    return provider.client.can_verify(Kind(row.content["kind"]), row.entity.id)
