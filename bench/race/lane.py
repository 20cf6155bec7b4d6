"""One lane of the race: its payments, its Valkey, and a process of its own if wanted."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from redis.asyncio import Redis

from bench.race.contest import LEASE_S, Contest
from bench.race.systems import Peer, open_peers
from bench.servers import Valkey, before_exec
from bench.without import without
from paystate.resources import Resources, open_resources
from paystate.settings import Role, load

__all__ = ["Counts", "Lane", "run", "run_apart"]

ROOT = Path(__file__).parents[2]

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Lane:
    """What to race: `count` payments from `first_id` on, replies up to `jitter_ms` late.

    Without `peers` ours race alone.
    """

    database: str
    first_id: int
    count: int
    jitter_ms: float
    without: str | None
    seed: int
    peers: bool = True


async def run(lane: Lane) -> Counts:
    """Race in this process, on a Valkey of its own, and return what each system has done."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lane"))
        valkey = Valkey(Path(folder) / "valkey")
        stack.push_async_callback(valkey.close)
        await valkey.start()
        stack.enter_context(without(lane.without))
        url = await stack.enter_async_context(_late(valkey, lane.jitter_ms))
        writer, reader = [await _process(lane.database, url, stack) for _ in range(2)]
        peers: tuple[Peer, ...] = ()
        if lane.peers:
            peers = await stack.enter_async_context(open_peers(lane.database, LEASE_S, url))
        redis = await stack.enter_async_context(Redis.from_url(url))
        contest = Contest(writer, reader, peers, redis, writer.store, random.Random(lane.seed))
        await contest.run(lane.database, lane.first_id, lane.count)
        counts = {name: score.figures() for name, score in contest.scores.items()}
        counts["paystate"] |= {"held_up": contest.paused, "wrong": contest.unlike}
        return counts


async def run_apart(lane: Lane) -> Counts:
    """Race in another process and return what each system has done."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.race", json.dumps(asdict(lane)), cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, preexec_fn=before_exec(),
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"a lane of the race ended with code {process.returncode}")
    counts: Counts = json.loads(said)
    return counts


async def _process(database: str, url: str, stack: AsyncExitStack) -> Resources:
    """Open what one process has open."""
    # A pending payment is young here however long the race takes: there is nobody to ask.
    environ = {
        "DATABASE_URL": database,
        "CACHE_URL": url,
        "CACHE_TIMEOUT_MS": "2000",
        "PENDING_LEASE_MS": str(int(LEASE_S * 1000)),
        "PENDING_RECHECK_S": "86400",
    }
    return await stack.enter_async_context(open_resources(load(environ, role=Role.TOOL)))


@asynccontextmanager
async def _late(valkey: Valkey, jitter_ms: float) -> AsyncIterator[str]:
    """Yield the address of `valkey`, its replies up to `jitter_ms` late."""
    if not jitter_ms:
        yield valkey.url
        return
    proxy = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.proxy", str(valkey.port), str(jitter_ms), cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, preexec_fn=before_exec(),
    )  # fmt: skip
    try:
        assert proxy.stdout is not None
        yield f"redis://127.0.0.1:{int(await proxy.stdout.readline())}/0"
    finally:
        proxy.kill()
        await proxy.wait()
