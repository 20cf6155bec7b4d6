"""Loops that do not end: what fails is logged, waited out, and begun again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from paystate.backoff import delay_s
from paystate.observability import logger

__all__ = ["forever"]

log = logger()


async def forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` again and again until cancelled; after a failure, later each time, at most 5 s."""
    failures = 0
    while True:
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
        await asyncio.sleep(wait_s)
