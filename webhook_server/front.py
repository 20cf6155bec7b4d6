"""In front of aiohttp: the same caller's next question, and webhooks that come whole.

A connection asks again and again with the same headers, and only the payment changes. Once aiohttp
has parsed such a request, the handlers have let its caller in, and a `Prepared` answer has been
sent, whatever follows the first line of that request is known, byte for byte, to be the headers of
a plain GET by a caller who may ask. A later request that is those very bytes after another first
line needs no parser, router or middleware: it is answered from the near cache at once, or by the
same lookup as any other, with what comes next on the connection held back meanwhile. So is a
webhook that `webhook_server.intake` takes. Everything else goes to aiohttp as it came, and so does
a question whose lookup has failed, or a webhook that could not be recorded, to say why.

aiohttp's parser must be between two requests when it is passed over. It is, as long as each piece
of data that it was given was one whole GET without a body that has been answered; a connection on
which anything else was seen is aiohttp's alone from then on.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from webhook_server.callers import CALLER, everyone
from webhook_server.prepared import NO_TAGS, Made

__all__ = [
    "FRONT",
    "INTAKE",
    "Failure",
    "Front",
    "FrontHandler",
    "FrontRunner",
    "Intake",
    "Taken",
    "take_failure",
]


class Front(Protocol):
    """What answers, in bytes as they are sent.

    `own_id` is a payment's, or, if `is_reference`, a merchant's reference; `tags` are those of the
    answers that the caller has.
    """

    def held(
        self, merchant: str, own_id: str, tags: frozenset[str], *, is_reference: bool
    ) -> bytes | None:
        """Return the answer that lies ready in this process, and count it; or None."""

    async def find(
        self, merchant: str, own_id: str, tags: frozenset[str], *, is_reference: bool
    ) -> bytes:
        """Return the answer, and count it. Raises what `Lookups` does, and counts nothing then."""


class Taken(Protocol):
    """A webhook, as it came, that is being recorded since `started_s` (by `time.perf_counter`)."""

    data: bytes
    started_s: float

    @property
    def fields(self) -> Mapping[str, object]:
        """What to log of it."""

    def answer(self) -> Made:
        """Return the answer to a webhook that is `recorded`, and tell of it.

        Raises PaystateError if it could not be recorded.
        """


class Intake(Protocol):
    """What takes webhooks."""

    def take(self, data: bytes, tell: Callable[[Taken], None]) -> Taken | None:
        """Begin to record the webhook that `data` is; None if `data` is no plain one to record.

        `tell` is called with what this returns, later, once there is an `answer` to it.
        """


INTAKE: web.AppKey[Intake] = web.AppKey("intake", Intake)
FRONT: web.AppKey[Front] = web.AppKey("front", Front)

_LINE = re.compile(rb"GET /api/payments/(by-ref/)?([0-9A-Za-z_-]{1,200})/status HTTP/1\.1")
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer, when it came (by `time.perf_counter`), and what to log of it."""

    error: Exception
    asked_s: float
    fields: Mapping[str, object] = field(default_factory=dict)


