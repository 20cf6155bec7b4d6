"""Apply: recorded events that one worker turns into committed, published statuses a second.

Each round records signed v4 events as the web process does (the same transaction, batches of 200),
puts one job for each batch into the arq queue, and starts ``python -m worker``, which takes them as
in production: jobs from the queue, and the sweeper beside it for what has waited for 2 s. Without
credentials no provider is asked. The rate counts rows that the database has as ended, from the end
of the worker's first transaction until all have ended, every payment is in the cache, and every
change has been published. Beside it a stock arq worker with no-op jobs, 500 at once, polling every
10 ms. The two take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from statistics import median
from typing import Any

from arq.connections import ArqRedis
from arq.constants import default_queue_name, job_key_prefix
from arq.jobs import serialize_job
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bench.blast import body
from bench.peers import JOB
from bench.stage import Stage, line_of, open_stage
from paystate.flutterwave.exact import loads
from paystate.flutterwave.payloads import parse_event
from paystate.keys import DEFAULT_MERCHANT, Keys
from paystate.payments.recording import new_event
from paystate.queue import open_queue
from paystate.store import Recorded, open_store
from paystate.store.engine import Database, open_database
from paystate.updates import Api

__all__ = ["arguments", "measure", "table"]

ROUNDS = 3
EVENTS = 16_000
JOBS = 6_000
WARM = 4_000
BATCH = 200
HANGS_S = 60.0
LOOK_AGAIN_S = 0.02
# Each event changes a payment and its reference, from processing to successful.
CHANGES = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--events", type=int, default=EVENTS, help="of a round, %(default)s")
    parser.add_argument("--jobs", type=int, default=JOBS, help="of stock arq, %(default)s")


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and return rates a second and their ratio."""
    ours: list[float] = []
    stock: list[float] = []
    async with open_stage() as stage:
        await _arq(stage, WARM // 4)
        await _apply(stage, 1, WARM)
        for number in range(options.rounds):
            ours.append(await _apply(stage, (number + 2) * 10_000_000, options.events))
            stock.append(await _arq(stage, options.jobs))
    return {
        "bench": "apply",
        "events_per_s": round(median(ours)),
        "stock_arq_jobs_per_s": round(median(stock)),
        "ratio_to_stock_arq": round(median(o / s for o, s in zip(ours, stock, strict=True)), 2),
        "events": options.events,
        "rounds": {"ours": [round(r) for r in ours], "stock_arq": [round(r) for r in stock]},
    }


async def _apply(stage: Stage, first: int, events: int) -> float:
    """Record `events` events, have a worker settle them, and return how many it ended a second."""
    await _record(stage, first, events)
    database = open_database(stage.postgres.url, pool=1, timeout_s=30)
    try:
        async with Redis.from_url(stage.valkey.url) as redis:
            before = await _published(redis)
            worker, _ = await stage.part("worker")
            await _until_published(redis, before + 1)
            early = await _ended(database)
            begun = time.perf_counter()
            await _until_published(redis, before + CHANGES * events)
            ended = await _ended(database)
            seconds = time.perf_counter() - begun
            assert ended == events, ended
            await _check(redis, first, events)
            await worker.kill()

            async def clear(connection: AsyncConnection) -> None:
                await connection.execute(
                    text("TRUNCATE inbox, entities, details, changes, customers, customer_payments")
                )

            await database.write(clear)
            await redis.flushall()
    finally:
        await database.close()
    return (events - early) / seconds


async def _record(stage: Stage, first: int, events: int) -> None:
    """Record events as the web process does, and queue one job for each batch."""
    async with (
        open_store(stage.postgres.url, pool=2, timeout_s=30) as store,
        open_queue(stage.valkey.url, Keys(), timeout_s=30) as queue,
    ):
        jobs = []
        for start in range(first, first + events, BATCH):
            bodies = [body(n) for n in range(start, min(start + BATCH, first + events))]
            recorded = await store.acknowledge([
                new_event(DEFAULT_MERCHANT, parse_event(Api.V4, loads(raw), raw))
                for raw in bodies
            ])  # fmt: skip
            jobs.append([r.inbox_id for r in recorded if isinstance(r, Recorded) and r.inbox_id])
        for job in jobs:
            await queue.settle(job)


async def _ended(database: Database) -> int:
    """Return how many rows the database has as ended."""

    async def count(connection: AsyncConnection) -> int:
        found = await connection.execute(text("SELECT count(*) FROM inbox WHERE state <> 'open'"))
        return int(found.scalar_one())

    return await database.read(count)


async def _until_published(redis: Redis, least: int) -> None:
    """Wait until so many changes have been published.

    Valkey is asked, which counts them anyway: to count rows again and again would be work for the
    database that is measured.
    """
    async with asyncio.timeout(HANGS_S):
        while True:
            if await _published(redis) >= least:
                break
            await asyncio.sleep(LOOK_AGAIN_S)


async def _published(redis: Redis) -> int:
    """Return how many changes have been published to their own channel and to the merchant's."""
    calls: dict[str, Any] = await redis.info("commandstats")
    found: int = calls.get("cmdstat_publish", {}).get("calls", 0)
    return found // 2


async def _check(redis: Redis, first: int, events: int) -> None:
    """See that every payment and reference is in the cache as successful."""
    numbers = range(first, first + events)
    keys = [f"flw:v1:tx:chg_bench{n}:hash" for n in numbers]
    keys += [f"flw:v1:ref:order-{n}:hash" for n in numbers]
    async with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hget(key, "status")
        held = await pipe.execute()
    assert set(held) == {b"successful"}, set(held)


async def _arq(stage: Stage, jobs: int) -> float:
    """Return how many no-op jobs a stock arq worker runs a second."""
    async with ArqRedis.from_url(stage.valkey.url) as redis:
        now_ms = int(time.time() * 1000)
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(jobs):
                job = serialize_job(JOB, (), {}, None, now_ms, serializer=None)
                pipe.psetex(f"{job_key_prefix}n{number}", 3_600_000, job)
                pipe.zadd(default_queue_name, {f"n{number}": now_ms})
            await pipe.execute()
        async with stage.peer(
            "arq", url=stage.valkey.url, jobs=jobs, max_jobs=500, poll_s=0.01
        ) as peer:
            await line_of(peer)
            said = await line_of(peer)
        await redis.flushall()
    return float(jobs / said["seconds"])


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    return "\n".join(
        (
            f"{'':40}{'a second':>10}",
            f"{'paystate worker, events applied':40}{figures['events_per_s']:>10}",
            f"{'stock arq, no-op jobs, 500 at once':40}{figures['stock_arq_jobs_per_s']:>10}",
            f"ratio {figures['ratio_to_stock_arq']}; {figures['events']} events a round, one each",
        )
    )
