"""``python -m bench drill``: whole processes under load, and what goes wrong with them.

Two web processes, a worker, Valkey, PostgreSQL and a provider; at least 200 webhooks a second with
duplicates, late ones and lies; lookups by every path, each judged by an oracle; and in the middle
of it one fault. See `bench.drill.faults` for what goes wrong, `bench.drill.oracle` for what must
never be answered. ``--lookups N`` goes on with one drill after another until so many are judged.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.drill.deployment import NotPossibleHere
from bench.drill.faults import DRILLS, Drill
from bench.drill.one import Timing, drill_once
from bench.servers import make_template
from paystate.logs import configure_logging

__all__ = ["arguments", "failed", "measure", "table"]

MUST_BE_ZERO = (
    "lost", "stale", "regressed", "broke", "wrong_at_the_end", "subscribers_behind",
)  # fmt: skip
_COLUMNS = ("killed_at", "lookups", "lookups_during", "at_risk", *MUST_BE_ZERO, "recovery_s",
            "settled_s")  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the drills."""
    names = [drill.name for drill in DRILLS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME",
        help="this drill alone; may be given again",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the drills and end")
    parser.add_argument(
        "--seconds", type=float, default=Timing().after_s,
        help="of load after each fault, at least (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--lookups", type=int, default=0, help="repeat the drills until so many were judged"
    )
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the drills and return the figures of each, and their sums."""
    chosen = [drill for drill in DRILLS if not options.only or drill.name in options.only]
    if options.list:
        return {"drills": [{"name": drill.name, "fault": drill.what} for drill in chosen]}
    configure_logging("CRITICAL", "json", "drill")
    logging.getLogger("paystate").setLevel(logging.CRITICAL)  # its losses are our doing
    results: list[dict[str, Any]] = []
    folder = Path(tempfile.mkdtemp(prefix="drills"))
    try:
        template = await make_template(folder) if options.database == "postgresql" else None
        for number, drill in enumerate(_turns(chosen, options.lookups, results)):
            result = await _one(drill, template, options, options.seed + number)
            results.append(result)
            print(_line(result), file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"drills": results, **_sums(results)}


def _turns(chosen: list[Drill], lookups: int, results: list[dict[str, Any]]) -> Iterator[Drill]:
    """Yield each drill once, and again as long as too few lookups were judged."""
    yield from chosen
    for drill in itertools.cycle(chosen):
        if sum(r.get("lookups", 0) for r in results) >= lookups:
            return
        yield drill


async def _one(
    drill: Drill, template: Path | None, options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    if drill.needs_postgres and template is None:
        return {"name": drill.name, "fault": drill.what, "skipped": "it needs PostgreSQL"}
    try:
        return await drill_once(drill, template, Timing(after_s=options.seconds), seed)
    except NotPossibleHere as e:
        return {"name": drill.name, "fault": drill.what, "skipped": str(e)}


def _sums(results: list[dict[str, Any]]) -> dict[str, Any]:
    done = [result for result in results if "skipped" not in result]
    names = ("lookups", "at_risk", *MUST_BE_ZERO)
    return {
        "faults": len({result["name"] for result in done}),
        "acknowledged": sum(sum(result["acknowledged"].values()) for result in done),
        **{name: sum(result[name] for result in done) for name in names},
    }


def failed(figures: dict[str, Any]) -> bool:
    """Say whether anything is not as it must be, or nothing was tried."""
    if any(0 in (r["acknowledged"][p] for p in ("before", "after"))
           for r in figures["drills"] if "acknowledged" in r):  # fmt: skip
        return True
    never_recovered = any(
        result["recovery_s"] is None for result in figures["drills"] if "recovery_s" in result
    )
    return never_recovered or any(figures.get(name) for name in MUST_BE_ZERO)


def _line(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return f"{result['name']:16} skipped: {result['skipped']}"
    acknowledged = "/".join(str(n) for n in result["acknowledged"].values())
    return f"{result['name']:16}{acknowledged:>16}" + "".join(
        f"{result[name]!s:>{max(8, len(name) + 1)}}" for name in _COLUMNS
    )


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    if "faults" not in figures:
        return "\n".join(f"{drill['name']:16}{drill['fault']}" for drill in figures["drills"])
    head = f"{'drill':16}{'acknowledged':>16}" + "".join(
        f"{name:>{max(8, len(name) + 1)}}" for name in _COLUMNS
    )
    rows = [_line(result) for result in figures["drills"]]
    notes = [note for result in figures["drills"] for note in result.get("violations", ())]
    risk = figures["at_risk"] / max(1, figures["lookups"])
    total = (
        f"{figures['faults']} faults, {figures['acknowledged']} webhooks acknowledged, "
        f"{figures['lookups']} lookups, {figures['at_risk']} at risk ({risk:.0%})"
    )
    return "\n".join([head, *rows, *notes, total])
