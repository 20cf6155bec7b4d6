"""What stands in front of aiohttp: it answers what aiohttp would have, and never out of turn."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from tests.conftest import Opener
from tests.harness import SECRET, TOKEN, World, new_id, open_world
from tests.unit import bodies
from webhook_server.front import FrontHandler

HANGS_S = 30


class Heard:
    """How much the server has been handed, by the caller's address."""

    def __init__(self) -> None:
        self._bytes: Counter[Any] = Counter()
        self._more = asyncio.Event()

    def note(self, handler: FrontHandler, data: bytes) -> None:
        """Note a piece of data."""
        assert handler.transport is not None
        self._bytes[handler.transport.get_extra_info("peername")] += len(data)
        self._more.set()

    async def wait_for(self, caller: Any, count: int) -> None:
        """Wait until the server has been handed so many bytes from a caller."""
        async with asyncio.timeout(HANGS_S):
            while self._bytes[caller] < count:
                self._more.clear()
                await self._more.wait()


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


class Wire:
    """One connection, byte by byte."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Heard
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._heard = heard
        self._sent = 0

    async def send(self, piece: bytes) -> None:
        """Send a piece, and wait until the server has it."""
        self._writer.write(piece)
        self._sent += len(piece)
        await self._heard.wait_for(self._writer.get_extra_info("sockname"), self._sent)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Read one answer: its status, its headers by lower-case name, and its body."""
        async with asyncio.timeout(HANGS_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        is_json = "json" in headers.get("content-type", "")
        return int(head[0].split()[1]), headers, orjson.loads(body) if is_json else body

    async def ask(self, *pieces: bytes) -> tuple[int, dict[str, str], Any]:
        """Send the pieces, each on its own, and read one answer."""
        for piece in pieces:
            await self.send(piece)
        return await self.answer()


def question(own_id: object, *more: str, token: str = TOKEN) -> bytes:
    """Return a request for a status; `more` are further headers."""
    lines = [f"GET /api/payments/{own_id}/status HTTP/1.1", "Host: x",
             f"Authorization: Bearer {token}", *more]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@asynccontextmanager
async def connected(world: World, heard: Heard) -> AsyncIterator[Wire]:
    """Connect to a process."""
    target = urlsplit(world.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    try:
        yield Wire(reader, writer, heard)
    finally:
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def settled(open_process: Opener, count: int = 1) -> AsyncIterator[tuple[World, list[int]]]:
    """Serve a process that hears the news and holds so many successful payments near."""
    async with open_world(open_process) as world:
        running = asyncio.create_task(world.resources.feed.run())
        async with asyncio.timeout(HANGS_S):
            await world.resources.feed.listening.wait()
        ids = [new_id() for _ in range(count)]
        for own_id in ids:
            await world.v3(bodies.v3_charge(id=own_id, status="successful"), secret=SECRET)
        await world.settle()
        for own_id in ids:
            for _ in range(2):  # out of the database, then out of the near cache
                assert (await world.status(own_id))["status"] == "successful"
        try:
            yield world, ids
        finally:
            running.cancel()
            await asyncio.wait({running}, timeout=HANGS_S)


async def counted_of(world: World) -> int:
    """Return how many statuses have been asked for and given."""
    text = (await world.get("/metrics")).body.decode()
    asked = re.search(r'requests_total\{route="/api/payments/\{id\}/status",status="200"\} (\S+)',
                      text)  # fmt: skip
    return int(float(asked[1])) if asked else 0


async def test_the_next_question_is_answered_as_the_first_was(
    open_process: Opener, heard: Heard
) -> None:
    """Status, headers and body are those of aiohttp's own way, and it is counted."""
    async with settled(open_process, 2) as (world, ids), connected(world, heard) as wire:
        slow = await wire.ask(question(ids[0]))
        counted = await counted_of(world)
        fast = await wire.ask(question(ids[0]))
        other = await wire.ask(question(ids[1]))
        for answer in (slow, fast, other):
            answer[1].pop("date")
        assert fast == slow
        assert other[2]["payment_id"] == str(ids[1])
        assert await counted_of(world) == counted + 2


async def test_the_next_question_does_not_reach_aiohttp(
    open_process: Opener, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or this file would be testing nothing."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        await wire.ask(question(own_id))
        with monkeypatch.context() as patch:
            patch.setattr("aiohttp.web_protocol.RequestHandler.data_received", None)
            assert (await wire.ask(question(own_id)))[2]["status"] == "successful"


async def test_a_caller_who_has_the_answer_is_told_so(
    open_process: Opener, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By aiohttp the first time, in front of it the next, in the same words."""
    async with settled(open_process, 2) as (world, ids), connected(world, heard) as wire:
        tag = (await wire.ask(question(ids[0])))[1]["etag"].replace("w/", "W/")
        slow = await wire.ask(question(ids[0], f"If-None-Match: {tag}"))
        with monkeypatch.context() as patch:
            patch.setattr("aiohttp.web_protocol.RequestHandler.data_received", None)
            fast = await wire.ask(question(ids[0], f"If-None-Match: {tag}"))
        for answer in (slow, fast):
            answer[1].pop("date")
        assert fast == slow
        assert (fast[0], fast[2]) == (304, b"")
        other = await wire.ask(question(ids[0], 'If-None-Match: W/"another"'))
        assert (other[0], other[2]["status"]) == (200, "successful")


async def test_another_token_is_not_let_in_by_the_first(open_process: Opener, heard: Heard) -> None:
    """Headers that differ by a byte are aiohttp's to judge."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        assert (await wire.ask(question(own_id)))[0] == 200
        assert (await wire.ask(question(own_id, token=TOKEN[:-1] + "x")))[0] == 401
        assert (await wire.ask(question(own_id)))[0] == 200


async def test_a_question_inside_the_headers_of_another_is_none(
    open_process: Opener, heard: Heard
) -> None:
    """A piece of a request may look like a whole one; there is one request, and one answer."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        await wire.ask(question(own_id))
        head = b"GET /api/payments/404404/status HTTP/1.1\r\nX-Inside: "
        status, _, body = await wire.ask(head, question(own_id))
        assert (status, body["reason"]) == (404, "unknown_payment")
        assert (await wire.ask(question(own_id)))[2]["payment_id"] == str(own_id)


async def test_a_question_inside_a_body_is_none(open_process: Opener, heard: Heard) -> None:
    """What follows the headers of a POST is its body, whatever it looks like."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        await wire.ask(question(own_id))
        inside = question(own_id)
        head = (f"POST /api/payments/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}"
                f"\r\nContent-Length: {len(inside)}\r\n\r\n").encode()  # fmt: skip
        status, _, body = await wire.ask(head, inside)
        assert (status, body["reason"]) == (400, "not_json")
        assert (await wire.ask(question(own_id)))[0] == 200


async def test_a_get_with_a_body_teaches_nothing(open_process: Opener, heard: Heard) -> None:
    """Its body comes later, and looks like a question."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        inside = question(own_id, "Content-Length: LEN")
        inside = inside.replace(b"LEN", b"%d" % len(inside))
        status, _, _ = await wire.ask(inside)
        assert status == 200
        await wire.send(inside)  # the body, which nobody answers
        status, _, body = await wire.ask(question("404404"))
        assert (status, body["reason"]) == (404, "unknown_payment")


async def test_what_is_learnt_is_a_whole_request(open_process: Opener, heard: Heard) -> None:
    """The second half of one, with the token in the first, lets nobody in."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        first, second = question(own_id)[:-2] + b"X-Inside: ", question(own_id)
        second = re.sub(rb"(Host|Authorization): .*?\r\n", b"", second)
        assert (await wire.ask(first, second))[0] == 200
        assert (await wire.ask(second))[0] in (400, 401)


async def test_two_questions_in_one_piece_are_not_learnt_as_one(
    open_process: Opener, heard: Heard
) -> None:
    """Each of them has its answer, the second time too."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        for _ in range(2):
            await wire.send(2 * question(own_id))
            assert [(await wire.answer())[0] for _ in range(2)] == [200, 200]


async def test_two_questions_in_one_piece_are_answered_in_their_order(
    open_process: Opener, heard: Heard
) -> None:
    """Nothing overtakes what aiohttp is still at."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        await wire.ask(question(own_id))
        await wire.send(question("404404") + question(own_id))
        await wire.send(question(own_id))
        assert [(await wire.answer())[0] for _ in range(3)] == [404, 200, 200]


async def test_what_a_newer_change_overtook_is_not_sent(open_process: Opener, heard: Heard) -> None:
    """The near cache forgets it, and with it the bytes."""
    async with settled(open_process) as (world, (own_id,)), connected(world, heard) as wire:
        await wire.ask(question(own_id))
        near = world.resources.lookups._near
        assert near is not None
        near.lost()
        assert world.resources.lookups.near(f"charge:default:{own_id}") is None
        assert (await wire.ask(question(own_id)))[2]["status"] == "successful"
