"""Lookups out of a cache that holds a million payments, beside one that holds ten thousand.

Two Valkeys, filled with successful payments and their references; every lookup is another payment,
so none is favoured. The ten thousand are put there by the real write-through, the million by
commands that store the same, which is checked on a sample, byte by byte. The p99 is that of the
shared cache itself, with the near cache off; the figure with it on stands beside it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis

from bench.lookup import YOUNG, ask
from bench.population import put_states, states_of
from bench.results import Chart
from bench.servers import Valkey
from bench.stage import Stage, open_stage
from paystate.keys import Keys
from paystate.status import Status
from paystate.ttl import DEFAULT_TTL

SMALL, LARGE = 10_000, 1_000_000
CONNECTIONS = 16
ROUNDS = 5
SECONDS = 1.2
SAMPLE = 200
_CHUNK = 5_000


async def measure() -> dict[str, Any]:
    """Measure and return the ratio of the p99s, and bytes for each payment."""
    at_ms = time.time_ns() // 1_000_000
    async with open_stage() as stage, AsyncExitStack() as stack:
        large = Valkey(stage.folder / "large", fsync="no")
        stack.push_async_callback(large.close)
        await large.start()
        small = stage.valkey
        clients = [
            await stack.enter_async_context(Redis.from_url(valkey.url)) for valkey in (small, large)
        ]
        for client in clients:  # neither memory nor time is the log's
            await client.config_set("appendonly", "no")
        before = await _memory(clients[1])
        await asyncio.gather(
            put_states(small.url, (s for n in range(SMALL) for s in _states(n, at_ms))),
            _fill(large.url, at_ms),
        )
        bytes_each = (await _memory(clients[1]) - before) / LARGE
        await _compare(clients[0], clients[1], at_ms)
        said = await _rounds(stage, small.url, large.url)
    return _figures(said, bytes_each)


def _states(number: int, at_ms: int) -> Any:
    return states_of(number, Status.SUCCESSFUL, at_ms)


async def _memory(client: Any) -> int:
    return int((await client.info("memory"))["used_memory"])


async def _fill(url: str, at_ms: int) -> None:
    """Store a million payments and references without waiting for the replies."""
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    writer.write(b"CLIENT REPLY OFF\r\n")
    for first in range(0, LARGE, _CHUNK):
        writer.write(b"".join(_commands(range(first, first + _CHUNK), at_ms)))
        await writer.drain()
    writer.write(b"CLIENT REPLY ON\r\n")
    assert (await reader.readline()) == b"+OK\r\n"
    writer.close()


def _commands(numbers: range, at_ms: int) -> Iterator[bytes]:
    keys, at = Keys(), str(at_ms)
    for number in numbers:
        for state in _states(number, at_ms):
            key = keys.hash(state.entity)
            link = state.payment_id if state.entity.is_reference else state.link
            ttl_ms = DEFAULT_TTL.milliseconds(Status.SUCCESSFUL, random.random())
            yield (
                f"HSET {key} status successful version {state.version} at {at} link {link}\r\n"
                f"PEXPIRE {key} {ttl_ms}\r\n"
            ).encode()


async def _compare(small: Any, large: Any, at_ms: int) -> None:
    """See that what the commands have stored is what the real write-through stores."""
    keys = Keys()
    assert await large.dbsize() == 2 * LARGE
    for number in random.sample(range(SMALL), SAMPLE):
        for state in _states(number, at_ms):
            key = keys.hash(state.entity)
            assert await small.dump(key) == await large.dump(key), key
            assert abs(await small.pttl(key) - await large.pttl(key)) < 86_400_000 / 4, key


async def _rounds(stage: Stage, small: str, large: str) -> dict[str, list[dict[str, Any]]]:
    """Let the four processes take turns, and return what was measured of each."""
    ports: dict[str, tuple[int, int]] = {}
    for name, url, count in (("small", small, SMALL), ("large", large, LARGE)):
        for near, size in (("", "0"), ("_near", "100000")):
            _, port = await stage.part("webhook_server", CACHE_URL=url, NEAR_SIZE=size, **YOUNG)
            ports[name + near] = (port, count)
    usual: dict[str, Any] = {"connections": CONNECTIONS, "skew": 0.0}
    for port, count in ports.values():
        await ask(stage, port, payments=count, seconds=1.0, **usual)
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in ports}
    for number in range(ROUNDS):
        for name, (port, count) in ports.items():
            said[name].append(
                await ask(stage, port, payments=count, seconds=SECONDS, seed=number + 2, **usual)
            )
    return said


def _figures(said: dict[str, list[dict[str, Any]]], bytes_each: float) -> dict[str, Any]:
    def ratio(large: str, small: str) -> float:
        pairs = zip(said[large], said[small], strict=True)
        return round(float(median(a["p99_ms"] / b["p99_ms"] for a, b in pairs)), 3)

    def p99(name: str) -> float:
        return round(float(median(one["p99_ms"] for one in said[name])), 2)

    return {
        "bench": "scale",
        "p99_ratio_1m_to_10k": ratio("large", "small"),
        "bytes_per_payment": round(bytes_each),
        "p99_10k_ms": p99("small"),
        "p99_1m_ms": p99("large"),
        "near_p99_ratio_1m_to_10k": ratio("large_near", "small_near"),
        "near_p99_10k_ms": p99("small_near"),
        "near_p99_1m_ms": p99("large_near"),
        "lookups_per_s_10k": round(median(one["per_s"] for one in said["small"])),
        "lookups_per_s_1m": round(median(one["per_s"] for one in said["large"])),
        "refused": int(sum(one["refused"] for each in said.values() for one in each)),
        "near_cache": False,
        "connections": CONNECTIONS,
        "rounds": {name: [round(o["p99_ms"], 2) for o in each] for name, each in said.items()},
    }


_ROWS = (
    ("10,000 payments", "p99_10k_ms"),
    ("1,000,000 payments", "p99_1m_ms"),
    ("10,000, near cache on", "near_p99_10k_ms"),
    ("1,000,000, near cache on", "near_p99_1m_ms"),
)


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    rows = [f"{name:34}{figures[field]:>10}" for name, field in _ROWS]
    return "\n".join(
        (
            f"{'lookup, every payment alike':34}{'p99 ms':>10}",
            *rows,
            "ratio {p99_ratio_1m_to_10k}, with the near cache {near_p99_ratio_1m_to_10k}".format(
                **figures
            ),
            f"{figures['bytes_per_payment']} bytes of Valkey for a payment and its reference",
        )
    )


def chart(figures: dict[str, Any]) -> Chart:
    """Return the figures as bars."""
    return Chart(
        "p99 of a lookup over HTTP, by payments in the cache",
        "ms",
        [(name, figures[field]) for name, field in _ROWS],
        ours=[name for name, _ in _ROWS],
    )
