"""What a crowd that polls costs the database: 10,000 callers, 100 pending payments, one process.

Each caller asks over HTTP on a connection of its own, every two seconds, as a page does. The
queries are those that the process counts; beside them stand the transactions that PostgreSQL counts
in all. In strict mode, where no pending is ever cached, every question is a question to the
database: the last line is what that costs.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import aiohttp
import asyncpg

from bench.lookup import YOUNG, ask
from bench.population import PENDING_OF, store_rows
from bench.results import Chart
from bench.stage import Stage, open_stage

CALLERS = 10_000
PENDING = 100
SECONDS = 10.0
STRICT_S = 4.0
PAUSE_S = 2.0
# Longer than PostgreSQL keeps its counts back.
COUNTS_S = 1.2


async def measure() -> dict[str, Any]:
    """Measure and return queries a second."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = hard if hard != resource.RLIM_INFINITY else 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65_536), hard))
    callers = min(CALLERS, min(most, 65_536) - 512)
    async with open_stage() as stage:
        await store_rows(stage.postgres.url, PENDING * PENDING_OF)
        leased = await _poll(stage, callers, SECONDS)
        strict = await _poll(stage, callers, STRICT_S, PENDING_LEASE_MS="0")
    return {
        "bench": "polls",
        "db_queries_per_s": round(leased["queries"], 1),
        "transactions_per_s": round(leased["transactions"], 1),
        "lookups_per_s": round(leased["per_s"]),
        "p99_ms": round(leased["p99_ms"], 1),
        "strict_db_queries_per_s": round(strict["queries"], 1),
        "strict_lookups_per_s": round(strict["per_s"]),
        "callers": callers,
        "payments": PENDING,
        "refused": int(leased["refused"] + strict["refused"]),
    }


async def _poll(stage: Stage, callers: int, seconds: float, **settings: str) -> dict[str, float]:
    """Let the callers poll a process with `settings`."""
    child, port = await stage.part("webhook_server", **YOUNG, **settings)
    usual = {"payments": PENDING * PENDING_OF, "only": "pending", "pause_s": PAUSE_S}
    await ask(stage, port, connections=64, seconds=1.0, **{**usual, "pause_s": 0.0})
    before = await _count(stage, port)
    said = await ask(stage, port, connections=callers, seconds=seconds, **usual)
    after = await _count(stage, port)
    await child.kill()
    # Connecting the crowd takes its time too, and is not counted among the seconds.
    return {
        **said,
        "queries": (after[0] - before[0]) / said["lasted_s"],
        "transactions": (after[1] - before[1]) / said["lasted_s"],
    }


async def _count(stage: Stage, port: int) -> tuple[float, float]:
    """Return the queries that the process, and the transactions that PostgreSQL have counted."""
    await asyncio.sleep(COUNTS_S)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    name = "paystate_database_reads_total "
    queries = next(float(line.removeprefix(name)) for line in lines if line.startswith(name))
    connection = await asyncpg.connect(stage.postgres.url)
    try:
        counted = await connection.fetchval(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database "
            "WHERE datname = current_database()"
        )
    finally:
        await connection.close()
    return queries, float(counted)


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    return "\n".join(
        (
            f"{figures['callers']:,} callers, {figures['payments']} pending payments",
            f"{'database queries a second':40}{figures['db_queries_per_s']:>10}",
            f"{'transactions a second, all of them':40}{figures['transactions_per_s']:>10}",
            f"{'lookups a second':40}{figures['lookups_per_s']:>10}",
            f"{'queries a second in strict mode':40}{figures['strict_db_queries_per_s']:>10}",
            f"p99 {figures['p99_ms']} ms, {figures['refused']} refused",
        )
    )


def chart(figures: dict[str, Any]) -> Chart:
    """Return the figures as bars."""
    bars = [
        ("lookups", figures["lookups_per_s"]),
        ("database queries", figures["db_queries_per_s"]),
        ("database queries, strict mode", figures["strict_db_queries_per_s"]),
    ]
    return Chart(
        f"{figures['callers']:,} callers poll {figures['payments']} pending payments", "/s", bars,
        ours=[bars[1][0], bars[2][0]],
    )  # fmt: skip
