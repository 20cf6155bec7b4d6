"""The recorder and the settler with traces: what they do, and when, told to `paystate.tracing`.

They stand in for the plain ones where traces are wanted, so that these know nothing of it and cost
nothing for it. Whatever goes wrong in here is logged, and changes nothing of what was done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from paystate.batch import Receiver
from paystate.cache.statuses import StatusCache
from paystate.keys import Entity
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.confirming import Confirmer, Provider
from paystate.payments.recording import Recorder
from paystate.payments.settling import Settler
from paystate.payments.telling import Teller
from paystate.state import EntityState
from paystate.store import NewEvent, Recorded, Settled, Store
from paystate.tracing import EventTrace, Moments, Tracing
from paystate.updates import Api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from paystate.payments.deciding import Answer

__all__ = ["TracedRecorder", "TracedSettler"]

log = logger()


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception as e:
        log.warning("trace_lost", error=type(e).__name__)


class TracedRecorder(Recorder):
    """Tells of each event that is recorded, from its arrival to its acknowledgement."""

    def __init__(self, *args: Any, tracing: Tracing, **more: Any) -> None:
        super().__init__(*args, **more)
        self._tracing = tracing

    async def record(self, event: NewEvent, *, enqueue: bool = True) -> Recorded:
        """Record `event`; see `Recorder.record`."""
        began_ns = time.time_ns()
        recorded = await super().record(event, enqueue=enqueue)
        self.told(event, recorded, began_ns)
        return recorded

    def submit(self, event: NewEvent, receiver: Receiver[Recorded]) -> None:
        """Give `receiver` what comes of `record`; see `Recorder.submit`."""
        super().submit(event, _Told(self, event, receiver, time.time_ns()))

    def told(self, event: NewEvent, recorded: Recorded, began_ns: int) -> None:
        """Trace an event that was recorded since `began_ns`."""
        with _harmless():
            self._tell_of(event, recorded, Moments(began_ns, time.time_ns()))

    def _tell_of(self, event: NewEvent, recorded: Recorded, moments: Moments) -> None:
        asked = event.api in (Api.VERIFY, Api.OPERATOR)
        values: dict[str, str | int | bool] = {
            "paystate.merchant": event.merchant,
            "paystate.api": str(event.api),
            "paystate.event_type": event.type,
            "paystate.duplicate": recorded.duplicate,
        }
        if recorded.inbox_id is not None:
            values["paystate.inbox_id"] = recorded.inbox_id
        trace = EventTrace.of(event.event_key)
        if recorded.duplicate:  # the first delivery has the first span
            self._tracing.later(trace, "record duplicate", moments, values)
        else:
            name = f"record {event.api}" if asked else "record webhook"
            self._tracing.first(trace, name, moments, values)


class _Told(NamedTuple):
    """Hands on what comes of recording an event, and traces it."""

    recorder: TracedRecorder
    event: NewEvent
    receiver: Receiver[Recorded]
    began_ns: int

    def done(self) -> bool:
        return self.receiver.done()

    def set_result(self, recorded: Recorded) -> None:
        self.recorder.told(self.event, recorded, self.began_ns)
        self.receiver.set_result(recorded)

    def set_exception(self, exception: BaseException) -> None:
        self.receiver.set_exception(exception)


@dataclass(slots=True)
class _Round:
    """One batch of the worker's: since when, found by whom, and what the provider was asked."""

    began_ns: int
    found_by: str
    asked: dict[Entity, Moments] = field(default_factory=dict)


_round: ContextVar[_Round | None] = ContextVar("round", default=None)


class TracedConfirmer(Confirmer):
    """Notes when the provider was asked about a payment."""

    async def _ask(self, provider: Provider, state: EntityState) -> Answer:
        began_ns = time.time_ns()
        try:
            return await super()._ask(provider, state)
        finally:
            held = _round.get()
            if held is not None:
                held.asked[state.entity] = Moments(began_ns, time.time_ns())


class TracedTeller(Teller):
    """Tells the traces of the events, too, once everybody else has been told."""

    def __init__(
        self, cache: StatusCache, metrics: Metrics, store: Store, tracing: Tracing
    ) -> None:
        super().__init__(cache, metrics)
        self._store = store
        self._tracing = tracing

    async def tell(self, settled: Settled) -> None:
        """Tell of a transaction; see `Teller.tell`."""
        committed_ns = time.time_ns()
        await super().tell(settled)
        told = Moments(committed_ns, time.time_ns())
        with _harmless():
            await self._tell_of(settled, told)

    async def _tell_of(self, settled: Settled, told: Moments) -> None:
        held = _round.get() or _Round(told.began_ns, "operator")
        found = await self._store.operations.event_keys(list(settled.endings))
        changed = {change.entity: change for change in settled.changes}
        for inbox_id, (event_key, entity) in found.items():
            ending, reason = settled.endings[inbox_id]
            trace = EventTrace.of(event_key)
            about: dict[str, str | int | bool] = {"paystate.inbox_id": inbox_id}
            arrived_ns = told.began_ns - settled.waited_ms[inbox_id] * 1_000_000
            # By the database's clock, to the commit: some milliseconds too late, perhaps.
            waited = Moments(min(arrived_ns, held.began_ns), held.began_ns)
            self._tracing.later(
                trace, "wait for worker", waited, {**about, "paystate.found_by": held.found_by}
            )
            whole = self._tracing.later(
                trace, "settle", Moments(held.began_ns, told.ended_ns),
                {**about, "paystate.ending": ending.value, "paystate.reason": reason or "none"},
            )  # fmt: skip
            if entity in held.asked:
                self._tracing.part(whole, "ask flutterwave", held.asked[entity], about)
            change = changed.get(entity)
            if change is not None:
                self._tracing.part(
                    whole, "publish", told,
                    {**about, "paystate.status": change.status.value,
                     "paystate.version": change.version},
                )  # fmt: skip


class TracedSettler(Settler):
    """Tells of each event that has ended: its wait, the question, the commit and the news."""

    _confirming = TracedConfirmer

    def __init__(
        self,
        store: Store,
        cache: StatusCache,
        providers: Mapping[str, Provider],
        metrics: Metrics,
        *,
        holder: str,
        tracing: Tracing,
    ) -> None:
        super().__init__(store, cache, providers, metrics, holder=holder)
        self._teller = TracedTeller(cache, metrics, store, tracing)

    async def settle(self, inbox_ids: Sequence[int]) -> int:
        """Settle rows of jobs; see `Settler.settle`."""
        token = _round.set(_Round(time.time_ns(), "queue"))
        try:
            return await super().settle(inbox_ids)
        finally:
            _round.reset(token)

    async def sweep(self, *, grace_ms: int, most: int) -> tuple[int, int]:
        """Settle rows that are due; see `Settler.sweep`."""
        token = _round.set(_Round(time.time_ns(), "sweep"))
        try:
            return await super().sweep(grace_ms=grace_ms, most=most)
        finally:
            _round.reset(token)
