"""Lookups over HTTP: what one web process answers a second, beside plain programs that do less.

100,000 payments, every fifth pending, asked for by Zipf's law on 64 connections with a bearer
token. Ours answers successful ones from its near cache, and pending ones under their leases, with
PostgreSQL behind. The servers take turns; the load comes from a process of its own. The peers are
in `bench.getters`. Against cashews payments settle meanwhile, through our whole flow and through
theirs, and answers that still say pending to a question asked after that was acknowledged are
counted.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]

from bench.population import put_successful, store_rows
from bench.results import Chart
from bench.stage import SECRET, TOKEN, Stage, line_of, open_stage

__all__ = ["arguments", "ask", "chart", "failed", "getter", "measure", "table"]

PAYMENTS = 100_000
CONNECTIONS = 64
ROUNDS = 3
SECONDS = 1.5
WARM_S = 1.5
# The near cache is filled by what is asked for, other payments than those of the rounds too. It
# keeps an answer for 30 s, so at rest it holds more than these seconds put into it.
FILL_S = 6.0
# Of settling: rounds, each as long, and payments a second. The worker needs a core as well.
RACES = 2
RACE_S = 3.0
SETTLE_PER_S = 50
# Payments are pending for as long as it takes; about an old one Flutterwave would be asked.
YOUNG = {"PENDING_RECHECK_S": "86400", "AUDIT_CHANGES_PER_S": "0", "AUDIT_SAMPLE": "0"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a round, %(default)s")
    parser.add_argument("--payments", type=int, default=PAYMENTS, help="default: %(default)s")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a process listens, and which it is."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Return the processor time that it has taken so far, in seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


async def _web(stage: Stage, **settings: str) -> Server:
    child, port = await stage.part("webhook_server", **settings)
    return Server(port, child.pid)


@asynccontextmanager
async def getter(stage: Stage, name: str, **options: Any) -> AsyncIterator[Server]:
    """Run a peer of `bench.getters`."""
    async with stage.peer(name, module="bench.getters", **options) as process:
        yield Server((await line_of(process))["port"], process.pid)


async def ask(stage: Stage, port: int, **options: Any) -> dict[str, Any]:
    """Run `bench.asking` and return what it says."""
    options = {"port": port, "token": TOKEN, "secret": SECRET, **options}
    async with stage.peer("ask", module="bench.asking", **options) as process:
        said: dict[str, Any] = await line_of(process)
        return said


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and return rates a second and their ratios."""
    async with open_stage() as stage, AsyncExitStack() as stack:
        await asyncio.gather(
            store_rows(stage.postgres.url, options.payments),
            put_successful(stage.valkey.url, options.payments),
        )
        enter = stack.enter_async_context
        where = {"url": stage.valkey.url, "database": stage.postgres.url}
        servers = {
            "bare": await enter(getter(stage, "bare")),
            "redis": await enter(getter(stage, "redis", url=stage.valkey.url)),
            "ours": await _web(stage, **YOUNG),
            "shared": await _web(stage, NEAR_SIZE="0", **YOUNG),
            "cashews": await enter(getter(stage, "cashews", **where)),
        }
        alone = ("bare", "redis", "ours", "shared")
        rates = await _rates(stage, {name: servers[name] for name in alone}, options)
        settler = await enter(getter(stage, "settler", **where))
        ports = {name: server.port for name, server in servers.items()}
        races = await _race(stage, ports, settler.port, options)
    return {**_figures(rates, races, options)}


