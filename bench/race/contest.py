"""One pass of the race: every payment is written once and looked up around it and after it.

A payment has been pending and was looked up before its write: half of them a moment ago, so that
each cache still holds it, half longer ago than a lease, so that the lookup which meets the write
misses and fills. Some keys are evicted at that very moment, as a cache may. Some of our readers are
held up between their read and their fill, until the write is long acknowledged and its floor gone.

A lookup is stale if it *began* after the write was acknowledged (a peer's: after its key was
deleted) and still answers `pending`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from redis.asyncio import Redis

from bench.race.pending import make_pending, reference_of
from bench.race.systems import Ours, Peer, System, TellingStore, paused_lookups
from paystate.keys import DEFAULT_MERCHANT, Entity
from paystate.payments.recording import Recorder, new_event
from paystate.payments.settling import Settler
from paystate.resources import Resources
from paystate.state import EntityState
from paystate.status import Status
from paystate.store import NewEvent, Store
from paystate.updates import Api, Event, Kind, PaymentUpdate

__all__ = ["AROUND_S", "Contest", "Score"]

AROUND_S = 0.005
LEASE_S = 1.0
# After the acknowledgement, and after the settling.
AFTER_S = (0.003,)
SETTLED_S = (0.002,)
# What a question to the provider takes at least; until then the payment is `processing`.
CONFIRM_S = 0.015
# Below what one process can do, so that what is meant to meet within milliseconds does. Webhooks
# come in small bursts, which share a commit.
WRITES_PER_S = 88
BURST = 4
SHARE_SUCCESSFUL = 0.8
SHARE_EVICTED = 0.25
SHARE_PAUSED = 0.01


COUNTS = ("lookups", "at_risk", "stale", "after_success", "after_success_cached")


@dataclass(slots=True)
class Score:
    """What one system answered."""

    lookups: int = 0
    at_risk: int = 0
    stale: int = 0
    after_success: int = 0
    after_success_cached: int = 0
    # Payment → when its write was acknowledged, and when its racing lookup began.
    acknowledged: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, int]:
        """Return the counts by their names."""
        return {name: getattr(self, name) for name in COUNTS}


@dataclass(frozen=True, slots=True)
class _Payment:
    entity: Entity
    ends_as: Status

    def event(self, status: Status) -> NewEvent:
        update = PaymentUpdate(
            Kind.CHARGE, self.entity.id, status, status.value,
            tx_ref=reference_of(self.entity), amount=Decimal(100), currency="NGN",
        )  # fmt: skip
        event = Event(Api.V4, "charge.completed", f"{self.entity.id}-{status}", update)
        return new_event(DEFAULT_MERCHANT, event)


class Contest:
    """A pass over `count` payments: `writer` and `reader` are two processes' resources."""

    def __init__(
        self, writer: Resources, reader: Resources, peers: tuple[Peer, ...], redis: Redis,
        store: Store, rng: random.Random,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._peers = peers
        self._redis = redis
        self._rng = rng
        self._telling: set[asyncio.Task[None]] = set()
        told = TellingStore(store, self._committed)
        self._recorder = Recorder(told, writer.cache, writer.queue, writer.metrics)  # type: ignore[arg-type]
        self._settler = Settler(
            told,  # type: ignore[arg-type]
            writer.cache,
            writer.providers,
            writer.metrics,
            holder="race",
        )
        self._settling: list[tuple[int, asyncio.Future[None]]] = []
        self._ours = Ours(reader)
        self._systems: tuple[System, ...] = (self._ours, *peers)
        self.scores = {system.name: Score() for system in self._systems}
        self._write_takes_s = 0.005
        self.paused = 0
        self.unlike = 0
        # Payment → done at its commit, with the time of it.
        self._commits: dict[str, asyncio.Future[float]] = {}

    # --- the pass ---

    async def run(self, database_url: str, first_id: int, count: int) -> None:
        """Race `count` payments with ids from `first_id` on."""
        payments = self._draw(first_id, count)
        await make_pending(database_url, [payment.entity for payment in payments])
        settling = asyncio.create_task(self._settle_for_ever())
        try:
            await self._race(payments)
        finally:
            settling.cancel()
            await asyncio.wait([settling])
        await asyncio.gather(*self._telling)

    def _draw(self, first_id: int, count: int) -> list[_Payment]:
        """Return payments, with what will become of them."""
        return [
            _Payment(
                Entity.payment(DEFAULT_MERCHANT, Kind.CHARGE, str(first_id + n)),
                Status.SUCCESSFUL if self._rng.random() < SHARE_SUCCESSFUL else Status.FAILED,
            )
            for n in range(count)
        ]

    async def _race(self, payments: Sequence[_Payment]) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time() + LEASE_S * 1.6
        lives = []
        for number, payment in enumerate(payments):
            write_at = start + number // BURST * BURST / WRITES_PER_S
            paused = self._rng.random() < SHARE_PAUSED or number == len(payments) // 2
            lives.append(asyncio.create_task(self._live(payment, write_at, paused)))
            await _until(write_at - LEASE_S * 1.6)
        await asyncio.gather(*lives)

    async def _live(self, payment: _Payment, write_at: float, paused: bool) -> None:
        """Look, write, look around it and after it."""
        warm_s = self._rng.uniform(0.05, 0.6) if self._rng.random() < 0.5 else LEASE_S * 1.2
        await _until(write_at - (LEASE_S * 1.2 if paused else warm_s))
        await asyncio.gather(*(self._look(system, payment) for system in self._systems))
        if paused:
            await _until(write_at)
            await self._live_paused(payment)
            return
        self._commits[payment.entity.id] = asyncio.get_running_loop().create_future()
        await asyncio.gather(
            self._write_at(payment, write_at),
            self._look_around(payment, write_at, self._rng.uniform(-AROUND_S, AROUND_S)),
        )

    async def _look_around(self, payment: _Payment, write_at: float, offset_s: float) -> None:
        """Look `offset_s` after the commit, or before the moment when it is to be expected."""
        if offset_s < 0:
            await _until(write_at + self._write_takes_s + offset_s)
        else:
            await self._commits[payment.entity.id]
            await asyncio.sleep(offset_s)
        looks = [self._look(system, payment) for system in self._systems]
        if self._rng.random() < SHARE_EVICTED:
            looks.append(self._evict_after(payment, self._rng.uniform(0, 0.008)))
        await asyncio.gather(*looks)

    async def _live_paused(self, payment: _Payment) -> None:
        """Write while our reader stands between read and fill; then its key is evicted."""
        self.paused += 1
        lookups, store = paused_lookups(self._reader)
        await self._redis.delete(self._ours.key(payment.entity))  # so that it misses
        reading = asyncio.create_task(lookups.status(payment.entity))
        await store.read.wait()
        recorded = await self._recorder.record(payment.event(payment.ends_as), enqueue=False)
        self.scores[self._ours.name].acknowledged[payment.entity.id] = time.perf_counter()
        await self._redis.delete(self._ours.key(payment.entity))
        store.go_on.set()
        await reading
        await lookups.drain()
        await self._look(self._ours, payment)
        await self._settled(recorded.inbox_id)

    # --- writing ---

    async def _write_at(self, payment: _Payment, at: float) -> None:
        await _until(at)
        began = time.perf_counter()
        recorded = await self._recorder.record(payment.event(payment.ends_as), enqueue=False)
        acknowledged = time.perf_counter()
        took_s = self._commits[payment.entity.id].result() - began
        self._write_takes_s += (took_s - self._write_takes_s) / 16
        self.scores[self._ours.name].acknowledged[payment.entity.id] = acknowledged
        loop = asyncio.get_running_loop()
        now = loop.time()
        looking = asyncio.gather(
            *(self._look_at(system, payment, now + s) for s in AFTER_S for system in self._systems)
        )
        await asyncio.sleep(CONFIRM_S)
        await self._settled(recorded.inbox_id)
        now = loop.time()
        for after_s in SETTLED_S:
            await _until(now + after_s)
            await asyncio.gather(
                *(self._look(system, payment, settled=True) for system in self._systems)
            )
        await looking

    async def _settled(self, inbox_id: int | None) -> None:
        assert inbox_id is not None
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append((inbox_id, done))
        await done

    async def _settle_for_ever(self) -> None:
        """Settle in batches what has come together, as jobs of the queue are."""
        while True:
            batch, self._settling = self._settling, []
            if batch:
                await self._settler.settle([inbox_id for inbox_id, _ in batch])
                for _, done in batch:
                    done.set_result(None)
            await asyncio.sleep(0.005)

    def _committed(self, states: Sequence[EntityState]) -> None:
        """Have the peers invalidate what has just been committed."""
        for state in states:
            if state.entity.is_reference:
                continue
            commit = self._commits.get(state.entity.id)
            if commit is not None and not commit.done():
                commit.set_result(time.perf_counter())
            for peer in self._peers:
                task = asyncio.create_task(self._invalidate(peer, state.entity))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    async def _invalidate(self, peer: Peer, payment: Entity) -> None:
        await peer.invalidate(payment)
        self.scores[peer.name].acknowledged.setdefault(payment.id, time.perf_counter())

    async def _evict_after(self, payment: _Payment, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await self._redis.delete(*(system.key(payment.entity) for system in self._systems))

    # --- looking ---

    async def _look_at(self, system: System, payment: _Payment, at: float) -> None:
        await _until(at)
        await self._look(system, payment)

    async def _look(self, system: System, payment: _Payment, *, settled: bool = False) -> None:
        score, own_id = self.scores[system.name], payment.entity.id
        began = time.perf_counter()
        look = await system.look(payment.entity)
        score.lookups += 1
        acknowledged = score.acknowledged.get(own_id)
        commit = self._commits.get(own_id)
        if commit is not None and commit.done():
            score.at_risk += abs(began - commit.result()) <= AROUND_S
        if acknowledged is not None:
            score.stale += began > acknowledged and look.status == Status.PENDING
        if settled and payment.ends_as is Status.SUCCESSFUL:
            score.after_success += 1
            score.after_success_cached += look.cached and look.status == Status.SUCCESSFUL
        if settled and system is self._ours:
            self.unlike += look.status != payment.ends_as


async def _until(at: float) -> None:
    """Sleep until `at` by the loop's clock."""
    await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))
