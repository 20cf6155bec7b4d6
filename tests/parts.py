"""The processes of the Procfile, started by hand: on free ports, with their logs kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Part", "start_part"]

ROOT = Path(__file__).parent.parent

# Not a measure of speed: without it a test that waits for what never comes would wait for ever.
HANGS_S = 90

# Of the log of a process whose test has failed.
_LAST_LINES = 40

_READY = {"webhook_server": "web_listening", "worker": "worker_started"}


class Part:
    """One process. `lines` is its log so far, one JSON object each."""

    def __init__(self, module: str, settings: dict[str, str]) -> None:
        self.module = module
        self.settings = settings
        self.lines: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._new_line = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.lines.append({"event": "starting"})
        seen = len(self.lines)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self.module, cwd=ROOT, stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "LOG_FORMAT": "json", "PYTHONWARNINGS": "error",
                 **self.settings},
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())
        await self.wait_for(lambda: any(
            line.get("event") == _READY[self.module] for line in self.lines[seen:]
        ))  # fmt: skip

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            text = raw.decode()
            self.raw.append(text)
            try:
                line = json.loads(text)
            except ValueError:
                line = {"event": "not_json", "text": text}
            async with self._new_line:
                self.lines.append(line)
                self._new_line.notify_all()
        async with self._new_line:
            self.lines.append({"event": "closed"})
            self._new_line.notify_all()

    async def wait_for(self, condition: Any) -> None:
        """Wait until `condition` holds; it is looked at after each line of the log."""
        try:
            async with self._new_line, asyncio.timeout(HANGS_S):
                await self._new_line.wait_for(
                    lambda: condition() or self.lines[-1:] == [{"event": "closed"}]
                )
        except TimeoutError:
            pass  # said below, with the log
        assert condition(), "".join(self.raw[-20:])

    async def event(self, name: str, **fields: Any) -> dict[str, Any]:
        """Wait for a line of the log with this event and these fields, and return it."""

        def match() -> dict[str, Any] | None:
            for line in self.lines:
                if line.get("event") == name and fields.items() <= line.items():
                    return line
            return None

        await self.wait_for(match)
        found = match()
        assert found is not None
        return found

    @property
    def url(self) -> str:
        """The address that it listens on."""
        ready = [line for line in self.lines if line.get("event") == _READY[self.module]]
        return f"http://{ready[-1]['addresses'][0]}"

    @property
    def log(self) -> str:
        """Everything it has written."""
        return "".join(self.raw)

    async def kill(self) -> None:
        """End it as a crash would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """End it softly and return its exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        code = await self._process.wait()
        if self._reader is not None:
            await self._reader
        return code

    async def close(self) -> None:
        """End it if it still runs."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()


@asynccontextmanager
async def start_part(module: str, settings: dict[str, str]) -> AsyncIterator[Part]:
    """Start a process and kill it at the end if nobody has ended it.

    A test that fails shows what the process had to say last.
    """
    part = Part(module, settings)
    await part.start()
    try:
        yield part
    except BaseException:
        sys.stderr.write(f"The last of the log of {module}:\n{''.join(part.raw[-_LAST_LINES:])}")
        raise
    finally:
        await part.close()
