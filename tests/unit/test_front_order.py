"""What stands in front of aiohttp answers in turn, each question once, and to the end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from paystate.errors import PaymentNotFound
from paystate.metrics import Metrics
from webhook_server.access import Access
from webhook_server.front import FRONT, INTAKE, FrontHandler, FrontRunner
from webhook_server.middleware import surround
from webhook_server.prepared import Made, Prepared

HANGS_S = 30
# What aiohttp has no public name for. An upgrade that changes one of these must be looked at.
PROTECTED = {
    "_buffer_paused", "_close", "_force_close", "_keepalive_timeout", "_loop",
    "_next_keepalive_close_time", "_reading_paused", "_task_handler",
}  # fmt: skip


class Scripted:
    """Holds the payment ``near``; finds the others when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    def held(
        self, merchant: str, own_id: str, tags: frozenset[str], *, is_reference: bool
    ) -> bytes | None:
        """Return what is held."""
        del merchant, tags
        return _made(own_id).wire() if own_id == "near" and not is_reference else None

    async def find(
        self, merchant: str, own_id: str, tags: frozenset[str], *, is_reference: bool
    ) -> bytes:
        """Return what there is, in time."""
        self.asked.append(f"{merchant} {own_id} {is_reference}")
        self.begun.set()
        await self.go_on.wait()
        if own_id == "shared":
            raise asyncio.CancelledError
        if own_id == "unknown":
            raise PaymentNotFound("unknown_payment", "nobody knows it")
        assert not tags
        return _made(own_id).wire()


def _made(own_id: str) -> Made:
    return Made('ETag: W/"1"\r\n', orjson.dumps({"id": own_id}), "1")


class Faulty:
    """Takes what is posted, and fails to say what became of it."""

    def __init__(self) -> None:
        self.started_s = time.perf_counter()
        self.fields: dict[str, object] = {}
        self.data = b""

    def take(self, data: bytes, tell: Callable[[Faulty], None]) -> Faulty | None:
        """Take what says nothing."""
        if not (data.startswith(b"POST") and data.endswith(b"{}")):
            return None
        self.data = data
        asyncio.get_running_loop().call_soon(tell, self)
        return self

    def answer(self) -> Made:
        """Fail as nothing of ours should."""
        raise KeyError("a fault of ours")


class Caller:
    """A connection whose caller is known."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def ask(self, *ids: str) -> None:
        """Send questions in one piece each, as far as the network lets them be."""
        for own_id in ids:
            self.writer.write(
                f"GET /api/payments/{own_id}/status HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )

    async def answer(self) -> tuple[int, dict[str, object]]:
        """Read the next answer: its status and its body."""
        async with asyncio.timeout(HANGS_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            return int(head.split()[1]), orjson.loads(await self._reader.readexactly(int(length)))

    async def ended(self) -> bool:
        """Wait until the other side has hung up; say whether it was silent till then."""
        async with asyncio.timeout(HANGS_S):
            return await self._reader.read() == b""


class Place:
    """A server with a scripted front, and its callers."""

    def __init__(self, front: Scripted, runner: FrontRunner, metrics: Metrics) -> None:
        self.front = front
        self.runner = runner
        self.metrics = metrics
        self.writers: list[asyncio.StreamWriter] = []

    async def caller(self) -> Caller:
        """Connect, and let aiohttp learn who it is."""
        host, port = self.runner.addresses[0][:2]
        reader, writer = await asyncio.open_connection(host, port)
        self.writers.append(writer)
        caller = Caller(reader, writer)
        caller.ask("first")
        assert await caller.answer() == (200, {"id": "first"})
        return caller

    def handler(self) -> FrontHandler:
        """Return the handler of the one connection there is."""
        assert self.runner.server is not None
        (handler,) = self.runner.server.connections
        assert isinstance(handler, FrontHandler)
        return handler


@asynccontextmanager
async def _place() -> AsyncIterator[Place]:
    front, metrics = Scripted(), Metrics()

    async def status(request: web.Request) -> web.StreamResponse:
        return Prepared(_made(request.match_info["id"]), "default")

    async def said(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read())

    app = web.Application(middlewares=[surround(metrics, admit=Access(()).admit, verbose=False)])
    app.add_routes([web.get("/api/payments/{id}/status", status), web.post("/said", said)])
    app[FRONT], app[INTAKE] = front, Faulty()
    runner = FrontRunner(app, access_log=None, handle_signals=False, shutdown_timeout=HANGS_S)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    place = Place(front, runner, metrics)
    try:
        yield place
    finally:
        for writer in place.writers:
            writer.close()
        await runner.cleanup()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with _place() as opened:
        yield opened


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANGS_S):
        for _ in itertools.count():
            if true():
                return
            await asyncio.sleep(0)


async def _begun(place: Place) -> None:
    async with asyncio.timeout(HANGS_S):
        await place.front.begun.wait()


async def _heard_early(place: Place) -> None:
    """Wait until something has come while a question is looked up."""
    await _until(lambda: bool(place.handler()._early))


async def test_a_question_is_looked_up_without_aiohttp(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await place.caller()
    place.front.go_on.set()
    with monkeypatch.context() as patch:
        patch.setattr("aiohttp.web_protocol.RequestHandler.data_received", None)
        caller.ask("far")
        assert await caller.answer() == (200, {"id": "far"})
        caller.ask("by-ref/order-1")
        assert await caller.answer() == (200, {"id": "order-1"})
    assert place.front.asked == ["default far False", "default order-1 True"]


async def test_what_comes_while_a_question_is_looked_up_is_answered_after_it(place: Place) -> None:
    """Or the answer for one payment would be taken for another's."""
    caller = await place.caller()
    caller.ask("far")
    await _begun(place)
    caller.ask("near")
    await _heard_early(place)
    place.front.go_on.set()
    assert [await caller.answer() for _ in range(2)] == [
        (200, {"id": "far"}),
        (200, {"id": "near"}),
    ]
    caller.ask("near")  # it listens again
    assert await caller.answer() == (200, {"id": "near"})


