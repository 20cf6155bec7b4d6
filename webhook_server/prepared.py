"""Answers that are bytes already: made once, sent to whoever asks.

aiohttp makes each response anew: a dictionary of headers, checked, completed and written out. That
costs more than finding the answer. What is the same for everybody who asks for a settled payment is
all of it but the date.
"""

from __future__ import annotations

import time
from email.utils import formatdate

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE

__all__ = ["NO_TAGS", "Made", "Prepared", "takes_prepared"]

# Of a caller who has nothing yet.
NO_TAGS: frozenset[str] = frozenset()


class _Date:
    """The Date header of this second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        """Return its value, and the end of the headers."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
        return self._line


_date = _Date()


def takes_prepared(request: web.Request) -> bool:
    """Say whether `request` is of the plain kind that a `Prepared` answers.

    A connection that is to be closed needs another header, and one that does not take what has been
    sent must be waited for.
    """
    return (
        request.method == "GET"
        and request.version == HttpVersion11
        and request.keep_alive
        and not request.protocol.writing_paused
    )


_HEAD = f"HTTP/1.1 200 OK\r\nServer: {SERVER_SOFTWARE}\r\nContent-Type: application/json\r\n"
_UNCHANGED = f"HTTP/1.1 304 Not Modified\r\nServer: {SERVER_SOFTWARE}\r\n"


class Made:
    """A 200 with a JSON `body`, as bytes; it holds nothing of a request, so many may share it.

    `headers` are those beside its length, type, server and date, each ended as on the wire; `tag`
    is what its ETag says between the quotes, if it has one.
    """

    __slots__ = ("_body", "_head", "_headers", "_tag")

    def __init__(self, headers: str, body: bytes, tag: str = "") -> None:
        self._head = f"{_HEAD}{headers}Content-Length: {len(body)}\r\nDate: ".encode()
        self._body = body
        self._headers = headers
        self._tag = tag

    def is_among(self, tags: frozenset[str]) -> bool:
        """Say whether a caller who has these has this."""
        return self._tag in tags or "*" in tags

    def wire(self) -> bytes:
        """Return it as it is sent now."""
        return b"".join((self._head, _date.line(), self._body))

    def unchanged(self) -> bytes:
        """Return, as it is sent now, that it is what the caller has."""
        return f"{_UNCHANGED}{self._headers}Date: ".encode() + _date.line()


class Prepared(web.StreamResponse):
    """Sends what was `made` to a caller who has `tags` and asks about `merchant`."""

    def __init__(self, made: Made, merchant: str, tags: frozenset[str] = NO_TAGS) -> None:
        self._same = made.is_among(tags)
        super().__init__(status=304 if self._same else 200)
        self._keep_alive = True
        self._made = made
        self._merchant = merchant
        self._tags = tags

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it all."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the caller has gone")
        transport.write(self._made.unchanged() if self._same else self._made.wire())
        answered = getattr(request.protocol, "answered", None)
        if answered is not None:  # by `webhook_server.front`
            answered(request, None if request.query_string else self._merchant, self._tags)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it has been sent."""
