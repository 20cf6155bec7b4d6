"""News over HTTP: streams, the log of changes, the long poll; and the feed that they stand on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import hiredis
import orjson
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from paystate.changes import Cursor
from paystate.feed import Feed, _at_hand
from paystate.heartbeat import beat
from paystate.keys import Entity
from tests.conftest import Opener
from tests.harness import TOKEN, World, new_id, open_world
from tests.servers import OwnValkey
from tests.unit import bodies
from webhook_server import sse, streams

# Not a measure of speed: it ends a test that would wait for ever.
HANGS_S = 30


@asynccontextmanager
async def feeding(world: World) -> AsyncIterator[Feed]:
    """Run the feed of a world, and wait until it listens."""
    feed = world.resources.feed
    task = asyncio.create_task(feed.run())
    await feed.listening.wait()
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def subscribed(feed: Feed) -> asyncio.Event:
    """Return an event that is set by the next subscription."""
    happened = asyncio.Event()
    gauge = feed._metrics.subscribers

    def inc(amount: float = 1) -> None:
        """Count, and tell."""
        type(gauge).inc(gauge, amount)
        happened.set()

    gauge.inc = inc  # type: ignore[method-assign]
    return happened


class Stream:
    """A client of server-sent events."""

    def __init__(self, response: Any) -> None:
        self.response = response

    async def next(self) -> tuple[str, dict[str, Any], str | None]:
        """Return (event, data, id) of the next event."""
        event, data, event_id = "", "", None
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif line.startswith("id: "):
                event_id = line[4:]
            elif not line and event:
                return event, orjson.loads(data), event_id
        raise EOFError


@asynccontextmanager
async def stream(world: World, path: str, **headers: str) -> AsyncIterator[Stream]:
    """Open a stream of events."""
    async with world.session.get(
        world.url + path,
        headers={"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream", **headers},
    ) as response:
        assert response.status == 200, await response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        yield Stream(response)


async def test_a_page_that_never_refreshes_sees_its_payment_settle(open_process: Opener) -> None:
    async with open_world(open_process) as world, feeding(world):
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"s-{number}"))
        await world.settle()
        by_id = stream(world, f"/api/payments/{number}/events")
        by_reference = stream(world, f"/api/payments/by-ref/s-{number}/events")
        async with by_id as one, by_reference as other:
            for each in (one, other):
                event, data, _ = await each.next()
                assert (event, data["status"]) == ("status", "pending")
            await world.v3(bodies.v3_charge(id=number, tx_ref=f"s-{number}"))
            await world.settle()
            for each in (one, other):
                seen = [await each.next(), await each.next()]
                assert [(e, d["status"]) for e, d, _ in seen] == [
                    ("change", "processing"),
                    ("change", "successful"),
                ]
                assert seen[1][1]["previous_version"] == seen[0][1]["version"]


async def _gone(world: World, route: str) -> None:
    """Wait until a caller of `route` is counted as gone."""
    gone = world.resources.metrics.requests.labels(route, 499)
    async with asyncio.timeout(HANGS_S):
        while not gone._value.get():
            await world.get("/healthz", token=None)


async def test_a_page_that_is_closed_is_no_error(
    open_process: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    """It is noticed by the next thing that there is to tell it, and counted as gone."""
    async with open_world(open_process) as world, feeding(world):
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="pending"))
        await world.settle()
        async with stream(world, f"/api/payments/{number}/events") as page:
            await page.next()
        await world.v3(bodies.v3_charge(id=number))
        await world.settle()
        await _gone(world, "/api/payments/{id}/events")
        assert not [line for line in caplog.records if line.name.startswith("aiohttp")]


async def test_a_stream_of_everything_goes_on_from_the_last_id(open_process: Opener) -> None:
    async with open_world(open_process) as world, feeding(world):
        start = (await world.get("/api/changes")).body
        assert start["changes"] == []
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, tx_ref="all-1"))
        await world.settle()
        async with stream(world, "/api/changes", **{"Last-Event-ID": start["cursor"]}) as events:
            seen = [await events.next() for _ in range(4)]
        assert [d["status"] for _, d, _ in seen] == ["processing"] * 2 + ["successful"] * 2
        assert all(event_id for *_, event_id in seen)
        page = (await world.get(f"/api/changes?after={start['cursor']}")).body
        assert [c["version"] for c in page["changes"]] == [d["version"] for _, d, _ in seen]
        rest = (await world.get(f"/api/changes?after={page['cursor']}")).body
        assert (rest["changes"], rest["more"]) == ([], False)


async def test_a_pruned_cursor_is_410_and_a_wrong_one_400(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        cursor = (await world.get("/api/changes")).body["cursor"]
        await world.v3(bodies.v3_charge(id=new_id()))
        await world.resources.store.prune_changes(older_than_ms=-60_000)
        for headers in ({}, {"Accept": "text/event-stream"}):
            gone = await world.get(f"/api/changes?after={cursor}", **headers)
            assert (gone.status, gone.reason) == (410, "cursor_pruned")
        for wrong in ("x", "1", "1.2.3", "-1.2", "9" * 50 + ".1"):
            refused = await world.get(f"/api/changes?after={wrong}")
            assert (refused.status, refused.reason) == (400, "invalid_cursor")
        assert (await world.get("/api/changes?after=0.0&limit=0")).reason == "invalid_limit"


async def test_a_long_poll_answers_when_the_version_rises(open_process: Opener) -> None:
    async with open_world(open_process) as world, feeding(world):
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="pending"))
        await world.settle()
        version = (await world.status(number))["version"]
        listening = subscribed(world.resources.feed)
        waiting = asyncio.create_task(world.status(number, "?wait=25"))
        await listening.wait()
        await world.v3(bodies.v3_charge(id=number))
        assert (await waiting)["version"] > version
        at_once = await world.status(number, f"?wait=25&after_version={version}")
        assert at_once["status"] == "processing"
        in_vain = await world.status(number, "?wait=0")
        assert in_vain["version"] == at_once["version"]
        refused = await world.get(f"/api/payments/{number}/status?wait=soon")
        assert (refused.status, refused.reason) == (400, "invalid_wait")


async def test_a_stopping_server_ends_its_streams(open_process: Opener) -> None:
    async with (
        open_world(open_process) as world,
        feeding(world) as feed,
        stream(world, "/api/changes") as events,
    ):
        feed.close()
        event, data, _ = await events.next()
        assert (event, data) == ("closing", {"reason": "closing"})


async def test_a_listener_that_does_not_keep_up_is_told_so(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        with world.resources.feed.subscribe() as news:
            for n in range(300):
                await world.v3(bodies.v3_charge(id=new_id(), tx_ref=f"lag-{n}"))
            world.resources.feed._cursor = Cursor()
            await world.resources.feed.catch_up()
            assert news.lagged


async def _next(news: Any) -> Any:
    """Return the next change."""
    change = await news.next(60)
    assert change is not None
    return change


async def test_what_was_lost_on_the_wire_is_found_in_the_log(open_process: Opener) -> None:
    """The change is committed and never published: the poll alone brings it."""
    async with open_world(open_process) as world:
        feed = world.resources.feed
        feed._poll_s, feed._silence_s = 0.01, 3600  # nothing else makes it read the log
        await feed.catch_up()
        catch_up, caught_up = feed.catch_up, asyncio.Event()

        async def tell_when_done() -> None:
            """Catch up, and say so."""
            await catch_up()
            caught_up.set()

        feed.catch_up = tell_when_done  # type: ignore[method-assign]

        async def lose(*_: Any) -> None:
            """Publish nothing."""

        world.resources.cache.announce = lose  # type: ignore[method-assign]
        async with feeding(world):
            await caught_up.wait()  # what the subscription itself had to read has been read
            with feed.subscribe() as news:
                number = new_id()
                await world.v3(bodies.v3_charge(id=number))
                assert (await _next(news)).entity.id == str(number)


async def test_a_silent_reconnect_is_noticed_and_the_log_is_read(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        feed = world.resources.feed
        feed._poll_s = feed._silence_s = 3600  # nothing else makes it read the log
        async with feeding(world):
            await feed.catch_up()
            with feed.subscribe() as news:

                async def lose(*_: Any) -> None:
                    """Publish nothing."""

                world.resources.cache.announce = lose  # type: ignore[method-assign]
                number = new_id()
                await world.v3(bodies.v3_charge(id=number))
                await world.resources.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                assert (await _next(news)).entity.id == str(number)


async def test_a_connection_without_heartbeats_is_dropped(
    sqlite_url: str, own_valkey: OwnValkey
) -> None:
    """Half open: the server neither speaks nor closes. Then it is back, and the log is read."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        opener = Opener(stack, sqlite_url, own_valkey.url)
        async with open_world(opener) as world:
            feed = world.resources.feed
            feed._silence_s, feed._poll_s = 0.2, 3600
            dropped = asyncio.Event()
            sleep = feed._sleep

            async def between(seconds: float) -> None:
                """Wait between two connections."""
                dropped.set()
                await sleep(seconds)

            feed._sleep = between
            async with feeding(world):
                await feed.catch_up()
                own_valkey.freeze()
                with feed.subscribe() as news:
                    await dropped.wait()
                    number = new_id()
                    recording = asyncio.create_task(world.v3(bodies.v3_charge(id=number)))
                    assert (await recording).status == 200
                    own_valkey.thaw()
                    assert (await _next(news)).entity.id == str(number)


