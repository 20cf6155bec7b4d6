"""Loops that do not end: what fails is logged, waited out, and begun again, until told to stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from paystate.backoff import delay_s
from paystate.logs import logger

__all__ = ["forever", "pause"]

log = logger()


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


async def forever(name: str, work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Run `work` again and again until `stop` is set; a round that has begun is finished.

    After a failure it begins later each time, after 5 s at most.
    """
    failures = 0
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        try:
            await work()
            failures = 0
            continue
        except Exception as e:
            if asyncio.get_running_loop().time() - started > 30:
                failures = 0
            failures += 1
            wait_s = delay_s(failures, first_s=0.2, most_s=5, draw=random.random())  # noqa: S311
            log.warning("loop_failed", loop=name, error=type(e).__name__, reason=getattr(
                e, "reason", None), retry_in_s=round(wait_s, 2))  # fmt: skip
        await pause(stop, wait_s)
