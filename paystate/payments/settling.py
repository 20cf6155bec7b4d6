"""Settle: from recorded events to committed statuses that everyone can see.

Look, confirm, mark, commit, put and publish. Each row of a batch ends by itself: what the provider
cannot confirm now, or the database refuses, is put off alone. Every step may die and be done again;
the inbox row stays open until the transaction that ends it has committed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from paystate.cache.statuses import StatusCache
from paystate.errors import CacheUnavailable
from paystate.keys import Entity
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.confirming import Confirmer, Provider
from paystate.payments.deciding import Retry
from paystate.payments.telling import Teller
from paystate.state import EntityState
from paystate.store import Claimed, Decision, Look, RefusedDecision, Settled, Store

__all__ = ["Provider", "Settler"]

log = logger()

# As long as a job may run, and a little: a worker that died gives its rows back after this.
CLAIM_MS = 15_000
# While the database works on one, this process prepares the next; more only hold locks longer.
COMMITS_AT_ONCE = 2
# A worker that is told to stop waits no longer than this for its claims to be released.
RELEASE_S = 2.0


class _Work:
    """Rows that were looked at together, and when (by the settler's clock) they were seen open."""

    def __init__(self, look: Look, seen_at: float) -> None:
        self.look = look
        self.rows = {row.id: row for row in look.rows}
        self.seen_at = seen_at


class Settler:
    """Settles inbox rows; one for each process, `holder` naming it in their claims.

    `sleep`, `clock` (seconds, monotonic) and `draw` (a number in [0, 1)) are parameters for tests.
    """

    _confirming: type[Confirmer] = Confirmer

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
        self._metrics = metrics
        self._holder = holder
        self._sleep = sleep
        self._clock = clock
        self._confirmer = self._confirming(
            providers,
            metrics,
            clock=lambda: self._clock(),  # noqa: PLW0108 - tests give it another later
            draw=draw,
        )
        self._teller = Teller(cache, metrics)
        self._commits = asyncio.Semaphore(COMMITS_AT_ONCE)

    async def settle(self, inbox_ids: Sequence[int]) -> int:
        """Settle those of `inbox_ids` that are due and free; return how many have ended.

        What nobody must be asked about needs no claim: an event ends once, whoever works on it.
        """
        look = await self._store.look(inbox_ids)
        work = _Work(look, self._clock())
        verdicts, asking = self._sorted(work)
        return await self._settle(work, verdicts, asking, claimed=())

    async def sweep(self, *, grace_ms: int, most: int) -> tuple[int, int]:
        """Settle rows whose job never came or died; return how many were taken, and ended."""
        claimed = await self._store.claim(
            self._holder, claim_ms=CLAIM_MS, grace_ms=grace_ms, most=most
        )
        if not claimed:
            return 0, 0
        try:
            look = await self._store.look(claimed, holder=self._holder)
            work = _Work(look, self._clock())
            verdicts, asking = self._sorted(work)
        except BaseException:
            await self._let_go(claimed)
            raise
        return len(claimed), await self._settle(work, verdicts, asking, claimed=claimed)

    def _sorted(self, work: _Work) -> tuple[list[Decision | Retry], list[list[Claimed]]]:
        """Decide what nobody must be asked about; return that, and by payment what is left."""
        by_entity: dict[Entity, list[Claimed]] = {}
        for row in work.look.rows:
            by_entity.setdefault(row.entity, []).append(row)
        verdicts: list[Decision | Retry] = []
        asking = []
        for entity, mine in by_entity.items():
            some = self._confirmer.sort(mine, work.look.states.get(entity), verdicts)
            if some:
                asking.append(some)
        return verdicts, asking

    async def _settle(
        self,
        work: _Work,
        verdicts: list[Decision | Retry],
        asking: list[list[Claimed]],
        *,
        claimed: Sequence[int],
    ) -> int:
        """Settle rows, each payment as soon as its answer is there; let go of what is not settled.

        What is asked about is claimed, unless it was `claimed` already.
        """
        judging: set[asyncio.Task[list[Decision | Retry]]] = set()
        ended = 0
        try:
            if asking and not claimed:
                claimed = [row.id for rows in asking for row in rows]
                asking = await self._claimed(asking)
            judging |= {
                asyncio.ensure_future(
                    self._confirmer.judge(rows, work.look.states[rows[0].entity], work.seen_at)
                )
                for rows in asking
            }
            while True:
                ended += await self._take(verdicts, work)
                if not judging:
                    break
                # While one batch is applied the next answers come in and make the next batch.
                done, judging = await asyncio.wait(judging, return_when=asyncio.FIRST_COMPLETED)
                verdicts = [verdict for task in done for verdict in task.result()]
        except BaseException:
            await self._let_go(claimed)
            raise
        finally:
            for task in judging:
                task.cancel()
        return ended

    async def _take(self, verdicts: Sequence[Decision | Retry], work: _Work) -> int:
        """Put off what has to wait and apply the rest; return how many have ended."""
        await self._put_off([v for v in verdicts if isinstance(v, Retry)])
        return await self._apply([v for v in verdicts if isinstance(v, Decision)], work)

    async def _claimed(self, asking: Sequence[Sequence[Claimed]]) -> list[list[Claimed]]:
        """Claim rows before the provider is asked; return those that nobody else asks about."""
        ids = [row.id for rows in asking for row in rows]
        got = set(await self._store.claim(self._holder, claim_ms=CLAIM_MS, ids=ids))
        mine = ([row for row in rows if row.id in got] for rows in asking)
        return [rows for rows in mine if rows]

    async def _let_go(self, claimed: Sequence[int]) -> None:
        """Release what was claimed and is open still: else it would wait for its claim to run out.

        As well as can be, and not for ever: where the database is away, the claims do run out.
        """
        if not claimed:
            return
        releasing = asyncio.ensure_future(self._store.release(self._holder, claimed))
        await asyncio.wait([releasing], timeout=RELEASE_S)
        if not releasing.done() or releasing.cancelled() or releasing.exception() is not None:
            releasing.cancel()
            log.warning("claims_kept", events=len(claimed))

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
        """Commit, the mark before it; where the cache cannot be told, wait out its leases."""
        if not decisions:
            return 0
        results: list[Settled | Exception]
        try:
            async with self._commits:
                results = await self._store.settle(
                    decisions, self._cache.mark, look=work.look, holder=self._holder
                )
        except CacheUnavailable as e:
            results = [e]
        ended = await self._follow(results, work)
        if any(isinstance(result, CacheUnavailable) for result in results):
            done = _done(results)
            rest = [decision for decision in decisions if decision.inbox_id not in done]
            ended += await self._apply_unmarked(rest, work)
        return ended

    async def _apply_unmarked(self, decisions: Sequence[Decision], work: _Work) -> int:
        """Commit without a mark, once nothing that was stored before can be served any more.

        The wait is counted from when the events were seen open. Every reader of the database since
        has seen them so, and stored nothing; what was stored before has run out.
        """
        lease_s = self._cache.run_out_s
        wait_s = max(0.0, lease_s - (self._clock() - work.seen_at))
        log.warning("mark_failed", events=len(decisions), waiting_s=round(wait_s, 3))
        if wait_s:
            await self._sleep(wait_s)
        # Of these openings alone: an event that ended and was opened again since was not open,
        # and not seen to be, all the time.
        openings = [
            decision._replace(opened_ms=work.rows[decision.inbox_id].received_ms)
            for decision in decisions
        ]
        async with self._commits:
            results = await self._store.settle(openings, _unmarked, holder=self._holder)
        return await self._follow(results, work)

    async def _follow(self, results: Sequence[Settled | Exception], work: _Work) -> int:
        """Tell what was committed and put off what was refused; return how many have ended.

        Raises what kept a part from being applied, but for a cache that could not be told.
        """
        ended = 0
        refused: list[Decision | Retry] = []
        failure: Exception | None = None
        for result in results:
            if isinstance(result, Settled):
                ended += len(result.endings)
                await self._teller.tell(result)
                # Open where they belong now, and since just now: so counts the wait for leases.
                since = _Work(work.look, self._clock())
                ended += await self._apply(result.opened, since)
            elif isinstance(result, RefusedDecision):
                row = work.rows[result.decision.inbox_id]
                log.error("decision_refused", inbox_id=row.id, error=str(result))
                if result.decision.reason != "refused_by_database":
                    refused.append(self._confirmer.failure(row, "refused_by_database"))
            elif not isinstance(result, CacheUnavailable):
                failure = result
        await self._put_off([r for r in refused if isinstance(r, Retry)])
        ended += await self._apply([r for r in refused if isinstance(r, Decision)], work)
        if failure is not None:
            raise failure
        return ended


def _done(results: Sequence[Settled | Exception]) -> set[int]:
    """Return the inbox ids of which `results` say what became of them."""
    done: set[int] = set()
    for result in results:
        if isinstance(result, Settled):
            done |= result.endings.keys() | {decision.inbox_id for decision in result.opened}
        elif isinstance(result, RefusedDecision):
            done.add(result.decision.inbox_id)
    return done


async def _unmarked(_states: Sequence[EntityState]) -> None:
    """Take the place of the mark where leases were waited out instead."""
