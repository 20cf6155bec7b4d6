"""A guide as steps, and the one bash that runs them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.parts import HANGS_S

__all__ = ["Block", "Note", "Shell", "steps"]

_STEP = re.compile(
    r"^<!-- (?P<note>[^\n]*?) -->$|^```sh\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL
)
_ENDED = "the block has ended"
_FAILED = "a command has failed"


@dataclass(frozen=True)
class Block:
    """Commands to run, one after the other."""

    text: str


@dataclass(frozen=True)
class Note:
    """What happens here that is no command: a comment in the page, which readers do not see."""

    text: str


def steps(page: Path, places: Mapping[str, str]) -> Iterator[Block | Note]:
    """Yield what a page has its reader do; `places` are put in place of what the page names."""
    for found in _STEP.finditer(page.read_text("utf-8")):
        if found["note"] is not None:
            yield Note(found["note"])
            continue
        text = found["block"]
        for name, place in places.items():
            text = text.replace(name, place)
        yield Block(text)


class Shell:
    """A bash that a page's commands are typed into, and those it has left running."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = dict(environ)
        self._bash: asyncio.subprocess.Process | None = None
        self._running: asyncio.subprocess.Process | None = None
        self.said = ""

    async def __aenter__(self) -> Shell:
        self._bash = await self._start("/bin/bash", "-s")
        await self._type(
            f"set -o pipefail -o errtrace; trap 'echo \"{_FAILED}: $BASH_COMMAND\"' ERR"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.interrupt()
        if self._bash is not None:
            assert self._bash.stdin is not None
            self._bash.stdin.close()
            await self._bash.wait()

    async def _start(self, *command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, cwd=self._folder, env=self._environ, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    async def _type(self, text: str) -> None:
        assert self._bash is not None
        assert self._bash.stdin is not None
        self._bash.stdin.write(text.encode() + b"\n")
        await self._bash.stdin.drain()

    async def run(self, block: Block) -> str:
        """Run a block to its end and return what it has written; fails if a command does."""
        assert self._bash is not None
        await self._type(f"{block.text}\necho '{_ENDED}'")
        said = await _read_until(self._bash, _ENDED)
        self.said += said
        assert _FAILED not in said, f"{block.text}\n{said}"
        return said

    async def run_on(self, block: Block, ready: str) -> None:
        """Start a block that ends with Ctrl-C only, and wait until it has written `ready`."""
        await self._type("env -0; echo; echo '" + _ENDED + "'")
        assert self._bash is not None
        exported = (await _read_until(self._bash, _ENDED)).partition(_ENDED)[0]
        pairs = (pair.partition("=") for pair in exported.strip().split("\0") if "=" in pair)
        self._environ = {name: value for name, _, value in pairs}
        self._running = await self._start("/bin/bash", "-c", block.text)
        self.said += await _read_until(self._running, ready)
        self._drain = asyncio.create_task(_drain(self._running))

    async def interrupt(self) -> None:
        """Press Ctrl-C where something runs on."""
        if self._running is None:
            return
        os.killpg(self._running.pid, signal.SIGINT)
        async with asyncio.timeout(HANGS_S):
            await self._running.wait()
            await self._drain
        self._running = None


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass


async def _read_until(process: asyncio.subprocess.Process, mark: str) -> str:
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(HANGS_S):
            async for line in process.stdout:
                said += line.decode()
                if mark in said:
                    return said
    except TimeoutError:
        pass
    raise AssertionError(f"never said {mark!r}: {said[-3000:]}")
