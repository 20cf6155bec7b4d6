"""What goes wrong, one drill each. A fault returns when it is over: what was killed is started.

How long it takes until all is served again is not the fault's time but the product's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

from bench.drill.deployment import Deployment, Part, Plan
from bench.servers import Child
from bench.topologies import Cluster
from paystate.flutterwave.sandbox.faults import Fault, FaultMode

__all__ = ["DRILLS", "Drill"]

# How long something is away. A platform restarts a process within a second or so.
AWAY_S = 1.0
FROZEN_S = 3.0
WEATHER_S = 4.0
# Longer than a stop in peace may take.
STOP_S = 30.0
DISK_MB = 160


_USUAL = Plan()


@dataclass(frozen=True, slots=True)
class Drill:
    """One fault, what it needs, and how long the load goes on after it at least."""

    name: str
    what: str
    fault: Callable[[Deployment], Awaitable[None]]
    plan: Plan = _USUAL
    after_s: float = 0.0
    needs_postgres: bool = False
    # The fault takes the first shard of a cluster; how the others fare is measured.
    spares_shards: bool = False


async def _kill_and_start(child: Child) -> None:
    await child.kill()
    await asyncio.sleep(AWAY_S)
    await child.spawn()


async def _kill_web(run: Deployment) -> None:
    await _kill_and_start(run.web[0].child)


async def _kill_worker(run: Deployment) -> None:
    await _kill_and_start(run.worker.child)


async def _kill_valkey(run: Deployment) -> None:
    assert run.valkey is not None
    await _kill_and_start(run.valkey.child)


async def _empty_valkey(run: Deployment) -> None:
    assert run.valkey is not None
    await run.valkey.child.kill()
    run.valkey.empty()
    await run.valkey.child.spawn()


async def _freeze_valkey(run: Deployment) -> None:
    assert run.valkey is not None
    run.valkey.child.signal(signal.SIGSTOP)
    await asyncio.sleep(FROZEN_S)
    run.valkey.child.signal(signal.SIGCONT)


async def _kill_postgres(run: Deployment) -> None:
    assert run.postgres is not None
    await _kill_and_start(run.postgres.child)


async def _kill_everything(run: Deployment) -> None:
    """Kill every process there is at the same moment, as a power cut of the host would."""
    assert run.valkey is not None
    servers = [run.valkey.child] + ([run.postgres.child] if run.postgres else [])
    children = [*servers, *(part.child for part in run.parts)]
    await asyncio.gather(*(child.kill() for child in children))
    for child in children:
        await child.spawn()


async def _stop_everything(run: Deployment) -> None:
    """Ask every process to end at the same moment, servers too, and note how ours did."""
    assert run.valkey is not None
    servers = [run.valkey.child] + ([run.postgres.child] if run.postgres else [])
    for child in (*servers, *(part.child for part in run.parts)):
        child.signal(signal.SIGTERM)
    run.notes["exit_codes"] = await asyncio.gather(*map(_ended, run.parts))
    for child in servers:
        await asyncio.wait([asyncio.ensure_future(child.wait())], timeout=STOP_S)
        await child.kill()
        await child.spawn()
    for part in run.parts:
        await part.child.spawn()


async def _ended(part: Part) -> int | None:
    """Return the exit code of a process that was asked to end; None if it had to be killed."""
    try:
        async with asyncio.timeout(STOP_S):
            return await part.child.wait()
    except TimeoutError:
        await part.child.kill()
        return None


async def _end_sessions(run: Deployment) -> None:
    """Have the servers end sessions, again and again: in the midst of work, and of connecting."""
    assert run.valkey is not None
    ended = 0
    until = asyncio.get_running_loop().time() + WEATHER_S
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(Redis.from_url(run.cache_url))
        postgres = await asyncpg.connect(run.database_url) if run.postgres else None
        if postgres is not None:
            stack.push_async_callback(postgres.close)
        while asyncio.get_running_loop().time() < until:
            ended += await valkey.execute_command(*_END_SESSIONS)
            if postgres is not None:
                ended += await postgres.fetchval(_END_SESSIONS_SQL)
            await asyncio.sleep(0.02)
    run.notes["sessions_ended"] = ended


_END_SESSIONS = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
# Some of them: who connects anew has more to lose than who has nothing left.
_END_SESSIONS_SQL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.2
"""


async def _cut_subscriptions(run: Deployment) -> None:
    assert run.cache_proxy is not None
    cuts = []
    for _ in range(6):
        cuts.append(run.cache_proxy.cut(only_subscribed=True))
        await asyncio.sleep(0.5)
    run.notes["connections_cut"] = sum(cuts)


async def _freeze_subscriptions(run: Deployment) -> None:
    """Leave subscriptions half open for good: who listens must find out, and connect anew."""
    assert run.cache_proxy is not None
    run.notes["connections_frozen"] = run.cache_proxy.freeze(only_subscribed=True)


async def _freeze_connections(run: Deployment) -> None:
    """Leave every connection to the cache half open for good."""
    assert run.cache_proxy is not None
    run.notes["connections_frozen"] = run.cache_proxy.freeze()


