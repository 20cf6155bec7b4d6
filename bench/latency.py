"""Tell: how long after a webhook is sent a subscriber hears of the new status.

200 webhooks a second into one web process, one worker, PostgreSQL; the subscriber reads the
server-sent events of ``GET /api/changes``. Beside it a stock arq worker as it comes: how long a job
waits from being put into the queue until it starts, at the same rate. Sender and subscriber speak
HTTP over bare connections, as in `bench.blast`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any, cast

import orjson
from arq.connections import ArqRedis

from bench.blast import body, request
from bench.peers import JOB
from bench.stage import SECRET, TOKEN, Stage, line_of, open_stage

__all__ = ["arguments", "measure", "table"]

PER_S = 200
SECONDS = 12.0
WARM_S = 3.0
STOCK_S = 8.0
HANGS_S = 30.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--rate", type=int, default=PER_S, help="webhooks a second, %(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="default: %(default)s")


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and return percentiles in milliseconds."""
    async with open_stage() as stage:
        ours, acknowledged = await _ours(stage, options.rate, options.seconds)
        stock = await _stock(stage, options.rate)
    return {
        "bench": "latency",
        "per_s": options.rate,
        "webhooks": len(ours),
        "p50_ms": _percentile(ours, 50),
        "p99_ms": _percentile(ours, 99),
        "acknowledged_p50_ms": _percentile(acknowledged, 50),
        "acknowledged_p99_ms": _percentile(acknowledged, 99),
        "stock_arq_p50_ms": _percentile(stock, 50),
        "stock_arq_p99_ms": _percentile(stock, 99),
    }


async def _ours(stage: Stage, rate: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return, sorted, how long each webhook took to be told of, and to be acknowledged, in ms."""
    sent: dict[str, float] = {}
    told: dict[str, float] = {}
    acknowledged: dict[str, float] = {}
    _, port = await stage.part("webhook_server")
    await stage.part("worker")
    loop = asyncio.get_running_loop()
    hearing = _Hearing(port, told)
    await hearing.connect()
    await hearing.listening.wait()
    idle: list[_Posting] = []
    posting: set[asyncio.Task[None]] = set()
    total = int(rate * (WARM_S + seconds))
    requests = [request("/webhooks/flutterwave", body(n), SECRET) for n in range(total)]
    started = loop.time()
    for number in range(total):
        await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
        name = f"chg_bench{number}"
        posting.add(asyncio.create_task(
            _post(port, idle, requests[number], name, sent, acknowledged)
        ))  # fmt: skip
    await asyncio.gather(*posting)
    async with asyncio.timeout(HANGS_S):
        while True:
            if len(told) == len(sent):
                break
            await asyncio.sleep(0.05)
    hearing.close()
    for connection in idle:
        connection.close()
    warm = {f"chg_bench{number}" for number in range(int(rate * WARM_S))}
    counted = [name for name in sent if name not in warm]
    return (
        sorted((told[name] - sent[name]) * 1000 for name in counted),
        sorted((acknowledged[name] - sent[name]) * 1000 for name in counted),
    )


class _Connection(asyncio.Protocol):
    """One connection without an HTTP client: with one, the sender is what is measured."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass

    def send(self, data: bytes) -> None:
        """Send `data`."""
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()


class _Posting(_Connection):
    """Posts one webhook after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._answer = b""
        self._answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def post(self, raw: bytes) -> asyncio.Future[float]:
        """Send a request; return the future of when its answer, a 200, has come."""
        self._answer = b""
        self._answered = asyncio.get_running_loop().create_future()
        self.send(raw)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, rest = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length and len(rest) >= int(length[1]):
            assert self._answer[9:12] == b"200", self._answer
            self._answered.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_exception(ConnectionError("closed before the answer"))


_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


async def _post(
    port: int,
    idle: list[_Posting],
    raw: bytes,
    name: str,
    sent: dict[str, float],
    acknowledged: dict[str, float],
) -> None:
    loop = asyncio.get_running_loop()
    if idle:
        connection = idle.pop()
    else:
        _, connection = await loop.create_connection(_Posting, "127.0.0.1", port)
    sent[name] = time.perf_counter()
    acknowledged[name] = await connection.post(raw)
    idle.append(connection)


class _Hearing(_Connection):
    """Notes when each payment is said to be successful; goes on where a stream has ended."""

    def __init__(self, port: int, told: dict[str, float]) -> None:
        super().__init__()
        self.listening = asyncio.Event()
        self._port = port
        self._told = told
        self._rest = b""
        self._last_id = b""
        self._again: asyncio.Task[None] | None = None
        self._closed = False

    async def connect(self) -> None:
        """Connect and ask for the news."""
        self._rest = b""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
        after = b"Last-Event-ID: %b\r\n" % self._last_id if self._last_id else b""
        self.send(
            b"GET /api/changes HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
            b"Authorization: Bearer %b\r\n%b\r\n" % (TOKEN.encode(), after)
        )

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"retry:"):
                self.listening.set()
            elif line.startswith(b"id:"):
                self._last_id = line[3:].strip()
            elif line.startswith(b"data:"):
                change = orjson.loads(line[5:])
                if change.get("kind") == "charge" and change.get("status") == "successful":
                    self._told.setdefault(change["payment_id"], time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed:
            self._again = asyncio.get_running_loop().create_task(self.connect())

    def close(self) -> None:
        """Close it for good."""
        self._closed = True
        super().close()


async def _stock(stage: Stage, rate: int) -> list[float]:
    """Return, sorted, how long each job of a stock arq worker waited for its start, in ms."""
    jobs = int(rate * STOCK_S)
    async with ArqRedis.from_url(stage.valkey.url) as redis:
        await redis.flushall()
        async with stage.peer(
            "arq", url=stage.valkey.url, jobs=jobs, max_jobs=10, poll_s=0.5
        ) as peer:
            await line_of(peer)
            loop = asyncio.get_running_loop()
            started = loop.time()
            putting: set[asyncio.Task[Any]] = set()
            for number in range(jobs):
                await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
                putting.add(asyncio.create_task(redis.enqueue_job(JOB)))
            await asyncio.gather(*putting)
            said = await line_of(peer)
    return list(said["waited_ms"])


def _percentile(values: Sequence[float], percent: int) -> float:
    return round(values[min(len(values) - 1, len(values) * percent // 100)], 2)


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    rows = (
        ("paystate: sent -> subscriber told", "p50_ms", "p99_ms"),
        ("paystate: sent -> acknowledged", "acknowledged_p50_ms", "acknowledged_p99_ms"),
        ("stock arq: enqueued -> job starts", "stock_arq_p50_ms", "stock_arq_p99_ms"),
    )
    head = f"{figures['per_s']} a second".ljust(36) + f"{'p50 ms':>10}{'p99 ms':>10}"
    return "\n".join((head, *(f"{name:36}{figures[a]:>10}{figures[b]:>10}" for name, a, b in rows)))
