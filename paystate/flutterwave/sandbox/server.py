"""Runs a sandbox: its routes on a port, its webhooks to a receiver, its traffic if wanted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from paystate.flutterwave.sandbox import traffic
from paystate.flutterwave.sandbox.app import make_app
from paystate.flutterwave.sandbox.config import SandboxConfig
from paystate.flutterwave.sandbox.player import PLAYER, Player
from paystate.flutterwave.sandbox.provider import Sandbox
from paystate.flutterwave.sandbox.script import read_script
from paystate.flutterwave.sandbox.sender import Sender

__all__ = ["RunningSandbox", "SandboxConfig", "open_sandbox", "ready_line", "serve"]

# What is in flight when the sandbox stops gets this long; slow answers are let go at once.
SHUTDOWN_S = 2.0


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that listens at `url` (``http://host:port``, no slash at the end)."""

    sandbox: Sandbox
    url: str
    player: Player

    @property
    def base_url(self) -> str:
        """Return what to set as the v3 base address."""
        return f"{self.url}/v3"

    @property
    def v4_base_url(self) -> str:
        """Return what to set as the v4 base address."""
        return f"{self.url}/v4"

    @property
    def token_url(self) -> str:
        """Return where v4's access tokens are granted."""
        return f"{self.url}/token"


@asynccontextmanager
async def open_sandbox(config: SandboxConfig) -> AsyncIterator[RunningSandbox]:
    """Open a sandbox, with its traffic and its script, and close it in reverse order.

    Raises OSError if the port is taken, ScriptInvalid for a script that cannot be played and
    ValueError for a rate that is no share.
    """
    script = None if config.script is None else read_script(config.script)
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        sender = Sender(
            session,
            receiver_url=config.receiver_url,
            secret_hash=config.secret_hash,
            rng=random.Random(f"{config.seed}:sender"),
            previous_secret_hash=config.previous_secret_hash,
            rates=config.rates,
            retries=config.retries,
            retry_interval_s=config.retry_interval_s,
            max_delay_s=config.max_delay_s,
        )
        stack.push_async_callback(sender.close)
        sandbox = Sandbox(config, sender)
        app = make_app(sandbox)
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        site = web.TCPSite(runner, config.host, config.port)
        await site.start()
        host, port = runner.addresses[0][:2]
        making = asyncio.create_task(traffic.run(sandbox, config.rate_per_s))
        stack.push_async_callback(_cancel, making)
        if script is not None:
            app[PLAYER].start(script)
        shown_host = f"[{host}]" if ":" in host else host
        yield RunningSandbox(sandbox, f"http://{shown_host}:{port}", app[PLAYER])


def ready_line(running: RunningSandbox) -> dict[str, object]:
    """Return what a program needs to know of a sandbox that is ready; no secret is in it."""
    return {
        "event": "sandbox_ready",
        "url": running.url,
        "base_url": running.base_url,
        "v4_base_url": running.v4_base_url,
        "token_url": running.token_url,
        "receiver": running.sandbox.config.receiver_url,
        "seed": running.sandbox.config.seed,
    }


async def serve(
    config: SandboxConfig, tell: Callable[[RunningSandbox], object] | None = None
) -> None:
    """Run a sandbox until SIGINT or SIGTERM. Raises as `open_sandbox` does.

    When ready it is handed to `tell`; by default that prints `ready_line` as one line of JSON.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    try:
        async with open_sandbox(config) as running:
            (tell or _print_line)(running)
            await stop.wait()
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)


def _print_line(running: RunningSandbox) -> None:
    sys.stdout.write(json.dumps(ready_line(running)) + "\n")
    sys.stdout.flush()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
