"""``python -m bench.asking``: ask for statuses over HTTP as fast as they are answered.

A process of its own, so that asking takes nothing from the server it measures, and a bare protocol,
because a client library costs more than the server that answers it. Each connection asks again when
it has been answered, or after a pause. Payments are drawn by Zipf's law, all popular ones mixed.

While payments settle it knows when each was acknowledged as settled, and counts the answers to
questions asked after that which still say pending.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, cycle
from typing import cast

import uvloop

from bench.population import FIRST_ID, is_pending

__all__ = ["Options"]

# Questions are made before the run, and asked again from the first when they are all asked.
MADE = 100_000
CONNECT_AT_ONCE = 200


@dataclass(frozen=True)
class Options:
    """What to ask. Times in seconds.

    `port` of the server; `connections` that each ask, wait for the answer, and `pause_s`;
    `payments` in all, `only` the ``pending`` or the ``successful`` of them; `skew` 0 asks for all
    alike, 1 is Zipf's law. `settle_port` is the server that settles the pending ones,
    `settle_per_s` of them, the most popular first after `settled` that are settled already;
    `webhook` says that it takes our webhooks, not the peer's plain POST.
    """

    port: int
    seconds: float
    connections: int
    payments: int
    token: str
    secret: str = ""
    pause_s: float = 0.0
    skew: float = 1.0
    only: str = ""
    settle_port: int = 0
    settle_per_s: float = 0.0
    settled: int = 0
    webhook: bool = True
    seed: int = 1


def _by_popularity(options: Options) -> list[int]:
    """Return the numbers of the payments, the most popular first: the same for every run."""
    wanted = {"pending": {True}, "successful": {False}}.get(options.only, {True, False})
    numbers = [n for n in range(options.payments) if is_pending(n) in wanted]
    if options.skew:
        random.Random(7).shuffle(numbers)
    return numbers


def _questions(options: Options, numbers: list[int]) -> Iterator[tuple[int, bytes]]:
    weights = None
    if options.skew:
        weights = list(accumulate(1 / (n**options.skew) for n in range(1, len(numbers) + 1)))
    drawn = random.Random(options.seed).choices(numbers, cum_weights=weights, k=MADE)
    return cycle(
        [
            (
                number,
                f"GET /api/payments/{FIRST_ID + number}/status HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {options.token}\r\n\r\n".encode(),
            )
            for number in drawn
        ]
    )


class _Load:
    def __init__(self, options: Options) -> None:
        self.pause_s = options.pause_s
        self.popular = _by_popularity(options)
        self.questions = _questions(options, self.popular)
        self.over = False
        self.waited_s: list[float] = []
        self.refused = 0
        self.stale = 0
        self.settled_at: dict[int, float] = {}
        self.left = options.connections
        self.done = asyncio.Event()

    def lost(self, error: Exception | None) -> None:
        self.refused += error is not None or not self.over
        self.left -= 1
        if not self.left:
            self.done.set()


class _Caller(asyncio.Protocol):
    """Asks question after question."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._buffer = b""
        self._number = 0
        self._asked_at = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass
        pause_s = self._load.pause_s
        if pause_s:
            asyncio.get_running_loop().call_later(random.random() * pause_s, self._ask)
        else:
            self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        if self._load.over:
            self._transport.close()
            return
        self._number, question = next(self._load.questions)
        self._asked_at = time.perf_counter()
        self._transport.write(question)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        head = data.find(b"\r\n\r\n")
        if head < 0 or len(data) < head + 4 + _length(data, head):
            self._buffer = data
            return
        self._buffer = b""
        load = self._load
        load.waited_s.append(time.perf_counter() - self._asked_at)
        load.refused += data[9:12] != b"200"
        settled_at = load.settled_at.get(self._number)
        if settled_at is not None and settled_at < self._asked_at:
            load.stale += b'"pending"' in data and b'"fresh":false' not in data
        if load.pause_s:
            asyncio.get_running_loop().call_later(load.pause_s, self._ask)
        else:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(exc)


def _length(data: bytes, head: int) -> int:
    at = data.find(b"Content-Length: ", 0, head) + len(b"Content-Length: ")
    return int(data[at : data.find(b"\r", at)])


# --- settling ---


def _settling(options: Options, number: int) -> bytes:
    own_id = FIRST_ID + number
    if not options.webhook:
        return (
            f"POST /settle/{own_id} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
        ).encode()
    body = json.dumps({
        "event": "charge.completed",
        "data": {"id": own_id, "tx_ref": f"order-{number}", "status": "successful",
                 "amount": 1500, "currency": "NGN"},
    }).encode()  # fmt: skip
    return (
        "POST /webhooks/flutterwave HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nverif-hash: {options.secret}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _settle(options: Options, load: _Load) -> None:
    """Let one payment after the other settle, and note when each was acknowledged."""
    reader, writer = await asyncio.open_connection("127.0.0.1", options.settle_port)
    pending = [number for number in load.popular if is_pending(number)][options.settled :]
    loop = asyncio.get_running_loop()
    started = loop.time()
    for count, number in enumerate(pending):
        await asyncio.sleep(max(0.0, started + count / options.settle_per_s - loop.time()))
        if load.over:
            break
        writer.write(_settling(options, number))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(head, len(head)))
        assert head[9:12] == b"200", head
        load.settled_at[number] = time.perf_counter()
    writer.close()


# --- the run ---


async def _run(options: Options) -> dict[str, float]:
    load = _Load(options)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    for first in range(0, options.connections, CONNECT_AT_ONCE):
        some = min(CONNECT_AT_ONCE, options.connections - first)
        await asyncio.gather(*(
            loop.create_connection(lambda: _Caller(load), "127.0.0.1", options.port)
            for _ in range(some)
        ))  # fmt: skip
    load.waited_s.clear()
    started = time.perf_counter()
    settling = asyncio.create_task(_settle(options, load)) if options.settle_port else None
    await asyncio.sleep(options.seconds)
    counted, elapsed = len(load.waited_s), time.perf_counter() - started
    load.over = True
    await load.done.wait()
    if settling is not None:
        await settling
    waited = sorted(load.waited_s)
    return {
        "per_s": counted / elapsed,
        "answers": len(waited),
        "p50_ms": waited[len(waited) // 2] * 1000,
        "p99_ms": waited[len(waited) * 99 // 100] * 1000,
        "refused": load.refused,
        "settled": len(load.settled_at),
        "stale": load.stale,
        "lasted_s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_run(Options(**json.loads(sys.argv[2]))))))
