"""``python -m bench.blast``: send signed webhooks as fast as they are answered.

A process of its own, so that sending takes nothing from the server it measures. Each connection
sends its next request when the last one is answered. The bodies are made and signed beforehand; the
client is a bare protocol, because a client library costs more than the server that answers it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import cast

import uvloop

__all__ = ["body", "request", "signature"]

# More than any server here answers in a second (the bare peer 28,000 where it is quiet), or the
# sender is what is measured; the bodies of a run are made before it begins.
MOST_PER_S = 40_000


def body(number: int, status: str = "succeeded") -> bytes:
    """Return a v4 webhook of one payment, of the size and shape of real ones."""
    return json.dumps({
        "webhook_id": f"wbk_bench{number}",
        "timestamp": 1_760_000_000_000 + number,
        "type": "charge.completed",
        "data": {
            "id": f"chg_bench{number}",
            "amount": 4500.5,
            "currency": "NGN",
            "customer": {
                "id": f"cus_{number % 1000}",
                "email": "someone@example.com",
                "name": {"first": "Ada", "last": "Example"},
                "phone": {"country_code": "234", "number": "8000000000"},
                "address": {"city": "Lagos", "country": "NG", "line1": "1 Example Street"},
                "meta": {},
                "created_datetime": "2026-01-02T03:04:05.678Z",
            },
            "description": None,
            "meta": {"order": f"order-{number}"},
            "payment_method_details": {
                "type": "card",
                "id": f"pmd_{number}",
                "card": {"expiry_month": 8, "expiry_year": 32, "first6": "123412",
                         "last4": "1234", "network": "MASTERCARD"},
            },
            "redirect_url": "https://shop.example/done",
            "reference": f"order-{number}",
            "status": status,
            "processor_response": {"type": "approved", "code": "00"},
            "created_datetime": "2026-01-02T03:04:05.678Z",
        },
    }).encode()  # fmt: skip


def signature(raw: bytes, secret: str) -> str:
    """Return what Flutterwave would sign `raw` with."""
    return b64encode(hmac.digest(secret.encode(), raw, hashlib.sha256)).decode()


def request(path: str, raw: bytes, secret: str) -> bytes:
    """Return the bytes of one POST."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"flutterwave-signature: {signature(raw, secret)}\r\nContent-Length: {len(raw)}\r\n\r\n"
    ).encode() + raw


class _Connection(asyncio.Protocol):
    """Sends request after request; `answered` is told the status line of each answer."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        following = next(self._load.requests, None)
        if following is None or self._load.over:
            self._transport.close()
            return
        self._transport.write(following)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        head = data.find(b"\r\n\r\n")
        if head < 0 or len(data) < head + 4 + _length(data[:head]):
            self._buffer = data
            return
        self._buffer = b""
        self._load.answered(data[9:12] == b"200")
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(exc)


def _length(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.index(b"content-length:") + len(b"content-length:")
    return int(lowered[at:].split(b"\r\n", 1)[0])


class _Load:
    def __init__(self, requests: Iterator[bytes], connections: int) -> None:
        self.requests = requests
        self.over = False
        self.accepted = 0
        self.refused = 0
        self._left = connections
        self.done = asyncio.Event()

    def answered(self, accepted: bool) -> None:
        if accepted:
            self.accepted += 1
        else:
            self.refused += 1

    def lost(self, error: Exception | None) -> None:
        self.refused += error is not None
        self._left -= 1
        if not self._left:
            self.done.set()


async def _blast(options: dict[str, object]) -> dict[str, float]:
    first, seconds = int(str(options["first"])), float(str(options["seconds"]))
    path, secret = str(options["path"]), str(options["secret"])
    numbers = range(first, first + int(seconds * MOST_PER_S))
    load = _Load(iter([request(path, body(n), secret) for n in numbers]),
                 int(str(options["connections"])))  # fmt: skip
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(int(str(options["connections"]))):
        await loop.create_connection(
            lambda: _Connection(load), "127.0.0.1", int(str(options["port"]))
        )
    await asyncio.sleep(max(0.0, seconds - (time.perf_counter() - started)))
    counted, elapsed = load.accepted, time.perf_counter() - started
    load.over = True
    await load.done.wait()
    return {"accepted": load.accepted, "refused": load.refused, "per_s": counted / elapsed}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_blast(json.loads(sys.argv[1])))))
