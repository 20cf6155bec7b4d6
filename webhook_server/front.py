"""In front of aiohttp: the same caller's next question, where the answer lies ready.

A connection asks again and again with the same headers, and only the payment changes. Once aiohttp
has parsed such a request, the handlers have let its caller in, and a `Prepared` answer has been
sent, whatever follows the first line of that request is known, byte for byte, to be the headers of
a plain GET by a caller who may ask. A later request that is those very bytes after another first
line needs no parser, no task and no router to be answered from the near cache. Everything else
goes to aiohttp as it came.

aiohttp's parser must be between two requests when it is passed over. It is, as long as each piece
of data that it was given was one whole GET without a body that has been answered; a connection on
which anything else was seen is aiohttp's alone from then on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from webhook_server.prepared import Prepared

__all__ = ["FRONT", "Front", "FrontHandler", "FrontRunner"]

# Returns the answer that is held of a merchant's payment by its id, and counts it; or None.
Front = Callable[[str, str], Prepared | None]

FRONT: web.AppKey[Front] = web.AppKey("front")

_LINE = re.compile(rb"GET /api/payments/([0-9A-Za-z_-]{1,200})/status HTTP/1\.1")
_END = b"\r\n\r\n"


class FrontHandler(web.RequestHandler):
    """One connection."""

    __slots__ = ("_asked", "_between", "_front", "_known", "_merchant")

    def __init__(self, manager: web.Server, *, front: Front, **options: Any) -> None:
        super().__init__(manager, **options)
        self._front = front
        # Whether aiohttp's parser and its answers are between two requests.
        self._between = True
        # What followed the first line of the request that aiohttp has now, if it was one whole GET.
        self._asked: bytes | None = None
        # What followed it in a request that was let in, and whose payments it may ask for.
        self._known: bytes | None = None
        self._merchant = ""

    def data_received(self, data: bytes) -> None:
        """Answer at once what can be; hand the rest to aiohttp."""
        known = self._known
        if known is not None and self._between and data.endswith(known):
            line = _LINE.fullmatch(data, 0, len(data) - len(known))
            if line is not None and self._answer(line[1].decode()):
                return
        self._asked = _after_first_line(data) if self._between else None
        self._between = False
        super().data_received(data)

    def _answer(self, payment_id: str) -> bool:
        """Send what is held of a payment; False if there is nothing, or it cannot be sent now."""
        transport = self.transport
        if self._force_close or self._close or transport is None or self.writing_paused:
            return False
        held = self._front(self._merchant, payment_id)
        if held is None:
            return False
        transport.write(held.wire())
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True

    def answered(self, request: web.BaseRequest, merchant: str | None) -> None:
        """Take note that `request` was answered; with `merchant`, of whose payments it may ask."""
        if self._asked is None or request.body_exists or "Upgrade" in request.headers:
            return
        self._between = True
        if merchant is not None:
            self._known, self._merchant = self._asked, merchant
        self._asked = None


def _after_first_line(data: bytes) -> bytes | None:
    """Return what follows the first line, if `data` is one whole GET as far as can be seen."""
    if not data.startswith(b"GET ") or not data.endswith(_END) or data.count(_END) != 1:
        return None
    return data[data.index(b"\r\n") :]


class _FrontServer(web.Server):
    """Makes a `FrontHandler` for each connection."""

    def __init__(self, server: web.Server, front: Front) -> None:
        options = server._kwargs  # noqa: SLF001 - aiohttp has no other way to exchange its protocol
        super().__init__(server.request_handler, request_factory=server.request_factory, **options)
        self._front = front

    def __call__(self) -> FrontHandler:
        return FrontHandler(self, loop=self._loop, front=self._front, **self._kwargs)


class FrontRunner(web.AppRunner):
    """Runs an application behind its `FRONT`, if it has one."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        front = self.app.get(FRONT)
        return server if front is None else _FrontServer(server, front)