async def test_a_version_that_does_not_follow_makes_the_feed_read_the_log(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        feed = world.resources.feed
        feed._poll_s = feed._silence_s = 3600  # nothing else makes it read the log
        async with feeding(world):
            number = new_id()
            with feed.subscribe(entity=Entity.reference("default", "gap")) as news:
                await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref="gap"))
                assert (await _next(news)).version == 1
                put = world.resources.cache.put

                async def lose(*_: Any) -> None:
                    """Publish nothing."""

                world.resources.cache.put = lose  # type: ignore[method-assign]
                await world.settle()
                world.resources.cache.put = put  # type: ignore[method-assign]
                await world.v3(bodies.v3_charge(id=number, tx_ref="gap"))
                assert (await _next(news)).version == 3
                assert feed._metrics.feed_gaps.labels("version")._value.get() >= 1


async def test_what_the_wire_lost_while_nobody_listened_is_known_from_the_log(
    open_process: Opener,
) -> None:
    """What is held near is dropped, and whoever listens next is not told what is older."""
    async with open_world(open_process) as world:
        feed, number = world.resources.feed, new_id()
        feed._poll_s = feed._silence_s = 3600
        await feed.catch_up()
        near, key = world.resources.lookups._near, f"charge:default:{number}"
        near.resubscribed()
        near.put(key, 1, "held", near.ticket())  # type: ignore[arg-type]
        await world.v3(bodies.v3_charge(id=number, tx_ref=None))
        await world.settle()
        await feed.catch_up()  # nobody has heard of it on the wire
        assert near.get(key) is None
        page = await world.resources.store.changes_after(Cursor())
        with feed.subscribe() as news:
            for change in page.changes:
                feed._tell(change)
            assert await news.next(0) is None


