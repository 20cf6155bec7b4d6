"""Ask about one thing that has not settled, and say what came of it and when to ask again.

What the provider does not know for very long becomes `unknown`, and what it goes on calling pending
stays so. Either is flagged for a person. Silence is never a failure.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.gate import Purpose
from paystate.keys import Entity
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.observing import Observation, Observer
from paystate.payments.recording import Recorder, silence
from paystate.payments.settling import Provider, Settler
from paystate.state import EntityState
from paystate.status import Status, is_terminal
from paystate.store import Store
from paystate.store.unsettled import Check, Checked
from paystate.updates import Kind, PaymentUpdate

__all__ = ["Batch", "Checker", "Report", "Subject", "gap_s"]

log = logger()

AT_ONCE = 8
MOST_GAP_S = 30 * 24 * 3600.0
# So many in a row without an answer, and the others are left for the next pass.
MOST_FAILURES = 3

NOT_FOUND, IMPOSSIBLE, SETTLED, OPEN = "not_found", "impossible", "settled", "open"
# The provider has had enough of us, or would refuse everything: nothing more of that merchant now.
_HOPELESS = frozenset(
    {"budget_spent", "pace_spent", "cooling_off", "rate_limited", "breaker_open", "credentials"}
)


def gap_s(age_s: float, *, least_s: float, draw: float) -> float:
    """Return the seconds until something of this age is asked about again; `draw` in [0, 1)."""
    return min(MOST_GAP_S, max(least_s, age_s)) * (0.95 + draw / 10)


@dataclass(slots=True)
class Report:
    """What a pass did. `put_off` says which merchants were left for later, and why.

    `found` and `found_in_lists` are changes that nobody else had told of: by asking, and by reading
    lists.
    """

    checked: int = 0
    asked: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    found: int = 0
    flagged: int = 0
    pages: int = 0
    listed: int = 0
    found_in_lists: int = 0
    put_off: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the public form."""
        return {
            "checked": self.checked,
            "asked": self.asked,
            "outcomes": dict(self.outcomes),
            "found": self.found,
            "flagged": self.flagged,
            "pages": self.pages,
            "listed": self.listed,
            "found_in_lists": self.found_in_lists,
            "put_off": self.put_off,
        }


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
        self._failures: Counter[str] = Counter()

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
        async with self._asking:
            if check.entity.merchant in self._report.put_off:
                return _LEFT
            try:
                found = await self._checker.ask(check.entity)
            except (ProviderUnavailable, ProviderRejected) as e:
                return self._unanswered(check, e.reason, subject.wait_ms)
        self._failures.pop(check.entity.merchant, None)
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

    def _unanswered(self, check: Check, reason: str, wait_ms: int) -> Checked | _Left:
        merchant = check.entity.merchant
        self._failures[merchant] += 1
        if reason in _HOPELESS or self._failures[merchant] >= MOST_FAILURES:
            self._report.put_off[merchant] = reason
            return _LEFT
        return Checked(check.entity, f"provider_{reason}", wait_ms)


class _Left:
    """Stands for what was left for later."""


_LEFT = _Left()


def _has_settled(state: EntityState, is_expected: bool) -> bool:
    """Say whether there is nothing to be asked: a reference is its payments' once it has any."""
    if state.entity.is_reference:
        return not is_expected or state.link is not None or state.status is Status.SUCCESSFUL
    return is_terminal(state.status)
