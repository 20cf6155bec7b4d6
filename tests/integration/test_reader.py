"""The reader of other services: what it may answer, and that no change is lost without a word.

The cache is a real Valkey. The HTTP API is the real one, or, where a test needs a change log that
is cut, slow or away at the right moment, one of our own with the same answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from redis.asyncio import Redis

from bench.ports import free_port
from paystate.cache.answers import Miss
from paystate.cache.statuses import StatusCache
from paystate.changes import Change, Cursor
from paystate.keys import Entity, EntityKind, Keys
from paystate.metrics import Metrics
from paystate.process import listen
from paystate.reader import (
    ApiMissing,
    ApiRefused,
    ChangeFeed,
    Gap,
    PaymentReader,
    PaymentReaderSync,
    PaymentUnknown,
    ReaderUnavailable,
)
from paystate.reader import reader as reader_module
from paystate.state import EntityState
from paystate.status import Status, is_terminal
from paystate.ttl import DEFAULT_TTL
from tests.conftest import Opener
from tests.harness import TOKEN, World, new_id, open_world
from tests.servers import OwnValkey
from tests.unit import bodies

# Not a measure of speed: without it a test that waits for what never comes would wait for ever.
HANGS_S = 20
KEYS = Keys()
NEWS = KEYS.all_changes("default")

# --- what the tests are made of ---


def charge(own_id: str) -> Entity:
    """Return a charge of the default merchant."""
    return Entity("default", EntityKind.CHARGE, own_id)


def change(
    own_id: str, version: int, status: str = "processing", previous: int | None = None
) -> Change:
    """Return a change of a charge; its cursor is given by the log."""
    return Change(
        entity=charge(own_id),
        payment_id=own_id,
        tx_ref=None,
        status=Status(status),
        previous_status=Status.PENDING,
        terminal=is_terminal(Status(status)),
        version=version,
        previous_version=version - 1 if previous is None else previous,
        changed_ms=1_800_000_000_000,
        cursor=Cursor(),
    )


async def publish(redis: Redis, *changes: Change) -> None:
    """Publish changes as the product does."""
    for one in changes:
        await redis.publish(NEWS, json.dumps(one.to_json()))


async def beat(redis: Redis) -> None:
    """Publish one heartbeat as the product does."""
    await redis.publish(NEWS, json.dumps({"heartbeat": True, "at": "2026-10-01T10:00:00Z"}))


@asynccontextmanager
async def beating(redis: Redis, every_s: float = 0.02) -> AsyncIterator[None]:
    """Publish heartbeats all the while, whether or not the server is there to take them."""

    enough = asyncio.Event()

    async def go_on() -> None:
        while not enough.is_set():
            with suppress(Exception):
                await beat(redis)
            await asyncio.sleep(every_s)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        enough.set()  # not a cancellation, which redis-py may swallow
        await task


async def put(redis: Redis, entity: Entity, status: str, version: int, link: str = "") -> None:
    """Put an entry into the cache, as `put.lua` leaves it for a successful payment."""
    entry = {"status": status, "version": version, "at": 1_800_000_000_000, "link": link}
    await redis.hset(KEYS.hash(entity), mapping=entry)


class Probe:
    """Listens beside the others, so that a test can wait for what they have been told."""

    def __init__(self, reader: PaymentReader) -> None:
        self.changes: asyncio.Queue[Change] = asyncio.Queue()
        self.on = asyncio.Event()
        self.off = asyncio.Event()
        reader._news.listeners.add(self)

    def heard(self, change: Change) -> None:
        self.changes.put_nowait(change)

    def resubscribed(self) -> None:
        self.on.set()

    def lost(self) -> None:
        self.off.set()

    async def heard_all(self, count: int) -> None:
        """Wait until so many changes have been heard."""
        async with asyncio.timeout(HANGS_S):
            for _ in range(count):
                await self.changes.get()


async def wait(event: asyncio.Event) -> None:
    """Wait for an event."""
    async with asyncio.timeout(HANGS_S):
        await event.wait()


async def take(feed: ChangeFeed, count: int) -> list[Change | Gap]:
    """Return the next items."""
    async with asyncio.timeout(HANGS_S):
        return [await anext(feed) for _ in range(count)]


def brief(items: Iterable[Change | Gap]) -> list[tuple[str, int] | tuple[str, bool]]:
    """Return what matters of items: entity and version, or reason and whether it is recovered."""
    return [
        (item.reason.value, item.recovered)
        if isinstance(item, Gap)
        else (item.entity.id, item.version)
        for item in items
    ]


class FakeApi:
    """The parts of the HTTP API that a reader asks, over a change log that the test writes."""

    def __init__(self) -> None:
        self.url = ""
        self.log: list[Change] = []
        self.pruned = 0
        self.down = False
        self.statuses: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked_changes: list[str | None] = []
        self.asked_statuses: list[Any] = []
        self.asked: asyncio.Queue[Any] = asyncio.Queue()
        self.before: Callable[[], Awaitable[None]] | None = None

    def write(self, *changes: Change) -> None:
        """Commit changes: they are in the log, whoever hears of them."""
        self.log += changes

    async def get_changes(self, request: web.Request) -> web.Response:
        after = request.query.get("after")
        self.asked_changes.append(after)
        self.asked.put_nowait(after)
        await self._prepare()
        if after is None:
            return web.json_response(self._page([], len(self.log), more=False))
        start = Cursor.parse(after).id
        if start < self.pruned:
            body = {"reason": "cursor_pruned", "status": 410}
            return web.json_response(body, status=410, content_type="application/problem+json")
        end = start + int(request.query["limit"])
        return web.json_response(
            self._page(self.log[start:end], min(end, len(self.log)), more=end < len(self.log))
        )

    @staticmethod
    def _page(changes: list[Change], cursor: int, *, more: bool) -> dict[str, Any]:
        listed = [one.to_json() for one in changes]
        return {"changes": listed, "cursor": f"0.{cursor}", "more": more}

    async def post_statuses(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked_statuses.append(body)
        self.asked.put_nowait(body)
        await self._prepare()
        kind = body.get("kind", "charge")
        asked = [(kind, one) for one in body.get("ids", [])]
        asked += [("reference", one) for one in body.get("tx_refs", [])]
        unknown = [one[1] for one in asked if one not in self.statuses]
        known = [self.statuses[one] for one in asked if one in self.statuses]
        return web.json_response({"statuses": known, "unknown": {"ids": unknown, "tx_refs": []}})

    async def _prepare(self) -> None:
        if self.before is not None:
            await self.before()
        if self.down:
            raise web.HTTPServiceUnavailable


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """An API of our own."""
    fake = FakeApi()
    app = web.Application()
    app.add_routes([
        web.get("/api/changes", fake.get_changes),
        web.post("/api/payments/status", fake.post_statuses),
    ])  # fmt: skip
    runner = await listen(app, "127.0.0.1", 0, grace_s=1)
    host, port = runner.addresses[0][:2]
    fake.url = f"http://{host}:{port}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def calm(redis: Redis) -> AsyncIterator[None]:
    """Heartbeats on the shared Valkey."""
    async with beating(redis):
        yield


@asynccontextmanager
async def reading(url: str, **options: Any) -> AsyncIterator[tuple[PaymentReader, Probe]]:
    """Open a reader that has subscribed."""
    async with PaymentReader(url, **{"timeout_s": 5, **options}) as reader:
        await wait(reader._news.tried)
        yield reader, Probe(reader)


async def fields(redis: Redis, entity: Entity) -> dict[bytes, bytes]:
    """Return everything that the cache has of an entity."""
    found: dict[bytes, bytes] = await redis.hgetall(KEYS.hash(entity))
    return found


# --- answers: the cache, by itself ---


async def test_a_successful_entry_is_an_answer(valkey_url: str, redis: Redis) -> None:
    await put(redis, charge("1"), "successful", 3, link="order-1")
    async with reading(valkey_url) as (reader, _):
        answer = await reader.status(1)
    assert answer.to_json() == {
        "payment_id": "1", "tx_ref": "order-1", "kind": "charge", "status": "successful",
        "terminal": True, "version": 3, "as_of": "2027-01-15T08:00:00.000Z", "source": "cache",
        "fresh": True, "held": False,
    }  # fmt: skip


async def test_a_reference_names_the_payment_that_decides_it(valkey_url: str, redis: Redis) -> None:
    await put(redis, Entity.reference("default", "a/b"), "successful", 2, link="charge:77")
    async with reading(valkey_url) as (reader, _):
        answer = await reader.reference("a/b")
    assert (answer.kind, answer.tx_ref, answer.payment_id) == ("reference", "a/b", "77")


@pytest.mark.parametrize("lease_ms", [0, 1000])
async def test_what_is_not_proven_is_not_fresh(
    valkey_url: str, redis: Redis, lease_ms: int
) -> None:
    await put(redis, charge("1"), "pending", 1)
    async with reading(valkey_url, lease_ms=lease_ms) as (reader, _):
        held, nothing = await reader.statuses(["1", "2"])
    assert (held.status, held.version, held.fresh) == ("pending", 1, False)
    assert (nothing.status, nothing.version, nothing.fresh) == ("unknown", 0, False)
    assert not nothing.known


@pytest.mark.parametrize(
    "entry", [{"status": "successful", "version": "x"}, {"status": "?", "version": "1"}, "text"]
)
async def test_what_is_not_ours_counts_for_nothing(
    valkey_url: str, redis: Redis, entry: Any
) -> None:
    key = KEYS.hash(charge("1"))
    await (redis.set(key, entry) if isinstance(entry, str) else redis.hset(key, mapping=entry))
    async with reading(valkey_url, lease_ms=1000) as (reader, _):
        answer = await reader.status("1")
    assert (answer.status, answer.version, answer.fresh) == ("unknown", 0, False)


async def test_a_lease_vouches_for_a_pending_until_it_is_marked(
    valkey_url: str, redis: Redis, metrics: Metrics
) -> None:
    """And it is not kept near: after the mark nothing says `pending` as if it were fresh."""
    cache = StatusCache(redis, lease_ms=60_000, ttl=DEFAULT_TTL, metrics=metrics)
    state = EntityState(charge("1"), Status.PENDING, 1, 0, 0, None, 1)
    async with reading(valkey_url, lease_ms=60_000) as (reader, _), beating(redis):
        miss = await cache.read(charge("1"))
        assert isinstance(miss, Miss)
        assert await cache.fill(state, miss.token) == "stored"
        answer = await reader.status("1")
        assert (answer.status, answer.fresh, answer.source) == ("pending", True, "cache")
        await cache.mark([EntityState(charge("1"), Status.PENDING, 2, 1, 0, None, 2)])
        assert not (await reader.status("1")).fresh
        without_lease = PaymentReader(valkey_url)
    async with without_lease:
        assert not (await without_lease.status("1")).fresh


@pytest.mark.parametrize("held", [None, "pending", "failed"])
async def test_a_reader_never_takes_a_token(
    valkey_url: str, redis: Redis, held: str | None, metrics: Metrics
) -> None:
    """A token taken by one that cannot fill would keep it from those who can."""
    if held:
        await put(redis, charge("1"), held, 1)
        await redis.hset(KEYS.hash(charge("1")), "proven_at", "1")
    before = await fields(redis, charge("1"))
    async with reading(valkey_url, lease_ms=1000) as (reader, _):
        await reader.status("1")
    with PaymentReaderSync(valkey_url, lease_ms=1000) as plain:
        await asyncio.to_thread(plain.status, "1")
    assert await fields(redis, charge("1")) == before
    cache = StatusCache(redis, lease_ms=1000, ttl=DEFAULT_TTL, metrics=metrics)
    miss = await cache.read(charge("1"))
    assert isinstance(miss, Miss)
    assert miss.token


async def test_a_cached_transfer_is_no_answer_for_a_bare_id(valkey_url: str, redis: Redis) -> None:
    """There may be a charge of the same id."""
    await put(redis, Entity("default", EntityKind.TRANSFER, "9"), "successful", 4)
    async with reading(valkey_url) as (reader, _):
        bare = await reader.status("9")
        named = await reader.status("9", kind="transfer")
    assert (bare.status, bare.fresh) == ("unknown", False)
    assert (named.status, named.kind, named.fresh) == ("successful", "transfer", True)


async def test_a_merchant_sees_its_own(valkey_url: str, redis: Redis) -> None:
    await put(redis, charge("1"), "successful", 3)
    async with reading(valkey_url, merchant="acme") as (reader, _):
        assert not (await reader.status("1")).known


async def test_without_cache_and_api_it_says_that_it_knows_nothing() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with reading(url, timeout_s=0.2) as (reader, _):
        with pytest.raises(ReaderUnavailable, match="cache unreachable"):
            await reader.status("1")
    with PaymentReaderSync(url) as plain, pytest.raises(ReaderUnavailable):
        await asyncio.to_thread(plain.status, "1")


async def test_a_reader_is_used_while_it_is_open(valkey_url: str) -> None:
    reader = PaymentReader(valkey_url)
    with pytest.raises(RuntimeError):
        await reader.status("1")
    async with reader:
        with pytest.raises(RuntimeError):
            await reader.__aenter__()
    with pytest.raises(RuntimeError):
        await reader.status("1")
    with pytest.raises(RuntimeError):
        reader.changes()


@pytest.mark.parametrize("wrong", ["", "x" * 201, "a\0b", "\ud800", True, 1.5, None])
async def test_what_cannot_be_an_id_is_refused(valkey_url: str, wrong: Any) -> None:
    async with reading(valkey_url) as (reader, _):
        with pytest.raises(ValueError, match=r"\w"):
            await reader.status(wrong)
        with pytest.raises(ValueError, match=r"\w"):
            await reader.status("1", kind="reference")
        with pytest.raises(ValueError, match="one of them"):
            await reader.wait_for("1", tx_ref="order")


# --- near cache ---


async def _cached_near(reader: PaymentReader, redis: Redis, own_id: str) -> None:
    """Have an answer kept near, and nowhere else."""
    await put(redis, charge(own_id), "successful", 2)
    assert (await reader.status(own_id)).version == 2
    await redis.delete(KEYS.hash(charge(own_id)))
    answer = await reader.status(own_id)
    assert (answer.status, answer.source, answer.fresh) == ("successful", "cache", True)


@pytest.mark.usefixtures("calm")
async def test_a_near_answer_is_dropped_by_a_newer_change(valkey_url: str, redis: Redis) -> None:
    async with reading(valkey_url) as (reader, probe):
        await _cached_near(reader, redis, "1")
        await put(redis, charge("1"), "successful", 3, link="moved")
        await publish(redis, change("1", 3, "successful"))
        await probe.heard_all(1)
        assert (await reader.status("1")).tx_ref == "moved"


@pytest.mark.usefixtures("calm")
async def test_a_near_answer_is_at_most_30_s_old(valkey_url: str, redis: Redis) -> None:
    now_s = 1000.0
    async with reading(valkey_url, clock=lambda: now_s) as (reader, _):
        await _cached_near(reader, redis, "1")
        now_s += 29.9
        assert (await reader.status("1")).fresh
        now_s += 0.2
        assert not (await reader.status("1")).known


@pytest.mark.usefixtures("calm")
async def test_the_near_cache_is_bounded(valkey_url: str, redis: Redis) -> None:
    async with reading(valkey_url, near_size=2) as (reader, _):
        for own_id in ("1", "2", "3"):
            await _cached_near(reader, redis, own_id)
        answers = await reader.statuses(["1", "2", "3"])
    assert [answer.fresh for answer in answers] == [False, True, True]


async def test_a_near_answer_is_not_used_while_the_feed_is_silent(
    valkey_url: str, redis: Redis
) -> None:
    """Not even before the listener has noticed: the event loop itself may have been held up."""
    async with reading(valkey_url, silence_s=60) as (reader, _):
        await beat(redis)
        await _cached_near(reader, redis, "1")
        clock = reader._news._clock
        reader._news._clock = lambda: clock() + 61  # and not one turn of the loop meanwhile
        assert not reader.live
        assert not (await reader.status("1")).known


@pytest.mark.usefixtures("calm")
async def test_near_answers_do_not_outlive_a_reconnect(valkey_url: str, redis: Redis) -> None:
    """What changed while nobody listened has not been heard."""
    async with reading(valkey_url) as (reader, probe):
        await _cached_near(reader, redis, "1")
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await wait(probe.on)
        assert reader.live
        assert not (await reader.status("1")).known


@pytest.mark.usefixtures("calm")
async def test_near_answers_do_not_outlive_another_subscribe_message(
    valkey_url: str, redis: Redis
) -> None:
    async with reading(valkey_url) as (reader, probe):
        await _cached_near(reader, redis, "1")
        await _subscribe_again(reader)
        await wait(probe.on)
        assert not (await reader.status("1")).known


async def _subscribe_again(reader: PaymentReader) -> None:
    """Bring about what redis-py does when it has reconnected on its own."""
    in_use = reader._redis.connection_pool._in_use_connections
    (connection,) = [one for one in in_use if one.is_connected]
    await connection.send_command("SUBSCRIBE", NEWS)


async def test_nothing_is_kept_near_without_a_feed(redis: Redis, own_valkey: OwnValkey) -> None:
    """With the server gone there is no answer, rather than the one from before."""
    async with reading(own_valkey.url, silence_s=60) as (reader, probe):
        async with AsyncExitStack() as stack:
            client = Redis.from_url(own_valkey.url)
            stack.push_async_callback(client.aclose)
            await _cached_near(reader, client, "1")
        own_valkey.kill()
        await wait(probe.off)
        assert not reader.live
        with pytest.raises(ReaderUnavailable):
            await reader.status("1")


# --- answers: the HTTP API ---


async def _settled(world: World, status: str, **more: Any) -> str:
    """Make a payment settle and return its id."""
    number = new_id()
    await world.v3(bodies.v3_charge(id=number, status=status, **more))
    await world.settle()
    return str(number)


async def test_the_api_answers_what_the_cache_cannot_prove(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        failed = await _settled(world, "failed", tx_ref="api-1")
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="successful", tx_ref="api/2"))
        options = {"api_url": world.url, "api_token": TOKEN}
        async with reading(open_process.cache, **options) as (reader, _):
            answers = await reader.statuses([failed, number, 1], tx_refs=["api-1", "api/2", "no"])
            assert [(a.status.value, a.fresh) for a in answers] == [
                ("failed", True), ("processing", True), ("unknown", False),
                ("failed", True), ("processing", True), ("unknown", False),
            ]  # fmt: skip
            by_hand = await world.status(failed)
            assert answers[0].to_json() == by_hand | {
                "as_of": answers[0].to_json()["as_of"], "source": "database",
            }  # fmt: skip
            await world.settle()
            assert (await reader.status(number)).status == "successful"
        with PaymentReaderSync(open_process.cache, **options) as plain:
            again = await asyncio.to_thread(plain.statuses, [failed, number, 1])
            assert [a.status.value for a in again] == ["failed", "successful", "unknown"]


async def test_the_api_decides_whether_a_bare_id_is_a_transfer(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(bodies.v3_transfer(id=number))
        await world.settle()
        options = {"api_url": world.url, "api_token": TOKEN}
        async with reading(open_process.cache, **options) as (reader, _):
            answer = await reader.status(number)
            assert (answer.kind, answer.status, answer.fresh) == ("transfer", "successful", True)


async def test_details_come_from_the_api(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        known = await _settled(world, "successful", tx_ref="details-1", amount=1500.25)
        options = {"api_url": world.url, "api_token": TOKEN}
        async with reading(open_process.cache, **options) as (reader, _):
            by_id = await reader.payment(known)
            by_ref = await reader.payment(tx_ref="details-1")
            assert str(by_id.amount) == "1500.25"
            assert by_id.answer.status == "successful"
            assert (by_id.refunded_amount, by_id.refund_flags, by_id.chargeback) == (0, (), None)
            assert (by_ref.amount, by_ref.answer.payment_id) == (by_id.amount, known)
            with pytest.raises(PaymentUnknown):
                await reader.payment(1)
        async with reading(open_process.cache) as (reader, _):
            with pytest.raises(ApiMissing):
                await reader.payment(known)


async def test_a_wrong_token_is_an_error_and_not_a_stale_answer(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        options = {"api_url": world.url, "api_token": "wrong"}
        async with reading(open_process.cache, **options) as (reader, _):
            with pytest.raises(ApiRefused, match="token unknown") as refused:
                await reader.status(1)
            assert "wrong" not in repr(refused.value)
            with pytest.raises(ApiRefused):
                await take(reader.changes(), 1)


async def test_an_api_that_is_away_makes_answers_not_fresh(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    await put(redis, charge("1"), "pending", 1)
    await put(redis, charge("2"), "successful", 2)
    api.down = True
    async with reading(valkey_url, api_url=api.url) as (reader, _):
        pending, successful = await reader.statuses(["1", "2"])
    assert (pending.status, pending.fresh) == ("pending", False)
    assert (successful.status, successful.fresh) == ("successful", True)


async def test_without_a_feed_no_answer_is_kept_near(api: FakeApi) -> None:
    api.statuses["charge", "1"] = _answer("1", "successful")
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with reading(url, api_url=api.url, timeout_s=0.2) as (reader, _):
        assert (await reader.status("1")).fresh
        assert len(reader._near) == 0


async def test_questions_of_one_moment_share_a_round_trip(valkey_url: str, api: FakeApi) -> None:
    async with reading(valkey_url, api_url=api.url) as (reader, _):
        await asyncio.gather(*(reader.status(number % 50) for number in range(150)))
    assert len(api.asked_statuses) == 1
    assert len(api.asked_statuses[0]["ids"]) == 50


async def test_the_token_does_not_follow_a_redirect(valkey_url: str, api: FakeApi) -> None:
    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"{api.url}/api/payments/status")

    app = web.Application()
    app.router.add_post("/api/payments/status", redirect)
    runner = await listen(app, "127.0.0.1", 0, grace_s=1)
    try:
        url = "http://{}:{}".format(*runner.addresses[0][:2])
        async with reading(valkey_url, api_url=url, api_token=TOKEN) as (reader, _):
            with pytest.raises(ApiRefused, match="http 302"):
                await reader.status("1")
    finally:
        await runner.cleanup()
    assert api.asked_statuses == []


TOO_LONG = '{"statuses": [%s], "unknown": {"ids": [], "tx_refs": []}, "more": "%s"}'


@pytest.mark.parametrize(
    "body", ["{", "[]", '{"statuses": []}', TOO_LONG, "[" * 100_000],
    ids=["cut", "list", "part", "long", "deep"],
)  # fmt: skip
async def test_an_answer_that_makes_no_sense_is_none(valkey_url: str, body: str) -> None:
    if body is TOO_LONG:
        body %= json.dumps(_answer("1", "failed")), "x" * 5_000_000

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/payments/status", answer)
    runner = await listen(app, "127.0.0.1", 0, grace_s=1)
    try:
        url = "http://{}:{}".format(*runner.addresses[0][:2])
        async with reading(valkey_url, api_url=url) as (reader, _):
            assert not (await reader.status("1")).known
    finally:
        await runner.cleanup()


# --- changes: the wire ---


@pytest.mark.usefixtures("calm")
async def test_changes_are_heard_and_everything_else_is_ignored(
    valkey_url: str, redis: Redis
) -> None:
    other = change("1", 1).to_json() | {"merchant": "other"}
    async with reading(valkey_url) as (reader, _), reader.changes() as feed:
        nonsense = ["", "x", "[]", "null", "7", '{"version": 1}', json.dumps(other), "[" * 9000,
                    json.dumps(change("1", 1).to_json() | {"kind": "order"}), b"\xff\xfe",
                    json.dumps(change("1", 1).to_json() | {"payment_id": None}),
                    json.dumps(change("1", 1).to_json() | {"more": "x" * 20_000})]  # fmt: skip
        for one in nonsense:
            await redis.publish(NEWS, one)
        await publish(redis, change("2", 1))
        assert brief(await take(feed, 1)) == [("2", 1)]


@pytest.mark.usefixtures("calm")
async def test_no_entity_goes_back_in_version(valkey_url: str, redis: Redis) -> None:
    async with reading(valkey_url) as (reader, _), reader.changes() as feed:
        await publish(redis, change("1", 2), change("1", 1), change("1", 2), change("1", 3))
        await publish(redis, change("2", 1))
        assert brief(await take(feed, 3)) == [("1", 2), ("1", 3), ("2", 1)]


@asynccontextmanager
async def _held_up(url: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Stand before a Valkey and hold every SUBSCRIBE up until the event is set."""
    go_on = asyncio.Event()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if b"SUBSCRIBE" in data:
                    await go_on.wait()
                sink.write(data)
        sink.close()

    async def serve(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        parts = urlsplit(url)
        answers, questions = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pump(source, questions), pump(answers, sink))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", go_on
        go_on.set()


