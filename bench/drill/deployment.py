"""A whole paystate on this machine: two web processes, a worker, and the servers they stand on.

Every process is a real one, configured by environment variables alone, in a fresh folder. Provider
is the sandbox, in the process of the drill, so that its truth can be moved and compared with.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.ports import free_port
from bench.proxy import Proxy
from bench.servers import HANGS_S, LOOK_AGAIN_S, Child, Postgres, Valkey
from bench.topologies import Cluster, SentinelTopology
from paystate.flutterwave.sandbox.config import SandboxConfig
from paystate.flutterwave.sandbox.server import RunningSandbox, open_sandbox
from paystate.store.migrate import upgrade_async

__all__ = [
    "LEASE_MS",
    "SECRET",
    "TOKEN",
    "Deployment",
    "NotPossibleHere",
    "Part",
    "Plan",
    "deploy",
]

ROOT = Path(__file__).parents[2]
SECRET = "drill-secret-hash"
TOKEN = "drill-token"
LEASE_MS = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """What a drill needs beside the usual. `disk_mb` puts PostgreSQL on a disk of that size.

    `cache` is valkey, proxied (a valkey behind a TCP proxy), cluster or sentinel.
    """

    cache: str = "valkey"
    provider_proxied: bool = False
    disk_mb: int | None = None
    settings: dict[str, str] = field(default_factory=dict)


class Part:
    """One process of ours, at one address over all its restarts."""

    def __init__(self, module: str, settings: dict[str, str], port: int, log: Path) -> None:
        port_name = "PORT" if module == "webhook_server" else "WORKER_PORT"
        environ = {"PATH": os.environ["PATH"], **settings, port_name: str(port)}
        self.url = f"http://127.0.0.1:{port}"
        self.child = Child([sys.executable, "-m", module], log, environ=environ, cwd=ROOT)

    async def start(self) -> None:
        """Start it and wait until it answers."""
        await self.child.spawn()
        async with asyncio.timeout(HANGS_S), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(OSError, aiohttp.ClientError):
                    async with session.get(f"{self.url}/healthz") as response:
                        if response.status == 200:
                            return
                assert self.child.running, self.child.last_words()
                await asyncio.sleep(LOOK_AGAIN_S)


@dataclass
class Deployment:
    """What runs. `valkey` is None where the cache is a cluster or a sentinel's primary."""

    folder: Path
    database_url: str
    cache_url: str
    lease_ms: int
    web: list[Part]
    worker: Part
    sandbox: RunningSandbox
    postgres: Postgres | None
    valkey: Valkey | None
    topology: Cluster | SentinelTopology | None = None
    cache_proxy: Proxy | None = None
    provider_proxy: Proxy | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """Every process of ours."""
        return [*self.web, self.worker]


@asynccontextmanager
async def deploy(plan: Plan, template: Path | None) -> AsyncIterator[Deployment]:
    """Start everything and end it again. Without a PostgreSQL `template` it is SQLite."""
    folder = Path(tempfile.mkdtemp(prefix="drill", dir=_fast_disk()))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database, postgres = await _database(plan, folder, template, stack)
        cache, queue, valkey, topology, proxy = await _cache(plan, folder, stack)
        sandbox = await stack.enter_async_context(
            open_sandbox(SandboxConfig(secret_hash=SECRET, seed=7))
        )
        provider_proxy = None
        if plan.provider_proxied:
            provider_proxy = Proxy(int(sandbox.url.rpartition(":")[2]))
            stack.push_async_callback(provider_proxy.close)
            await provider_proxy.start()
        settings = {
            "DATABASE_URL": database, "CACHE_URL": cache, "QUEUE_URL": queue,
            "FLW_SECRET_HASH": SECRET, "API_TOKENS": TOKEN, "LOG_FORMAT": "json",
            "LOG_LEVEL": "WARNING", "PROVIDER_CALLS_PER_HOUR": "1000000",
            **_provider(sandbox, provider_proxy), **plan.settings,
        }  # fmt: skip
        if not topology:
            settings["PENDING_LEASE_MS"] = str(LEASE_MS)
        web = [
            Part("webhook_server", settings, free_port(), folder / f"web{n}.log") for n in range(2)
        ]
        worker = Part("worker", settings, free_port(), folder / "worker.log")
        for part in (*web, worker):
            stack.push_async_callback(part.child.kill)
        await asyncio.gather(*(part.start() for part in (*web, worker)))
        yield Deployment(
            folder, database, cache, 0 if topology else LEASE_MS, web, worker, sandbox, postgres,
            valkey, topology, proxy, provider_proxy,
        )  # fmt: skip


def _fast_disk() -> str | None:
    """Return a folder in memory, if there is one: processes are killed, not the machine."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _provider(sandbox: RunningSandbox, proxy: Proxy | None) -> dict[str, str]:
    url = f"http://127.0.0.1:{proxy.port}" if proxy else sandbox.url
    config = sandbox.sandbox.config
    return {
        "FLW_BASE_URL": f"{url}/v3", "FLW_V4_BASE_URL": f"{url}/v4",
        "FLW_TOKEN_URL": f"{url}/token", "FLW_SECRET_KEY": config.secret_key,
        "FLW_CLIENT_ID": config.client_id, "FLW_CLIENT_SECRET": config.client_secret,
    }  # fmt: skip


async def _database(
    plan: Plan, folder: Path, template: Path | None, stack: AsyncExitStack
) -> tuple[str, Postgres | None]:
    if template is None:
        url = f"sqlite:///{folder / 'paystate.db'}"
        await upgrade_async(url)
        return url, None
    where = folder
    if plan.disk_mb is not None:
        where = folder / "disk"
        where.mkdir()
        await _run("mount", "-t", "tmpfs", "-o", f"size={plan.disk_mb}m", "tmpfs", str(where))
        stack.push_async_callback(_run, "umount", "-l", str(where))
    postgres = Postgres(where, template, log=folder / "postgres.out")
    stack.push_async_callback(postgres.close)
    await postgres.start()
    return postgres.url, postgres


class NotPossibleHere(Exception):
    """This machine does not let us do what a drill needs."""


async def _run(*command: str) -> None:
    """Run a command. Raises NotPossibleHere if it fails or is not there."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
    except FileNotFoundError:
        raise NotPossibleHere(f"there is no {command[0]}") from None
    if process.returncode:
        raise NotPossibleHere(f"{command[0]}: {said.decode(errors='replace').strip()}")


async def _cache(
    plan: Plan, folder: Path, stack: AsyncExitStack
) -> tuple[str, str, Valkey | None, Cluster | SentinelTopology | None, Proxy | None]:
    """Start the cache; return its address, the queue's, and what it is made of."""
    if plan.cache == "sentinel":
        sentinel = SentinelTopology()
        await asyncio.to_thread(stack.enter_context, sentinel)
        return sentinel.url, sentinel.url, None, sentinel, None
    valkey = Valkey(folder / "valkey")
    stack.push_async_callback(valkey.close)
    await valkey.start()
    if plan.cache == "cluster":
        cluster = Cluster(primaries=3, replicas=3)
        await asyncio.to_thread(stack.enter_context, cluster)
        return cluster.url, valkey.url, None, cluster, None
    if plan.cache == "proxied":
        proxy = Proxy(valkey.port)
        stack.push_async_callback(proxy.close)
        await proxy.start()
        url = f"redis://127.0.0.1:{proxy.port}/0"
        return url, url, valkey, None, proxy
    return valkey.url, valkey.url, valkey, None, None
