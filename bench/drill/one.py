"""One drill from beginning to end: deploy, load, fault, recovery, and the comparison."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from redis.crc import key_slot
from sqlalchemy import text

from bench.drill.deployment import TOKEN, Deployment, deploy
from bench.drill.faults import Drill
from bench.drill.load import Load
from bench.drill.oracle import Oracle, Phase, count_lost
from bench.drill.recovery import Recovery
from bench.drill.subscribers import Held, Subscriber, follow_events, follow_feed
from paystate import PaymentReader
from paystate.errors import StoreUnavailable
from paystate.keys import Entity, Keys
from paystate.store import Store, open_store
from paystate.store.engine import open_database

__all__ = ["Timing", "drill_once"]

SHARDS, SLOTS = 3, 16_384
# Bounds, not measures: what has not come by then is lost.
RECOVERED_WITHIN_S = 60.0
ENDED_WITHIN_S = 60.0
TOLD_WITHIN_S = 40.0
LOOK_AGAIN_S = 0.2
SILENCE_S = 6.0
POLL_S = 5.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of load before the fault, and after it."""

    before_s: float = 2.5
    after_s: float = 4.0


@dataclass
class _Shards:
    """How single lookups fare per shard while the fault is on."""

    keys: Keys = field(default_factory=Keys)
    asked: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)

    def count(self, row_key: str, normal: bool) -> None:
        """Take how one lookup went."""
        shard = key_slot(self.keys.hash(Entity.from_row_key(row_key)).encode()) * SHARDS // SLOTS
        self.asked[shard] += 1
        self.failed[shard] += not normal


@dataclass
class _End:
    """What the database says at the end."""

    lost: int
    wrong: int
    held: Held


async def drill_once(
    drill: Drill, template: Path | None, timing: Timing, seed: int
) -> dict[str, Any]:
    """Run a drill and return its figures. Raises NotPossibleHere."""
    async with AsyncExitStack() as stack:
        run = await stack.enter_async_context(deploy(drill.plan, template))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=8)
            )
        )
        reader = await stack.enter_async_context(
            PaymentReader(
                run.cache_url, api_url=run.web[1].url, api_token=TOKEN, lease_ms=run.lease_ms,
                silence_s=SILENCE_S, poll_s=POLL_S,
            )
        )  # fmt: skip
        oracle, recovery = Oracle(), Recovery()
        listening = await stack.enter_async_context(_subscribers(run, session, reader, oracle))
        load = Load(run, session, reader, oracle, recovery, random.Random(seed))
        stack.push_async_callback(load.close)
        figures = await _course(drill, run, load, timing)
        end = await _compare(run, load)
        behind = await _wait_for_news(listening, end.held)
        return {
            "name": drill.name,
            "fault": drill.what,
            **figures,
            "acknowledged": {phase.value: oracle.acknowledged[phase] for phase in Phase},
            "lookups": oracle.lookups.total(),
            "lookups_during": oracle.lookups[Phase.DURING],
            "at_risk": oracle.at_risk,
            "lost": end.lost,
            "stale": oracle.stale,
            "regressed": oracle.regressed,
            # Answers that say of a fault of ours: whatever is away, 503 says so.
            "broke": sum(n for what, n in load.refused.items() if what.endswith(" 500")),
            "wrong_at_the_end": end.wrong,
            "subscribers_behind": behind,
            "not_fresh": oracle.unsure,
            "refused": dict(load.refused),
            "resumed": {s.name: s.resumed for s in listening},
            "notes": run.notes,
            "violations": oracle.violations,
        }


@asynccontextmanager
async def _subscribers(
    run: Deployment, session: aiohttp.ClientSession, reader: PaymentReader, oracle: Oracle
) -> AsyncIterator[list[Subscriber]]:
    feed, events = Subscriber("feed", oracle), Subscriber("events", oracle)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with session.get(f"{run.web[0].url}/api/changes", headers=headers) as response:
        cursor = (await response.json())["cursor"]
    tasks = [
        asyncio.create_task(follow_feed(reader, feed)),
        asyncio.create_task(follow_events(session, run.web, events, cursor)),
    ]
    try:
        yield [feed, events]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=2)