async def test_who_comes_while_the_log_is_read_is_told_in_full(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(open_process) as world:
        feed, store = world.resources.feed, world.resources.store
        versions_after = store.versions_after
        await feed.catch_up()
        await world.v3(bodies.v3_charge(id=new_id(), tx_ref=None))
        with ExitStack() as stack:
            news = []

            async def interrupted(*args: Any, **more: Any) -> Any:
                page = await versions_after(*args, **more)
                news.append(stack.enter_context(feed.subscribe()))
                return page

            monkeypatch.setattr(store, "versions_after", interrupted)
            await feed.catch_up()
            assert (await _next(news[0])).version == 1


async def test_news_is_told_once_and_in_the_order_of_versions(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        feed = world.resources.feed
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, tx_ref=None))
        await world.settle()
        page = await world.resources.store.changes_after(Cursor())
        with feed.subscribe() as news:
            for change in (*page.changes, *reversed(page.changes), *page.changes):
                feed._tell(change)
            told = [await news.next(0) for _ in page.changes]
            assert [c.version for c in told if c] == [1, 2]
            assert await news.next(0) is None


def _change(number: int, version: int, **more: Any) -> bytes:
    change = {
        "payment_id": str(number), "tx_ref": None, "kind": "charge", "merchant": "default",
        "status": "processing", "previous_status": None, "terminal": False, "version": version,
        "previous_version": version - 1, "changed_at": "2026-01-02T03:04:05.678Z", "cursor": "1.2",
    }  # fmt: skip
    return orjson.dumps(change | more)


async def _publish(world: World, *messages: bytes) -> None:
    """Publish messages that arrive in one piece."""
    async with world.resources.redis.pipeline(transaction=True) as pipe:
        for message in messages:
            pipe.publish(world.resources.keys.all_changes("default"), message)
        await pipe.execute()


async def test_what_comes_while_nobody_listens_is_remembered(open_process: Opener) -> None:
    """Whoever listens next is not told what is older, and what the wire has lost is missed."""
    async with open_world(open_process) as world:
        feed = world.resources.feed
        feed._poll_s = feed._silence_s = 3600
        async with feeding(world):
            number, last = new_id(), new_id()
            near = world.resources.lookups._near
            near.put(f"charge:default:{number}", 1, "held", near.ticket())  # type: ignore[arg-type]
            with feed.subscribe(entity=Entity.from_row_key(f"charge:default:{last}")) as news:
                await _publish(world, *[_change(number, v) for v in (1, 2)], _change(last, 1))
                assert (await _next(news)).version == 1  # so all before it has been heard
            assert near.get(f"charge:default:{number}") is None
            with feed.subscribe() as news:
                await _publish(world, _change(number, 1), _change(number, 2), _change(number, 3))
                assert (await _next(news)).version == 3
            gaps = feed._metrics.feed_gaps.labels("version")._value
            before = gaps.get()
            with feed.subscribe(entity=Entity.from_row_key(f"charge:default:{last}")) as news:
                await _publish(world, _change(number, 9), _change(last, 2))
                assert (await _next(news)).version == 2
            assert gaps.get() == before + 1


