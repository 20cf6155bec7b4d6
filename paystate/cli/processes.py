"""Child processes that are kept alive while the supervisor lives, and not a moment longer.

Three things are easy to get wrong here, and decide the shape of this module:

- *A supervisor that is killed must not leave children.* On Linux each child asks the kernel to be
  killed with its parent (PR_SET_PDEATHSIG). It must be asked between fork and exec, where a parent
  with threads can run next to no Python safely. So the child starts as a small Python of its own
  that asks, checks that the parent has not died meanwhile, and then becomes the command: same
  process id, nothing run between fork and exec. The kernel watches the *thread* that forked, which
  is the main thread for as long as the loop runs there.
- *Ctrl-C in a terminal reaches the whole process group*, so children have sessions of their own:
  who stops, and in what order, is decided here.
- *A pipe may outlive the child* where the child has started others. Its end is therefore taken
  from the process, not from its output.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from paystate.backoff import delay_s

__all__ = ["Backoff", "Child", "Command", "Supervisor", "Write"]

# Called with the name of the process and one line of its output.
Write = Callable[[str, str], None]

# A line beyond this is dropped rather than held in memory.
LINE_LIMIT = 1024 * 1024
# What a dead child wrote last is in the pipe already; others that hold the pipe are not waited for.
LAST_WORDS_S = 1.0

# SIGKILL, because it must be certain; what it kills is made to survive that. SIGPIPE is given back
# its default, which Python takes away and exec would not restore.
_BECOME = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. A `foundation` is stopped after everything that may stand on it."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    foundation: bool = False


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a restart, in seconds: doubling, forgotten after `healthy_s` up."""

    first_s: float = 0.5
    most_s: float = 10.0
    healthy_s: float = 10.0


class Child:
    """One command, restarted whenever it ends without having been asked to."""

    def __init__(self, command: Command, write: Write, backoff: Backoff) -> None:
        self.command = command
        self.deaths = 0
        self._write = write
        self._backoff = backoff
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._keep_alive(), name=f"keep {command.name} alive")

    @property
    def pid(self) -> int | None:
        """The process id, or None while there is no process."""
        return self._process.pid if self._process is not None else None

    async def stop(self, grace_s: float) -> None:
        """Ask it to end; kill it if it has not within `grace_s` seconds."""
        self._stopping.set()
        self._send(signal.SIGTERM)
        done, _ = await asyncio.wait({self._task}, timeout=grace_s)
        if not done:
            self._write(self.command.name, f"did not stop within {grace_s:g} s: killed")
            self.kill()
        await self._task

    def kill(self) -> None:
        """End it at once, for good."""
        self._stopping.set()
        self._send(signal.SIGKILL)

    def _send(self, signum: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signum)

    async def _keep_alive(self) -> None:
        clock = asyncio.get_running_loop().time
        attempt = 0
        while not self._stopping.is_set():
            began = clock()
            end = await self._run_once()
            if self._stopping.is_set():
                return
            self.deaths += 1
            attempt = 1 if clock() - began >= self._backoff.healthy_s else attempt + 1
            pause = delay_s(
                attempt, first_s=self._backoff.first_s, most_s=self._backoff.most_s, draw=0
            )
            self._write(self.command.name, f"{end}: starting it again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run_once(self) -> str:
        """Run it to its end, relaying what it writes; return how it ended, in words."""
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        read_fd, write_fd = os.pipe()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", buffering=0)
        )
        relaying = asyncio.create_task(self._relay(reader))
        try:
            self._process = await self._spawn(write_fd)
            os.close(write_fd)
            write_fd = -1
            if self._stopping.is_set():  # asked to while it was being started
                self._send(signal.SIGTERM)
            code = await self._process.wait()
            await asyncio.wait({relaying}, timeout=LAST_WORDS_S)
        except OSError as e:
            return f"could not be started ({e.strerror})"
        finally:
            if self._process is not None and self._process.returncode is None:
                self._send(signal.SIGKILL)  # we are being cancelled
            self._process = None
            if write_fd >= 0:
                os.close(write_fd)
            transport.close()
            await relaying
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    async def _spawn(self, output_fd: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid())),
            *self.command.argv,
            env=dict(self.command.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            start_new_session=True,
        )

    async def _relay(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # how a StreamReader says that the limit was passed
                line = b"(a line too long to show)"
            if not line:
                return
            self._write(self.command.name, line.decode("utf-8", "replace").rstrip())


class Supervisor:
    """Starts commands and keeps them alive; on leaving its context none of them runs."""

    def __init__(self, write: Write, *, grace_s: float = 15.0, backoff: Backoff | None = None):
        self._write = write
        self._grace_s = grace_s
        self._backoff = backoff or Backoff()
        self._children: list[Child] = []

    def start(self, command: Command) -> Child:
        """Start `command`. What it writes goes to `write`, line by line, under its name."""
        child = Child(command, self._write, self._backoff)
        self._children.append(child)
        return child

    async def stop(self) -> None:
        """Stop all of them softly, the foundations last."""
        for foundation in (False, True):
            ending = [c for c in self._children if c.command.foundation is foundation]
            await asyncio.gather(*(child.stop(self._grace_s) for child in ending))

    def kill(self) -> None:
        """End all of them at once."""
        for child in self._children:
            child.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.stop()
