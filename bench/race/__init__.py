"""``python -m bench race``: lookups that meet their payment's webhook within milliseconds.

Our flows on a real Valkey and a real PostgreSQL, in the leased mode, and beside them cache-aside
with cashews (client-side) and with aiocache over the same rows at the same times. Half of the
payments race on loopback, half with each reply of Valkey up to 3 ms late, in two processes. A
mechanism of the protocol can be taken out (``--without token``), to see that the race finds what it
is there for.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.race.lane import Counts, Lane, run_apart
from bench.servers import Postgres, make_template
from bench.without import MECHANISMS
from paystate.store.migrate import upgrade_async

__all__ = ["arguments", "failed", "figures", "measure", "table"]

PAYMENTS = 8000
LANES = {"loopback": 0.0, "jitter": 3.0}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the race."""
    parser.add_argument("--payments", type=int, default=PAYMENTS, help="default: %(default)s")
    parser.add_argument("--without", choices=MECHANISMS, help="take this out of the protocol")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Race and return the figures, of both lanes together and of each."""
    folder = Path(tempfile.mkdtemp(prefix="race"))
    try:
        async with AsyncExitStack() as stack:
            urls = await _databases(options.database, folder, stack)
            lanes = [
                Lane(url, 10_000_000 * (turn + 1), options.payments // len(LANES), jitter_ms,
                     options.without, options.seed + turn)
                for turn, (url, jitter_ms) in enumerate(zip(urls, LANES.values(), strict=True))
            ]  # fmt: skip
            results = await asyncio.gather(*map(run_apart, lanes))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "payments": sum(lane.count for lane in lanes),
        "without": options.without,
        **figures(results),
        **{name: figures([counts]) for name, counts in zip(LANES, results, strict=True)},
    }


def figures(results: list[Counts]) -> dict[str, Any]:
    """Return the figures of some lanes together, by their names."""

    def total(system: str, name: str) -> int:
        return sum(counts[system][name] for counts in results if system in counts)

    cached, asked = (total("paystate", f"after_success{x}") for x in ("_cached", ""))
    return {
        **{name: total("paystate", name) for name in ("lookups", "at_risk", "stale")},
        "hit_rate": round(cached / max(1, asked), 4),
        "wrong_at_the_end": total("paystate", "wrong"),
        "readers_held_up": total("paystate", "held_up"),
        "cashews_stale": total("cashews", "stale"),
        "aiocache_stale": total("aiocache", "stale"),
    }


def failed(found: dict[str, Any]) -> bool:
    """Say whether a lookup was stale or wrong although nothing was taken out."""
    return found["without"] is None and bool(found["stale"] or found["wrong_at_the_end"])


def table(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    names = ("lookups", "at_risk", "stale", "hit_rate", "cashews_stale", "aiocache_stale")
    rows = {**{name: found[name] for name in LANES}, "both": found}
    lines = [f"{'':10}" + "".join(f"{name:>16}" for name in names)]
    for part, row in rows.items():
        lines.append(f"{part:10}" + "".join(f"{row[name]:>16}" for name in names))
    return "\n".join(lines)


async def _databases(kind: str, folder: Path, stack: AsyncExitStack) -> list[str]:
    """Return an address for each lane; SQLite has one writer at a time, so a file each."""
    if kind == "sqlite":
        urls = [f"sqlite:///{folder / name}.db" for name in LANES]
        await asyncio.gather(*map(upgrade_async, urls))
        return urls
    server = Postgres(folder, await make_template(folder))
    stack.push_async_callback(server.close)
    await server.start()
    return [server.url] * len(LANES)
