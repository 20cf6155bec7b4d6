"""What each process says of itself, kept for a few seconds where every other can read it.

The board is one page, and a deployment has many processes on many machines: web processes count
lookups, workers know how fresh answers are. Each writes down its own counts every two seconds; who
wants the sums reads them all. Nothing else depends on it: it may be lost at any time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import orjson

from paystate.cache.scripts import Script, run
from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import CacheUnavailable
from paystate.keys import Keys
from paystate.logs import logger
from paystate.metrics import Metrics

__all__ = ["EVERY_S", "Report", "Reporter", "read_reports", "total"]

EVERY_S = 2.0
# Five reports: one that was missed is no death.
COUNTS_MS = 10_000

# What is reported: all that the board adds up, and nothing with many labels.
NAMES = frozenset(
    {
        "paystate_lookups_total",
        "paystate_provider_calls_total",
        "paystate_webhooks_total",
        "paystate_subscribers",
        "paystate_audit_lookups_total",
        "paystate_audit_violations_total",
    }
)

_TEXT = files("paystate.cache").joinpath("report.lua").read_text("utf-8")
REPORT = Script("report", _TEXT, hashlib.sha1(_TEXT.encode(), usedforsecurity=False).hexdigest())

log = logger()


@dataclass(frozen=True, slots=True)
class Report:
    """What a process (or the web processes of one supervisor, together) has counted.

    `counts` has (metric, its labels, value); `since_ms` is its start, ms since the epoch.
    """

    name: str
    role: str
    since_ms: int
    counts: tuple[tuple[str, dict[str, str], float], ...]


class Reporter:
    """Reports for this process; `role` is web or worker."""

    def __init__(self, redis: CacheClient, keys: Keys, metrics: Metrics, role: str) -> None:
        self._redis = redis
        self._keys = keys
        self._metrics = metrics
        self._role = role
        # Web processes of one supervisor count in shared files: they are one, whoever reports.
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        pid = os.getppid() if self._shared else os.getpid()
        self.name = f"{role}:{socket.gethostname()}:{pid}"
        self._since_ms = time.time_ns() // 1_000_000

    async def report(self) -> None:
        """Report once, unless another process has just done so for us. Raises CacheUnavailable."""
        try:
            if self._shared and not await self._redis.set(
                self._keys.reporting(self.name), b"1", nx=True, px=int(EVERY_S * 900)
            ):
                return
            body = orjson.dumps(
                {"role": self._role, "since_ms": self._since_ms,
                 "counts": self._metrics.samples(NAMES)}
            )  # fmt: skip
            await _run(self._redis, self._keys, self.name, body)
        except REDIS_FAILURES as e:
            raise CacheUnavailable("cache_unreachable") from e

    async def report_for_ever(
        self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Report until cancelled; without Redis there is nobody to hear it."""
        while True:
            try:
                await self.report()
            except CacheUnavailable as e:
                log.info("report_missed", reason=e.reason)
            await sleep(EVERY_S)


async def read_reports(redis: CacheClient, keys: Keys) -> list[Report]:
    """Return the report of every process that is there. Raises CacheUnavailable."""
    try:
        reply = await _run(redis, keys, "", b"")
    except REDIS_FAILURES as e:
        raise CacheUnavailable("cache_unreachable") from e
    found = []
    for name, text in zip(reply[::2], reply[1::2], strict=True):
        try:
            body = orjson.loads(text)
            counts = tuple((str(n), dict(labels), float(v)) for n, labels, v in body["counts"])
            found.append(Report(name.decode(), body["role"], int(body["since_ms"]), counts))
        except (ValueError, KeyError, TypeError):
            continue  # of another release: it is not counted, and that it is there is no promise
    return sorted(found, key=lambda report: report.name)


async def _run(redis: CacheClient, keys: Keys, name: str, body: bytes) -> list[Any]:
    [reply] = await run(redis, [(REPORT, keys.reports, (name, body, COUNTS_MS))])
    if isinstance(reply, Exception):
        raise reply
    found: list[Any] = reply
    return found


def total(reports: Iterable[Report], metric: str, **labels: str) -> float:
    """Return the sum of `metric` over all reports, of the samples that have these labels."""
    return sum(
        value
        for report in reports
        for name, had, value in report.counts
        if name == metric and labels.items() <= had.items()
    )