async def _course(drill: Drill, run: Deployment, load: Load, timing: Timing) -> dict[str, Any]:
    """Load, fault, load, and peace; return when the fault came and how long things took."""
    loop = asyncio.get_running_loop()
    shards = _Shards()
    began = loop.time()
    load.start()
    await asyncio.sleep(timing.before_s)
    load.oracle.phase = Phase.DURING
    if drill.spares_shards:
        load.looking.on_single = shards.count
    fault_at = loop.time()
    await drill.fault(run)
    fault_ended = loop.time()
    load.looking.on_single = None
    load.oracle.phase = Phase.AFTER
    load.recovery.begin(fault_ended)
    settled = asyncio.create_task(_settled(run, fault_ended))
    await asyncio.sleep(max(timing.after_s, drill.after_s))
    await asyncio.wait(
        [asyncio.ensure_future(load.recovery.over.wait())], timeout=RECOVERED_WITHIN_S
    )
    loaded_s = loop.time() - began
    await load.stop_births(within_s=RECOVERED_WITHIN_S)
    settled_s = await settled
    if dead := {p.child.log.name: p.child.last_words() for p in run.parts if not p.child.running}:
        run.notes["died"] = dead
    return {
        "killed_at": round(fault_at - began, 2),
        "fault_s": round(fault_ended - fault_at, 2),
        "recovery_s": _rounded(load.recovery.seconds),
        "settled_s": _rounded(settled_s),
        "webhooks_per_s": round(load.oracle.acknowledged.total() / loaded_s),
        **(_healthy(shards) if shards.asked else {}),
    }


def _healthy(shards: _Shards) -> dict[str, Any]:
    """Return how lookups of the shards fared that had lost nothing."""
    asked, failed = (sum(c[s] for s in range(1, SHARDS)) for c in (shards.asked, shards.failed))
    return {"healthy_lookups": asked, "healthy_errors": failed}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


async def _settled(run: Deployment, fault_ended: float) -> float | None:
    """Return how long after the fault everything that came before its end has ended, if it has.

    What the provider denies waits for the provider and does not count.
    """
    loop = asyncio.get_running_loop()
    before: int | None = None
    while loop.time() < fault_ended + ENDED_WITHIN_S:
        try:
            if before is None:
                before = (await _query(run, "SELECT max(id) FROM inbox"))[0][0] or 0
            left = await _query(
                run, "SELECT count(*) FROM inbox WHERE state = 'open' AND id <= "
                f"{before} AND (reason IS NULL OR reason NOT LIKE 'provider_says%')"
            )  # fmt: skip
            if not left[0][0]:
                return loop.time() - fault_ended
        except StoreUnavailable:
            pass
        await asyncio.sleep(LOOK_AGAIN_S)
    return None


async def _query(run: Deployment, statement: str) -> list[Any]:
    """Ask the database by a connection of its own, so that none is in the way of a restart."""
    database = open_database(run.database_url, pool=1, timeout_s=5)

    async def work(connection: Any) -> list[Any]:
        return list(await connection.execute(text(statement)))

    try:
        return await database.read(work)
    finally:
        await database.close()


async def _compare(run: Deployment, load: Load) -> _End:
    """Wait until every acknowledged event has ended; compare the database with the truth."""
    deadline = asyncio.get_running_loop().time() + ENDED_WITHIN_S
    while True:
        rows: dict[str, str] = {
            row[0]: row[1] for row in await _query(run, "SELECT event_key, state FROM inbox")
        }
        open_rows = sum(state == "open" for state in rows.values())
        lost = count_lost(load.event_keys, rows)
        if not (lost or open_rows) or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(LOOK_AGAIN_S)
    if open_rows:
        left = await _query(
            run, "SELECT reason, attempts, claimed_by IS NULL, count(*), min(id) FROM inbox "
            "WHERE state = 'open' GROUP BY 1, 2, 3"
        )  # fmt: skip
        run.notes["open"] = [list(row) for row in left]
    async with open_store(run.database_url, pool=1, timeout_s=30) as store:
        held = await _states(store, load)
    wrong = sum(
        held.get(s.charge, ("missing", 0))[0] != s.payment.status.value
        for s in load.subjects
        if not s.unanswered
    )
    return _End(lost, wrong, held)


async def _states(store: Store, load: Load) -> Held:
    keys = {key for s in load.subjects for key in (s.charge, s.reference)}
    states = await store.states([Entity.from_row_key(key) for key in sorted(keys)])
    return {e.row_key: (state.shown.value, state.version) for e, state in states.items()}


async def _wait_for_news(listening: list[Subscriber], truth: Held) -> int:
    """Wait until every subscriber holds what the database does; return how many entities differ."""
    deadline = asyncio.get_running_loop().time() + TOLD_WITHIN_S
    while True:
        behind = sum(subscriber.differs_from(truth) for subscriber in listening)
        if not behind or asyncio.get_running_loop().time() > deadline:
            return behind
        await asyncio.sleep(LOOK_AGAIN_S)
