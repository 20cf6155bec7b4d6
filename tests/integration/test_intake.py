"""Webhooks that are taken before aiohttp: as it would have taken them, in turn, and none lost."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import orjson
import pytest
import structlog

from paystate.errors import StoreUnavailable
from paystate.flutterwave.signatures import sign_v4
from paystate.logs import configure_logging, log_many
from paystate.process import listen
from tests.conftest import Opener
from tests.harness import SECRET, World, new_id, open_world
from tests.integration.test_front import Heard, connected
from tests.unit import bodies
from webhook_server.app import make_app
from webhook_server.front import FrontHandler, FrontRunner
from webhook_server.intake import Intake

HANGS_S = 30
JSON = "Content-Type: application/json"


@pytest.fixture
async def open_process(sqlite_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """Open processes on SQLite: it is all the same to what is tested here."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, sqlite_url, valkey_url)


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Listen to what each connection is handed, so that pieces arrive one by one."""
    heard = Heard()
    received = FrontHandler.data_received

    def noted(handler: FrontHandler, data: bytes) -> None:
        received(handler, data)
        heard.note(handler, data)

    monkeypatch.setattr(FrontHandler, "data_received", noted)
    return heard


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what has been taken before aiohttp."""
    taken: list[bytes] = []
    take = Intake.take

    def noted(intake: Intake, data: bytes, tell: Any) -> Any:
        result = take(intake, data, tell)
        if result is not None:
            taken.append(data)
        return result

    monkeypatch.setattr(Intake, "take", noted)
    return taken


