"""Acknowledge: webhooks a second that one web process commits and answers.

Signed v4 webhooks, each of another payment, committed to PostgreSQL, marked in Valkey and put into
the queue before their 200; beside it a bare aiohttp server that only checks the HMAC of the same
bodies. The two take turns, and the load comes from a process of its own.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]

from bench.stage import SECRET, Stage, line_of, open_stage

__all__ = ["arguments", "measure", "table"]

ROUNDS = 5
SECONDS = 3.0
CONNECTIONS = 256
WARM_S = 1.5
PATH = "/webhooks/flutterwave"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a round, %(default)s")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="default: %(default)s")


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and return rates a second and their ratio."""
    async with open_stage() as stage:
        web, port = await stage.part("webhook_server")
        async with stage.peer("bare", secret=SECRET) as bare:
            ports = {"ours": port, "bare": (await line_of(bare))["port"]}
            processes = {
                "ours": {
                    "ours": web.pid,
                    "postgres": stage.postgres.child.pid,
                    "valkey": stage.valkey.child.pid,
                },
                "bare": {"bare": bare.pid},
            }
            cpu_us: dict[str, list[float]] = {n: [] for each in processes.values() for n in each}
            first = 1
            for one in ports.values():
                await _blast(stage, one, first, WARM_S, options.connections)
                first += 10_000_000
            rates: dict[str, list[float]] = {name: [] for name in ports}
            refused = 0.0
            for _ in range(options.rounds):
                for name, one in ports.items():
                    before = {part: _cpu_s(pid) for part, pid in processes[name].items()}
                    said = await _blast(stage, one, first, options.seconds, options.connections)
                    for part, pid in processes[name].items():
                        used_s = _cpu_s(pid) - before[part]
                        cpu_us[part].append(used_s * 1e6 / said["accepted"])
                    first += 10_000_000
                    rates[name].append(said["per_s"])
                    refused += said["refused"]
    ours, hmac = median(rates["ours"]), median(rates["bare"])
    return {
        "bench": "ingest",
        "webhooks_per_s": round(ours),
        "bare_hmac_per_s": round(hmac),
        "ratio_to_bare_hmac": round(
            median(o / b for o, b in zip(rates["ours"], rates["bare"], strict=True)), 3
        ),
        "cpu_us": {name: round(median(each)) for name, each in cpu_us.items()},
        "refused": int(refused),
        "connections": options.connections,
        "rounds": {name: [round(rate) for rate in each] for name, each in rates.items()},
    }


def _cpu_s(pid: int) -> float:
    """Return what a process and those that it has started have used."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


async def _blast(
    stage: Stage, port: int, first: int, seconds: float, connections: int
) -> dict[str, float]:
    return await stage.blast(
        port=port, path=PATH, first=first, seconds=seconds, connections=connections
    )


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    used = figures["cpu_us"]
    rows = (
        ("", "requests/s", "CPU us each"),
        ("paystate, committed before the 200", figures["webhooks_per_s"], used["ours"]),
        ("bare aiohttp POST, HMAC alone", figures["bare_hmac_per_s"], used["bare"]),
    )
    lines = [f"{name:36}{rate:>12}{cpu_us:>13}" for name, rate, cpu_us in rows]
    lines.append(f"{'PostgreSQL, for each of ours':48}{used['postgres']:>13}")
    lines.append(f"{'Valkey, for each of ours':48}{used['valkey']:>13}")
    lines.append(f"ratio {figures['ratio_to_bare_hmac']}, {figures['refused']} refused")
    return "\n".join(lines)
