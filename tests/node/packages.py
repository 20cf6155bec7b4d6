"""What the tests take from npm: a client in another language, and a checker of pages."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

__all__ = ["FOLDER", "PackagesMissing", "install_packages"]

FOLDER = Path(__file__).parent
INSTALL_S = 180


class PackagesMissing(Exception):
    """They cannot be installed here; the message says why."""


def install_packages() -> Path:
    """Return the folder of the packages that the lock file names, installed if they were not.

    Raises PackagesMissing.
    """
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise PackagesMissing(f"{tool} is not installed")
    modules = FOLDER / "node_modules"
    lock, installed = FOLDER / "package-lock.json", modules / ".installed"
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # of several processes that test, one installs
        wanted = held.read()
        if not installed.exists() or installed.read_bytes() != wanted:
            _install()
            installed.write_bytes(wanted)
    return modules


def _install() -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            command, cwd=FOLDER, stdin=subprocess.DEVNULL, capture_output=True, timeout=INSTALL_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PackagesMissing("npm ci takes too long") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise PackagesMissing(f"npm ci failed: {' '.join(last)}")
