"""Large, deep and slow bodies cost the sender more than the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from types import SimpleNamespace

import psutil
import pytest

from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from tests.conftest import Opener
from tests.harness import SECRET, TOKEN, World, new_id, open_world
from tests.hostile.wire import Reply, connected, exchange, read_reply, request
from tests.parts import Part, start_part
from tests.unit import bodies
from webhook_server import bodies as reading

_MIB = 1024 * 1024
_HOOK = b"/webhooks/flutterwave"
_SIGNED = (V3_HEADER.encode(), SECRET.encode())
_AUTHORIZED = (b"Authorization", f"Bearer {TOKEN}".encode())


# --- memory ---


@pytest.fixture
async def web(sqlite_url: str, valkey_url: str) -> AsyncIterator[Part]:
    """A web process of its own, whose memory is nobody else's."""
    settings = {
        "DATABASE_URL": sqlite_url,
        "CACHE_URL": valkey_url,
        "FLW_SECRET_HASH": SECRET,
        "API_TOKENS": TOKEN,
        "PORT": "0",
    }
    async with start_part("webhook_server", settings) as part:
        yield part


def _memory(part: Part) -> int:
    """Return the most memory that the process has had at once, in bytes."""
    assert part._process is not None
    with open(f"/proc/{part._process.pid}/status") as status:  # noqa: PTH123 - not a file
        peak = next(line for line in status if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


async def _in_chunks(url: str, size: int, step: int = 64 * 1024) -> Reply | None:
    """Send a body of `size` bytes without saying how long it will be."""
    async with connected(url) as (reader, writer):
        head = request(b"POST", _HOOK, [_SIGNED, (b"Transfer-Encoding", b"chunked")])
        chunk = b"%x\r\n" % step + b" " * step + b"\r\n"
        try:
            writer.write(head)
            for _ in range(size // step):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        return await read_reply(reader)


@pytest.mark.skipif(not psutil.LINUX, reason="the peak of a process's memory is read from /proc")
async def test_a_salvo_of_large_and_deep_bodies_does_not_fill_the_memory(web: Part) -> None:
    """320 MB are sent in bodies of 10 MB, announced or not, and many signed bodies of the most."""
    deep = b'{"event":' + b"[" * 120_000 + b"]" * 120_000 + b"}"
    wide = b"[" + b"{}," * 60_000 + b"{}]"
    digits = b'{"event":"charge.completed","data":{"id":' + b"9" * 200_000 + b"}}"
    form = b"&".join(b"a[%d][b]=c" % n for n in range(15_000))
    salvo = [deep, wide, digits, form]
    warm = await asyncio.gather(*(exchange(web.url, _signed(raw)) for raw in salvo))
    assert {reply.status for reply in warm if reply} <= {200, 400}
    before = _memory(web)

    large = request(b"POST", _HOOK, [_SIGNED], b" " * 10 * _MIB)
    announced = await asyncio.gather(*(exchange(web.url, large) for _ in range(16)))
    chunked = await asyncio.gather(*(_in_chunks(web.url, 10 * _MIB) for _ in range(16)))
    replies = await asyncio.gather(*(exchange(web.url, _signed(raw)) for raw in salvo * 8))

    # A connection that is closed on whoever is still sending may lose the answer, nothing else.
    assert {reply.status for reply in (*announced, *chunked) if reply} == {413}
    assert {reply.status for reply in replies if reply} <= {200, 400}
    assert _memory(web) - before < 48 * _MIB
    alive = await exchange(web.url, request(b"GET", b"/readyz", []))
    assert alive is not None
    assert alive.status == 200


def _signed(raw: bytes) -> bytes:
    return request(b"POST", _HOOK, [(V4_HEADER.encode(), sign_v4(raw, SECRET).encode())], raw)


# --- patience ---


@pytest.fixture
async def world(sqlite_url: str, valkey_url: str) -> AsyncIterator[World]:
    """A process on SQLite: how long it waits for a body is not the database's business."""
    async with AsyncExitStack() as stack, open_world(Opener(stack, sqlite_url, valkey_url)) as one:
        yield one


_STARTED = {
    "webhook": (_HOOK, _SIGNED),
    "lookup of many": (b"/api/payments/status", _AUTHORIZED),
}


@pytest.mark.parametrize("name", _STARTED)
@pytest.mark.parametrize("framing", [b"Content-Length: 4096", b"Transfer-Encoding: chunked"])
async def test_who_sends_no_more_than_a_byte_is_told_so_while_others_are_served(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, framing: bytes
) -> None:
    path, credential = _STARTED[name]
    limits: list[asyncio.Timeout] = []

    def patience(seconds: float) -> asyncio.Timeout:
        """Wait until the test has had enough, not for ten seconds."""
        assert seconds == reading.BODY_TIMEOUT_S
        limits.append(asyncio.timeout(None))
        return limits[-1]

    monkeypatch.setattr(reading, "asyncio", SimpleNamespace(timeout=patience))
    field, _, value = framing.partition(b": ")
    first = b"{" if field == b"Content-Length" else b"1\r\n{\r\n"
    head = request(b"POST", path, [credential, (field, value)])
    async with AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(connected(world.url)) for _ in range(60)]
        for _, writer in ends:
            writer.write(head + first)
            await writer.drain()
        assert (await world.v3(bodies.v3_charge(id=new_id()))).status == 200
        assert (await world.get("/api/changes")).status == 200
        for limit in limits:
            with suppress(RuntimeError):  # that body has come
                limit.reschedule(0)
        replies = await asyncio.gather(*(read_reply(reader) for reader, _ in ends))
    assert {(r.status, r.reason) for r in replies if r} == {(408, "slow_body")}
    assert None not in replies


def test_a_body_has_ten_seconds_to_arrive() -> None:
    assert reading.BODY_TIMEOUT_S == 10
