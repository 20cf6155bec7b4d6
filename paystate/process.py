"""The life of a process: settings or a clear refusal, logs, a fast loop, signals, a soft stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable

from aiohttp import web

from paystate.errors import SettingsInvalid
from paystate.logs import configure_logging
from paystate.settings import Role, Settings, load

__all__ = ["CannotStart", "cannot_listen", "listen", "run_process"]

EXIT_SETTINGS = 2
EXIT_HARD = 70
HARD_STOP_S = 5.0


class CannotStart(Exception):
    """This process, or one that it needs, cannot start; `code` is what to end with.

    Without a message: whoever could not start has said why.
    """

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


def run_process(
    name: str, role: Role, main: Callable[[Settings, asyncio.Event], Awaitable[None]]
) -> int:
    """Run `main` with an event that SIGTERM and SIGINT set; return an exit code.

    Settings that cannot be used are printed, every one, and end the process with code 2.
    """
    try:
        settings = load(role=role)
    except SettingsInvalid as e:
        print(f"{name}: {e}", file=sys.stderr)  # noqa: T201 - before there is a log
        return EXIT_SETTINGS
    configure_logging(settings.log_level, settings.log_format, name, for_good=True)

    async def guarded() -> None:
        # What is imported and set up lives as long as the process, and a batch makes thousands of
        # values that die together: looking for cycles every 700 of them finds none.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(settings, stop)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(guarded())
        except CannotStart as e:
            if str(e):
                print(f"{name}: {e}", file=sys.stderr)  # noqa: T201 - for whoever has started it
            return e.code
        # The soft stop is over. Whatever still hangs has had its time, and holds nothing that the
        # inbox does not hold too.
        hard_stop = threading.Timer(HARD_STOP_S, os._exit, [EXIT_HARD])
        hard_stop.daemon = True
        hard_stop.start()
    hard_stop.cancel()
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def listen(
    app: web.Application,
    host: str,
    port: int,
    grace_s: float,
    *,
    setting: str = "PORT",
    shared: bool = False,
    runner_class: type[web.AppRunner] = web.AppRunner,
) -> web.AppRunner:
    """Serve `app` and return its runner, whose `cleanup` stops it softly within `grace_s`.

    `shared`: other processes listen on the same port, and the kernel spreads connections over them.

    Raises CannotStart, which names `setting`, if the port is taken or is not this host's.

    Bodies are not decompressed: a signature is over the bytes that were sent, and a small body
    must not become a large one.
    """
    runner = runner_class(
        app,
        access_log=None,
        handle_signals=False,
        auto_decompress=False,
        shutdown_timeout=grace_s,
        keepalive_timeout=75,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=2048, reuse_port=shared or None).start()
    except OSError as e:
        await runner.cleanup()
        raise cannot_listen(host, port, setting, e) from e
    return runner


def cannot_listen(host: str, port: int, setting: str, error: OSError) -> CannotStart:
    """Return what to raise, and to tell a person, where nobody can listen at that address."""
    named = isinstance(error, socket.gaierror) or error.errno is None
    why = error.strerror if named else os.strerror(error.errno or 0)
    return CannotStart(
        EXIT_SETTINGS,
        f"cannot listen on {host}:{port}: {why}. Stop what uses the port, or set HOST or {setting}",
    )
