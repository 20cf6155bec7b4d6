"""The merchants of a running process: those of MERCHANTS_FILE as it is now.

The file is looked at every second, and taken over once it has stayed the same from one look to the
next, so that a file that is being written is not read half way. A signal would have to find every
process on every host; a file that is mounted into a container changes without one.

A file that cannot be used changes nothing: what was last good stays in force, an error line says
what is wrong, and ``paystate_merchants_file_refused`` is 1 until it is mended. Values that are read
from the environment (``env:NAME``) are those with which the process was started.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paystate.keys import DEFAULT_MERCHANT
from paystate.logs import logger, place_of
from paystate.merchants import Merchant, further_merchants, shared_tokens
from paystate.metrics import Metrics
from paystate.settings import Settings

__all__ = ["LOOK_S", "Changed", "Roster"]

LOOK_S = 1.0

log = logger()

# What tells one state of the file from another: time of change, size and number. None: not there.
_Stamp = tuple[int, int, int] | None
_NEVER: _Stamp = (-1, -1, -1)


@dataclass(frozen=True, slots=True)
class Changed:
    """The names of merchants that were added, removed, or are not as they were."""

    added: frozenset[str]
    removed: frozenset[str]
    changed: frozenset[str]

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.added or self.removed or self.changed)


class _Names(Sequence[str]):
    """The names of a mapping as they are now; to look for one costs as little as there."""

    def __init__(self, merchants: Mapping[str, Merchant]) -> None:
        self._merchants = merchants

    def __contains__(self, name: object) -> bool:
        return name in self._merchants

    def __len__(self) -> int:
        return len(self._merchants)

    def __getitem__(self, place: Any) -> Any:
        return tuple(self._merchants)[place]


class Roster:
    """Who the merchants are. `merchants` and `names` are always the same, and change in place."""

    def __init__(
        self, settings: Settings, metrics: Metrics, env: Mapping[str, str] | None = None
    ) -> None:
        self._path = settings.merchants_file
        self._api_tokens = settings.api_tokens
        self._env = dict(os.environ if env is None else env)
        self._metrics = metrics
        self._merchants = dict(settings.merchants)
        self.merchants: Mapping[str, Merchant] = self._merchants
        self.names: Sequence[str] = _Names(self.merchants)
        self._watchers: list[Callable[[Changed], None]] = []
        # The state that was taken over or refused, and one that is new but may yet be written to.
        self._judged = _NEVER
        self._settling = _NEVER

    def follow(self, watcher: Callable[[Changed], None]) -> None:
        """Have `watcher` called after each change; `merchants` is as it will be then."""
        self._watchers.append(watcher)

    async def run(self) -> None:
        """Look at the file every `LOOK_S`, until cancelled."""
        while self._path is not None:
            try:
                await self.look()
            except Exception as e:
                # Whatever it was, the file is looked at again, and who was served still is.
                log.error("merchants_not_read", error=type(e).__name__, where=place_of(e))
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Take over the file, if it is another than before and has been so for two looks."""
        if self._path is None:
            return
        stamp = await asyncio.to_thread(_stamp, self._path)
        if stamp == self._judged:
            self._settling = _NEVER
        elif stamp != self._settling:
            self._settling = stamp
        else:
            problems: list[str] = []
            found = await asyncio.to_thread(further_merchants, self._path, self._env, problems)
            if await asyncio.to_thread(_stamp, self._path) == stamp:
                self._judged = stamp
                self._judge(found, problems)

    def _judge(self, found: dict[str, Merchant], problems: list[str]) -> None:
        problems += shared_tokens(found, self._api_tokens)
        if problems:
            self._metrics.merchants_reloads.labels("refused").inc()
            self._metrics.merchants_refused.set(1)
            log.error("merchants_refused", problems=problems)
            return
        self._metrics.merchants_refused.set(0)
        changed = self._take(found)
        if not changed.any:
            return
        self._metrics.merchants_reloads.labels("taken").inc()
        log.info("merchants_changed", added=sorted(changed.added), removed=sorted(changed.removed),
                 changed=sorted(changed.changed))  # fmt: skip
        for watcher in self._watchers:
            watcher(changed)

    def _take(self, found: Mapping[str, Merchant]) -> Changed:
        held = self._merchants
        known = held.keys() - {DEFAULT_MERCHANT}
        changed = Changed(
            added=frozenset(found.keys() - known),
            removed=frozenset(known - found.keys()),
            changed=frozenset(name for name in known & found.keys() if found[name] != held[name]),
        )
        for name in changed.removed:
            del held[name]
        for name in changed.added | changed.changed:
            held[name] = found[name]
        return changed


def _stamp(path: str) -> _Stamp:
    try:
        held = Path(path).stat()
    except (OSError, ValueError):
        return None
    return held.st_mtime_ns, held.st_size, held.st_ino
