"""Ask the provider about a settled payment now and then, and heal what differs.

A difference is no staleness: the cache may be as late as the database and both be wrong. What the
provider says is recorded as an observation, as a lookup's would be, where it changes anything.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

from paystate.audit.checking import Checker
from paystate.audit.ledger import Ledger
from paystate.audit.verdicts import Fault
from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.gate import Purpose
from paystate.keys import Entity
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.deciding import CONTRADICTION_MS
from paystate.payments.recording import Recorder, observation
from paystate.payments.settling import Provider, Settler
from paystate.status import TERMINAL, merge
from paystate.store import Store
from paystate.store.sampling import SampledPage
from paystate.store.violations import Violation
from paystate.updates import Kind, PaymentUpdate

__all__ = ["ProviderCheck"]

log = logger()


class ProviderCheck:
    """Compares settled payments with the provider, `per_hour` at most; 0 is never."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        store: Store,
        recorder: Recorder,
        settler: Settler,
        checker: Checker,
        ledger: Ledger,
        metrics: Metrics,
        *,
        per_hour: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._providers = providers
        self._store = store
        self._recorder = recorder
        self._settler = settler
        self._checker = checker
        self._ledger = ledger
        self._metrics = metrics
        self._every_s = 3600 / per_hour if per_hour else None
        self._clock = clock
        self._next_at = clock()

    async def one_of(self, page: SampledPage) -> None:
        """Compare one payment of `page`, if it is time. Raises StoreUnavailable."""
        if self._every_s is None or self._clock() < self._next_at:
            return
        askable = self.askable(page)
        if askable:
            self._next_at = self._clock() + self._every_s
            await self.compare(random.choice(askable))  # noqa: S311

    def askable(self, page: SampledPage) -> Sequence[Entity]:
        """Return the payments of `page` that are settled for good and that can be asked about."""
        return [
            row.entity
            for row in page.rows
            if row.status in TERMINAL
            and not row.entity.is_reference
            and not row.open_events
            # Before that, the provider's read side may still lag behind its webhooks.
            and row.changed_ms < page.now_ms - CONTRADICTION_MS
            and self._can_ask(row.entity)
        ]

    def _can_ask(self, entity: Entity) -> bool:
        provider = self._providers.get(entity.merchant)
        return provider is not None and provider.client.can_verify(
            Kind(entity.kind.value), entity.id
        )

    async def compare(self, entity: Entity) -> None:
        """Ask about `entity`, and report and record a difference. Raises StoreUnavailable."""
        state = (await self._store.states([entity])).get(entity)
        if state is None:
            return
        try:
            found = await self._providers[entity.merchant].client.payment(
                Kind(entity.kind.value), entity.id, purpose=Purpose.AUDIT
            )
        except (ProviderUnavailable, ProviderRejected) as e:
            self._metrics.provider_calls.labels(Purpose.AUDIT, e.reason).inc()
            log.info("audit_provider_unasked", reason=e.reason)
            return
        outcome = "found" if found is not None else "not_found"
        self._metrics.provider_calls.labels(Purpose.AUDIT, outcome).inc()
        self._ledger.compare("provider", 1)
        moved = found is not None and found.tx_ref is not None and found.tx_ref != state.link
        if found is not None and found.status is state.status and not moved:
            return
        if (await self._store.states([entity])).get(entity) != state:
            return  # it changed meanwhile: nothing can be said
        heals = found is not None and (
            moved or merge(state.status, found.status, proven=True) is not state.status
        )
        evidence = {
            "status": state.status.value,
            "version": state.version,
            "provider_status": found.status.value if found is not None else "not_found",
            "moved": moved,
            "recorded": heals,
        }
        await self._checker.report([Violation(Fault.PROVIDER, entity, evidence)])
        if found is not None and heals:
            await self._record(entity.merchant, found, state.version)

    async def _record(self, merchant: str, found: PaymentUpdate, version: int) -> None:
        event = observation(merchant, found, version)
        recorded = await self._recorder.record(event, enqueue=False)
        if recorded.inbox_id is not None:
            await self._settler.settle([recorded.inbox_id])
