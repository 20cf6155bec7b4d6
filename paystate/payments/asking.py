"""Ask the provider about a payment that somebody is waiting for: once, whoever asks.

Within a process, callers wait for one question. Across processes a short-lived key in Redis names
the one who asks, and keeps what came of it: ``asking``, ``answered``, ``not_found`` or ``failed``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.gate import Purpose
from paystate.keys import Entity, EntityKind, Keys
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.observing import Observation, Observer
from paystate.payments.recording import Recorder
from paystate.payments.settling import Provider, Settler
from paystate.state import EntityState
from paystate.store import Store
from paystate.updates import Kind, PaymentUpdate

__all__ = ["Asked", "Asker", "Outcome"]

log = logger()

# Longer than one call to the provider may take, so that nobody asks beside it.
ASKING_S = 15
FAILED_S = 5
# Flutterwave may keep us away for half an hour, or the hour's budget be spent, but a webhook can
# bring the news at any time: a caller comes back after this.
LONGEST_WAIT_S = 30.0


class Outcome(StrEnum):
    """What asking came to."""

    ASKING = "asking"  # another process is at it
    ANSWERED = "answered"  # and the database knows what was said
    NOT_FOUND = "not_found"
    FAILED = "failed"
    IMPOSSIBLE = "impossible"  # there are no credentials to ask with


@dataclass(frozen=True, slots=True)
class Asked:
    """The outcome, whether it was this very call that asked, and when to come back."""

    outcome: Outcome
    just_now: bool = False
    retry_after_s: float | None = None


class Asker:
    """Asks on behalf of lookups. `recheck_s`: an answer is good for this long, in seconds."""

    def __init__(
        self,
        redis: CacheClient,
        keys: Keys,
        store: Store,
        providers: Mapping[str, Provider],
        recorder: Recorder,
        settler: Settler,
        metrics: Metrics,
        *,
        recheck_s: int,
        not_found_s: int,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._store = store
        self._providers = providers
        self._observer = Observer(store, recorder, settler)
        self._metrics = metrics
        self._recheck_s = recheck_s
        self._not_found_s = not_found_s
        self._asking: dict[Entity, asyncio.Task[Asked]] = {}

    async def ask(self, entity: Entity, state: EntityState | None) -> Asked:
        """Have the provider asked about `entity`; what it says is in the database afterwards.

        Raises StoreUnavailable if what it says could not be recorded.
        """
        provider = self._providers.get(entity.merchant)
        if provider is None or not _can_ask(provider, entity):
            return Asked(Outcome.IMPOSSIBLE)
        task = self._asking.get(entity)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._once(entity, state, provider))
            self._asking[entity] = task
            task.add_done_callback(lambda _: self._asking.pop(entity, None))
        return await asyncio.shield(task)

    async def _once(self, entity: Entity, state: EntityState | None, provider: Provider) -> Asked:
        key = self._keys.asked(entity)
        try:
            mine = await self._redis.set(key, Outcome.ASKING, nx=True, ex=ASKING_S)
            if not mine:
                word, _, wait_s = (await self._redis.get(key) or b"asking").decode().partition(" ")
                outcome = Outcome(word)
                waiting = outcome in (Outcome.ASKING, Outcome.FAILED)
                return Asked(outcome, retry_after_s=float(wait_s or 1) if waiting else None)
        except (*REDIS_FAILURES, ValueError):
            # Nobody can be kept from asking beside us, so nobody asks: the budget is for all.
            return Asked(Outcome.FAILED, retry_after_s=2.0)
        asked = await self._ask_and_record(entity, state, provider)
        await self._remember(key, asked)
        return asked

    async def _remember(self, key: str, asked: Asked) -> None:
        keep_s = {
            Outcome.ANSWERED: self._recheck_s,
            Outcome.NOT_FOUND: self._not_found_s,
        }.get(asked.outcome, FAILED_S)
        try:
            wait_s = f" {math.ceil(asked.retry_after_s)}" if asked.retry_after_s else ""
            await self._redis.set(key, f"{asked.outcome}{wait_s}", ex=keep_s)
        except REDIS_FAILURES:
            log.info("asked_not_remembered", outcome=asked.outcome.value)

    async def _ask_and_record(
        self, entity: Entity, state: EntityState | None, provider: Provider
    ) -> Asked:
        try:
            found = await self._call(entity, provider)
        except (ProviderUnavailable, ProviderRejected) as e:
            self._metrics.provider_calls.labels(Purpose.LOOKUP, e.reason).inc()
            log.warning("provider_not_asked", reason=e.reason, kind=entity.kind.value)
            wait_s = getattr(e, "retry_after_s", None) or FAILED_S
            return Asked(Outcome.FAILED, True, min(wait_s, LONGEST_WAIT_S))
        self._metrics.provider_calls.labels(Purpose.LOOKUP, "found" if found else "not_found").inc()
        if found is None:
            return Asked(Outcome.NOT_FOUND, True)
        payment = Entity.payment(entity.merchant, found.kind, found.payment_id)
        if entity.is_reference:
            state = (await self._store.states([payment])).get(payment)
        await self._observer.observe([Observation(entity.merchant, found, state)])
        return Asked(Outcome.ANSWERED, True)

    async def _call(self, entity: Entity, provider: Provider) -> PaymentUpdate | None:
        if not entity.is_reference:
            return await provider.client.payment(
                Kind(entity.kind.value), entity.id, purpose=Purpose.LOOKUP
            )
        found = await provider.client.by_reference(entity.id, purpose=Purpose.LOOKUP)
        return found if found is not None and found.tx_ref == entity.id else None


def _can_ask(provider: Provider, entity: Entity) -> bool:
    if entity.kind is EntityKind.REFERENCE:
        return provider.has_credentials
    return provider.client.can_verify(Kind(entity.kind.value), entity.id)