@pytest.mark.parametrize("what", ["changes", "wait_for"])
async def test_it_subscribes_before_it_reads(valkey_url: str, api: FakeApi, what: str) -> None:
    """What happens after the reading must be heard on the wire."""
    api.statuses["charge", "1"] = _answer("1", "failed")
    async with (
        _held_up(valkey_url) as (url, go_on),
        PaymentReader(url, api_url=api.url, timeout_s=5) as reader,
    ):
        feed = reader.changes()
        begun = feed.__aenter__() if what == "changes" else reader.wait_for("1", timeout=HANGS_S)
        task = asyncio.ensure_future(begun)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(api.asked.get(), 0.2)
        go_on.set()
        async with asyncio.timeout(HANGS_S):
            await task
        assert api.asked.qsize() == 1


@pytest.mark.usefixtures("calm")
async def test_after_a_reconnect_the_log_is_read_at_once(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    async with reading(valkey_url, api_url=api.url) as (reader, _), reader.changes() as feed:
        api.write(change("1", 1), change("1", 2))
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        items = await take(feed, 3)
    assert brief(items) == [("resubscribed", True), ("1", 1), ("1", 2)]
    assert isinstance(items[0], Gap)
    assert items[0].since_cursor == Cursor(0, 0)


@pytest.mark.usefixtures("calm")
async def test_another_subscribe_message_means_that_changes_may_be_lost(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    """It is redis-py's only sign that it has reconnected on its own."""
    async with reading(valkey_url, api_url=api.url) as (reader, _), reader.changes() as feed:
        api.write(change("1", 1))
        await _subscribe_again(reader)
        assert brief(await take(feed, 2)) == [("resubscribed", True), ("1", 1)]


@pytest.mark.usefixtures("calm")
async def test_without_an_api_a_reconnect_is_a_gap_that_stays(
    valkey_url: str, redis: Redis
) -> None:
    async with reading(valkey_url) as (reader, _), reader.changes() as feed:
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        first = await take(feed, 1)
        await publish(redis, change("1", 1))
        items = first + await take(feed, 1)
    assert items[0] == Gap(items[0].reason, None, recovered=False)  # type: ignore[union-attr]
    assert brief(items) == [("resubscribed", False), ("1", 1)]


async def test_a_connection_without_a_heartbeat_is_dropped(
    own_valkey: OwnValkey, api: FakeApi
) -> None:
    """A server that hangs closes nothing: only the missing heartbeat shows it."""
    client = Redis.from_url(own_valkey.url)
    options = {"api_url": api.url, "silence_s": 0.5, "timeout_s": 0.3}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        await stack.enter_async_context(beating(client))
        reader, probe = await stack.enter_async_context(reading(own_valkey.url, **options))
        feed = await stack.enter_async_context(reader.changes())
        api.write(change("1", 1))
        own_valkey.freeze()
        try:
            await wait(probe.off)
        finally:
            own_valkey.thaw()
        assert brief(await take(feed, 2)) == [("resubscribed", True), ("1", 1)]


async def test_heartbeats_keep_a_connection(valkey_url: str, redis: Redis) -> None:
    async with reading(valkey_url, silence_s=3600) as (reader, probe):
        silent_at = reader._news._silent_at
        async with asyncio.timeout(HANGS_S):
            while reader._news._silent_at == silent_at:
                await beat(redis)
        assert reader.live
        assert not probe.off.is_set()


async def test_a_silent_channel_is_left(valkey_url: str) -> None:
    async with reading(valkey_url, silence_s=0.1) as (_, probe):
        await wait(probe.off)
        await wait(probe.on)


# --- changes: the log ---


@pytest.mark.usefixtures("calm")
async def test_a_version_that_does_not_follow_is_a_gap(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    async with reading(valkey_url, api_url=api.url) as (reader, _), reader.changes() as feed:
        api.write(change("1", 1), change("1", 2), change("1", 3))
        await publish(redis, change("1", 1), change("1", 3))
        items = await take(feed, 4)
    assert brief(items) == [("1", 1), ("version_gap", True), ("1", 2), ("1", 3)]


@pytest.mark.usefixtures("calm")
async def test_a_change_that_the_log_does_not_show_yet_is_handed_out_all_the_same(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    async with reading(valkey_url, api_url=api.url) as (reader, _), reader.changes() as feed:
        await publish(redis, change("1", 1), change("1", 3), change("1", 4))
        items = await take(feed, 4)
    assert brief(items) == [("1", 1), ("version_gap", True), ("1", 3), ("1", 4)]


@pytest.mark.usefixtures("calm")
async def test_without_an_api_a_version_gap_is_said_and_stays(
    valkey_url: str, redis: Redis
) -> None:
    async with reading(valkey_url) as (reader, _), reader.changes() as feed:
        await publish(redis, change("1", 1), change("1", 3))
        assert brief(await take(feed, 3)) == [("1", 1), ("version_gap", False), ("1", 3)]


@pytest.mark.usefixtures("calm")
async def test_a_publish_that_was_lost_is_found_by_the_poll(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    options = {"api_url": api.url, "poll_s": 0.05}
    async with reading(valkey_url, **options) as (reader, _), reader.changes() as feed:
        api.write(change("1", 1))
        assert brief(await take(feed, 2)) == [("missed_news", True), ("1", 1)]


@pytest.mark.usefixtures("calm")
async def test_the_poll_repeats_nothing_and_announces_nothing_that_was_heard(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    options = {"api_url": api.url, "poll_s": 0.05}
    async with reading(valkey_url, **options) as (reader, _), reader.changes() as feed:
        api.write(change("1", 1))
        await publish(redis, change("1", 1))
        assert brief(await take(feed, 1)) == [("1", 1)]
        waiting = asyncio.create_task(take(feed, 1))
        async with asyncio.timeout(HANGS_S):
            while await api.asked.get() != "0.1":
                pass
        await publish(redis, change("2", 1))
        assert brief(await waiting) == [("2", 1)]


@pytest.mark.usefixtures("calm")
async def test_what_cannot_be_replayed_now_is_said_and_comes_later(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    options = {"api_url": api.url, "poll_s": 0.1}
    async with reading(valkey_url, **options) as (reader, _), reader.changes() as feed:
        api.write(change("1", 1), change("2", 1), change("1", 2), change("1", 3))
        api.down = True
        await publish(redis, change("1", 1), change("1", 3))
        items = await take(feed, 3)
        assert brief(items) == [("1", 1), ("version_gap", False), ("1", 3)]
        api.down = False
        assert brief(await take(feed, 2)) == [("missed_news", True), ("2", 1)]


@pytest.mark.usefixtures("calm")
async def test_a_log_that_no_longer_reaches_back_is_a_gap_and_it_goes_on_from_now(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    api.write(*(change("1", number) for number in range(1, 6)))
    api.pruned = 3
    async with reading(valkey_url, api_url=api.url) as (reader, _), reader.changes("0.1") as feed:
        (gap,) = await take(feed, 1)
        assert isinstance(gap, Gap)
        assert gap == Gap(gap.reason, Cursor(0, 1), recovered=False)
        assert gap.reason == "cursor_pruned"
        await publish(redis, change("2", 1))
        assert brief(await take(feed, 1)) == [("2", 1)]
        assert api.asked_changes == ["0.1", None]
        api.write(change("3", 1))
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert brief(await take(feed, 2)) == [("resubscribed", True), ("3", 1)]


@pytest.mark.usefixtures("calm")
async def test_it_goes_on_where_an_earlier_iterator_was(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    """Page by page, and `cursor` never runs ahead of what was handed out."""
    api.write(*(change(str(number), 1) for number in range(1200)))
    async with reading(valkey_url, api_url=api.url) as (reader, _):
        async with reader.changes(after=Cursor(0, 5)) as feed:
            items = await take(feed, 500)
            assert brief(items)[::499] == [("5", 1), ("504", 1)]
            assert feed.cursor == Cursor(0, 5)
            await take(feed, 1)
            cursor = feed.cursor
        async with reader.changes(after=str(cursor)) as feed:
            assert brief(await take(feed, 695))[::694] == [("505", 1), ("1199", 1)]
            await publish(redis, change("x", 1))
            assert brief(await take(feed, 1)) == [("x", 1)]
            assert feed.cursor == Cursor(0, 1200)


@pytest.mark.usefixtures("calm")
async def test_without_an_api_it_cannot_go_on_and_says_so(valkey_url: str, redis: Redis) -> None:
    async with reading(valkey_url) as (reader, _), reader.changes(after="0.7") as feed:
        await publish(redis, change("1", 1))
        assert brief(await take(feed, 2)) == [("no_api", False), ("1", 1)]


@pytest.mark.usefixtures("calm")
async def test_an_api_that_is_away_at_the_start_is_said(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    api.write(change("1", 1))
    api.down = True
    options = {"api_url": api.url, "poll_s": 0.1}
    async with reading(valkey_url, **options) as (reader, _), reader.changes(after="0.0") as feed:
        assert brief(await take(feed, 1)) == [("api_unavailable", False)]
        api.down = False
        assert brief(await take(feed, 2)) == [("missed_news", True), ("1", 1)]


@pytest.mark.usefixtures("calm")
async def test_who_lags_is_told_and_catches_up(valkey_url: str, redis: Redis, api: FakeApi) -> None:
    """A queue is bounded; who keeps up beside the one who lags loses nothing."""
    options = {"api_url": api.url, "queue_size": 3}
    changes = [change(str(number), 1) for number in range(10)]
    async with (
        reading(valkey_url, **options) as (reader, probe),
        reader.changes() as slow,
        reader.changes() as quick,
    ):
        for one in changes:
            api.write(one)
            await publish(redis, one)
            assert brief(await take(quick, 1)) == [(one.entity.id, 1)]
        await probe.heard_all(10)
        assert len(slow._queue) <= 3 + 1
        items = await take(slow, 11)
    assert brief(items) == [("lagged", True)] + [(str(number), 1) for number in range(10)]


@pytest.mark.usefixtures("calm")
async def test_without_an_api_who_lags_is_told(valkey_url: str, redis: Redis) -> None:
    async with reading(valkey_url, queue_size=3) as (reader, probe), reader.changes() as feed:
        await publish(redis, *(change(str(number), 1) for number in range(4)))
        await probe.heard_all(4)
        assert brief(await take(feed, 2)) == [("lagged", False), ("3", 1)]


@pytest.mark.usefixtures("calm")
async def test_the_memory_of_versions_is_bounded(valkey_url: str, redis: Redis) -> None:
    async with reading(valkey_url) as (reader, _), reader.changes() as feed:
        feed._remembered = 2
        await publish(redis, *(change(str(number), 1) for number in range(5)))
        await take(feed, 5)
        assert len(feed._versions) == 2


@pytest.mark.usefixtures("calm")
async def test_many_iterators_share_one_listener(valkey_url: str, redis: Redis) -> None:
    async with reading(valkey_url) as (reader, _):
        async with reader.changes() as one, reader.changes() as two:
            await publish(redis, change("1", 1))
            assert brief(await take(one, 1)) == brief(await take(two, 1)) == [("1", 1)]
            assert await redis.pubsub_numsub(NEWS) == [(NEWS.encode(), 1)]
        assert not [f for f in reader._news.listeners if isinstance(f, ChangeFeed)]


@pytest.mark.usefixtures("calm")
async def test_giving_up_on_one_item_loses_nothing(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    async with reading(valkey_url, api_url=api.url) as (reader, _), reader.changes() as feed:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(feed), 0.05)
        await publish(redis, change("1", 1))
        assert brief(await take(feed, 1)) == [("1", 1)]


async def test_closing_the_reader_ends_its_iterators(valkey_url: str) -> None:
    async with PaymentReader(valkey_url) as reader:
        waiting = asyncio.create_task(_all(reader.changes()))
        await reader._news.tried.wait()
    async with asyncio.timeout(HANGS_S):
        assert await waiting == []


async def test_closing_ends_the_listener_at_any_moment(valkey_url: str) -> None:
    """Redis-py can swallow a cancellation; the listener ends all the same."""
    for turns in range(60):
        async with PaymentReader(valkey_url) as reader:
            for _ in range(turns):
                await asyncio.sleep(0)
        assert reader._listening is not None
        assert reader._listening.done()


async def _all(feed: ChangeFeed) -> list[Change | Gap]:
    return [item async for item in feed]


# --- waiting for one payment ---


def _answer(own_id: str, status: str, version: int = 1) -> dict[str, Any]:
    return {
        "payment_id": own_id, "tx_ref": None, "kind": "charge", "status": status,
        "terminal": is_terminal(Status(status)), "version": version, "source": "database",
        "as_of": "2026-10-01T10:00:00.000Z", "fresh": True, "held": False,
    }  # fmt: skip


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("status", ["failed", "successful"])
async def test_it_waits_until_a_change_says_the_end(
    valkey_url: str, redis: Redis, status: str
) -> None:
    async with reading(valkey_url) as (reader, _):
        waiting = asyncio.create_task(reader.wait_for("1", timeout=HANGS_S))
        await _watched(reader)
        await publish(redis, change("1", 2, "processing"), change("1", 3, status))
        answer = await waiting
    assert (answer.status, answer.version, answer.fresh) == (status, 3, True)


async def _watched(reader: PaymentReader) -> None:
    """Let a task that was just made run as far as its watch."""
    await asyncio.sleep(0)
    assert reader._watches._by_entity


async def test_what_has_ended_is_not_waited_for(valkey_url: str, redis: Redis) -> None:
    await put(redis, Entity.reference("default", "order"), "successful", 2)
    async with reading(valkey_url) as (reader, _):
        answer = await reader.wait_for(tx_ref="order", timeout=HANGS_S)
    assert answer.status == "successful"


@pytest.mark.usefixtures("calm")
async def test_an_end_during_the_read_is_not_missed(
    valkey_url: str, redis: Redis, api: FakeApi
) -> None:
    """The change comes while the API still answers what was before."""
    api.statuses["charge", "1"] = _answer("1", "pending")

    async def settle() -> None:
        await publish(redis, change("1", 2, "successful"))
        await probe.heard_all(1)

    api.before = settle
    async with reading(valkey_url, api_url=api.url) as (reader, probe):
        answer = await reader.wait_for("1", timeout=HANGS_S)
    assert (answer.status, answer.version) == ("successful", 2)
    assert len(api.asked_statuses) == 1


@pytest.mark.usefixtures("calm")
async def test_it_waits_for_a_version(valkey_url: str, redis: Redis, api: FakeApi) -> None:
    api.statuses["charge", "1"] = _answer("1", "pending", 2)
    async with reading(valkey_url, api_url=api.url) as (reader, _):
        answer = await reader.wait_for("1", terminal=False, version=2, timeout=HANGS_S)
        assert (answer.status, answer.version) == ("pending", 2)
        waiting = asyncio.create_task(
            reader.wait_for("1", terminal=False, version=3, timeout=HANGS_S)
        )
        await _watched(reader)
        api.statuses["charge", "1"] = _answer("1", "processing", 3)
        await publish(redis, change("1", 3, "processing"))
        assert (await waiting).version == 3


async def test_waiting_has_an_end(valkey_url: str) -> None:
    async with reading(valkey_url) as (reader, _):
        with pytest.raises(TimeoutError):
            await reader.wait_for("1", timeout=0.05)
        assert reader._watches._by_entity == {}


async def test_an_end_that_is_not_proven_is_waited_for(valkey_url: str, redis: Redis) -> None:
    await put(redis, charge("1"), "failed", 2)
    async with reading(valkey_url) as (reader, _):
        with pytest.raises(TimeoutError):
            await reader.wait_for("1", timeout=0.1)


async def test_without_a_feed_it_asks_again(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "ASK_AGAIN_S", 0.02)
    api.statuses["charge", "1"] = _answer("1", "pending")

    async def settle() -> None:
        if len(api.asked_statuses) == 3:
            api.statuses["charge", "1"] = _answer("1", "failed", 2)

    api.before = settle
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with reading(url, api_url=api.url, timeout_s=0.2) as (reader, _):
        answer = await reader.wait_for("1", timeout=HANGS_S)
    assert (answer.status, len(api.asked_statuses)) == ("failed", 3)


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("noticed", [True, False])
async def test_a_reconnect_makes_it_look_again(
    valkey_url: str, redis: Redis, api: FakeApi, noticed: bool
) -> None:
    """The change that ends it may be the one that was lost."""
    api.statuses["charge", "1"] = _answer("1", "pending")
    async with reading(valkey_url, api_url=api.url, poll_s=60) as (reader, _):
        waiting = asyncio.create_task(reader.wait_for("1", timeout=HANGS_S))
        async with asyncio.timeout(HANGS_S):
            await api.asked.get()
        api.statuses["charge", "1"] = _answer("1", "failed", 2)
        if noticed:
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        else:
            await _subscribe_again(reader)
        assert (await waiting).status == "failed"


async def test_the_plain_reader_waits_by_asking(valkey_url: str, redis: Redis) -> None:
    loop = asyncio.get_running_loop()
    await put(redis, charge("1"), "pending", 1)
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        asyncio.run_coroutine_threadsafe(put(redis, charge("1"), "successful", 2), loop).result(
            HANGS_S
        )

    with PaymentReaderSync(valkey_url, sleep=sleep) as reader:
        answer = await asyncio.to_thread(reader.wait_for, "1", timeout=HANGS_S)
        assert (answer.status, pauses) == ("successful", [1.0])
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(reader.wait_for, "2", timeout=0)
        with pytest.raises(ApiMissing):
            reader.payment("1")


# --- with a whole paystate ---


async def test_a_payment_is_waited_for_from_its_webhook_to_its_end(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        options = {"api_url": world.url, "api_token": TOKEN}
        async with reading(open_process.cache, **options) as (reader, _):
            waiting = asyncio.create_task(reader.wait_for(tx_ref="whole-1", timeout=HANGS_S))
            await _watched(reader)
            number = new_id()
            await world.v3(bodies.v3_charge(id=number, status="successful", tx_ref="whole-1"))
            await world.settle()
            answer = await waiting
            assert (answer.status, answer.payment_id) == ("successful", str(number))


@pytest.mark.usefixtures("calm")
async def test_the_change_log_has_what_was_not_heard(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        options = {"api_url": world.url, "api_token": TOKEN}
        async with reading(open_process.cache, **options) as (reader, _):
            async with reader.changes() as feed:
                first = await _settled(world, "successful", tx_ref="log-1")
                heard = await take(feed, 4)
                cursor = feed.cursor
            second = await _settled(world, "failed", tx_ref="log-2")
            async with reader.changes(after=cursor) as feed:
                replayed = await take(feed, 8)
    assert sorted(brief(heard)) == sorted(
        [(first, 1), (first, 2), ("log-1", 1), ("log-1", 2)],
    )
    assert sorted(brief(replayed)) == sorted(
        [*brief(heard), (second, 1), (second, 2), ("log-2", 1), ("log-2", 2)]
    )
    assert not any(isinstance(item, Gap) for item in heard + replayed)


async def test_a_log_that_was_pruned_is_said_by_the_real_api(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        await _settled(world, "successful", tx_ref="pruned-1")
        await world.age("changes", "changed_ms", 10_000)
        await world.resources.store.prune_changes(older_than_ms=5000, most=100)
        options = {"api_url": world.url, "api_token": TOKEN}
        async with reading(open_process.cache, **options) as (reader, _):
            assert brief(await take(reader.changes(after="0.0"), 1)) == [("cursor_pruned", False)]
