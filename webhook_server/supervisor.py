"""Several web processes on one port: started, watched, started again, and ended together.

Each listens for itself with SO_REUSEPORT, so that the kernel spreads connections over them and
nothing stands between a caller and its process. They share no memory but the files in which
prometheus_client counts, and ``/metrics`` of any of them gives the sums.

A child says on its standard output that it listens. Its standard input tells it that there is still
a supervisor: one whose supervisor was killed stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import multiprocess

from paystate.backoff import delay_s
from paystate.logs import logger
from paystate.process import HARD_STOP_S, CannotStart, cannot_listen
from paystate.settings import Settings

__all__ = ["CHILD", "READY", "Supervisor", "follow_supervisor"]

CHILD = "--child"
READY = b"listening\n"

# One that has lived so long did not die of how it was started.
SOUND_S = 10.0
FIRST_DELAY_S, MOST_DELAY_S = 0.2, 30.0

log = logger()


@contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """Hold a port without listening on it, so that nobody else takes it; yield its number."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind(address)
        except OSError as e:
            raise cannot_listen(host, port, "PORT", e) from e
        yield int(held.getsockname()[1])


class Supervisor:
    """Keeps `WEB_PROCESSES` processes running until `stop`."""

    def __init__(self, settings: Settings, stop: asyncio.Event) -> None:
        self._settings = settings
        self._stop = stop

    async def run(self) -> None:
        """Run them. Raises CannotStart if the port is taken or one of the first does not listen."""
        settings = self._settings
        with (
            _reserved(settings.host, settings.port) as port,
            tempfile.TemporaryDirectory(prefix="paystate-metrics-") as folder,
        ):
            environ = {
                **os.environ,
                "PORT": str(port),
                "WEB_PROCESSES": "1",
                "PROMETHEUS_MULTIPROC_DIR": folder,
            }
            count = settings.web_processes
            children = await asyncio.gather(*(self._start(environ) for _ in range(count)))
            try:
                if not all(await asyncio.gather(*map(_listens, children))):
                    codes = [await self._end(child) for child in children]
                    raise CannotStart(next((code for code in codes if code), 1))
                log.info("web_listening", addresses=[f"{settings.host}:{port}"], processes=count,
                         lease_ms=settings.lease_ms)  # fmt: skip
                await asyncio.gather(
                    *(self._keep(child, environ, Path(folder)) for child in children)
                )
            finally:
                for child in children:
                    _kill(child)

    async def _start(self, environ: dict[str, str]) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "webhook_server", CHILD, env=environ, stdin=PIPE, stdout=PIPE
        )

    async def _keep(self, child: Process, environ: dict[str, str], folder: Path) -> None:
        """Start a child again whenever it has died, until `stop`; then end it softly."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.create_task(self._stop.wait())
        failures = 0
        try:
            while True:
                began = loop.time()
                ended = asyncio.create_task(child.wait())
                await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    await self._end(child)
                    return
                failures = 1 if loop.time() - began >= SOUND_S else failures + 1
                log.warning("web_process_died", pid=child.pid, code=ended.result())
                _forget(child.pid, folder)
                wait_s = delay_s(failures, first_s=FIRST_DELAY_S, most_s=MOST_DELAY_S, draw=0.5)
                await asyncio.wait({stopping}, timeout=wait_s)
                if self._stop.is_set():
                    return
                child = await self._start(environ)
                if await _listens(child):
                    log.info("web_process_restarted", pid=child.pid)
        finally:
            stopping.cancel()
            _kill(child)

    async def _end(self, child: Process) -> int:
        """Let a child stop softly, then hard; return its exit code."""
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.stop_grace_s + 2 * HARD_STOP_S):
                    return await child.wait()
            _kill(child)
        return await child.wait()


def _forget(pid: int, folder: Path) -> None:
    """Take the gauges of a process that has died out of the sums; its counts stay."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _kill(child: Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()


async def _listens(child: Process) -> bool:
    """Wait until a child says that it listens; False if it ends before."""
    return child.stdout is not None and await child.stdout.readline() == READY


def follow_supervisor(stop: asyncio.Event) -> None:
    """Say that this child listens, and have it stop when its supervisor has gone."""
    os.write(sys.stdout.fileno(), READY)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.close(silence)

    def gone() -> None:
        loop.remove_reader(sys.stdin.fileno())
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), gone)