async def test_news_that_cannot_be_read_stops_nothing(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        feed = world.resources.feed
        async with feeding(world):
            number = new_id()
            with feed.subscribe(entity=Entity.from_row_key(f"charge:default:{number}")) as news:
                await _publish(
                    world, b"{", b"[]", b'{"version": 1}', _change(1, 2, kind=[]),
                    _change(1, 2, kind="x"), _change(1, 1.5), _change(1, 2**63),  # type: ignore[arg-type]
                    _change(1, 2, payment_id=None), _change(1, 2, merchant=""), b"\xff\xfe", b"",
                    b"[" * 9000, b'{"more": ' + b"[" * 9000, _change(1, 2)[:-1] + b', "x": "\xff"}',
                    _change(number, 1),
                )  # fmt: skip
                assert (await _next(news)).version == 1


def test_of_what_has_come_together_nothing_is_passed_over() -> None:
    """News and subscriptions are given in their order; anything else ends the connection."""
    reader = hiredis.Reader()
    pubsub = SimpleNamespace(connection=SimpleNamespace(_parser=SimpleNamespace(_reader=reader)))
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\n%d\r\n"
    subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
    reader.feed(message % 1 + subscribed + message % 2 + (message % 3)[:20])
    assert [reply[2] for reply in _at_hand(pubsub)] == [b"1", 1, b"2"]
    reader.feed((message % 3)[20:] + b"-LOADING no\r\n")
    with pytest.raises(RedisConnectionError):
        list(_at_hand(pubsub))


async def test_one_heartbeat_serves_all_processes(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        redis, keys = world.resources.redis, world.resources.keys
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe(keys.all_changes("default"))
            await pubsub.get_message(timeout=10)
            for _ in range(5):
                await beat(redis, keys, ["default"])
            message = await pubsub.get_message(timeout=10)
            assert orjson.loads(message["data"])["heartbeat"] is True
            assert await pubsub.get_message(timeout=0.01) is None


@pytest.mark.parametrize("path", ["/api/changes", "/api/payments/1/events"])
async def test_streams_need_a_token(open_process: Opener, path: str) -> None:
    async with open_world(open_process) as world:
        assert (await world.get(path, token=None)).status == 401


async def test_a_stream_that_lags_is_told_so_and_catches_up_where_it_was(
    open_process: Opener,
) -> None:
    """More news than its queue holds: it is ended with a word, and the log has the rest."""
    async with open_world(open_process) as world:
        feed = world.resources.feed
        start = (await world.get("/api/changes")).body["cursor"]
        numbers = {str(new_id()) for _ in range(300)}
        await asyncio.gather(*(world.v3(bodies.v3_charge(id=int(n), tx_ref=None)) for n in numbers))
        listening = subscribed(feed)
        path = f"/api/changes?after={(await world.resources.store.latest_cursor())}"
        async with stream(world, path) as events:
            await listening.wait()
            for change in (await world.resources.store.changes_after(Cursor(), most=1000)).changes:
                feed._tell(change)  # all in one turn: nobody has had the chance to read
            word = ""
            while word != "lagged":
                word, *_ = await events.next()
            with pytest.raises(EOFError):
                await events.next()
        async with stream(world, "/api/changes", **{"Last-Event-ID": start}) as events:
            told = {(await events.next())[1]["payment_id"] for _ in numbers}
        assert told == numbers


async def test_a_reader_that_does_not_read_loses_its_connection(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is sent no second answer into its stream."""
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.0)
    monkeypatch.setattr(sse, "WRITE_TIMEOUT_S", 0.2)

    async def much(told: Any) -> None:
        await sse.send(told, "much", "x" * 1_000_000)

    monkeypatch.setattr(streams, "still_here", much)
    async with open_world(open_process) as world, feeding(world):
        host, port = world.url.removeprefix("http://").split(":")
        question = (
            "GET /api/changes HTTP/1.1", f"Host: {host}", "Accept: text/event-stream",
            f"Authorization: Bearer {TOKEN}",
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, (host, int(port)))
            await loop.sock_sendall(client, ("\r\n".join(question) + "\r\n\r\n").encode())
            await _gone(world, "/api/changes")
            read = b""
            while some := await loop.sock_recv(client, 1 << 20):
                read += some
        assert read.count(b"HTTP/1.1") == 1
        assert not read.endswith(b"\r\n0\r\n\r\n")  # which would be a good end
