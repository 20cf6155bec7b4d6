"""What processes of the operating system, which share nothing but the cache, ask in sum."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from bench.topologies import Cluster
from paystate.flutterwave.gate import Purpose
from paystate.flutterwave.sandbox import RunningSandbox
from paystate.flutterwave.sandbox.faults import Fault, FaultMode, Limiter
from tests.harness import open_provider
from tests.parts import ROOT

PROCESSES = 4
# Half past an hour.
START = 1_760_000_400 - 1_760_000_400 % 3600 + 1800.0
# Sixty calls an hour, and twelve in ten seconds.
BUDGET = {"hourly_budget": 60, "per_minute": 84}
WINDOW = 12


class Counting(Limiter):
    """Lets everything through, and counts it."""

    seen = 0

    def admit(self, now: float) -> bool:
        """Count a call."""
        self.seen += 1
        return super().admit(now)


class Askers:
    """Processes, and the time that they all take it to be."""

    def __init__(self, sandbox: RunningSandbox, processes: list[Any]) -> None:
        self.sandbox = sandbox
        self._processes = processes
        self.now = START

    async def ask(self, cache: str, purpose: Purpose, times: int = 8) -> Counter[str]:
        """Have each ask `times` questions, all at once; return how many came to what."""
        order = {
            "cache": cache, "budget": BUDGET, "now": self.now, "purpose": purpose, "times": times,
            "base_url": self.sandbox.base_url,
            "secret_key": self.sandbox.sandbox.config.secret_key,
        }  # fmt: skip
        for process in self._processes:
            process.stdin.write(json.dumps(order).encode() + b"\n")
        lines = await asyncio.gather(*(process.stdout.readline() for process in self._processes))
        return sum((Counter(json.loads(line)) for line in lines), Counter())


@asynccontextmanager
async def _askers() -> AsyncIterator[Askers]:
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(open_provider())
        processes = await asyncio.gather(
            *(
                asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.asker", cwd=ROOT, env=dict(os.environ),
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                )
                for _ in range(PROCESSES)
            )
        )  # fmt: skip
        try:
            yield Askers(sandbox, list(processes))
        finally:
            for process in processes:
                assert process.stdin is not None
                process.stdin.close()
                await process.wait()


async def test_processes_ask_no_more_in_sum_than_one_may_and_keep_one_cool_off(
    valkey_url: str, cluster: Cluster
) -> None:
    """Counted at Flutterwave: in ten seconds, in an hour, and after each 429; on both caches."""
    async with _askers() as askers:
        for cache in (valkey_url, cluster.url):
            await _keep_the_budget(askers, cache)
            await _keep_the_cool_off(askers, cache)


async def _keep_the_budget(askers: Askers, cache: str) -> None:
    sandbox = askers.sandbox.sandbox
    askers.now = START
    seen = []
    for _ in range(7):
        sandbox.limiter = counting = Counting()
        for purpose in Purpose:
            await askers.ask(cache, purpose)
        seen.append(counting.seen)
        askers.now += 10
    # Four times as much as ten seconds hold; then what the hour has left; then nothing.
    assert seen[:4] == [WINDOW] * 4
    assert max(seen) == WINDOW
    assert sum(seen) == BUDGET["hourly_budget"]
    assert seen[-1] == 0


async def _keep_the_cool_off(askers: Askers, cache: str) -> None:
    sandbox = askers.sandbox.sandbox
    askers.now = START + 3600
    sandbox.faults.set(Fault(FaultMode.RATE_LIMITED, retry_after_s=10))
    sandbox.limiter = counting = Counting()
    first = await askers.ask(cache, Purpose.CONFIRM)
    # What was under way when the first 429 came is all.
    assert 1 <= counting.seen == first["rate_limited"] <= WINDOW
    # And then one call finds out, after 10 s, and after twice and four times as long.
    for wait_s, calls in ((9, 0), (1, 1), (19, 0), (1, 1), (39, 0), (1, 1)):
        askers.now += wait_s
        before = counting.seen
        found = await askers.ask(cache, Purpose.CONFIRM)
        assert counting.seen - before == found["rate_limited"] == calls
        assert found["cooling_off"] == 8 * PROCESSES - calls
    askers.now += 80
    sandbox.faults.set(Fault())
    assert (await askers.ask(cache, Purpose.CONFIRM, 1))["answered"] >= 1
