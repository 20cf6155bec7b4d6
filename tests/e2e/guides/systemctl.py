"""Stands in for systemd: ``systemctl start|stop|restart UNIT...`` with real processes.

A unit's process gets the settings in the file that PAYSTATE_ENV names, and nothing else. Its id is
in a file in the folder of that; `start` and `restart` return when it answers.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

MODULES = {"paystate-web": ("webhook_server", "PORT"), "paystate-worker": ("worker", "WORKER_PORT")}


def settings() -> dict[str, str]:
    """Return what the file of settings holds."""
    lines = Path(os.environ["PAYSTATE_ENV"]).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def stop(unit: str, folder: Path) -> None:
    """End the unit's process softly; nothing where there is none."""
    file = folder / f"{unit}.pid"
    if not file.exists():
        return
    pid = int(file.read_text())
    file.unlink()
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.terminate()
        process.wait()


def start(unit: str, folder: Path) -> None:
    """Start the unit's process and wait until it answers."""
    module, port = MODULES[unit]
    given = settings()
    with (folder / f"{unit}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module], cwd=os.environ["PAYSTATE_ROOT"],
            env={"PATH": os.environ["PATH"], **given}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    # It becomes the child of whoever started bash, and leaves its id only while it runs.
    (folder / f"{unit}.pid").write_text(str(process.pid))
    while process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{given[port]}/healthz", timeout=5)
            return
        time.sleep(0.02)  # a port tells nobody that it is open
    raise SystemExit(f"{unit} does not start: {(folder / f'{unit}.log').read_text()[-2000:]}")


def main() -> None:
    """Do what the arguments say."""
    folder = Path(os.environ["PAYSTATE_ENV"]).parent
    verb, *units = sys.argv[1:]
    for unit in units:
        if verb in ("stop", "restart"):
            stop(unit, folder)
        if verb in ("start", "restart"):
            start(unit, folder)


if __name__ == "__main__":
    main()
