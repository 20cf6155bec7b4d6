"""Settle: from recorded events to committed statuses that everyone can see.

Claim, confirm, mark, commit, put and publish. Each row of a batch ends by itself: what the provider
cannot confirm now, or the database refuses, is put off alone. Every step may die and be done again;
the inbox row stays open until the transaction that ends it has committed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from paystate.backoff import delay_s
from paystate.cache.statuses import StatusCache
from paystate.errors import CacheUnavailable, ProviderRejected, ProviderUnavailable
from paystate.flutterwave.client import FlutterwaveClient
from paystate.flutterwave.gate import Purpose
from paystate.keys import Entity
from paystate.merchants import Confirm
from paystate.observability import Metrics, logger, place_of
from paystate.payments.deciding import (
    NOT_ASKED,
    UNVERIFIABLE,
    Answer,
    Retry,
    decide,
    decide_refund,
    needs_provider,
    subject_of,
)
from paystate.payments.recording import LEASES_TO_WAIT
from paystate.state import EntityState
from paystate.status import Status
from paystate.store import Claimed, Decision, Ending, RefusedDecision, Settled, Store
from paystate.updates import Kind, Overlay, OverlayType

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
# One merchant's provider may be slow, and must leave room for the others'.
CONFIRMATIONS_AT_ONCE = 64
CONFIRMATIONS_OF_ONE_MERCHANT = 16
# While the database works on one, this process prepares the next; more only hold locks longer.
COMMITS_AT_ONCE = 2
# No question is begun later than this after the claim: an answer may take the provider's timeout,
# and all of it must fit into a job. What was not asked is let go of, and taken again at once.
LAST_QUESTION_S = 2.5
# A question can take several calls (a token, a refund); what is left is for the commit.
LAST_ANSWER_S = 10.5


UNKNOWN_MERCHANT = ProviderUnavailable("unknown_merchant", "no such merchant is configured")

_FOR_A_PERSON = frozenset({Ending.HELD, Ending.DEAD, Ending.CONTRADICTED})


@dataclass(frozen=True, slots=True)
class Provider:
    """One merchant's provider: its client, when it must be asked, and whether it can be at all.

    `places` are those for its confirmations under way at once.
    """

    client: FlutterwaveClient
    confirm: Confirm
    has_credentials: bool
    places: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(CONFIRMATIONS_OF_ONE_MERCHANT), compare=False
    )


class _Work:
    """The rows of one claim, and when (by the settler's clock) they were claimed."""

    def __init__(self, rows: Sequence[Claimed], claimed_at: float) -> None:
        self.rows = {row.id: row for row in rows}
        self.claimed_at = claimed_at


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
        self._commits = asyncio.Semaphore(COMMITS_AT_ONCE)

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
        """Settle claimed rows, each payment as soon as its answer is there."""
        if not rows:
            return 0
        work = _Work(rows, self._clock())
        states = await self._store.states([row.entity for row in rows])
        by_entity: dict[Entity, list[Claimed]] = {}
        for row in rows:
            by_entity.setdefault(row.entity, []).append(row)
        # What nobody must be asked about is decided at once, and so is settled first.
        verdicts: list[Decision | Retry] = []
        judging = set()
        for entity, mine in by_entity.items():
            state = states.get(entity)
            asking = self._asking(mine, state, verdicts)
            if asking and state is not None:
                judging.add(asyncio.ensure_future(self._judge(asking, state, work)))
        ended = 0
        try:
            while True:
                await self._put_off([v for v in verdicts if isinstance(v, Retry)])
                ended += await self._apply([v for v in verdicts if isinstance(v, Decision)], work)
                if not judging:
                    break
                # While one batch is applied the next answers come in and make the next batch.
                done, judging = await asyncio.wait(judging, return_when=asyncio.FIRST_COMPLETED)
                verdicts = [verdict for task in done for verdict in task.result()]
        finally:
            for task in judging:
                task.cancel()
        return ended

    # --- confirm ---

    def _asking(
        self,
        rows: Sequence[Claimed],
        state: EntityState | None,
        verdicts: list[Decision | Retry],
    ) -> list[Claimed]:
        """Return those rows of one payment that the provider must be asked about; decide the rest.

        What is decided is added to `verdicts`.
        """
        if state is None:  # acknowledging made the row; without it nothing can be said
            verdicts += [self._failure(row, "entity_missing") for row in rows]
            return []
        provider = self._providers.get(state.entity.merchant)
        if provider is None:
            # Taken out of the merchants file, or not yet read in here. What it asks for before it
            # believes a webhook nobody knows, so its events wait.
            verdicts += [self._outage(row, UNKNOWN_MERCHANT) for row in rows]
            return []
        asking = []
        for row in rows:
            try:
                if provider.has_credentials and needs_provider(row, state, provider.confirm):
                    asking.append(row)
                else:
                    verdicts.append(decide(row, state, NOT_ASKED, draw=self._draw()))
            except Exception as e:
                verdicts += self._undecidable([row], e)
        return asking

    def _undecidable(self, rows: Sequence[Claimed], error: Exception) -> list[Decision | Retry]:
        """Put rows off in which something is wrong: it must not stop the others of the batch."""
        log.error("event_undecidable", inbox_ids=[row.id for row in rows],
                  error=type(error).__name__, where=place_of(error))  # fmt: skip
        return [self._failure(row, "undecidable") for row in rows]

    async def _judge(
        self, rows: Sequence[Claimed], state: EntityState, work: _Work
    ) -> list[Decision | Retry]:
        """Decide the rows of one payment, with at most one question to the provider."""
        try:
            provider = self._providers.get(state.entity.merchant)
            if provider is None:  # since a moment ago
                return [self._outage(row, UNKNOWN_MERCHANT) for row in rows]
            return await self._confirm(provider, rows, state, work)
        except Exception as e:
            return self._undecidable(rows, e)

    async def _confirm(
        self, provider: Provider, rows: Sequence[Claimed], state: EntityState, work: _Work
    ) -> list[Decision | Retry]:
        """Decide rows by what the provider says of their payment, and of each refund."""
        async with provider.places, self._confirmations:
            if self._clock() - work.claimed_at > LAST_QUESTION_S:
                return [Retry(row.id, 0, "no_time_left") for row in rows]
            try:
                async with asyncio.timeout(LAST_ANSWER_S - self._clock() + work.claimed_at):
                    answer = await self._ask(provider, state)
                    return [await self._confirmed(provider, row, state, answer) for row in rows]
            except TimeoutError:
                late = ProviderUnavailable("timeout")
                self._metrics.provider_calls.labels(Purpose.CONFIRM, late.reason).inc()
                return [self._outage(row, late) for row in rows]
            except (ProviderUnavailable, ProviderRejected) as e:
                self._metrics.provider_calls.labels(Purpose.CONFIRM, e.reason).inc()
                return [self._outage(row, e) for row in rows]

    async def _confirmed(
        self, provider: Provider, row: Claimed, state: EntityState, answer: Answer
    ) -> Decision | Retry:
        subject = subject_of(row)
        if isinstance(subject, Overlay):
            askable = subject.type is OverlayType.REFUND
            if not (askable and provider.client.can_verify(subject.kind, subject.overlay_id)):
                return decide(row, state, UNVERIFIABLE, draw=self._draw())
            refund = await provider.client.refund(subject.overlay_id, purpose=Purpose.CONFIRM)
            self._metrics.provider_calls.labels(Purpose.CONFIRM, _found(refund)).inc()
            return decide_refund(row, refund, answer, draw=self._draw())
        return decide(row, state, answer, draw=self._draw())

    async def _ask(self, provider: Provider, state: EntityState) -> Answer:
        """Return what the provider says of a payment; of a successful one there is no need to."""
        kind, payment_id = Kind(state.entity.kind.value), state.entity.id
        if state.status is Status.SUCCESSFUL:
            return NOT_ASKED
        if not provider.client.can_verify(kind, payment_id):
            return UNVERIFIABLE
        answer = await provider.client.payment(kind, payment_id, purpose=Purpose.CONFIRM)
        self._metrics.provider_calls.labels(Purpose.CONFIRM, _found(answer)).inc()
        return answer

    def _outage(self, row: Claimed, error: ProviderUnavailable | ProviderRejected) -> Retry:
        age_s = max(1.0, (row.now_ms - row.received_ms) / 1000)
        wait_s = min(OUTAGE_RETRY_S, age_s) * (1 - self._draw() / 2)
        if isinstance(error, ProviderUnavailable) and error.retry_after_s is not None:
            wait_s = max(wait_s, error.retry_after_s + self._draw())
        return Retry(row.id, int(wait_s * 1000), f"provider_{error.reason}")

    def _failure(self, row: Claimed, reason: str) -> Decision | Retry:
        if row.attempts + 1 >= MAX_FAILURES:
            return Decision(row.id, row.entity, Ending.DEAD, reason)
        wait_s = delay_s(row.attempts + 1, first_s=1, most_s=60, draw=self._draw())
        return Retry(row.id, int(wait_s * 1000), reason, counted=True)

    async def _put_off(self, retries: Sequence[Retry]) -> None:
        groups: dict[tuple[int, str, bool], list[int]] = {}
        for retry in retries:
            # Waits within a quarter of a second are one: an outage puts off a thousand at once.
            wait_ms = -(-retry.wait_ms // 250) * 250
            groups.setdefault((wait_ms, retry.reason, retry.counted), []).append(retry.inbox_id)
            self._metrics.event_retries.labels(retry.reason).inc()
        for (wait_ms, reason, counted), ids in groups.items():
            await self._store.defer(
                self._holder, ids, wait_ms=wait_ms, reason=reason, counted=counted
            )
            log.info("events_put_off", events=len(ids), wait_ms=wait_ms, reason=reason)

    # --- write through ---

    async def _apply(self, decisions: Sequence[Decision], work: _Work) -> int:
        if not decisions:
            return 0
        ended = 0
        refused: list[Decision | Retry] = []
        failure: Exception | None = None
        for result in await self._commit(decisions, work):
            if isinstance(result, Settled):
                ended += len(result.endings)
                await self._tell(result)
                # Open where they belong now, and since just now: so counts the wait for leases.
                since = _Work(list(work.rows.values()), self._clock())
                ended += await self._apply(result.opened, since)
            elif isinstance(result, RefusedDecision):
                row = work.rows[result.decision.inbox_id]
                log.error("decision_refused", inbox_id=row.id, error=str(result))
                if result.decision.reason != "refused_by_database":
                    refused.append(self._failure(row, "refused_by_database"))
            elif isinstance(result, Exception):
                failure = result
        await self._put_off([r for r in refused if isinstance(r, Retry)])
        ended += await self._apply([r for r in refused if isinstance(r, Decision)], work)
        if failure is not None:
            raise failure
        return ended

    async def _commit(
        self, decisions: Sequence[Decision], work: _Work
    ) -> list[Settled | Exception]:
        """Commit with the mark before it; where the cache cannot be told, wait out its leases.

        The wait is counted from the claim. The events were open by then, so every reader of the
        database since has seen them so, and stored nothing; what was stored before has run out.
        """
        try:
            async with self._commits:
                return await self._store.settle(decisions, self._cache.mark)
        except CacheUnavailable:
            lease_s = LEASES_TO_WAIT * self._cache.lease_ms / 1000
            wait_s = max(0.0, lease_s - (self._clock() - work.claimed_at))
            log.warning("mark_failed", events=len(decisions), waiting_s=round(wait_s, 3))
            if wait_s:
                await self._sleep(wait_s)
            # Of these openings alone: a claim may have outlived one, and then its event was not
            # open, and not seen to be, since before the claim.
            openings = [
                replace(decision, opened_ms=work.rows[decision.inbox_id].received_ms)
                for decision in decisions
            ]
            async with self._commits:
                return await self._store.settle(openings, _unmarked)

    async def _tell(self, settled: Settled) -> None:
        try:
            await self._cache.put(settled.states, settled.changes)
        except CacheUnavailable:
            # The entries were marked, so nothing stale is served; the change log has the news.
            log.warning("put_failed", entities=len(settled.states))
        self._count(settled)

    def _count(self, settled: Settled) -> None:
        """Count what has ended, and log it: in one line, and one for each that a person wants.

        Which payment changed, when and to what is in the change log of the database.
        """
        endings = Counter(settled.endings.values())
        for (ending, reason), count in endings.items():
            self._metrics.events.labels(ending, reason or "none").inc(count)
        for waited_ms in settled.waited_ms.values():
            self._metrics.event_seconds.observe(waited_ms / 1000)
        statuses = Counter(change.status for change in settled.changes)
        for status, count in statuses.items():
            self._metrics.changes.labels(status).inc(count)
        if any(ending in _FOR_A_PERSON for ending, _ in endings):
            for inbox_id, (ending, reason) in settled.endings.items():
                if ending in _FOR_A_PERSON:
                    log.info("event_given_up", inbox_id=inbox_id, ending=ending.value,
                             reason=reason, waited_ms=settled.waited_ms[inbox_id])  # fmt: skip
        if endings:
            log.info("events_ended", events=len(settled.endings), inbox_id=min(settled.endings),
                     endings=Counter(e.value for e, _ in settled.endings.values()),
                     changes=Counter(change.status.value for change in settled.changes),
                     most_waited_ms=max(settled.waited_ms.values()))  # fmt: skip


def _found(answer: object) -> str:
    return "not_found" if answer is None else "found"


async def _unmarked(_states: Sequence[EntityState]) -> None:
    """Take the place of the mark where leases were waited out instead."""
