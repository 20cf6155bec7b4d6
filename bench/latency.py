"""Tell: how long after a webhook is sent a subscriber hears of the new status.

200 webhooks a second into one web process, one worker, PostgreSQL; the subscriber reads the
server-sent events of ``GET /api/changes``. Beside it a stock arq worker as it comes: how long a job
waits from being put into the queue until it starts, at the same rate.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import orjson
from arq.connections import ArqRedis

from bench.blast import body, signature
from bench.peers import JOB
from bench.stage import SECRET, TOKEN, Stage, line_of, open_stage

__all__ = ["arguments", "measure", "table"]

PER_S = 200
SECONDS = 12.0
WARM_S = 3.0
STOCK_S = 8.0
HANGS_S = 30.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--rate", type=int, default=PER_S, help="webhooks a second, %(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="default: %(default)s")


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and return percentiles in milliseconds."""
    async with open_stage() as stage:
        ours, acknowledged = await _ours(stage, options.rate, options.seconds)
        stock = await _stock(stage, options.rate)
    return {
        "bench": "latency",
        "per_s": options.rate,
        "webhooks": len(ours),
        "p50_ms": _percentile(ours, 50),
        "p99_ms": _percentile(ours, 99),
        "acknowledged_p50_ms": _percentile(acknowledged, 50),
        "acknowledged_p99_ms": _percentile(acknowledged, 99),
        "stock_arq_p50_ms": _percentile(stock, 50),
        "stock_arq_p99_ms": _percentile(stock, 99),
    }


async def _ours(stage: Stage, rate: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return, sorted, how long each webhook took to be told of, and to be acknowledged, in ms."""
    sent: dict[str, float] = {}
    told: dict[str, float] = {}
    acknowledged: dict[str, float] = {}
    _, port = await stage.part("webhook_server")
    await stage.part("worker")
    url = f"http://127.0.0.1:{port}"
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        listening = asyncio.Event()
        hearing = asyncio.create_task(_hear(session, url, told, listening))
        stack.callback(hearing.cancel)
        await listening.wait()
        loop = asyncio.get_running_loop()
        posting: set[asyncio.Task[None]] = set()
        started = loop.time()
        for number in range(int(rate * (WARM_S + seconds))):
            await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
            posting.add(asyncio.create_task(_post(session, url, number, sent, acknowledged)))
        await asyncio.gather(*posting)
        async with asyncio.timeout(HANGS_S):
            while True:
                if len(told) == len(sent):
                    break
                await asyncio.sleep(0.05)
    warm = {f"chg_bench{number}" for number in range(int(rate * WARM_S))}
    counted = [name for name in sent if name not in warm]
    return (
        sorted((told[name] - sent[name]) * 1000 for name in counted),
        sorted((acknowledged[name] - sent[name]) * 1000 for name in counted),
    )


async def _post(
    session: aiohttp.ClientSession,
    url: str,
    number: int,
    sent: dict[str, float],
    acknowledged: dict[str, float],
) -> None:
    raw, name = body(number), f"chg_bench{number}"
    headers = {"flutterwave-signature": signature(raw, SECRET), "Content-Type": "application/json"}
    sent[name] = time.perf_counter()
    async with session.post(f"{url}/webhooks/flutterwave", data=raw, headers=headers) as response:
        assert response.status == 200, response.status
        acknowledged[name] = time.perf_counter()


async def _hear(
    session: aiohttp.ClientSession, url: str, told: dict[str, float], listening: asyncio.Event
) -> None:
    """Note when each payment is said to be successful; go on where a stream that lagged ended."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    while True:
        async with session.get(
            f"{url}/api/changes", headers=headers, timeout=aiohttp.ClientTimeout(total=None)
        ) as news:
            listening.set()
            async for line in news.content:
                if line.startswith(b"id:"):
                    headers["Last-Event-ID"] = line[3:].strip().decode()
                elif line.startswith(b"data:"):
                    change = orjson.loads(line[5:])
                    if change.get("kind") == "charge" and change.get("status") == "successful":
                        told.setdefault(change["payment_id"], time.perf_counter())


async def _stock(stage: Stage, rate: int) -> list[float]:
    """Return, sorted, how long each job of a stock arq worker waited for its start, in ms."""
    jobs = int(rate * STOCK_S)
    async with ArqRedis.from_url(stage.valkey.url) as redis:
        await redis.flushall()
        async with stage.peer(
            "arq", url=stage.valkey.url, jobs=jobs, max_jobs=10, poll_s=0.5
        ) as peer:
            await line_of(peer)
            loop = asyncio.get_running_loop()
            started = loop.time()
            putting: set[asyncio.Task[Any]] = set()
            for number in range(jobs):
                await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
                putting.add(asyncio.create_task(redis.enqueue_job(JOB)))
            await asyncio.gather(*putting)
            said = await line_of(peer)
    return list(said["waited_ms"])


def _percentile(values: Sequence[float], percent: int) -> float:
    return round(values[min(len(values) - 1, len(values) * percent // 100)], 2)


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    rows = (
        ("paystate: sent -> subscriber told", "p50_ms", "p99_ms"),
        ("paystate: sent -> acknowledged", "acknowledged_p50_ms", "acknowledged_p99_ms"),
        ("stock arq: enqueued -> job starts", "stock_arq_p50_ms", "stock_arq_p99_ms"),
    )
    head = f"{figures['per_s']} a second".ljust(36) + f"{'p50 ms':>10}{'p99 ms':>10}"
    return "\n".join((head, *(f"{name:36}{figures[a]:>10}{figures[b]:>10}" for name, a, b in rows)))
