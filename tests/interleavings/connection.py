"""A caller's connection to one process: the product's own handler behind bytes in memory.

Requests are handed to it as a socket would hand them, and what it writes is what the caller is
told. The first question is aiohttp's, which learns who asks; the next ones are answered in front of
it (`webhook_server/front.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime
from typing import Any

import orjson
from aiohttp import web

from paystate.errors import StoreUnavailable
from paystate.keys import DEFAULT_MERCHANT, Entity
from paystate.metrics import Metrics
from paystate.payments.answers import Source, StatusAnswer
from paystate.payments.lookup import Lookups
from paystate.status import Status
from paystate.store import Store
from webhook_server.access import Access
from webhook_server.front import FRONT, FrontHandler, FrontRunner
from webhook_server.middleware import surround
from webhook_server.payments import PaymentEndpoints

__all__ = ["Connection"]

_TOKEN = "interleavings"


class _Transport(asyncio.Transport):
    """The process's end: keeps what is written until a whole answer is there."""

    def __init__(self) -> None:
        super().__init__()
        self._written = b""
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._closed = False

    def answer(self) -> asyncio.Future[bytes]:
        """Return the future of the next answer."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def write(self, data: Any) -> None:
        self._written += data
        while self._waiting and (whole := _whole(self._written)):
            answer, self._written = self._written[:whole], self._written[whole:]
            self._waiting.popleft().set_result(answer)

    def close(self) -> None:
        self._closed = True

    def is_closing(self) -> bool:
        return self._closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def _whole(written: bytes) -> int:
    """Return the length of the answer that begins here, 0 if it is not all there."""
    head, end, _ = written.partition(b"\r\n\r\n")
    if not end:
        return 0
    lines = head.decode().lower().split("\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
    whole = len(head) + len(end) + length
    return whole if len(written) >= whole else 0


class Connection:
    """A caller who asks `lookups` over HTTP; opened by the first question."""

    def __init__(self, lookups: Lookups, store: Store, metrics: Metrics) -> None:
        feed: Any = None  # nobody waits for a change
        self._access = Access([_TOKEN])
        self._endpoints = PaymentEndpoints(
            lookups, store, feed, self._access, [DEFAULT_MERCHANT], metrics
        )
        self._metrics = metrics
        self._transport = _Transport()
        self._runner: FrontRunner | None = None
        self._handler: FrontHandler | None = None

    async def _open(self) -> FrontHandler:
        around = surround(self._metrics, admit=self._access.admit, verbose=False)
        app = web.Application(middlewares=[around])
        app.add_routes(self._endpoints.routes())
        app[FRONT] = self._endpoints
        self._runner = FrontRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        assert self._runner.server is not None
        handler = self._runner.server()
        assert isinstance(handler, FrontHandler)
        handler.connection_made(self._transport)
        return handler

    async def ask(self, entity: Entity) -> StatusAnswer:
        """Return what the process says of `entity`. Raises StoreUnavailable for an error."""
        if self._handler is None:
            self._handler = await self._open()
        own_id = f"by-ref/{entity.id}" if entity.is_reference else entity.id
        answer = self._transport.answer()
        self._handler.data_received(
            f"GET /api/payments/{own_id}/status HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {_TOKEN}\r\n\r\n".encode()
        )
        raw = await answer
        if not raw.startswith(b"HTTP/1.1 200 "):
            raise StoreUnavailable("refused")
        return _parse(entity, orjson.loads(raw.partition(b"\r\n\r\n")[2]))

    async def close(self) -> None:
        """Hang up."""
        if self._handler is not None:
            self._handler.connection_lost(None)
        if self._runner is not None:
            await self._runner.cleanup()


def _parse(asked: Entity, said: dict[str, Any]) -> StatusAnswer:
    """Return an answer as the caller has it; another payment's is not what was asked for."""
    own_id = said["tx_ref"] if asked.is_reference else said["payment_id"]
    return StatusAnswer(
        entity=Entity(asked.merchant, asked.kind, own_id),
        status=Status(said["status"]),
        terminal=said["terminal"],
        version=said["version"],
        payment_id=said["payment_id"],
        tx_ref=said["tx_ref"],
        as_of_ms=int(datetime.fromisoformat(said["as_of"]).timestamp() * 1000),
        source=Source(said["source"]),
        fresh=said["fresh"],
        held=said["held"],
    )
