"""Reading the body of a request, bounded in size and in time."""

from __future__ import annotations

import asyncio

from aiohttp import web

from webhook_server.problems import Refused

__all__ = ["read_within"]

# A body of a few kilobytes comes at once. Who needs longer holds a connection open.
BODY_TIMEOUT_S = 10


async def read_within(request: web.Request, most_bytes: int) -> bytes:
    """Return the exact bytes of the body.

    Raises Refused (413) if it says that it is too large, aiohttp's HTTPRequestEntityTooLarge if it
    turns out to be, and TimeoutError if it does not come within `BODY_TIMEOUT_S`.
    """
    if (request.content_length or 0) > most_bytes:
        raise Refused(413, "body_too_large", f"a body has {most_bytes} bytes at most")
    if request.content.is_eof():  # it has come with its headers, as nearly all do
        return await request.read()
    async with asyncio.timeout(BODY_TIMEOUT_S):
        return await request.read()
