"""What the measurements of speed run on: one Valkey, one PostgreSQL, our processes and the peers.

Every process is a real one on loopback. PostgreSQL syncs every commit; its memory is what a small
server gives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.servers import HANGS_S, Child, Postgres, Valkey, make_template

__all__ = ["SECRET", "TOKEN", "Stage", "open_stage"]

ROOT = Path(__file__).parent.parent
SECRET = "bench-secret-hash"
TOKEN = "bench-token"

_POSTGRES = {"shared_buffers": "128MB", "min_wal_size": "64MB", "max_wal_size": "1GB"}


@dataclass
class Stage:
    """The servers, and how to start processes on them."""

    folder: Path
    valkey: Valkey
    postgres: Postgres
    stack: AsyncExitStack

    @property
    def environ(self) -> dict[str, str]:
        """The settings of our processes: no credentials, so no provider is asked."""
        return {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.postgres.url,
            "CACHE_URL": self.valkey.url,
            "FLW_SECRET_HASH": SECRET,
            "API_TOKENS": TOKEN,
            "LOG_FORMAT": "json",
            "PORT": "0",
            "WORKER_PORT": "0",
        }

    async def part(self, module: str, **more: str) -> tuple[Child, int]:
        """Start one of our processes and return it with its port, once it listens."""
        log = self.folder / f"{module}.log"
        log.write_bytes(b"")
        child = Child(
            [sys.executable, "-m", module], log, environ={**self.environ, **more}, cwd=ROOT
        )
        await child.spawn()
        self.stack.push_async_callback(child.kill)
        event = "web_listening" if module == "webhook_server" else "worker_started"
        async with asyncio.timeout(HANGS_S):
            while not (line := _find(log, event)):
                assert child.running, child.last_words()
                await asyncio.sleep(0.02)
        return child, int(line["addresses"][0].rpartition(":")[2])

    @asynccontextmanager
    async def peer(
        self, name: str, *, module: str = "bench.peers", **options: Any
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start a peer; it writes JSON lines to its standard output, and is ended on leaving."""
        async with self._run(module, name, json.dumps(options)) as process:
            yield process

    async def blast(self, **options: Any) -> dict[str, float]:
        """Run `bench.blast` and return what it says."""
        async with self._run("bench.blast", json.dumps({"secret": SECRET, **options})) as process:
            said: dict[str, float] = await line_of(process)
            return said

    @asynccontextmanager
    async def _run(self, module: str, *argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> Any:
    """Return the next line that a peer writes."""
    assert process.stdout is not None
    return json.loads(await process.stdout.readline())


def _find(log: Path, event: str) -> Any:
    for line in log.read_bytes().splitlines():
        if event.encode() in line:
            return json.loads(line)
    return None


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bench"))
    folder.chmod(0o755)  # PostgreSQL runs as another user
    return folder


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """Start the servers; end everything on leaving."""
    folder = _make_folder()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        template = await make_template(folder)
        postgres = Postgres(folder, template, settings=_POSTGRES)
        stack.push_async_callback(postgres.close)
        valkey = Valkey(folder / "valkey", fsync="everysec")
        stack.push_async_callback(valkey.close)
        await asyncio.gather(postgres.start(), valkey.start())
        yield Stage(folder, valkey, postgres, stack)
