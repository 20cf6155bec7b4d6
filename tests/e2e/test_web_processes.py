"""Several web processes on one port: they share the work, the metrics and the end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from tests.parts import ROOT, Part, start_part

SECRET = "pool-secret-hash"
TOKEN = "pool-token"
HANGS_S = 60
ASKED = 40


def settings_of(sqlite_url: str, valkey_url: str, **more: str) -> dict[str, str]:
    """Return the settings of a web process in two."""
    return {
        "DATABASE_URL": sqlite_url, "CACHE_URL": valkey_url, "FLW_SECRET_HASH": SECRET,
        "API_TOKENS": TOKEN, "PORT": "0", "WEB_PROCESSES": "2", **more,
    }  # fmt: skip


@asynccontextmanager
async def start_two(sqlite_url: str, valkey_url: str) -> AsyncIterator[Part]:
    """Start two web processes and wait until both listen."""
    async with start_part("webhook_server", settings_of(sqlite_url, valkey_url)) as web:
        await web.event("web_listening", processes=2)
        yield web


def children_of(part: Part) -> dict[int, psutil.Process]:
    """Return the processes that a supervisor has now."""
    assert part._process is not None
    return {child.pid: child for child in psutil.Process(part._process.pid).children()}


async def refusals(url: str) -> float:
    """Ask for a path that is not there on a connection of its own, and count such requests."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/nowhere") as response:
            assert response.status == 404
        async with session.get(f"{url}/metrics") as response:
            text = await response.text()
    found = re.search(r'paystate_http_requests_total\{route="unmatched",status="404"\} (\S+)', text)
    return float(found[1]) if found else 0.0


def accepted_by(children: Iterable[psutil.Process], port: int) -> set[int]:
    """Return the children that have a connection of a caller open."""
    return {
        child.pid
        for child in children
        for one in child.net_connections("tcp")
        if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
    }


async def test_two_processes_answer_on_one_port_and_count_together(
    sqlite_url: str, valkey_url: str
) -> None:
    """Callers are spread over both; any of them gives the sums, and a stop ends both softly."""
    async with start_two(sqlite_url, valkey_url) as web:
        children = children_of(web)
        assert len(children) == 2
        port = int(web.url.rpartition(":")[2])
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            held = await asyncio.gather(*(session.get(f"{web.url}/healthz") for _ in range(ASKED)))
            assert {response.status for response in held} == {200}
            assert accepted_by(children.values(), port) == set(children)
        counted = [await refusals(web.url) for _ in range(20)]
        assert counted == [float(n) for n in range(1, 21)]
        assert await web.stop() == 0
        assert not any(child.is_running() for child in children.values())
        assert web.log.count('"event":"web_stopping"') == 2


async def test_a_process_that_is_killed_is_not_missed_and_comes_back(
    sqlite_url: str, valkey_url: str
) -> None:
    """The other one goes on answering; what the dead one counted is still counted."""
    async with start_two(sqlite_url, valkey_url) as web:
        before = [await refusals(web.url) for _ in range(10)][-1]
        victim = next(iter(children_of(web)))
        os.kill(victim, signal.SIGKILL)
        await web.event("web_process_died", pid=victim)
        counted = [await refusals(web.url) for _ in range(10)]
        assert counted[0] == before + 1
        back = await web.event("web_process_restarted")
        assert set(children_of(web)) >= {back["pid"]}
        assert len(children_of(web)) == 2
        assert await web.stop() == 0


async def test_processes_whose_supervisor_was_killed_stop(sqlite_url: str, valkey_url: str) -> None:
    """Nobody goes on holding the port."""
    async with start_two(sqlite_url, valkey_url) as web:
        children = list(children_of(web).values())
        await web.kill()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, children, HANGS_S)
        assert len(gone) == 2
        assert not alive


async def test_a_process_that_cannot_start_is_an_exit_code(tmp_path: Path, valkey_url: str) -> None:
    """Nothing is left running."""
    settings = settings_of(f"sqlite:///{tmp_path}/x.db", valkey_url, HOST="192.0.2.1")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "webhook_server", cwd=ROOT, stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], **settings},
    )  # fmt: skip
    async with asyncio.timeout(HANGS_S):
        assert await process.wait() != 0
