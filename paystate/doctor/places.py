"""Where files are: which kind of file system holds them, and how much room it has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from paystate.doctor.findings import Verdict, fail, ok, skipped, warn

__all__ = ["Measure", "file_system", "is_remote", "judge_room", "judge_space", "room"]

# Free and all bytes of the disk below a folder.
Measure = Callable[[str | Path], tuple[int, int]]

_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs",
                     "lustre", "virtiofs", "vboxsf", "drvfs"})  # fmt: skip

LITTLE_BYTES = 1 << 30
TOO_LITTLE_BYTES = 100 << 20


def file_system(path: Path, mounts: str) -> str:
    """Return the kind of the file system that holds `path`, by the text of /proc/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = words[1].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, words[2]
    return kind


def is_remote(kind: str) -> bool:
    """Say whether that kind is on another host, where SQLite's locks and shared memory fail."""
    return kind in _REMOTE or kind.startswith(("fuse.sshfs", "fuse.gluster", "fuse.s3", "fuse.rcl"))


def room(folder: str | Path) -> tuple[int, int]:
    """Return the free and all bytes of the disk below `folder`. Raises OSError."""
    usage = shutil.disk_usage(folder)
    return usage.free, usage.total


def judge_space(folder: str | Path, what: str, measure: Measure) -> Verdict:
    """Return whether `what`, which grows in `folder`, has room."""
    try:
        free, total = measure(folder)
    except OSError:
        return skipped(f"the folder of {what} cannot be seen from here")
    return judge_room(free, total, what)


def judge_room(free: int, total: int, what: str) -> Verdict:
    """Return whether `free` of `total` bytes are enough for `what`."""
    shown = f"{free / (1 << 30):.1f} GB are free where {what} is"
    if free < TOO_LITTLE_BYTES:
        return fail(shown, "make room now: when it is full nothing can be recorded")
    if free < min(LITTLE_BYTES, total // 10):
        return warn(shown, "make room, or move it to a larger disk")
    return ok(shown)