async def test_many_questions_ahead_are_all_answered_in_their_order(place: Place) -> None:
    caller = await place.caller()
    ids = [f"far{n}" if n % 2 else "near" for n in range(100)]
    caller.ask("far")
    await _begun(place)
    caller.ask(*ids)
    await _heard_early(place)
    place.front.go_on.set()
    said = [await caller.answer() for _ in range(101)]
    assert said == [(200, {"id": own_id}) for own_id in ["far", *ids]]


async def test_a_lookup_that_fails_is_explained_and_counted_once(place: Place) -> None:
    """The failure goes to the middleware with the request: nothing is asked a second time."""
    caller = await place.caller()
    place.front.go_on.set()
    caller.ask("unknown")
    status, body = await caller.answer()
    assert (status, body["reason"]) == (404, "unknown_payment")
    assert len(place.front.asked) == 1
    count = place.metrics.requests.labels("/api/payments/{id}/status", 404)
    assert count._value.get() == 1
    caller.ask("near")
    assert await caller.answer() == (200, {"id": "near"})


async def test_a_failure_is_not_given_to_the_next_question(place: Place) -> None:
    caller = await place.caller()
    caller.ask("unknown")
    await _begun(place)
    caller.ask("other")
    await _heard_early(place)
    place.front.go_on.set()
    assert [(await caller.answer())[0] for _ in range(2)] == [404, 200]


async def test_a_question_under_way_is_answered_before_the_server_stops(place: Place) -> None:
    caller = await place.caller()
    caller.ask("far")
    await _begun(place)
    handler = place.handler()
    stopping = asyncio.create_task(place.runner.cleanup())
    await _until(lambda: handler._over is not None)
    over = handler._over
    place.front.go_on.set()
    assert await caller.answer() == (200, {"id": "far"})
    assert over is not None
    assert over.done()  # so nobody waits for the end of the grace
    assert await caller.ended()
    await stopping


async def test_a_lookup_that_others_have_cancelled_is_made_anew(place: Place) -> None:
    """It holds up neither what comes next nor the end of the process."""
    caller = await place.caller()
    place.front.go_on.set()
    caller.ask("shared")
    assert await caller.answer() == (200, {"id": "shared"})
    caller.ask("next")
    assert await caller.answer() == (200, {"id": "next"})


async def test_a_request_whose_body_is_on_its_way_is_answered_before_the_server_stops(
    place: Place,
) -> None:
    caller = await place.caller()
    caller.writer.write(b'POST /said HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{"id"')
    await _until(lambda: place.handler()._request_in_progress)
    stopping = asyncio.create_task(place.runner.cleanup())
    await _until(lambda: place.handler()._force_close)
    caller.writer.write(b": 7001}")
    caller.ask("late")
    assert await caller.answer() == (200, {"id": 7001})
    assert await caller.ended()
    await stopping


async def test_a_fault_over_one_webhook_leaves_the_next_question_its_answer(place: Place) -> None:
    caller = await place.caller()
    caller.writer.write(b"POST /said HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    status, problem = await caller.answer()
    assert (status, problem["reason"]) == (500, "internal_error")
    caller.ask("next")
    assert await caller.answer() == (200, {"id": "next"})


async def test_a_caller_who_hangs_up_is_not_answered(place: Place) -> None:
    caller = await place.caller()
    handler = place.handler()
    caller.ask("far")
    await _begun(place)
    question = handler._question
    assert isinstance(question, asyncio.Task)
    caller.writer.close()
    await _until(lambda: handler.transport is None)
    place.front.go_on.set()
    await question  # which would raise what went wrong


async def test_a_question_puts_off_the_end_of_an_idle_connection(place: Place) -> None:
    """aiohttp closes what has been idle too long, and sees nothing of these questions."""
    caller = await place.caller()
    handler = place.handler()
    before = handler._next_keepalive_close_time
    caller.ask("near")
    await caller.answer()
    assert handler._next_keepalive_close_time > before


def test_aiohttp_still_has_what_the_front_relies_on() -> None:
    slots = {name for base in web.RequestHandler.__mro__ for name in getattr(base, "__slots__", ())}
    assert slots >= PROTECTED