class FrontHandler(web.RequestHandler):
    """One connection."""

    __slots__ = (
        "_asked", "_between", "_caller", "_early", "_front", "_intake", "_known", "_merchant",
        "_over", "_question", "_tags", "failure",
    )  # fmt: skip

    def __init__(
        self, manager: web.Server, *, front: Front, intake: Intake | None, **options: Any
    ) -> None:
        super().__init__(manager, **options)
        self._front = front
        self._intake = intake
        # Whether aiohttp's parser and its answers are between two requests.
        self._between = True
        # What followed the first line of the request that aiohttp has now, if it was one whole GET.
        self._asked: bytes | None = None
        # What followed it in a request that was let in, what that says its caller has, and whose
        # payments it may ask for.
        self._known: bytes | None = None
        self._tags = NO_TAGS
        self._merchant = ""
        self._caller = everyone()
        # The lookup or the recording under way, the pieces that have come since it began, and who
        # waits for its end.
        self._question: asyncio.Task[None] | Taken | None = None
        self._early: list[bytes] = []
        self._over: asyncio.Future[None] | None = None
        # Of the request that aiohttp has been given.
        self.failure: Failure | None = None

    def data_received(self, data: bytes) -> None:
        """Answer what can be; hand the rest to aiohttp."""
        if self._question is not None:
            self._hold_back(data)
            return
        known = self._known
        if known is not None and self._between and data.endswith(known):
            line = _LINE.fullmatch(data, 0, len(data) - len(known))
            if line is not None and self._answer(line, data):
                return
        if self._between and data.startswith(b"POST ") and self._take(data):
            return
        self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        self._asked = _after_first_line(data) if self._between else None
        self._between = False
        if self._close or self._force_close:
            self._read_on(data)
        else:
            super().data_received(data)

    def _read_on(self, data: bytes) -> None:
        """Read the rest of a request under way: told to stop, aiohttp waits for it and drops it."""
        closing = self._close, self._force_close
        if self._task_handler is not None and not self._task_handler.done():
            self._close = self._force_close = False
            super().data_received(data)
            self._close, self._force_close = closing

    def _answer(self, line: re.Match[bytes], data: bytes) -> bool:
        """Send the answer to a question, now or when it is found; False if none can be sent."""
        transport, caller = self.transport, self._caller
        if caller.left < 1:
            return False  # it may be too many, or the token may be good no more
        if self._force_close or self._close or transport is None or self.writing_paused:
            return False
        caller.left -= 1
        # An idle connection is closed; this one is not idle.
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        is_reference, own_id = line[1] is not None, line[2].decode()
        held = self._front.held(self._merchant, own_id, self._tags, is_reference=is_reference)
        if held is not None:
            transport.write(held)
        else:
            self._question = self._loop.create_task(self._find(own_id, is_reference, data))
        return True

    async def _find(self, own_id: str, is_reference: bool, data: bytes) -> None:
        """Look up, answer, and go on with what has come meanwhile."""
        asked_s = time.perf_counter()
        found: bytes | None = None
        try:
            found = await self._front.find(
                self._merchant, own_id, self._tags, is_reference=is_reference
            )
        except Exception as e:
            self.failure = Failure(e, asked_s)
        finally:  # also where what was to be shared was cancelled: aiohttp asks again, or says why
            self._answered_with(found, data)

    def _take(self, data: bytes) -> bool:
        """Begin to record a webhook; False if `data` is none that can be taken here."""
        transport = self.transport
        if self._force_close or self._close or transport is None or self.writing_paused:
            return False
        if self._intake is not None:
            self._question = self._intake.take(data, self._recorded)
        return self._question is not None

    def _recorded(self, taken: Taken) -> None:
        """Acknowledge a webhook; if it could not be recorded, have aiohttp say why."""
        found: bytes | None = None
        try:
            found = taken.answer().wire()
        except Exception as e:  # whatever it is, the next question must not wait for this one
            self.failure = Failure(e, taken.started_s, taken.fields)
        self._answered_with(found, taken.data)

    def _answered_with(self, found: bytes | None, data: bytes) -> None:
        """Send what has been found; if nothing has, hand the request to aiohttp. Then go on."""
        self._question = None
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self.transport is None:
            return  # the caller has gone
        if found is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            self.transport.write(found)
        else:
            self._hand_over(data)
        if self._early:
            self._go_on()

    def _process_keepalive(self) -> None:
        if self._question is not None:  # not idle
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def _hold_back(self, data: bytes) -> None:
        if not self._early and self.transport is not None:
            self.transport.pause_reading()
        self._early.append(data)

    def _go_on(self) -> None:
        """Take what was held back, up to the next question."""
        while self._early and self._question is None:
            self.data_received(self._early.pop(0))
        full = self._reading_paused or self._buffer_paused  # aiohttp's, which resumes by itself
        if not self._early and self.transport is not None and not full:
            self.transport.resume_reading()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 (aiohttp's)
        """Close the connection; a question under way is answered first, within `timeout` s."""
        if self._question is not None:
            self._over = self._loop.create_future()
            await asyncio.wait([self._over], timeout=timeout)
        await super().shutdown(timeout)

    def answered(
        self, request: web.BaseRequest, merchant: str | None, tags: frozenset[str]
    ) -> None:
        """Take note that `request`, by a caller who has `tags`, was answered.

        With `merchant`: it may ask for the payments of that one.
        """
        if self._asked is None or request.body_exists or "Upgrade" in request.headers:
            return
        self._between = True
        caller = request.get(CALLER)
        if merchant is not None and caller is not None:
            self._known, self._merchant, self._tags = self._asked, merchant, tags
            self._caller = caller
        self._asked = None


def take_failure(request: web.BaseRequest) -> Failure | None:
    """Return why `request` is known to have no answer, once; None if it is yet to be handled."""
    protocol = request.protocol
    if not isinstance(protocol, FrontHandler):
        return None
    failure, protocol.failure = protocol.failure, None
    return failure


def _after_first_line(data: bytes) -> bytes | None:
    """Return what follows the first line, if `data` is one whole GET as far as can be seen."""
    if not data.startswith(b"GET ") or not data.endswith(_END) or data.count(_END) != 1:
        return None
    return data[data.index(b"\r\n") :]


class _FrontServer(web.Server):
    """Makes a `FrontHandler` for each connection."""

    def __init__(self, server: web.Server, front: Front, intake: Intake | None) -> None:
        options = server._kwargs  # noqa: SLF001 - aiohttp has no other way to exchange its protocol
        super().__init__(server.request_handler, request_factory=server.request_factory, **options)
        self._front = front
        self._intake = intake

    def __call__(self) -> FrontHandler:
        return FrontHandler(
            self, loop=self._loop, front=self._front, intake=self._intake, **self._kwargs
        )


class FrontRunner(web.AppRunner):
    """Runs an application behind its `FRONT` and its `INTAKE`, if it has a front."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        front = self.app.get(FRONT)
        return server if front is None else _FrontServer(server, front, self.app.get(INTAKE))
