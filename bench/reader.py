"""`PaymentReader` in process: reads out of the shared cache, and out of its own.

100 callers at once, each waiting for its answer before it asks for the next payment, never two for
the same: the reader with no near cache beside ``await redis.hmget`` on redis-py, uvloop and hiredis
for both, whichever of redis-py's pools is faster. The two take turns. The near cache is asked by
one caller in a loop, which is what one core does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis

from bench.population import FIRST_ID, is_pending, put_successful
from bench.results import Chart
from bench.stage import open_stage
from paystate.reader import PaymentReader

CALLERS = 100
PAYMENTS = 10_000
ROUNDS = 7
SECONDS = 0.7
FIELDS = ["status", "version", "at", "link"]
_AT_ONCE = 1000
# No web process beats the heart here.
HUSHED_S = 3600.0

Read = Callable[[str], Awaitable[Any]]


async def measure() -> dict[str, Any]:
    """Measure and return rates a second and their ratio."""
    ids = [str(FIRST_ID + n) for n in range(PAYMENTS) if not is_pending(n)]
    async with open_stage() as stage, AsyncExitStack() as stack:
        url = stage.valkey.url
        await put_successful(url, PAYMENTS)
        readers: dict[str, Read] = {}
        for name, pool in (("plain", ConnectionPool), ("blocking", BlockingConnectionPool)):
            client = Redis.from_pool(pool.from_url(url, max_connections=CALLERS))
            stack.push_async_callback(client.aclose)
            readers[name] = _hmget(client)
        shared = await stack.enter_async_context(
            PaymentReader(url, near_size=0, silence_s=HUSHED_S)
        )
        readers["ours"] = shared.status
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for number in range(ROUNDS + 1):
            for name, read in readers.items():
                rate = await _together(read, ids)
                if number:  # the first round warms up
                    rates[name].append(rate)
        near = await stack.enter_async_context(PaymentReader(url, silence_s=HUSHED_S))
        awaited, at_once = await _near(near, ids)
    best = "plain" if median(rates["plain"]) >= median(rates["blocking"]) else "blocking"
    pairs = zip(rates["ours"], rates[best], strict=True)
    return {
        "bench": "reader",
        "ratio_to_redis_py": round(float(median(a / b for a, b in pairs)), 2),
        "near_hits_per_s": round(awaited),
        "near_at_once_per_s": round(at_once),
        "reads_per_s": round(median(rates["ours"])),
        "redis_py_per_s": round(median(rates[best])),
        "redis_py_pool": best,
        "callers": CALLERS,
        "rounds": {name: [round(rate) for rate in each] for name, each in rates.items()},
    }


def _hmget(client: Any) -> Read:
    async def read(payment_id: str) -> Any:
        return await client.hmget(f"flw:v1:tx:{payment_id}:hash", FIELDS)

    return read


async def _together(read: Read, ids: Sequence[str]) -> float:
    """Return how many answers a second the callers were given."""
    until = time.perf_counter() + SECONDS
    done = 0

    async def caller(first: int) -> None:
        nonlocal done
        at = first
        while time.perf_counter() < until:
            answer = await read(ids[at % len(ids)])
            assert answer
            at += CALLERS
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return done / (time.perf_counter() - began)


async def _near(reader: PaymentReader, ids: Sequence[str]) -> tuple[float, float]:
    """Return the near hits a second of ``await reader.status(id)`` and of ``reader.near(id)``."""
    with contextlib.suppress(TimeoutError):  # it is live, and nothing will be heard
        await reader.wait_for(ids[0], terminal=False, version=10**9, timeout=1)
    assert reader.live
    held = ids[:_AT_ONCE]
    for payment_id in held:
        await reader.status(payment_id)
    awaited, at_once = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(100):
            for payment_id in held:
                await reader.status(payment_id)
        awaited.append(100 * _AT_ONCE / (time.perf_counter() - began))
        await asyncio.sleep(0)
        began = time.perf_counter()
        for _ in range(100):
            for payment_id in held:
                reader.near(payment_id)
        at_once.append(100 * _AT_ONCE / (time.perf_counter() - began))
        await asyncio.sleep(0)
        assert all(reader.near(payment_id) is not None for payment_id in held)
    return median(awaited), median(at_once)


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    return "\n".join(
        (
            f"{'':44}{'reads/s':>12}",
            f"{'PaymentReader, shared cache, batched':44}{figures['reads_per_s']:>12,}",
            f"{'redis-py, await hmget':44}{figures['redis_py_per_s']:>12,}",
            f"{'PaymentReader, near cache, await status()':44}{figures['near_hits_per_s']:>12,}",
            f"{'PaymentReader, near cache, near()':44}{figures['near_at_once_per_s']:>12,}",
            "ratio {ratio_to_redis_py}, {callers} callers at once; the near cache by one".format(
                **figures
            ),
        )
    )


def chart(figures: dict[str, Any]) -> Chart:
    """Return the figures as bars; the near cache is another order of size."""
    return Chart(
        "Reads of the shared cache by one process, 100 callers",
        "/s",
        [("PaymentReader", figures["reads_per_s"]), ("redis-py", figures["redis_py_per_s"])],
        ours=["PaymentReader"],
    )