def webhook(
    number: int, *more: str, status: str = "succeeded", path: str = "", raw: bytes | None = None
) -> bytes:
    """Return a signed v4 webhook about a charge; `more` are further headers."""
    raw = bodies.encode(bodies.v4_charge(id=f"chg_{number}", status=status)) if raw is None else raw
    lines = [
        f"POST /webhooks/flutterwave{path} HTTP/1.1",
        "Host: x",
        *(more or (JSON,)),
        f"flutterwave-signature: {sign_v4(raw, SECRET)}",
        f"Content-Length: {len(raw)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + raw


class Gate:
    """Holds back what a world records, until `open` is called or the gate is left."""

    def __init__(self, world: World) -> None:
        self._acknowledge = world.resources.store.acknowledge
        self._open = asyncio.Event()
        self.open = self._open.set
        self.reached = asyncio.Event()
        world.resources.recorder._commits._send = self._record

    async def _record(self, events: Any) -> Any:
        self.reached.set()
        await self._open.wait()
        return await self._acknowledge(events)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()


@contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """Collect the lines about requests."""
    lines: list[dict[str, Any]] = []
    with structlog.testing.capture_logs() as captured:
        yield lines
    lines += [line for line in captured if line["event"] == "request_finished"]


async def counts(world: World) -> dict[str, float]:
    """Return the counts of webhooks, and of requests to their paths."""
    text: str = (await world.get("/metrics")).body.decode()
    lines = [line.rpartition(" ") for line in text.splitlines()]
    return {
        name: float(count)
        for name, _, count in lines
        if name.startswith(("paystate_webhooks_total", "paystate_webhook_seconds_count"))
        or (name.startswith("paystate_http_requests_total") and "webhooks" in name)
    }


async def test_it_is_answered_logged_and_counted_as_aiohttp_does(
    open_process: Opener, heard: Heard, taken: list[bytes]
) -> None:
    async with open_world(open_process) as world, connected(world, heard) as wire:
        number = new_id()
        found = []
        for again, more in enumerate(((JSON,), (JSON, "TE: trailers"))):
            before = await counts(world)
            with logged() as lines:
                first = await wire.ask(webhook(number + again, *more))
                second = await wire.ask(webhook(number + again, *more))
                await asyncio.sleep(0)  # the lines of a turn are written at its end
            assert len(taken) == 2
            for _, headers, _ in (first, second):
                headers.pop("date")
            for line in lines:
                assert line.pop("duration_ms") > 0
                assert line.pop("payment_id") == f"chg_{number + again}"
                assert isinstance(line.pop("inbox_id"), int | None)
            after = await counts(world)
            grown = {name: after[name] - before.get(name, 0) for name in after}
            found.append((first, second, lines, {n: c for n, c in grown.items() if c}))
        assert found[0] == found[1]
        (status, _, body), (_, _, second_body), lines, grown = found[0]
        assert (status, body) == (200, {"status": "recorded", "reason": "new"})
        assert second_body == {"status": "duplicate", "reason": "seen_before"}
        assert [line["outcome"] for line in lines] == ["recorded", "duplicate"]
        assert len(grown) == 4


def _altered(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert old in raw
    return raw.replace(old, new)


_DETOURS: dict[str, tuple[Any, int, str]] = {
    "a signature that is another's": (
        lambda n: _altered(webhook(n), b"succeeded", b"sUcceeded"), 401, "mismatch"),
    "no signature": (
        lambda n: _altered(webhook(n), b"flutterwave-signature", b"x-signature"), 401, "missing"),
    "two signatures": (
        lambda n: webhook(n, JSON, "Flutterwave-Signature: x"), 401, "repeated"),
    "an unknown merchant": (lambda n: webhook(n, path="/nobody"), 404, "unknown_merchant"),
    "no JSON": (lambda n: webhook(n, raw=b"{"), 400, "not_json"),
    "an array": (lambda n: webhook(n, raw=b"[1]"), 400, "not_an_object"),
    "too large": (lambda n: webhook(n, raw=b" " * 5000 + b"{}"), 413, "body_too_large"),
    "a type that is not JSON's": (lambda n: webhook(n, "Content-Type: text/plain"), 200, "new"),
    "an id in the query": (lambda n: webhook(n, path="?a=b"), 200, "new"),
    "a card's password": (lambda n: webhook(n, raw=b'{"OTP":"1"}'), 200, "sensitive"),
    "a chunked body": (
        lambda n: re_chunked(webhook(n)), 200, "new"),
    "a length in words": (lambda n: _altered(webhook(n), b"Content-Length: ", b"Content-Length: +"),
                          400, ""),
    "two lengths": (lambda n: webhook(n, JSON, "Content-Length: 1"), 400, ""),
    "a header that is folded": (lambda n: webhook(n, JSON, "X-A: b\r\n c"), 400, ""),
}  # fmt: skip


def re_chunked(request: bytes) -> bytes:
    """Return a request with its body in one chunk."""
    head, _, raw = request.partition(b"\r\n\r\n")
    head = head.rpartition(b"\r\n")[0] + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(raw), raw)


@pytest.mark.parametrize("name", _DETOURS)
async def test_what_is_not_plain_or_is_refused_is_for_aiohttp(
    open_process: Opener, heard: Heard, taken: list[bytes], name: str
) -> None:
    make, status, reason = _DETOURS[name]
    async with open_world(open_process, MAX_BODY_BYTES="4096") as world:
        async with connected(world, heard) as wire:
            answer = await wire.ask(make(new_id()))
        assert taken == []
        assert answer[0] == status
        if reason:
            assert answer[2]["reason"] == reason


async def test_a_connection_that_is_to_be_closed_is_closed(
    open_process: Opener, heard: Heard, taken: list[bytes]
) -> None:
    async with open_world(open_process) as world, connected(world, heard) as wire:
        _, headers, body = await wire.ask(webhook(new_id(), JSON, "Connection: close"))
        assert (headers["connection"], body["status"]) == ("close", "recorded")
        assert taken == []


async def test_a_webhook_in_pieces_is_one_webhook(
    open_process: Opener, heard: Heard, taken: list[bytes]
) -> None:
    """Also one whose second piece looks like a whole one."""
    async with open_world(open_process) as world:
        number = new_id()
        whole, inside = webhook(number), webhook(number + 1)
        async with connected(world, heard) as wire:
            head, _, raw = whole.partition(b"\r\n\r\n")
            assert (await wire.ask(head + b"\r\n\r\n", raw))[2]["status"] == "recorded"
            # Its body is what another webhook looks like; it is signed, and no JSON.
            head, _, raw = webhook(0, raw=inside).partition(b"\r\n\r\n")
            assert (await wire.ask(head + b"\r\n\r\n", raw))[2]["reason"] == "not_json"
            assert (await wire.ask(whole))[2]["status"] == "duplicate"
        assert (await world.get(f"/api/payments/chg_{number + 1}/status")).status == 404
        assert taken == []


async def test_what_comes_behind_a_webhook_waits_for_its_answer(
    open_process: Opener, heard: Heard, taken: list[bytes]
) -> None:
    """Answers keep the order of their requests, whoever gives them."""
    async with open_world(open_process) as world, connected(world, heard) as wire:
        number = new_id()
        with Gate(world) as gate:
            await wire.send(webhook(number))
            await wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            wire._writer.write(webhook(number))  # which is left unread
            await gate.reached.wait()
            for _ in range(3):  # by which time the one above would have been answered too
                assert (await world.get("/healthz")).status == 200
        answers = [await wire.answer() for _ in range(3)]
        assert [body.get("status") for _, _, body in answers] == ["recorded", None, "duplicate"]
        assert len(taken) == 1  # behind a question that aiohttp has, all is aiohttp's


async def test_two_webhooks_in_one_piece_are_two(
    open_process: Opener, heard: Heard, taken: list[bytes]
) -> None:
    async with open_world(open_process) as world, connected(world, heard) as wire:
        number = new_id()
        await wire.send(webhook(number) + webhook(number + 1))
        assert [(await wire.answer())[2]["status"] for _ in range(2)] == ["recorded"] * 2
        assert taken == []


async def test_a_caller_that_hangs_up_does_not_undo_the_record(
    open_process: Opener, heard: Heard, taken: list[bytes]
) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        with Gate(world) as gate:
            async with connected(world, heard) as wire:
                await wire.send(webhook(number))
                await gate.reached.wait()
        await world.resources.recorder.drain()
        assert len(taken) == 1
        assert (await world.status(f"chg_{number}"))["status"] == "processing"


async def test_a_stopping_process_answers_what_it_is_recording(
    open_process: Opener, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources, stopping = await open_process(), asyncio.Event()
    runner = await listen(make_app(resources), "127.0.0.1", 0, 5, runner_class=FrontRunner)
    shutdown = FrontHandler.shutdown
    handlers: list[FrontHandler] = []

    async def noted(handler: FrontHandler, within_s: float) -> None:
        stopping.set()
        handlers.append(handler)
        await shutdown(handler, within_s)

    monkeypatch.setattr(FrontHandler, "shutdown", noted)
    world = World(resources, None, f"http://127.0.0.1:{runner.addresses[0][1]}")  # type: ignore[arg-type]
    async with connected(world, heard) as wire:
        with Gate(world) as gate:
            await wire.send(webhook(new_id()))
            await gate.reached.wait()
            cleanup = asyncio.create_task(runner.cleanup())
            await stopping.wait()
        assert (await wire.answer())[2]["status"] == "recorded"
        assert [handler._over.done() for handler in handlers if handler._over] == [True]
        await cleanup


async def test_a_connection_that_waits_for_its_commit_is_not_idle(
    open_process: Opener, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: list[FrontHandler] = []
    made = FrontHandler.connection_made

    def noted(handler: FrontHandler, transport: Any) -> None:
        handlers.append(handler)
        made(handler, transport)

    monkeypatch.setattr(FrontHandler, "connection_made", noted)
    async with open_world(open_process) as world, connected(world, heard) as wire:
        with Gate(world) as gate:
            await wire.send(webhook(new_id()))
            await gate.reached.wait()
            handlers[0]._next_keepalive_close_time = 0.0
            handlers[0]._process_keepalive()
        assert (await wire.answer())[2]["status"] == "recorded"


@pytest.mark.parametrize("error", [StoreUnavailable("database_unreachable"), ValueError("x")])
async def test_what_could_not_be_recorded_is_refused_with_its_reason(
    open_process: Opener, heard: Heard, taken: list[bytes], error: Exception
) -> None:
    """It is told of as aiohttp's handler does, and a fault of ours is not hidden."""
    reason = getattr(error, "reason", "not_recorded")
    async with open_world(open_process) as world, connected(world, heard) as wire:

        async def refuse(events: Any) -> Any:
            return [error for _ in events]

        number = new_id()
        commits = world.resources.recorder._commits
        send, commits._send = commits._send, refuse
        with logged() as lines:
            status, headers, body = await wire.ask(webhook(number))
        assert len(taken) == 1
        assert (status, headers["retry-after"], body["reason"]) == (503, "1", reason)
        assert {key: lines[0][key] for key in ("status", "reason", "merchant", "payment_id")} == {
            "status": 503, "reason": reason, "merchant": "default", "payment_id": f"chg_{number}",
        }  # fmt: skip
        name = f'paystate_webhooks_total{{outcome="refused",reason="{reason}"}}'
        assert (await counts(world))[name] == 1
        commits._send = send
        assert (await wire.ask(webhook(number)))[2]["status"] == "recorded"


async def test_the_acknowledgement_comes_after_the_mark(open_process: Opener, heard: Heard) -> None:
    async with open_world(open_process) as world, connected(world, heard) as wire:
        cache, number = world.resources.cache, new_id()
        marking, go = asyncio.Event(), asyncio.Event()
        announce = cache.announce

        async def held(*arguments: Any) -> None:
            marking.set()
            await go.wait()
            await announce(*arguments)

        cache.announce = held  # type: ignore[method-assign]
        await wire.send(webhook(number))
        await marking.wait()
        answer = asyncio.create_task(wire.answer())
        assert (await world.status(f"chg_{number}"))["status"] == "processing"  # it is committed
        assert not answer.done()
        go.set()
        assert (await answer)[2]["status"] == "recorded"


async def test_with_debug_all_is_for_aiohttp(open_process: Opener, taken: list[bytes]) -> None:
    async with open_world(open_process, LOG_LEVEL="DEBUG") as world:
        assert (await world.v4(bodies.v4_charge(id=f"chg_{new_id()}"))).body["reason"] == "new"
        assert taken == []


async def test_a_common_client_is_taken_here(open_process: Opener, taken: list[bytes]) -> None:
    async with open_world(open_process) as world:
        assert (await world.v4(bodies.v4_charge(id=f"chg_{new_id()}"))).body["reason"] == "new"
        assert (await world.v3(bodies.v3_charge(id=new_id()))).body["reason"] == "new"
        assert len(taken) == 2


def test_lines_written_together_are_those_that_structlog_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one write, with what must not be logged masked; and none where none is wanted."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    lines = [{"route": "/x", "status": 200, "duration_ms": 1.25}, {"token": "t", "outcome": "é"}]
    written = []
    for for_good in (False, True):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        structlog.reset_defaults()
        configure_logging("INFO", "json", "web", for_good=for_good)
        log_many("request_finished", lines)
        found = [orjson.loads(line) for line in stream.getvalue().splitlines()]
        assert list(found[0]) == [
            "process", "route", "status", "duration_ms", "event", "level", "timestamp",
        ]  # fmt: skip
        assert {len(line.pop("timestamp")) for line in found} == {
            len("2026-01-02T03:04:05.123456Z")
        }
        written.append(found)
    assert written[0] == written[1]
    assert written[0][1]["token"] == "***"
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("WARNING", "json", "web", for_good=True)
    log_many("request_finished", lines)
    configure_logging("WARNING", "json", "web")
    log_many("request_finished", lines)
    assert stream.getvalue() == ""
