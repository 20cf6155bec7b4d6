"""A client without manners: it sends whatever bytes it is given, and reads what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Reply", "connected", "exchange", "read_reply", "request"]

# A guard against a hang, not a measure of speed.
HANGS_S = 15


@dataclass(frozen=True)
class Reply:
    """An answer as it came; `body` is what of it was there once the head was complete."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        """The reason of a problem document."""
        assert self.headers.get("content-type", "").startswith("application/problem+json"), self
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert {"type", "title", "detail"} <= problem.keys()
        reason: str = problem["reason"]
        return reason


def request(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes | None = None
) -> bytes:
    """Return the bytes of a request; without `body` it has no framing headers either."""
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: paystate"]
    lines += [b"%s: %s" % pair for pair in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


@asynccontextmanager
async def connected(
    url: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Hold a connection to the server at `url`."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(url: str, raw: bytes, *, hang_up: bool = False) -> Reply | None:
    """Send `raw` and return the answer, or None if the server closed without one.

    `hang_up` ends the sending side, so that a server that waits for the rest does not.
    """
    async with connected(url) as (reader, writer):
        try:
            writer.write(raw)
            await writer.drain()
            if hang_up:
                writer.write_eof()
        except ConnectionError:
            pass  # it has answered and closed while we were still sending
        return await read_reply(reader, has_body=not raw.startswith(b"HEAD "))


async def read_reply(reader: asyncio.StreamReader, *, has_body: bool = True) -> Reply | None:
    """Return the next answer on a connection, None if it is closed before the answer's end.

    Of a stream of events only the head is read; the answer to a HEAD has no body (`has_body`).
    """
    async with asyncio.timeout(HANGS_S):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").strip().split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            length = int(headers.get("content-length", 0)) if has_body else 0
            body = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
    return Reply(int(first.split(" ")[1]), headers, body)
