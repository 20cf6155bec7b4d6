"""Ask about one thing that has not settled, and say what came of it and when to ask again.

What the provider does not know for very long becomes `unknown`, and what it goes on calling pending
stays so. Either is flagged for a person. Silence is never a failure.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.gate import Purpose
from paystate.keys import Entity
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.observing import Observation, Observer
from paystate.payments.recording import Recorder, silence
from paystate.payments.report import ENOUGH, Report
from paystate.payments.settling import Provider, Settler
from paystate.state import EntityState
from paystate.status import Status, is_terminal
from paystate.store import Store
from paystate.store.unsettled import Check, Checked
from paystate.updates import Api, Kind, PaymentUpdate

__all__ = ["Batch", "Checker", "Subject", "gap_s"]

log = logger()

AT_ONCE = 8
MOST_GAP_S = 30 * 24 * 3600.0
# So many in a row without an answer, and the others are left for the next pass.
MOST_FAILURES = 3

NOT_FOUND, IMPOSSIBLE, SETTLED, OPEN = "not_found", "impossible", "settled", "open"
# One API of it is down, or would refuse everything.
_CLOSED = frozenset({"breaker_open", "credentials"})
# What is asked of such an API while the other answers is asked about again after this, in ms.
CLOSED_MS = 60_000


def gap_s(age_s: float, *, least_s: float, draw: float) -> float:
    """Return the seconds until something of this age is asked about again; `draw` in [0, 1)."""
    return min(MOST_GAP_S, max(least_s, age_s)) * (0.95 + draw / 10)


class Checker:
    """Asks, and brings in what was said. `silence_s`: the age at which something is flagged."""

    def __init__(
        self,
        store: Store,
        providers: Mapping[str, Provider],
        recorder: Recorder,
        settler: Settler,
        metrics: Metrics,
        *,
        silence_s: int,
    ) -> None:
        self._store = store
        self._providers = providers
        self._recorder = recorder
        self._settler = settler
        self._observer = Observer(store, recorder, settler)
        self._metrics = metrics
        self._silence_ms = silence_s * 1000

    def apis(self, merchant: str) -> tuple[Api, ...]:
        """Return the APIs that a merchant can be asked about by."""
        provider = self._providers.get(merchant)
        return provider.client.apis if provider is not None else ()

    async def ask(self, entity: Entity) -> PaymentUpdate | str | None:
        """Return what the provider says, None if it knows nothing, or that it cannot be asked.

        Raises ProviderUnavailable and ProviderRejected.
        """
        provider = self._providers.get(entity.merchant)
        if provider is None or not provider.has_credentials:
            return IMPOSSIBLE
        try:
            found = await self._found(provider, entity)
        except (ProviderUnavailable, ProviderRejected) as e:
            self._metrics.provider_calls.labels(Purpose.RECONCILE, e.reason).inc()
            log.info("reconcile_not_answered", reason=e.reason, kind=entity.kind.value)
            raise
        if found != IMPOSSIBLE:
            outcome = "found" if found else NOT_FOUND
            self._metrics.provider_calls.labels(Purpose.RECONCILE, outcome).inc()
        return found

    @staticmethod
    async def _found(provider: Provider, entity: Entity) -> PaymentUpdate | str | None:
        if entity.is_reference:
            found = await provider.client.by_reference(entity.id, purpose=Purpose.RECONCILE)
            return found if found is not None and found.tx_ref == entity.id else None
        kind = Kind(entity.kind.value)
        if not provider.client.can_verify(kind, entity.id):
            return IMPOSSIBLE
        return await provider.client.payment(kind, entity.id, purpose=Purpose.RECONCILE)

    async def observe(
        self, found: Mapping[Entity, PaymentUpdate]
    ) -> tuple[int, dict[Entity, EntityState]]:
        """Bring answers into the database, by what was asked about.

        Returns how many changed anything, and the rows of what was asked about as they are now.
        Raises StoreUnavailable.
        """
        payments = {
            entity: Entity.payment(entity.merchant, update.kind, update.payment_id)
            for entity, update in found.items()
        }
        states = await self._store.states(list(payments.values()))
        observations = [
            Observation(entity.merchant, update, state)
            for entity, update in found.items()
            if (state := states.get(payments[entity])) is None or not state.open_events
        ]
        brought = await self._observer.observe(observations, type_="reconcile")
        for one, changed in zip(observations, brought, strict=True):
            if changed and is_terminal(one.found.status):
                self._metrics.reconcile_found.labels("question").inc()
        return sum(brought), await self._store.states(list(found))

    async def heed_silence(self, check: Check, state: EntityState, *, heard: bool) -> bool:
        """Say whether nothing that settles this has been heard for too long.

        If the provider does not know it either (`heard` False), that is recorded: nobody knows.
        """
        if check.age_ms < self._silence_ms or state.held or state.open_events:
            return False
        if not heard and state.status is not Status.UNKNOWN:
            event = silence(state.entity, state.version)
            recorded = await self._recorder.record(event, enqueue=False)
            if recorded.inbox_id is not None:
                await self._settler.settle([recorded.inbox_id])
        return True


@dataclass(frozen=True, slots=True)
class Subject:
    """What one check is about: its row now, and when to ask again if it does not settle."""

    check: Check
    state: EntityState | None
    is_expected: bool
    wait_ms: int


class Batch:
    """Checks that were claimed together: no more than `AT_ONCE` questions are under way."""

    def __init__(self, checker: Checker, report: Report) -> None:
        self._checker = checker
        self._report = report
        self._asking = asyncio.Semaphore(AT_ONCE)
        self._failures: Counter[tuple[str, Api | None]] = Counter()

    async def check(self, subjects: Sequence[Subject]) -> list[Checked]:
        """Return what checks came to; those that are missing were left for later.

        Asks about all of them, then brings in the answers together. Raises StoreUnavailable.
        """
        asked = await asyncio.gather(*(self._ask(subject) for subject in subjects))
        answers = {
            subject.check.entity: answer
            for subject, answer in zip(subjects, asked, strict=True)
            if isinstance(answer, PaymentUpdate)
        }
        changed, states = await self._checker.observe(answers) if answers else (0, {})
        self._report.found += changed
        checked = []
        for subject, answer in zip(subjects, asked, strict=True):
            if isinstance(answer, _Left):
                continue
            if isinstance(answer, Checked):
                checked.append(answer)
                continue
            state = states.get(subject.check.entity, subject.state)
            checked.append(await self._answered(subject, state, answer))
        return checked

    async def _ask(self, subject: Subject) -> Checked | PaymentUpdate | str | _Left | None:
        """Return what is known without asking, or the answer."""
        check, state = subject.check, subject.state
        if state is None or _has_settled(state, subject.is_expected):
            return Checked(check.entity, SETTLED, None)
        if state.open_events:  # a worker is on it
            return Checked(check.entity, OPEN, subject.wait_ms)
        merchant, api = check.entity.merchant, _api_of(check.entity)
        async with self._asking:
            if reason := self._report.left(merchant, api):
                return self._for_later(subject, reason)
            try:
                found = await self._checker.ask(check.entity)
            except (ProviderUnavailable, ProviderRejected) as e:
                return self._unanswered(subject, api, e.reason)
        self._failures.pop((merchant, api), None)
        self._report.asked += found != IMPOSSIBLE
        return found

    async def _answered(
        self, subject: Subject, state: EntityState | None, found: PaymentUpdate | str | None
    ) -> Checked:
        check, heard = subject.check, isinstance(found, PaymentUpdate)
        outcome = found.status.value if isinstance(found, PaymentUpdate) else found or NOT_FOUND
        if state is None or _has_settled(state, subject.is_expected):
            return Checked(check.entity, outcome, None)
        silent = await self._checker.heed_silence(check, state, heard=heard)
        self._report.flagged += silent and check.flagged_ms is None
        return Checked(check.entity, outcome, subject.wait_ms, silent)

    def _unanswered(self, subject: Subject, api: Api | None, reason: str) -> Checked | _Left:
        merchant = subject.check.entity.merchant
        apis = self._checker.apis(merchant)
        # A reference is asked for by both: one that is closed has kept nobody from the other.
        if api is not None or len(apis) < 2 or reason not in _CLOSED:
            self._failures[merchant, api] += 1
            many = self._failures[merchant, api] >= MOST_FAILURES
            if many or reason in ENOUGH or reason in _CLOSED:
                self._report.leave(merchant, api, reason, apis)
                return self._for_later(subject, reason)
        return Checked(subject.check.entity, f"provider_{reason}", subject.wait_ms)

    def _for_later(self, subject: Subject, reason: str) -> Checked | _Left:
        """Leave it as it was; or, where the rest of its merchant is gone on with, for a minute."""
        entity = subject.check.entity
        if entity.merchant in self._report.put_off:
            return _LEFT
        return Checked(entity, f"provider_{reason}", min(subject.wait_ms, CLOSED_MS))


class _Left:
    """Stands for what was left for later."""


_LEFT = _Left()


def _api_of(entity: Entity) -> Api | None:
    """Return the API that knows such an id; a reference may be known to either."""
    if entity.is_reference:
        return None
    return Api.V3 if entity.id.isdigit() else Api.V4


def _has_settled(state: EntityState, is_expected: bool) -> bool:
    """Say whether there is nothing to be asked: a reference is its payments' once it has any."""
    if state.entity.is_reference:
        return not is_expected or state.link is not None or state.status is Status.SUCCESSFUL
    return is_terminal(state.status)
