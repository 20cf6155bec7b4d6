"""The Procfile as it stands, run by honcho: the release line, then web and worker together."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.parts import HANGS_S, ROOT

# By itself honcho kills what takes longer than five seconds to stop, on a busy machine too.
PATIENT = (
    f"import honcho.command, honcho.manager; honcho.manager.KILL_WAIT = {HANGS_S};"
    " honcho.command.main()"
)
READY = {"web": "web_listening", "worker": "worker_started"}


class Honcho:
    """One run of honcho. `said` is what it has written so far, `events` those of the processes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self.events: dict[tuple[str, str], dict[str, Any]] = {}

    async def read(self, until: set[tuple[str, str]] | None = None) -> None:
        """Read until these events of these processes have come; without any, to the end."""
        assert self.process.stdout is not None
        async with asyncio.timeout(HANGS_S):
            async for raw in self.process.stdout:
                self.said += raw.decode()
                line = re.search(r"(\w+)\.1 +\| (\{.*\})", raw.decode())
                if line is not None:
                    event = json.loads(line[2])
                    self.events[line[1], event["event"]] = event
                if until is not None and until <= self.events.keys():
                    return
        assert until is None, self.said


async def honcho(settings: dict[str, str], *names: str) -> Honcho:
    """Start processes of the Procfile."""
    binaries = Path(sys.executable).parent
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PATIENT, "start", "--no-colour", "--env", "no-such-file", *names,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={"PATH": f"{binaries}:{os.environ['PATH']}", **settings},
    )  # fmt: skip
    return Honcho(process)


async def test_honcho_runs_the_procfile(valkey_url: str, tmp_path: Path) -> None:
    """The release line migrates and ends; web and worker come up ready, and stop when told to."""
    settings = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/paystate.db", "CACHE_URL": valkey_url,
        "FLW_SECRET_HASH": "honcho-hash", "LOG_FORMAT": "json",
        "PORT": "0", "WORKER_PORT": "0",
    }  # fmt: skip
    release = await honcho(settings, "release")
    await release.read()
    assert await release.process.wait() == 0, release.said

    running = await honcho(settings, "web", "worker")
    try:
        await running.read(until=set(READY.items()))
        async with aiohttp.ClientSession() as session:
            for started in READY.items():
                address = running.events[started]["addresses"][0]
                async with session.get(f"http://{address}/readyz") as response:
                    assert await response.json() == {
                        "ready": True, "database": "ok", "cache": "ok", "queue": "ok",
                    }  # fmt: skip
        running.process.send_signal(signal.SIGTERM)
        await running.read()
        # What a process says that was told to stop by its 15th signal.
        assert await running.process.wait() == 128 + signal.SIGTERM
    finally:
        if running.process.returncode is None:
            running.process.kill()
            await running.process.wait()
    for stopped in (("web", "web_stopping"), ("worker", "worker_stopping")):
        assert stopped in running.events, running.said
    # Of their own accord: nobody had to be killed.
    assert running.said.count(" stopped (rc=") == 2, running.said
    assert "SIGKILL" not in running.said
