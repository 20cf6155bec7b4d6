"""Children live while their supervisor does, and no longer. Every wait is for something written."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from paystate.cli.processes import Backoff, Command, Supervisor

TIMEOUT_S = 30.0

# Says its process id and then waits to be ended.
_PATIENT = "import os, signal; print('up', os.getpid(), flush=True); signal.pause()"
_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + _PATIENT
_POLITE = """
import os, signal, sys
def leave(*_):
    print("bye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
""" + _PATIENT.replace("import os, signal; ", "")


class Lines:
    """What the children wrote, to be waited for."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def write(self, name: str, line: str) -> None:
        self.all.append((name, line))
        self._queue.put_nowait((name, line))

    async def next(self, start: str) -> str:
        """Return the next line that begins with `start`, passing over the others."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                _, line = await self._queue.get()
                if line.startswith(start):
                    return line

    async def pid(self) -> int:
        return int((await self.next("up")).split()[1])


def python(name: str, code: str, *, foundation: bool = False) -> Command:
    return Command(name, [sys.executable, "-c", code], dict(os.environ), foundation=foundation)


@asynccontextmanager
async def supervising(lines: Lines, **options: object) -> AsyncIterator[Supervisor]:
    backoff = Backoff(first_s=0.001, most_s=0.001)
    async with Supervisor(lines.write, backoff=backoff, **options) as supervisor:  # type: ignore[arg-type]
        yield supervisor


def has_ended(pid: int) -> bool:
    """Wait until the process `pid` has ended, whether or not anyone has collected its end yet."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], TIMEOUT_S)[0])
    finally:
        os.close(fd)


async def test_every_line_comes_under_the_name_of_its_process() -> None:
    lines = Lines()
    code = "import sys, signal; print('out', flush=True); print('err', file=sys.stderr, flush=True)"
    async with supervising(lines) as supervisor:
        supervisor.start(python("talker", code + "; signal.pause()"))
        await lines.next("err")
    assert lines.all == [("talker", "out"), ("talker", "err")]


async def test_a_child_that_is_killed_is_started_again() -> None:
    lines = Lines()
    async with supervising(lines) as supervisor:
        child = supervisor.start(python("worker", _PATIENT))
        first = await lines.pid()
        assert child.pid == first
        os.kill(first, signal.SIGKILL)
        assert "SIGKILL" in await lines.next("ended by")
        second = await lines.pid()
        assert second != first
        assert child.deaths == 1
    assert not psutil.pid_exists(second)


async def test_a_child_that_ends_by_itself_is_started_again_with_growing_pauses() -> None:
    lines = Lines()
    backoff = Backoff(first_s=0.001, most_s=0.004)
    async with Supervisor(lines.write, backoff=backoff) as supervisor:
        supervisor.start(python("flaky", "raise SystemExit(3)"))
        said = [await lines.next("ended with code 3") for _ in range(4)]
    assert [line.rpartition(" in ")[2] for line in said] == [
        "0.001 s", "0.002 s", "0.004 s", "0.004 s",
    ]  # fmt: skip


async def test_a_soft_stop_lets_a_child_say_goodbye() -> None:
    lines = Lines()
    async with supervising(lines) as supervisor:
        supervisor.start(python("polite", _POLITE))
        pid = await lines.pid()
    assert ("polite", "bye") in lines.all
    assert not psutil.pid_exists(pid)


async def test_a_child_that_ignores_the_soft_stop_is_killed_after_the_grace() -> None:
    lines = Lines()
    async with supervising(lines, grace_s=0.05) as supervisor:
        supervisor.start(python("stubborn", _STUBBORN))
        pid = await lines.pid()
    assert lines.all[-1] == ("stubborn", "did not stop within 0.05 s: killed")
    assert not psutil.pid_exists(pid)


async def test_a_second_request_to_stop_kills_at_once() -> None:
    lines = Lines()
    async with supervising(lines, grace_s=3600) as supervisor:
        supervisor.start(python("stubborn", _STUBBORN))
        pid = await lines.pid()
        supervisor.kill()
    assert not psutil.pid_exists(pid)


async def test_foundations_end_after_what_stands_on_them() -> None:
    lines = Lines()
    async with supervising(lines) as supervisor:
        supervisor.start(python("valkey", _POLITE, foundation=True))
        await lines.pid()
        supervisor.start(python("web", _POLITE))
        await lines.pid()
    assert [name for name, line in lines.all if line == "bye"] == ["web", "valkey"]


async def test_a_stop_during_the_start_leaves_nothing() -> None:
    lines = Lines()
    async with supervising(lines) as supervisor:
        child = supervisor.start(python("early", _PATIENT))
    assert child.pid is None
    assert child.deaths == 0


async def test_an_error_in_the_supervisors_context_stops_the_children_too() -> None:
    lines = Lines()
    pids: list[int] = []

    async def fail() -> None:
        async with supervising(lines) as supervisor:
            supervisor.start(python("web", _PATIENT))
            pids.append(await lines.pid())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not psutil.pid_exists(pids[0])


async def test_a_line_too_long_to_hold_is_named_and_passed_over() -> None:
    lines = Lines()
    code = "import signal; print('x' * 3_000_000); print('after', flush=True); signal.pause()"
    async with supervising(lines) as supervisor:
        supervisor.start(python("verbose", code))
        await lines.next("after")
    assert ("verbose", "(a line too long to show)") in lines.all


async def test_a_grandchild_that_holds_the_output_does_not_hide_the_death() -> None:
    lines = Lines()
    code = f"""
import subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", {_PATIENT!r}])
"""
    async with supervising(lines) as supervisor:
        supervisor.start(python("parent", code + "helper.wait()"))
        grandchild = await lines.pid()
        parent = psutil.Process(grandchild).ppid()
        os.kill(parent, signal.SIGKILL)
        await lines.next("ended by SIGKILL")
        another = await lines.pid()
    for pid in (grandchild, another):
        psutil.Process(pid).kill()


_SUPERVISOR = f"""
import asyncio, os, sys
from paystate.cli.processes import Command, Supervisor

async def main():
    async with Supervisor(lambda name, line: print(line, flush=True)) as supervisor:
        supervisor.start(Command("child", [sys.executable, "-c", {_STUBBORN!r}], os.environ))
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_do_not_survive_a_supervisor_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline().split()[1])
        supervisor.kill()
        supervisor.wait(TIMEOUT_S)
    assert has_ended(pid)
