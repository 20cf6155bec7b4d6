"""The folder of ``paystate dev``: one owner at a time, secrets made once, ports that stay.

``dev.json`` (readable by its owner only) keeps the made-up secrets and the ports over restarts, and
says where the running server is, which is how `send` and `lookup` find it. Secrets that came from
the environment are never written there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

__all__ = [
    "DEFAULT_FOLDER",
    "DataDir",
    "DataDirTaken",
    "DevFileInvalid",
    "Running",
    "can_bind",
    "free_port",
    "lock_data_dir",
    "read_data_dir",
]

DEFAULT_FOLDER = ".paystate"
_FILE = "dev.json"
_LOCK = "dev.lock"
# A port below 1024 that we may not have is as good as taken.
_TAKEN = frozenset({errno.EADDRINUSE, errno.EACCES})


class DataDirTaken(Exception):
    """Another `paystate dev` runs on the folder."""


class DevFileInvalid(Exception):
    """``dev.json`` cannot be read or is not what `paystate dev` writes."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running `paystate dev` is. `from_env` names the secrets it did not make itself."""

    pid: int
    web: str
    webhook: str
    sandbox: str | None = None
    from_env: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `dev.json` holds, leaving out fields that a newer version has added."""
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        values["from_env"] = tuple(values.get("from_env", ()))
        return cls(**values)


# How each secret is made. The shapes are Flutterwave's where it has one.
_MAKERS: dict[str, Callable[[], str]] = {
    "FLW_SECRET_HASH": lambda: secrets.token_hex(16),
    "FLW_SECRET_KEY": lambda: f"FLWSECK_TEST-{secrets.token_hex(16)}-X",
    "FLW_CLIENT_ID": lambda: f"sandbox-{secrets.token_hex(4)}",
    "FLW_CLIENT_SECRET": lambda: secrets.token_hex(16),
    "API_TOKENS": lambda: secrets.token_hex(16),
    "LINK_KEY": lambda: secrets.token_hex(32),
}


@dataclass(slots=True)
class DataDir:
    """What `dev.json` holds. Only the holder of the lock writes it."""

    path: Path
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    ports: dict[str, int] = field(default_factory=dict)
    running: Running | None = None

    @property
    def valkey(self) -> Path:
        """The embedded Valkey's own folder."""
        return self.path / "valkey"

    def secret(self, name: str) -> str:
        """Return the made-up value of the setting `name`, the same one every time."""
        if name not in self.secrets:
            self.secrets[name] = _MAKERS[name]()
        return self.secrets[name]

    def port(self, name: str, host: str) -> int:
        """Return a free port for the process `name`: the last one if it is still free."""
        self.ports[name] = free_port(host, self.ports.get(name))
        return self.ports[name]

    def save(self) -> None:
        """Write ``dev.json`` whole or not at all, readable by its owner only."""
        data = {"secrets": self.secrets, "ports": self.ports, "running": None}
        if self.running is not None:
            data["running"] = asdict(self.running)
        draft = self.path / f"{_FILE}.new"
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - it is a descriptor
            json.dump(data, file, indent=2)
            file.write("\n")
        draft.replace(self.path / _FILE)


def read_data_dir(folder: str | Path) -> DataDir:
    """Return what `folder` holds, empty if it was never used. Raises `DevFileInvalid`."""
    path = Path(folder).absolute()
    try:
        data = json.loads((path / _FILE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return DataDir(path)
    except OSError as e:
        raise DevFileInvalid(f"{path / _FILE} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise DevFileInvalid(f"{path / _FILE} is damaged: delete it, new secrets are made") from e
    try:
        running = data.get("running")
        return DataDir(
            path,
            secrets={str(k): str(v) for k, v in data["secrets"].items()},
            ports={str(k): int(v) for k, v in data["ports"].items()},
            running=Running.from_json(running) if running else None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise DevFileInvalid(f"{path / _FILE} is damaged: delete it, new secrets are made") from e


@contextmanager
def lock_data_dir(folder: str | Path) -> Iterator[DataDir]:
    """Make `folder` if needed and hold it alone; when released, nothing is running there.

    The lock belongs to the open file, so it ends with this process however that dies; children do
    not inherit it. Raises `DataDirTaken`, `DevFileInvalid`, or OSError for a folder that cannot be
    made.
    """
    import fcntl  # noqa: PLC0415 - not on Windows, where only reading works

    path = Path(folder).absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise DataDirTaken(_taken(path)) from e
        data = replace(read_data_dir(path), running=None)
        try:
            yield data
        finally:
            if data.running is not None:
                data.running = None
                with contextlib.suppress(OSError):  # the folder may have been deleted under us
                    data.save()
    finally:
        os.close(fd)


def _taken(path: Path) -> str:
    owner = ""
    with contextlib.suppress(DevFileInvalid):
        if running := read_data_dir(path).running:
            owner = f" (process {running.pid}, {running.web})"
    return (
        f"`paystate dev` runs on {path} already{owner}. Stop that one, or give this one another "
        "folder with --data-dir"
    )


def can_bind(host: str, port: int) -> bool:
    """Say whether `port` is free on `host`. Raises OSError if `host` is no address of ours."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        # As servers do: a port whose last connections are still fading counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as e:
            if e.errno in _TAKEN:
                return False
            raise
    return True


def free_port(host: str, preferred: int | None = None) -> int:
    """Return `preferred` if it is free on `host`, else any free port."""
    if preferred and can_bind(host, preferred):
        return preferred
    family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.bind(address)
        return int(probe.getsockname()[1])