async def _fill_the_disk(run: Deployment) -> None:
    """Fill the database's disk to the last byte, then make room again."""
    assert run.postgres is not None
    ballast = run.postgres.data.parent / "ballast"
    await asyncio.to_thread(_fill, ballast)
    await _use_up_the_log(run.database_url)
    await asyncio.sleep(WEATHER_S)
    run.notes["postgres_died"] = not run.postgres.child.running
    ballast.unlink()
    if not run.postgres.child.running:
        await run.postgres.child.spawn()


async def _use_up_the_log(url: str) -> None:
    """Write into PostgreSQL's log until there is no room for more, which it does not survive.

    Else it would live on the segments that it keeps for its own use, and refuse only what grows.
    """
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection = await asyncpg.connect(url, timeout=5)
        for _ in range(2 * DISK_MB):
            await connection.execute(
                "SELECT pg_logical_emit_message(true, 'drill', repeat('x', 500000))"
            )


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            while True:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    break
        os.fsync(file.fileno())


async def _provider_down(run: Deployment) -> None:
    assert run.provider_proxy is not None
    run.provider_proxy.stop()
    await asyncio.sleep(WEATHER_S)
    await run.provider_proxy.start()


def _weather(fault: Fault) -> Callable[[Deployment], Awaitable[None]]:
    async def happens(run: Deployment) -> None:
        run.sandbox.sandbox.faults.set(fault)
        await asyncio.sleep(WEATHER_S)
        run.sandbox.sandbox.faults.set(Fault(FaultMode.NONE))

    return happens


async def _kill_a_primary(run: Deployment) -> None:
    """Kill one primary; another is elected, and later the dead one comes back and follows."""
    assert run.topology is not None
    began = asyncio.get_running_loop().time()
    dead = await asyncio.to_thread(run.topology.kill_primary, 0)
    new = await asyncio.to_thread(run.topology.wait_for_failover, 0, after=dead)
    elected_s = asyncio.get_running_loop().time() - began
    run.notes["elected_after_s"] = round(elected_s, 2)
    run.notes["elected"] = new.address
    await asyncio.sleep(max(0.0, WEATHER_S - elected_s))
    await asyncio.to_thread(run.topology.restart_all)


async def _kill_a_shard(run: Deployment) -> None:
    """Kill a primary and whoever could take its place: its slots are served by nobody."""
    assert isinstance(run.topology, Cluster)
    for node in await asyncio.to_thread(run.topology.replicas_of, 0):
        await asyncio.to_thread(node.kill)
    await asyncio.to_thread(run.topology.kill_primary, 0)
    await asyncio.sleep(WEATHER_S)
    await asyncio.to_thread(run.topology.restart_all)


async def _kill_all_nodes(run: Deployment) -> None:
    assert isinstance(run.topology, Cluster)
    await asyncio.to_thread(run.topology.kill_all)
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(run.topology.restart_all)


_PROXIED = Plan(cache="proxied")
_CLUSTER = Plan(cache="cluster")

DRILLS = (
    Drill("web-kill", "kill -9 of one of two web processes, started again", _kill_web),
    Drill("worker-kill", "kill -9 of the worker, started again", _kill_worker),
    Drill("valkey-kill", "kill -9 of Valkey, started again with its file", _kill_valkey),
    Drill("valkey-empty", "kill -9 of Valkey, started again empty", _empty_valkey),
    Drill("valkey-frozen", "Valkey stands still and its connections hang", _freeze_valkey),
    Drill("postgres-kill", "kill -9 of PostgreSQL, started again", _kill_postgres,
          needs_postgres=True),
    Drill("all-kill", "kill -9 of every process at once, started again", _kill_everything),
    Drill("all-term", "SIGTERM of every process at once, started again", _stop_everything),
    Drill("sessions-ended", "Valkey and PostgreSQL end our sessions, fifty times a second",
          _end_sessions),
    Drill("pubsub-cut", "subscriptions are cut twice a second", _cut_subscriptions, _PROXIED),
    Drill("pubsub-frozen", "subscriptions are half open for good", _freeze_subscriptions, _PROXIED,
          after_s=9),
    Drill("cache-half-open", "every connection to Valkey is half open for good",
          _freeze_connections, _PROXIED, after_s=6),
    Drill("disk-full", "the database's disk is full, its log's too", _fill_the_disk,
          Plan(disk_mb=DISK_MB), needs_postgres=True),
    Drill("provider-down", "the provider refuses connections", _provider_down,
          Plan(provider_proxied=True)),
    Drill("provider-slow", "the provider answers after 28 s", _weather(Fault(FaultMode.SLOW))),
    Drill("provider-429", "the provider answers 429, Retry-After 2",
          _weather(Fault(FaultMode.RATE_LIMITED, retry_after_s=2))),
    Drill("provider-html", "the provider answers 200 with a page",
          _weather(Fault(FaultMode.HTML))),
    Drill("cluster-primary", "one primary of a cluster of 3 + 3 is killed", _kill_a_primary,
          _CLUSTER, spares_shards=True),
    Drill("cluster-shard", "a primary and its replica are killed, started empty", _kill_a_shard,
          _CLUSTER, spares_shards=True),
    Drill("cluster-all", "all nodes of the cluster are killed and started empty", _kill_all_nodes,
          _CLUSTER),
    Drill("sentinel", "the primary is killed, sentinels elect another", _kill_a_primary,
          Plan(cache="sentinel")),
)  # fmt: skip