async def _rates(
    stage: Stage, servers: Mapping[str, Server], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Let the servers take turns, and return what was measured of each, round by round."""
    usual = {"connections": CONNECTIONS, "payments": options.payments}
    for name, server in servers.items():
        await ask(stage, server.port, seconds=FILL_S if name == "ours" else WARM_S, **usual)
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for number in range(options.rounds):
        for name, server in servers.items():
            cpu_s, port = server.cpu_s(), server.port
            one = await ask(stage, port, seconds=options.seconds, seed=number + 2, **usual)
            said[name].append({**one, "cpu_us": (server.cpu_s() - cpu_s) / one["answers"] * 1e6})
    return said


async def _race(
    stage: Stage, ports: Mapping[str, int], settler: int, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Let ours and cashews take turns while payments settle."""
    await stage.part("worker", **YOUNG)
    usual = {"connections": CONNECTIONS, "payments": options.payments, "seconds": RACE_S}
    await ask(stage, ports["cashews"], **{**usual, "seconds": WARM_S})
    said: dict[str, list[dict[str, Any]]] = {"ours": [], "cashews": []}
    settled = 0
    for number in range(RACES):
        usual = {**usual, "seed": number + 20, "settle_per_s": SETTLE_PER_S, "settled": settled}
        said["ours"].append(await ask(stage, ports["ours"], settle_port=ports["ours"], **usual))
        said["cashews"].append(
            await ask(stage, ports["cashews"], settle_port=settler, webhook=False, **usual)
        )
        settled += max(round_[-1]["settled"] for round_ in said.values())
    return said


def _ratio(said: Mapping[str, list[dict[str, Any]]], ours: str, peer: str) -> float:
    """Return the median of the ratios of rounds that stood side by side."""
    pairs = zip(said[ours], said[peer], strict=True)
    return round(float(median(a["per_s"] / b["per_s"] for a, b in pairs)), 3)


def _figures(
    rates: Mapping[str, list[dict[str, Any]]],
    races: Mapping[str, list[dict[str, Any]]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    def per_s(said: list[dict[str, Any]]) -> int:
        return round(float(median(one["per_s"] for one in said)))

    everything = [one for said in (*rates.values(), *races.values()) for one in said]
    return {
        "bench": "lookup",
        "lookups_per_s": per_s(rates["ours"]),
        "ratio_to_bare_aiohttp": _ratio(rates, "ours", "bare"),
        "ratio_to_redis_py": _ratio(rates, "ours", "redis"),
        "ratio_to_cashews": _ratio(races, "ours", "cashews"),
        "stale": sum(one["stale"] for one in races["ours"]),
        "cashews_stale": sum(one["stale"] for one in races["cashews"]),
        "bare_aiohttp_per_s": per_s(rates["bare"]),
        "redis_py_per_s": per_s(rates["redis"]),
        "shared_cache_per_s": per_s(rates["shared"]),
        "shared_cache_ratio_to_redis_py": _ratio(rates, "shared", "redis"),
        "while_settling_per_s": per_s(races["ours"]),
        "cashews_per_s": per_s(races["cashews"]),
        "settled": sum(one["settled"] for one in races["ours"]),
        "cashews_settled": sum(one["settled"] for one in races["cashews"]),
        "p99_ms": round(median(one["p99_ms"] for one in rates["ours"]), 2),
        "bare_aiohttp_p99_ms": round(median(one["p99_ms"] for one in rates["bare"]), 2),
        "cpu_us": {
            name: round(float(median(one["cpu_us"] for one in said)), 1)
            for name, said in rates.items()
        },
        "refused": int(sum(one["refused"] for one in everything)),
        "payments": options.payments,
        "connections": CONNECTIONS,
        "rounds": {
            name: [round(one["per_s"]) for one in said]
            for name, said in (*rates.items(), *((f"{n}_settling", s) for n, s in races.items()))
        },
    }


_ROWS = (
    ("paystate", "lookups_per_s"),
    ("bare aiohttp, constant bytes", "bare_aiohttp_per_s"),
    ("aiohttp, one redis-py HMGET each", "redis_py_per_s"),
    ("paystate without its near cache", "shared_cache_per_s"),
    ("paystate, payments settling", "while_settling_per_s"),
    ("aiohttp and cashews, settling", "cashews_per_s"),
)


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    rows = [f"{name:34}{figures[field]:>12,}" for name, field in _ROWS]
    return "\n".join(
        (
            f"{'':34}{'answers/s':>12}",
            *rows,
            "ratios: {ratio_to_bare_aiohttp} to bare aiohttp, {ratio_to_redis_py} to redis-py, "
            "{ratio_to_cashews} to cashews\n"
            "processor time of an answer, in us: ours {cpu_us[ours]}, bare {cpu_us[bare]}, "
            "redis-py {cpu_us[redis]}\n"
            "stale: {stale} of ours, {cashews_stale} of cashews; {refused} refused; "
            "p99 {p99_ms} ms (bare {bare_aiohttp_p99_ms} ms)".format(**figures),
        )
    )


def chart(figures: dict[str, Any]) -> Chart:
    """Return the figures as bars."""
    return Chart(
        "Statuses answered over HTTP by one process",
        "/s",
        [(name, figures[field]) for name, field in _ROWS],
        ours=[name for name, _ in _ROWS if name.startswith("paystate")],
    )


def failed(figures: dict[str, Any]) -> bool:
    """Say whether something was answered that must not be."""
    return bool(figures["stale"])
