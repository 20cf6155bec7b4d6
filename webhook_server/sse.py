"""Server-sent events on the wire: a stream is opened, told things, and ended with a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

__all__ = ["KEEP_ALIVE_S", "StreamUnread", "end", "open_stream", "send", "still_here"]

# Below the 30 s after which common proxies close a connection that says nothing.
KEEP_ALIVE_S = 15.0
# A client that takes no bytes for this long is not reading.
WRITE_TIMEOUT_S = 10.0
RETRY_MS = 1000

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would hold events back until its buffer is full
}


class StreamUnread(Exception):
    """The client takes no bytes."""


async def open_stream(
    request: web.Request, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Begin the answer to `request`; `headers` stand in place of the usual ones.

    Raises StreamUnread, and ConnectionError if the client has gone, as whatever writes does.
    """
    stream = web.StreamResponse(headers={**_HEADERS, **(headers or {})})
    await stream.prepare(request)
    await _write(stream, b"retry: %d\n\n" % RETRY_MS)
    return stream


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """Write, but not for ever: a client that does not read loses its connection."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            yield
    except TimeoutError as e:
        raise StreamUnread from e


async def _write(stream: web.StreamResponse, data: bytes) -> None:
    async with _in_time():
        await stream.write(data)


async def still_here(stream: web.StreamResponse) -> None:
    """Say something that is no event."""
    await _write(stream, b": still here\n\n")


async def send(
    stream: web.StreamResponse, event: str, data: Any, event_id: str | None = None
) -> None:
    """Send one event with `data` as JSON."""
    head = f"id: {event_id}\n" if event_id else ""
    await _write(stream, f"{head}event: {event}\ndata: ".encode() + orjson.dumps(data) + b"\n\n")


async def end(stream: web.StreamResponse, why: str) -> web.StreamResponse:
    """Say why the stream ends; the client comes back and goes on from its last id."""
    await send(stream, why, {"reason": why})
    async with _in_time():
        await stream.write_eof()
    return stream
