"""The status cache on a real Valkey: one test for each rule of the coherence protocol.

Leases here are a minute long where time is not the point, and 50 ms where it is; then the test
waits for the server's own clock to pass the moment in question.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from bench.ports import free_port
from paystate.cache.answers import Hit, Miss
from paystate.cache.reports import REPORT
from paystate.cache.scripts import FILL, GET, KEEP, MARK, PUT, run
from paystate.cache.statuses import OFFERS, OVERTAKEN_MS, StatusCache
from paystate.changes import Change, Cursor
from paystate.connections import connect
from paystate.errors import CacheUnavailable
from paystate.keys import Entity, EntityKind, Keys
from paystate.metrics import Metrics
from paystate.state import EntityState
from paystate.status import Status
from paystate.ttl import DEFAULT_TTL
from tests.servers import OwnValkey

LONG_MS = 60_000
SHORT_MS = 50

KEYS = Keys()
PAYMENT = Entity("default", EntityKind.CHARGE, "1001")
REFERENCE = Entity("default", EntityKind.REFERENCE, "order-1")
HASH = KEYS.hash(PAYMENT)

U, PE, PR, F, V, S = Status
UNSETTLED_OR_FAILED = (U, PE, PR, F, V)


def row(
    status: Status,
    version: int,
    *,
    entity: Entity = PAYMENT,
    open_events: int = 0,
    held_events: int = 0,
    link: str | None = "order-1",
    changed_ms: int = 1_700_000_000_000,
) -> EntityState:
    """Return a row of the database."""
    return EntityState(entity, status, version, open_events, held_events, link, changed_ms)


def change_to(state: EntityState) -> Change:
    """Return the change that made `state`."""
    return Change(
        state.entity,
        state.payment_id,
        state.tx_ref,
        state.shown,
        PE,
        state.terminal,
        state.version,
        state.version - 1,
        state.changed_ms,
        Cursor(7, state.version),
    )


def cache_on(redis: Redis, lease_ms: int = LONG_MS, draw: float = 0.0) -> StatusCache:
    """Return a cache as one process has it."""
    return StatusCache(
        redis, lease_ms=lease_ms, ttl=DEFAULT_TTL, metrics=Metrics(), draw=lambda: draw
    )


@pytest.fixture
def cache(redis: Redis) -> StatusCache:
    """A cache with a lease so long that none runs out in a test."""
    return cache_on(redis)


@pytest.fixture
def brief(redis: Redis) -> StatusCache:
    """A cache with a lease so short that a test can outwait it."""
    return cache_on(redis, SHORT_MS)


@pytest.fixture
def strict(redis: Redis) -> StatusCache:
    """A cache that serves and stores `successful` only."""
    return cache_on(redis, 0)


@asynccontextmanager
async def client_of(server: OwnValkey, timeout_s: float = 5) -> AsyncIterator[Redis]:
    """Yield a new client of a server of the test's own."""
    client = connect(server.url, timeout_s=timeout_s)
    try:
        yield client
    finally:
        await client.aclose()


async def server_ms(redis: Redis) -> int:
    """Return the server's clock in milliseconds."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def until_server_is_past(redis: Redis, moment_ms: int) -> None:
    """Ask the server for its clock until that is later than `moment_ms`."""
    while await server_ms(redis) <= moment_ms:
        pass


async def token_for(cache: StatusCache, entity: Entity = PAYMENT) -> str:
    """Miss, and return the token that came with it."""
    miss = await cache.read(entity)
    assert isinstance(miss, Miss)
    token = miss.take_token()
    assert token is not None
    return token


async def hit(cache: StatusCache, entity: Entity = PAYMENT) -> Hit:
    """Read and expect an answer."""
    answer = await cache.read(entity)
    assert isinstance(answer, Hit), answer
    return answer


async def miss(cache: StatusCache, entity: Entity = PAYMENT) -> Miss:
    """Read and expect none."""
    answer = await cache.read(entity)
    assert isinstance(answer, Miss), answer
    return answer


async def filled(cache: StatusCache, state: EntityState) -> None:
    """Bring `state` into the cache as a reader does."""
    assert await cache.fill(state, await token_for(cache, state.entity)) == "stored"


async def calls(redis: Redis) -> dict[str, int]:
    """Return how often each command has run since `CONFIG RESETSTAT`, our own asking apart."""
    stats = await redis.info("commandstats")
    ours = {"info", "config|resetstat", "client|setinfo", "hello", "select", "client|setname"}
    named = {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}
    return {name: count for name, count in named.items() if name not in ours}


# --- tokens and fills -----------------------------------------------------------------------------


async def test_a_miss_gives_the_token_to_one_reader_and_to_the_rest_none(redis: Redis) -> None:
    """Of twenty processes that miss at once, one may fill."""
    answers = await asyncio.gather(*(cache_on(redis).read(PAYMENT) for _ in range(20)))
    tokens = [answer.token for answer in answers if isinstance(answer, Miss)]
    assert len(tokens) == 20
    assert sum(token is not None for token in tokens) == 1


async def test_readers_of_one_process_share_one_token(cache: StatusCache) -> None:
    """Those who share a miss share its token, and the first to take it has it."""
    answers = await asyncio.gather(*(cache.read(PAYMENT) for _ in range(5)))
    tokens = [answer.take_token() for answer in answers if isinstance(answer, Miss)]
    assert len(tokens) == 5
    assert sum(token is not None for token in tokens) == 1


async def test_a_token_that_has_run_out_is_granted_to_the_next(
    cache: StatusCache, brief: StatusCache
) -> None:
    """A reader that died with the token keeps nobody from filling for longer than a lease."""
    await brief.mark([row(PE, 1)])  # a floor, which keeps the key beyond the token's time
    first = await token_for(brief)
    await until_server_is_past(brief._redis, await server_ms(brief._redis) + SHORT_MS)
    second = await token_for(brief)
    assert second != first
    assert await cache.fill(row(PE, 1), first) == "no_token"
    assert await cache.fill(row(PE, 1), second) == "stored"


@pytest.mark.parametrize("status", UNSETTLED_OR_FAILED)
async def test_a_fill_under_its_token_is_served(cache: StatusCache, status: Status) -> None:
    """What the token's reader brings is answered, field by field."""
    await filled(cache, row(status, 4))
    answer = await hit(cache)
    assert (answer.status, answer.version, answer.link) == (status, 4, "order-1")
    assert answer.changed_ms == 1_700_000_000_000


async def test_a_fill_counts_as_proven_when_its_token_was_granted(cache: StatusCache) -> None:
    """The moment of proof is before the read of the database, not after it."""
    redis = cache._redis
    before = await server_ms(redis)
    token = await token_for(cache)
    granted_by = await server_ms(redis)
    await until_server_is_past(redis, granted_by + 5)
    assert await cache.fill(row(PE, 1), token) == "stored"
    assert before <= (await hit(cache)).as_of_ms <= granted_by


async def test_a_fill_needs_a_token(cache: StatusCache) -> None:
    """Without a token, or with one that was never granted, nothing is stored."""
    assert await cache.fill(row(PE, 1), None) == "not_cacheable"
    assert await cache.fill(row(PE, 1), "guessed") == "no_token"
    await token_for(cache)
    assert await cache.fill(row(PE, 1), "guessed") == "no_token"
    await miss(cache)


async def test_a_token_fills_once(cache: StatusCache) -> None:
    """A token that has been used is gone."""
    token = await token_for(cache)
    assert await cache.fill(row(PE, 1), token) == "stored"
    assert await cache.fill(row(PE, 2), token) == "no_token"


@pytest.mark.parametrize("marked", [1, 2, 3])
async def test_a_fill_is_refused_after_a_mark(cache: StatusCache, marked: int) -> None:
    """A mark takes the token away, also a mark of no newer version: an event may have opened."""
    token = await token_for(cache)
    await cache.mark([row(PE, marked)])
    assert await cache.fill(row(PE, 2), token) in {"no_token", "below_floor"}
    assert await cache.fill(row(PE, 3), token) == "no_token"
    await miss(cache)


async def test_a_fill_is_refused_after_a_put(cache: StatusCache) -> None:
    """A put of what is not `successful` takes the token away as a mark does."""
    token = await token_for(cache)
    await cache.put([row(F, 2)], [])
    assert await cache.fill(row(F, 2), token) == "no_token"


async def test_a_fill_is_refused_after_an_eviction(cache: StatusCache) -> None:
    """When the server has forgotten the floor, it has forgotten the token with it."""
    token = await token_for(cache)
    await cache.mark([row(PR, 2)])
    await cache._redis.flushall()
    assert await cache.fill(row(PE, 1), token) == "no_token"
    await miss(cache)


async def test_a_restart_ends_tokens_and_leases_even_if_the_data_survives(
    own_valkey: OwnValkey,
) -> None:
    """A server that came back with its data may have lost the last of it: it proves nothing."""
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        await filled(cache, row(PE, 1))
        held = await token_for(cache, REFERENCE)
    own_valkey.restart()
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        assert await redis.hget(HASH, "status") == b"pending"
        assert await redis.hget(KEYS.hash(REFERENCE), "token") == held.encode()
        await token_for(cache)
        assert await cache.fill(row(PE, 1, entity=REFERENCE), held) == "token_late"
        assert await token_for(cache, REFERENCE) != held


async def test_a_promotion_ends_tokens_and_leases(own_valkey: OwnValkey) -> None:
    """A replica that became the primary may not have heard of the last invalidations."""
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        await filled(cache, row(PE, 1))
        held = await token_for(cache, REFERENCE)
        await redis.replicaof("127.0.0.1", "1")
        await redis.replicaof("NO", "ONE")
        assert await redis.hget(HASH, "status") == b"pending"
        assert await cache.fill(row(PE, 1, entity=REFERENCE), held) == "token_late"
        await token_for(cache)


@pytest.mark.parametrize(("open_events", "held_events"), [(1, 0), (0, 1), (2, 2)])
async def test_nothing_is_filled_while_an_event_is_open_or_held(
    cache: StatusCache, open_events: int, held_events: int
) -> None:
    """A row that is about to change is not cached, though its reader has the token."""
    token = await token_for(cache)
    state = row(PE, 1, open_events=open_events, held_events=held_events)
    assert await cache.fill(state, token) == "not_cacheable"
    await miss(cache)


async def test_fills_that_cannot_be_sent_do_not_pile_up(cache: StatusCache) -> None:
    """A crowd asks for one payment while the cache is silent; what was offered is stored."""
    offered = [cache.offer(row(S, 3), None) for _ in range(OFFERS + 10)]
    assert offered[OFFERS:] == [None] * 10
    results = [await one for one in offered if one is not None]
    assert Counter(results) == {"stored": 1, "older": OFFERS - 1}
    assert await cache.fill(row(S, 4), None) == "stored"


async def test_the_script_itself_refuses_a_row_with_an_open_event(cache: StatusCache) -> None:
    """The rule stands in the script too, for callers that do not know it."""
    token = await token_for(cache)
    arguments = (LONG_MS, token, "pending", 1, 0, "", 1000, 1)
    assert await run(cache._redis, [(FILL, HASH, arguments)]) == [b"event_open"]
    await miss(cache)


async def test_a_fill_is_refused_once_its_token_is_older_than_a_lease(brief: StatusCache) -> None:
    """A reader that took too long may have been overtaken where nobody can tell."""
    await brief.mark([row(PE, 1)])  # a floor, which keeps the key beyond the token's time
    token = await token_for(brief)
    await until_server_is_past(brief._redis, await server_ms(brief._redis) + SHORT_MS)
    assert await brief._redis.hget(HASH, "token") == token.encode()
    assert await brief.fill(row(PE, 1), token) == "token_late"


async def test_a_fill_below_the_floor_is_refused(cache: StatusCache) -> None:
    """A reader with a fresh token and an old row (a replica's, a bug's) stores nothing."""
    await cache.mark([row(PE, 5)])
    token = await token_for(cache)
    assert await cache.fill(row(PE, 4), token) == "below_floor"
    assert await cache.fill(row(S, 4), None) == "below_floor"
    assert await cache.fill(row(PE, 5), token) == "stored"


async def test_a_fill_older_than_what_is_held_is_refused(
    cache: StatusCache, brief: StatusCache
) -> None:
    """What is held stays, though its lease has run out; the same version proves it anew."""
    await filled(cache, row(PE, 5))
    await until_server_is_past(brief._redis, await server_ms(brief._redis) + SHORT_MS)
    token = await token_for(brief)
    assert await cache.fill(row(PE, 4), token) == "older"
    assert await cache.fill(row(S, 4), None) == "older"
    assert await brief._redis.hget(HASH, "version") == b"5"
    assert await cache.fill(row(PE, 5), token) == "stored"


async def test_a_lease_that_has_run_out_is_a_miss_with_a_token(
    cache: StatusCache, brief: StatusCache
) -> None:
    """Kept is not served: after the lease the entry is there and answers nobody."""
    await filled(cache, row(PE, 1))
    await until_server_is_past(brief._redis, await server_ms(brief._redis) + SHORT_MS)
    await token_for(brief)
    assert await brief._redis.hget(HASH, "status") == b"pending"


async def test_a_moment_of_proof_in_the_future_is_not_believed(cache: StatusCache) -> None:
    """A clock that was set back makes an entry a miss, not an entry that lives for ever."""
    await filled(cache, row(PE, 1))
    await cache._redis.hset(HASH, "proven_at", str(await server_ms(cache._redis) + LONG_MS))
    await miss(cache)


# --- `successful` ---------------------------------------------------------------------------------


async def test_successful_needs_no_token(cache: StatusCache) -> None:
    """It is final, so whoever has read it may store it."""
    assert await cache.fill(row(S, 3), None) == "stored"
    answer = await hit(cache)
    assert (answer.status, answer.version) == (S, 3)
    assert answer.as_of_ms == answer.changed_ms == 1_700_000_000_000


async def test_successful_is_stored_while_events_are_open(cache: StatusCache) -> None:
    """No event can make it stale."""
    assert await cache.fill(row(S, 3, open_events=2, held_events=1), None) == "stored"


async def test_successful_is_never_replaced_by_older_or_unsettled(cache: StatusCache) -> None:
    """Fill, put and mark of anything but a later `successful` leave it as it is."""
    await cache.put([row(S, 3)], [])
    before = await cache._redis.hgetall(HASH)
    for status in UNSETTLED_OR_FAILED:
        await cache.put([row(status, 9)], [])
        await cache.mark([row(status, 9)])
        arguments = (LONG_MS, "", status.value, 9, 0, "", 1000, 0)
        assert await run(cache._redis, [(FILL, HASH, arguments)]) == [b"older"]
    assert await cache.fill(row(S, 2), None) == "older"
    assert await cache.fill(row(S, 3, changed_ms=5), None) == "older"
    await cache.put([row(S, 2, changed_ms=5), row(S, 3, changed_ms=5)], [])
    assert await cache._redis.hgetall(HASH) == before


async def test_a_later_successful_replaces_an_earlier_one(cache: StatusCache) -> None:
    """By put and by fill alike, the greater version is held."""
    await cache.put([row(S, 3)], [])
    await cache.put([row(S, 4)], [])
    assert (await hit(cache)).version == 4
    assert await cache.fill(row(S, 5), None) == "stored"
    assert (await hit(cache)).version == 5


async def test_successful_replaces_whatever_else_is_held(cache: StatusCache) -> None:
    """A put of `successful` clears floor, token and lease away with the old entry."""
    await filled(cache, row(PE, 1))
    await cache.mark([row(PE, 7)])
    await cache.put([row(S, 2)], [])
    assert set(await cache._redis.hgetall(HASH)) == {b"status", b"version", b"at", b"link"}
    assert (await hit(cache)).version == 2


async def test_successful_survives_a_restart_as_an_answer(own_valkey: OwnValkey) -> None:
    """It needs no proof of when or by whom."""
    async with client_of(own_valkey) as redis:
        await cache_on(redis).put([row(S, 3)], [])
    own_valkey.restart()
    async with client_of(own_valkey) as redis:
        assert (await hit(cache_on(redis))).version == 3


# --- mark and put ---------------------------------------------------------------------------------


async def test_a_mark_drops_what_is_older_and_raises_the_floor(cache: StatusCache) -> None:
    """After it the old pending is a miss, and nothing older comes back."""
    await filled(cache, row(PE, 1))
    await cache.mark([row(PR, 2)])
    assert await cache._redis.hgetall(HASH) == {b"floor": b"2"}
    await miss(cache)


async def test_a_mark_never_lowers_the_floor(cache: StatusCache) -> None:
    """A mark that comes late is no licence to serve what an earlier one ruled out."""
    await cache.mark([row(PR, 7)])
    await cache.mark([row(PR, 3)])
    await cache.put([row(F, 4)], [])
    assert await cache._redis.hget(HASH, "floor") == b"7"


async def test_a_floor_keeps_every_digit(cache: StatusCache) -> None:
    """Versions beyond a million million are written in full, not in powers of ten."""
    await cache.mark([row(PE, 10**15 + 1)])
    assert await cache._redis.hget(HASH, "floor") == b"1000000000000001"


@pytest.mark.parametrize("status", UNSETTLED_OR_FAILED)
async def test_a_put_of_anything_but_successful_is_a_mark(
    cache: StatusCache, status: Status
) -> None:
    """It stores nothing: an event that came in after the commit may have overtaken it."""
    await filled(cache, row(PE, 1))
    await cache.put([row(status, 2)], [])
    assert await cache._redis.hgetall(HASH) == {b"floor": b"2"}
    await miss(cache)


async def test_of_several_rows_of_one_payment_the_latest_counts(cache: StatusCache) -> None:
    """A batch may hold a payment twice; what is written is its greatest version."""
    await cache.put([row(S, 4), row(PE, 2), row(S, 3)], [])
    assert (await hit(cache)).version == 4
    await cache.mark([row(PE, 1, entity=REFERENCE), row(PE, 3, entity=REFERENCE)])
    assert await cache._redis.hget(KEYS.hash(REFERENCE), "floor") == b"3"


async def test_nothing_to_write_is_no_call(cache: StatusCache) -> None:
    """An empty batch does not touch the server."""
    await cache._redis.config_resetstat()
    await cache.mark([])
    await cache.put([], [])
    assert await calls(cache._redis) == {}


@asynccontextmanager
async def listening(redis: Redis, *channels: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Yield a function that returns the next (channel, message); subscribed when entered."""
    pubsub = redis.pubsub()
    await pubsub.subscribe(*channels)
    for _ in channels:
        assert (await pubsub.get_message(timeout=None))["type"] == "subscribe"

    async def heard() -> tuple[str, Any]:
        message = await pubsub.get_message(timeout=None)
        return message["channel"].decode(), orjson.loads(message["data"])

    try:
        yield heard
    finally:
        await pubsub.aclose()


@pytest.mark.parametrize("merchant", ["default", "shop"])
@pytest.mark.parametrize("status", [S, F, PE])
async def test_a_put_publishes_the_change_on_both_channels_after_it_wrote(
    cache: StatusCache, status: Status, merchant: str
) -> None:
    """Payment's and merchant's channel carry the public JSON; who hears it finds it written."""
    entity = Entity(merchant, EntityKind.CHARGE, "1001")
    await filled(cache, row(PE, 1, entity=entity))
    state = row(status, 2, entity=entity)
    change = change_to(state)
    ours, all_ours = KEYS.changes(entity), KEYS.all_changes(merchant)
    async with listening(cache._redis, ours, all_ours) as heard:
        await cache.put([state], [change])
        assert [await heard(), await heard()] == [
            (ours, change.to_json()),
            (all_ours, change.to_json()),
        ]
    answer = await cache.read(entity)
    assert answer == Hit(S, 2, "order-1", *[state.changed_ms] * 2) or isinstance(answer, Miss)


async def test_a_put_that_stores_nothing_publishes_all_the_same(cache: StatusCache) -> None:
    """Late news is still news: the subscriber, not the cache, decides what is newer."""
    await cache.put([row(S, 9)], [])
    late = row(S, 3)
    async with listening(cache._redis, KEYS.changes(PAYMENT)) as heard:
        await cache.put([late], [change_to(late)])
        assert (await heard())[1]["version"] == 3
    assert (await hit(cache)).version == 9


async def test_a_put_without_a_change_publishes_nothing(cache: StatusCache) -> None:
    """Nor does one whose change is of another version; the first message heard is the next."""
    async with listening(cache._redis, KEYS.changes(PAYMENT)) as heard:
        await cache.put([row(S, 2)], [])
        await cache.put([row(S, 3)], [change_to(row(S, 2))])
        await cache.put([row(S, 4)], [change_to(row(S, 4))])
        assert (await heard())[1]["version"] == 4


async def test_an_announcement_marks_and_publishes(cache: StatusCache) -> None:
    """After an acknowledgement the old entry is gone, and whoever listens knows why."""
    await filled(cache, row(PE, 1))
    state = row(PE, 2, open_events=1)
    quiet = row(PE, 1, entity=REFERENCE)
    await filled(cache, quiet)
    async with listening(cache._redis, KEYS.all_changes("default")) as heard:
        await cache.announce([state, quiet], [change_to(state)])
        assert (await heard())[1]["status"] == "processing"
    assert await cache._redis.hgetall(HASH) == {b"floor": b"2"}
    assert await cache._redis.hget(KEYS.hash(REFERENCE), "floor") == b"1"


# --- times to live --------------------------------------------------------------------------------

SECONDS = {U: 120, PE: 300, PR: 60, F: 86_400, V: 86_400, S: 86_400}


async def kept_s(redis: Redis, key: str = HASH) -> float:
    """Return how long `key` will be kept, in seconds."""
    remaining: int = await redis.pttl(key)
    return remaining / 1000


def is_about(remaining_s: float, planned_s: float) -> bool:
    """Say whether `remaining_s` is `planned_s` less the moments since it was set."""
    return planned_s * 0.97 < remaining_s <= planned_s


@pytest.mark.parametrize("draw", [0.0, 0.999])
@pytest.mark.parametrize(("status", "seconds"), SECONDS.items())
async def test_a_fill_is_kept_as_long_as_its_status_says(
    redis: Redis, status: Status, seconds: int, draw: float
) -> None:
    """The jitter adds up to a tenth, and never takes away."""
    await filled(cache_on(redis, draw=draw), row(status, 1))
    assert is_about(await kept_s(redis), seconds * (1 + draw / 10))


@pytest.mark.parametrize("draw", [0.0, 0.999])
async def test_a_put_of_successful_is_kept_for_a_day(redis: Redis, draw: float) -> None:
    """86,400 seconds, and up to a tenth more."""
    await cache_on(redis, draw=draw).put([row(S, 1)], [])
    assert is_about(await kept_s(redis), 86_400 * (1 + draw / 10))


@pytest.mark.parametrize("status", [S, F, V])
async def test_the_time_is_extended_when_a_payment_settles(
    cache: StatusCache, status: Status
) -> None:
    """What was kept for minutes as pending is kept for a day once settled."""
    await filled(cache, row(PE, 1))
    assert is_about(await kept_s(cache._redis), 300)
    await cache.put([row(status, 2)], [])
    assert is_about(await kept_s(cache._redis), 86_400)


async def test_a_second_put_of_successful_extends_its_time(cache: StatusCache) -> None:
    """A payment that is written through again is kept for another day."""
    await cache.put([row(S, 1)], [])
    await cache._redis.pexpire(HASH, 1_000_000)
    await cache.put([row(S, 1)], [])
    assert is_about(await kept_s(cache._redis), 86_400)


async def test_a_mark_keeps_its_floor_for_five_minutes(cache: StatusCache) -> None:
    """Longer than any reader is on its way from the database to its fill."""
    await cache.mark([row(PE, 1)])
    assert is_about(await kept_s(cache._redis), 300)


async def test_a_mark_never_shortens_the_time_of_a_floor(cache: StatusCache) -> None:
    """A longer time that runs already goes on, also under a put of what is not final."""
    await cache.put([row(F, 1)], [])
    await cache.mark([row(PE, 2)])
    await cache.put([row(PE, 3)], [])
    assert is_about(await kept_s(cache._redis), 86_400)


@pytest.mark.parametrize("is_held", [False, True])
async def test_a_late_put_takes_nothing_back_from_the_mark_of_the_next_version(
    cache: StatusCache, is_held: bool
) -> None:
    """Else an entry would be kept for a day that nobody may be left to replace."""
    if is_held:
        await cache.put([row(S, 3)], [])
    await cache.mark([row(S, 4)])
    await cache.put([row(S, 3)], [])
    assert 0 < await cache._redis.pttl(HASH) <= OVERTAKEN_MS
    await cache.put([row(S, 4)], [])
    assert await cache._redis.pttl(HASH) > OVERTAKEN_MS


async def test_a_successful_entry_that_is_overtaken_is_kept_until_the_next_is_written_through(
    cache: StatusCache,
) -> None:
    """Half a minute: then whoever was to do that has died. However often that is marked."""
    await cache.put([row(S, 1)], [])
    await cache.mark([row(S, 1)])
    assert is_about(await kept_s(cache._redis), 86_400)
    await cache.mark([row(S, 2)])
    assert is_about(await kept_s(cache._redis), 30)
    await cache._redis.pexpire(HASH, 20_000)
    for version in (2, 1):
        await cache.mark([row(S, version)])
    await cache.put([row(PE, 3)], [])
    assert is_about(await kept_s(cache._redis), 20)
    await cache.put([row(S, 2)], [])
    assert is_about(await kept_s(cache._redis), 86_400)


async def test_a_token_alone_is_kept_for_two_leases(cache: StatusCache) -> None:
    """Lookups of ids that do not exist leave nothing behind for long."""
    await token_for(cache)
    assert is_about(await kept_s(cache._redis), 2 * LONG_MS / 1000)


async def test_no_key_is_without_an_end(cache: StatusCache) -> None:
    """Whatever is written, the server is told when to forget it."""
    await token_for(cache, Entity("default", EntityKind.CHARGE, "a"))
    await filled(cache, row(PE, 1, entity=Entity("default", EntityKind.CHARGE, "b")))
    await cache.mark([row(PE, 1, entity=Entity("default", EntityKind.CHARGE, "c"))])
    await cache.put([row(F, 1, entity=Entity("default", EntityKind.CHARGE, "d"))], [])
    await cache.put([row(S, 1, entity=Entity("default", EntityKind.CHARGE, "e"))], [])
    await cache.fill(row(S, 1, entity=Entity("default", EntityKind.CHARGE, "f")), None)
    keys = await cache._redis.keys()
    assert len(keys) == 6
    assert all([await cache._redis.pttl(key) > 0 for key in keys])


# --- strict mode ----------------------------------------------------------------------------------


async def test_strict_mode_stores_only_successful(strict: StatusCache) -> None:
    """With a lease of 0 nothing else is filled, and no token is given."""
    assert (await miss(strict)).token is None
    for status in UNSETTLED_OR_FAILED:
        assert await strict.fill(row(status, 1), "token") == "not_cacheable"
    assert await strict._redis.exists(HASH) == 0
    assert await strict.fill(row(S, 2), None) == "stored"
    assert (await hit(strict)).version == 2


@pytest.mark.parametrize("status", UNSETTLED_OR_FAILED)
async def test_strict_mode_does_not_serve_what_another_process_has_leased(
    cache: StatusCache, strict: StatusCache, status: Status
) -> None:
    """An entry that is proven only for a while is a miss."""
    await filled(cache, row(status, 1))
    await hit(cache)
    assert await strict.read(PAYMENT) == Miss()


async def test_strict_mode_never_runs_the_lease_script(strict: StatusCache) -> None:
    """A miss costs one HMGET: no clock, no token, no write."""
    await strict._redis.config_resetstat()
    await miss(strict)
    assert await calls(strict._redis) == {"hmget": 1}


# --- what a read costs ----------------------------------------------------------------------------


async def test_a_hit_on_a_successful_payment_is_one_hmget(cache: StatusCache) -> None:
    """One command, no script, however many callers ask at that moment."""
    await cache.put([row(S, 1)], [])
    await hit(cache)
    await cache._redis.config_resetstat()
    answers = await asyncio.gather(*(cache.read(PAYMENT) for _ in range(50)))
    assert all(isinstance(answer, Hit) for answer in answers)
    assert await calls(cache._redis) == {"hmget": 1}


async def test_reads_of_one_moment_share_a_round_trip(cache: StatusCache) -> None:
    """Fifty payments asked for at once reach the server as one packet of fifty commands."""
    crowd = [Entity("default", EntityKind.CHARGE, f"crowd-{n}") for n in range(50)]
    await cache.put([row(S, n + 1, entity=entity) for n, entity in enumerate(crowd)], [])
    await cache._redis.ping()

    async def packets() -> int:
        return int((await cache._redis.info("stats"))["total_reads_processed"])

    before = await packets()
    answers = await asyncio.gather(*(cache.read(entity) for entity in crowd))
    assert await packets() - before == 2  # the reads, and the asking itself
    assert [a.version for a in answers if isinstance(a, Hit)] == list(range(1, 51))


async def test_misses_of_one_moment_share_a_round_trip(cache: StatusCache) -> None:
    """A crowd of misses is two packets: the plain reads, then the lease script for all."""
    crowd = [Entity("default", EntityKind.CHARGE, f"crowd-{n}") for n in range(50)]
    await asyncio.gather(miss(cache), miss(cache, REFERENCE))  # the server has the scripts then
    await cache._redis.config_resetstat()
    await asyncio.gather(*(cache.read(entity) for entity in crowd))
    assert int((await cache._redis.info("stats"))["total_reads_processed"]) <= 4
    assert (await calls(cache._redis))["evalsha"] == 1  # for all keys, which are on one server


# --- corrupt entries ------------------------------------------------------------------------------

Spoil = Callable[[Redis], Awaitable[Any]]


async def _as_text(redis: Redis) -> None:
    await redis.set(HASH, '{"status":"successful"}')


async def _as_list(redis: Redis) -> None:
    await redis.rpush(HASH, "successful")


async def _version_is_junk(redis: Redis) -> None:
    await redis.hset(HASH, mapping={"status": "successful", "version": "new", "at": "1"})


async def _version_is_missing(redis: Redis) -> None:
    await redis.hset(HASH, mapping={"status": "successful", "at": "1"})


async def _time_is_junk(redis: Redis) -> None:
    await redis.hset(HASH, mapping={"status": "successful", "version": "1", "at": "today"})


async def _link_is_no_text(redis: Redis) -> None:
    entry = {"status": "successful", "version": "1", "at": "1", "link": b"\xff\xfe"}
    await redis.hset(HASH, mapping=entry)


async def _proven(redis: Redis, **fields: str) -> None:
    """Write an entry under a live lease, with some fields spoilt."""
    await filled(cache_on(redis), row(PE, 1))
    await redis.hset(HASH, mapping=fields)


async def _leased_status_is_junk(redis: Redis) -> None:
    await _proven(redis, status="paid")


async def _leased_version_is_junk(redis: Redis) -> None:
    await _proven(redis, version="new")


async def _leased_time_is_junk(redis: Redis) -> None:
    await _proven(redis, at="today")


ALWAYS_CORRUPT: list[Spoil] = [
    _as_text, _as_list, _version_is_junk, _version_is_missing, _time_is_junk, _link_is_no_text,
]  # fmt: skip
LEASED_CORRUPT: list[Spoil] = [
    _leased_status_is_junk,
    _leased_version_is_junk,
    _leased_time_is_junk,
]


@pytest.mark.parametrize("lease_ms", [0, LONG_MS])
@pytest.mark.parametrize("spoil", ALWAYS_CORRUPT)
async def test_what_we_did_not_write_is_deleted_and_counts_as_a_miss(
    redis: Redis, spoil: Spoil, lease_ms: int
) -> None:
    """In both modes an entry that cannot be read is gone after the first reader."""
    await spoil(redis)
    answer = await miss(cache_on(redis, lease_ms))
    assert not answer.unreachable
    assert await redis.exists(HASH) == 0


@pytest.mark.parametrize("spoil", LEASED_CORRUPT)
async def test_a_leased_entry_that_cannot_be_read_counts_as_a_miss(
    redis: Redis, spoil: Spoil
) -> None:
    """A live lease on nonsense is no answer, and the nonsense does not stay."""
    await spoil(redis)
    answer = await miss(cache_on(redis))
    assert not answer.unreachable
    assert await redis.hget(HASH, "status") is None


@pytest.mark.parametrize("spoil", LEASED_CORRUPT)
async def test_strict_mode_does_not_look_at_leased_nonsense(redis: Redis, spoil: Spoil) -> None:
    """It is a miss like every entry that is not `successful`."""
    await spoil(redis)
    assert await cache_on(redis, 0).read(PAYMENT) == Miss()


@pytest.mark.parametrize("spoil", [*ALWAYS_CORRUPT, *LEASED_CORRUPT])
async def test_one_corrupt_entry_harms_no_other_read(redis: Redis, spoil: Spoil) -> None:
    """Whoever shares the round trip gets an answer."""
    await spoil(redis)
    cache = cache_on(redis)
    await cache.put([row(S, 1, entity=REFERENCE)], [])
    _, other = await asyncio.gather(cache.read(PAYMENT), cache.read(REFERENCE))
    assert isinstance(other, Hit)


@pytest.mark.parametrize("spoil", [*ALWAYS_CORRUPT, *LEASED_CORRUPT])
async def test_a_put_repairs_a_corrupt_entry(redis: Redis, spoil: Spoil) -> None:
    """Whatever stood there, `successful` of a later version is served afterwards."""
    await spoil(redis)
    cache = cache_on(redis)
    await cache.put([row(S, 2)], [change_to(row(S, 2))])
    assert (await hit(cache)).version == 2


@pytest.mark.parametrize("spoil", [_as_text, _as_list, *LEASED_CORRUPT])
async def test_a_mark_repairs_a_corrupt_entry(redis: Redis, spoil: Spoil) -> None:
    """Whatever stood there, the floor is in force and nothing is served below it."""
    await spoil(redis)
    cache = cache_on(redis)
    await cache.mark([row(PE, 2)])
    assert await redis.hgetall(HASH) == {b"floor": b"2"}
    await miss(cache)


@pytest.mark.parametrize("spoil", ALWAYS_CORRUPT)
async def test_after_a_mark_of_a_corrupt_entry_no_old_row_is_filled(
    redis: Redis, spoil: Spoil
) -> None:
    """A reader from before the mark stores nothing, though the entry is deleted in between."""
    await spoil(redis)
    cache = cache_on(redis)
    await cache.mark([row(PE, 2)])
    await miss(cache)
    assert await cache.fill(row(PE, 1), "token-from-before") != "stored"


async def test_a_repair_publishes_and_writes_the_rest_of_the_batch(cache: StatusCache) -> None:
    """A key of the wrong type costs nobody else's write and no news."""
    await _as_text(cache._redis)
    states = [row(S, 2), row(S, 2, entity=REFERENCE)]
    async with listening(cache._redis, KEYS.all_changes("default")) as heard:
        await cache.put(states, [change_to(state) for state in states])
        assert {(await heard())[1]["kind"] for _ in states} == {"charge", "reference"}
    assert (await hit(cache)).version == (await hit(cache, REFERENCE)).version == 2


# --- scripts the server does not have -------------------------------------------------------------


async def test_scripts_that_were_flushed_are_given_again(cache: StatusCache) -> None:
    """Each of the four heals by itself, in the middle of its work."""
    redis = cache._redis
    await redis.script_flush()
    token = await token_for(cache)
    await redis.script_flush()
    assert await cache.fill(row(PE, 1), token) == "stored"
    await redis.script_flush()
    await cache.mark([row(PE, 2), row(PE, 2, entity=REFERENCE)])
    await redis.script_flush()
    await cache.put([row(S, 3), row(S, 3, entity=REFERENCE)], [])
    assert (await hit(cache)).version == (await hit(cache, REFERENCE)).version == 3


async def test_scripts_are_given_again_after_a_restart(own_valkey: OwnValkey) -> None:
    """A server that came back without them is taught them by whoever calls first."""
    async with client_of(own_valkey) as redis:
        await cache_on(redis).mark([row(PE, 1)])
    own_valkey.restart(empty=True)
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        await cache.mark([row(PE, 2)])
        await token_for(cache)
        assert await redis.hget(HASH, "floor") == b"2"


async def test_a_lost_script_in_a_mixed_batch_runs_nothing_twice(cache: StatusCache) -> None:
    """Only the calls that the server did not know are made again."""
    await cache._redis.script_flush()
    await cache._redis.script_load(MARK.text)
    async with listening(cache._redis, KEYS.changes(PAYMENT)) as heard:
        put = (PUT, HASH, cache._put_call(row(S, 1), change_to(row(S, 1)))[2])
        mark = (MARK, KEYS.hash(REFERENCE), (4, 1000))
        assert await run(cache._redis, [mark, put, mark]) == [4, 1, 4]
        await cache.put([row(S, 2)], [change_to(row(S, 2))])
        assert [(await heard())[1]["version"] for _ in range(2)] == [1, 2]


# --- many keys, one call --------------------------------------------------------------------------


async def test_a_crowd_is_marked_and_put_in_few_calls(cache: StatusCache) -> None:
    """Each with its own version, link and news, as if it were alone."""
    crowd = [Entity("default", EntityKind.CHARGE, f"crowd-{n}") for n in range(120)]
    pending = [row(PE, n + 2, entity=one, link=f"o{n}") for n, one in enumerate(crowd)]
    settled = [row(S, n + 3, entity=one, link=f"o{n}") for n, one in enumerate(crowd)]
    await cache.mark(pending[:2])
    await cache.put(settled[:2], [])
    await cache._redis.flushdb()
    await cache._redis.config_resetstat()
    await cache.mark(pending)
    floors = [await cache._redis.hget(KEYS.hash(one), "floor") for one in crowd]
    assert floors == [b"%d" % (n + 2) for n in range(120)]
    async with listening(cache._redis, *map(KEYS.changes, crowd)) as heard:
        await cache.put(settled, [change_to(state) for state in settled])
        for n, one in enumerate(crowd):
            channel, news = await heard()
            assert (channel, news["version"], news["tx_ref"]) == (KEYS.changes(one), n + 3, f"o{n}")
    assert (await calls(cache._redis))["evalsha"] == 6
    answers = await asyncio.gather(*(hit(cache, one) for one in crowd))
    assert [(a.version, a.link) for a in answers] == [(n + 3, f"o{n}") for n in range(120)]


async def test_keys_that_are_not_on_one_server_are_written_one_by_one() -> None:
    """As behind a proxy that hides a cluster: what it refuses is done, and not tried again."""
    server = OwnValkey(**{"cluster-enabled": "yes", "cluster-port": str(free_port())})
    server.start()
    try:
        async with client_of(server) as redis:
            await redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in await redis.execute_command("CLUSTER", "INFO"):
                pass
            cache = cache_on(redis)
            both = [row(S, 3), row(S, 4, entity=REFERENCE)]
            async with listening(redis, KEYS.all_changes("default")) as heard:
                for _ in range(2):
                    await cache.put(both, [change_to(state) for state in both])
                    assert [(await heard())[1]["version"] for _ in both] == [3, 4]
            assert (await hit(cache)).version == 3
            assert (await hit(cache, REFERENCE)).version == 4
            refused = (await redis.info("errorstats"))["errorstat_CROSSSLOT"]["count"]
            assert int(refused) == 1
    finally:
        server.close()


# --- a cache that cannot be had -------------------------------------------------------------------


async def expect_nothing_but_refusals(cache: StatusCache) -> None:
    """Reads miss as unreachable, fills are given up, and every write says that it is not sure."""
    assert await cache.read(PAYMENT) == Miss(unreachable=True)
    assert await cache.fill(row(S, 1), None) == "unreachable"
    for write in (cache.mark, lambda states: cache.put(states, [])):
        with pytest.raises(CacheUnavailable):
            await write([row(PE, 2)])
    with pytest.raises(CacheUnavailable):
        await cache.announce([row(PE, 2)], [change_to(row(PE, 2))])
    assert await cache.mark_each([row(PE, 2), row(PE, 2, entity=REFERENCE)]) == [False, False]


async def test_a_killed_server_is_unreachable_and_comes_back(own_valkey: OwnValkey) -> None:
    """While it is away nothing is claimed; once it is back, the same client works."""
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        await cache.mark([row(PE, 1)])
        own_valkey.kill()
        await expect_nothing_but_refusals(cache)
        own_valkey.start()
        while (await miss(cache)).unreachable:
            pass  # each try drops one connection of before
        await cache.put([row(S, 3)], [])
        assert (await hit(cache)).version == 3


async def test_marks_are_sure_one_by_one(redis: Redis, cache: StatusCache) -> None:
    """What holds something else is deleted and marked; the others are marked all the same."""
    await redis.set(HASH, "a text")
    both = [row(PE, 2), row(PE, 3, entity=REFERENCE)]
    assert await cache.mark_each(both) == [True, True]
    assert await redis.hget(HASH, "floor") == b"2"
    assert await redis.hget(KEYS.hash(REFERENCE), "floor") == b"3"


@pytest.mark.parametrize("write", ["mark", "mark_each", "put", "announce"])
async def test_a_write_whose_connection_breaks_is_made_over_another(
    own_valkey: OwnValkey, write: str
) -> None:
    """The server is there, so nobody need wait for leases to run out, nor publish nothing."""
    state = row(S, 2)
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        calls = {
            "mark": lambda: cache.mark([state]),
            "mark_each": lambda: cache.mark_each([state]),
            "put": lambda: cache.put([state], [change_to(state)]),
            "announce": lambda: cache.announce([state], [change_to(state)]),
        }
        await cache.mark([row(PE, 1)])
        pool: Any = redis.connection_pool
        [connection] = pool._available_connections
        connection._writer.transport.abort()
        await calls[write]()
        marked = write.startswith("mark")
        assert await redis.hget(HASH, "floor" if marked else "version") == b"2"


async def until_connected(cache: StatusCache) -> None:
    """Ask until there is an answer: it may be given less time than a busy machine takes."""
    while await cache.read(PAYMENT) == Miss(unreachable=True):
        pass


async def test_a_frozen_server_is_unreachable(own_valkey: OwnValkey) -> None:
    """A server that keeps its connections and says nothing is given up in time."""
    async with client_of(own_valkey, timeout_s=0.1) as redis:
        cache = cache_on(redis)
        await until_connected(cache)
        own_valkey.freeze()
        try:
            await expect_nothing_but_refusals(cache)
        finally:
            own_valkey.thaw()


async def test_a_late_reply_is_never_taken_for_the_answer_to_the_next_call(
    own_valkey: OwnValkey,
) -> None:
    """After a time-out the connection is dropped: no reader gets another payment's status."""
    others = [Entity("default", EntityKind.CHARGE, str(n)) for n in range(5)]
    settled = [row(S, n + 1, entity=other) for n, other in enumerate(others)]
    async with client_of(own_valkey) as redis:
        await cache_on(redis).put(settled, [])
    async with client_of(own_valkey, timeout_s=0.1) as redis:
        cache = cache_on(redis)
        await until_connected(cache)
        own_valkey.freeze()
        assert await cache.read(others[0]) == Miss(unreachable=True)
        own_valkey.thaw()
        answers = [await cache.read(other) for other in others]
        versions = [(n + 1, a.version) for n, a in enumerate(answers) if isinstance(a, Hit)]
        assert all(expected == got for expected, got in versions)


async def test_a_demoted_server_takes_no_mark(own_valkey: OwnValkey) -> None:
    """READONLY is a refusal: the mark is not in force, and the caller is told."""
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        await cache.mark([row(PE, 1)])
        await redis.replicaof("127.0.0.1", "1")
        for write in (cache.mark, lambda states: cache.put(states, [])):
            with pytest.raises(CacheUnavailable):
                await write([row(PE, 2)])
        assert await cache.mark_each([row(PE, 2)]) == [False]
        assert await cache.fill(row(S, 3), None) != "stored"
        assert isinstance(await cache.read(PAYMENT), Miss)
        assert await redis.hget(HASH, "floor") == b"1"


async def test_a_server_without_enough_replicas_takes_no_mark(own_valkey: OwnValkey) -> None:
    """NOREPLICAS is a refusal like any other."""
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        await cache.mark([row(PE, 1)])
        await redis.config_set("min-replicas-to-write", "1")
        for write in (cache.mark, lambda states: cache.put(states, [])):
            with pytest.raises(CacheUnavailable):
                await write([row(PE, 2)])
        assert await redis.hget(HASH, "floor") == b"1"


async def test_a_full_server_stores_nothing_new_and_every_mark_is_in_force_or_refused(
    own_valkey: OwnValkey,
) -> None:
    """Out of memory, a write either has happened or is CacheUnavailable; reads are misses."""
    async with client_of(own_valkey) as redis:
        cache = cache_on(redis)
        await filled(cache, row(PE, 1))
        await redis.config_set("maxmemory", "1")
        try:
            await cache.mark([row(PE, 2)])
        except CacheUnavailable:
            assert await redis.hget(HASH, "floor") is None
        else:
            assert await redis.hget(HASH, "floor") == b"2"
            await miss(cache)
        try:
            await cache.put([row(S, 3)], [])
        except CacheUnavailable:
            await miss(cache)
        else:
            assert (await hit(cache)).version == 3
        assert (await miss(cache, REFERENCE)).token is None
        assert await cache.fill(row(PE, 1, entity=REFERENCE), "token") != "stored"


# --- all rules together ---------------------------------------------------------------------------


class World:
    """One payment, its row, and whoever reads and changes it, a step at a time.

    The row is the truth. Each method is one step of a protocol whose steps others come between.
    """

    def __init__(self, cache: StatusCache, dice: random.Random) -> None:
        self.cache = cache
        self.dice = dice
        self.row = row(PE, 1)
        self.acknowledged = self.row
        self.settling: EntityState | None = None
        self.unmarked = False
        self.unput: list[EntityState] = []
        self.readers: list[tuple[str | None, EntityState | None]] = []

    async def read(self) -> None:
        """Ask the cache; an answer may never be older than what was acknowledged."""
        answer = await self.cache.read(PAYMENT)
        if isinstance(answer, Hit):
            assert answer.version >= self.acknowledged.version
            assert answer.status is S or not self.acknowledged.open_events
        else:
            self.readers.append((answer.token, None))

    async def query(self) -> None:
        """Some reader's query of the database runs."""
        if self.readers:
            at = self.dice.randrange(len(self.readers))
            self.readers[at] = (self.readers[at][0], self.row)

    async def fill(self) -> None:
        """Some reader offers what it has read, however long ago."""
        ready = [r for r in self.readers if r[1] is not None]
        if ready:
            reader = self.dice.choice(ready)
            self.readers.remove(reader)
            token, state = reader
            assert state is not None
            await self.cache.fill(state, token)

    async def commit_event(self) -> None:
        """A webhook is recorded: the payment shows `processing` until it is settled."""
        if not self.row.open_events and self.settling is None and self.row.status is PE:
            self.row = row(PE, self.row.version + 1, open_events=1)
            self.unmarked = True

    async def acknowledge(self) -> None:
        """The webhook is marked and answered with 200: from now on the old status is a lie."""
        if self.unmarked:
            await self.cache.mark([self.row])
            self.unmarked = False
            self.acknowledged = self.row

    async def begin_settling(self) -> None:
        """The worker marks what it is about to commit."""
        if self.row.open_events and self.settling is None and not self.unmarked:
            end = self.dice.choice([PE, PE, PE, S])
            self.settling = row(end, self.row.version + 1)
            await self.cache.mark([self.settling])

    async def commit_settled(self) -> None:
        """The worker commits."""
        if self.settling is not None:
            self.row = self.acknowledged = self.settling
            self.settling = None
            self.unput.append(self.row)

    async def put(self) -> None:
        """The worker writes through, perhaps long after its commit."""
        if self.unput:
            await self.cache.put([self.unput.pop(self.dice.randrange(len(self.unput)))], [])

    async def evict(self) -> None:
        """The server forgets everything."""
        if self.dice.random() < 0.3:
            await self.cache._redis.flushall()


@pytest.mark.parametrize("seed", range(25))
async def test_no_interleaving_serves_what_an_acknowledgement_has_overtaken(
    cache: StatusCache, seed: int
) -> None:
    """Readers, webhooks, workers and evictions in any order: no answer is older than a 200."""
    dice = random.Random(seed)
    world = World(cache, dice)
    steps = [
        world.read, world.read, world.read, world.query, world.query, world.fill, world.fill,
        world.commit_event, world.acknowledge, world.begin_settling, world.commit_settled,
        world.put, world.evict,
    ]  # fmt: skip
    for _ in range(120):
        await dice.choice(steps)()


# --- the scripts' own words -----------------------------------------------------------------------

SCRIPTS = [
    (package, entry.name)
    for package in ("paystate.cache", "paystate.flutterwave", "paystate.payments", "worker")
    for entry in sorted(files(package).iterdir(), key=lambda entry: entry.name)
    if entry.name.endswith(".lua")
]


@pytest.mark.parametrize(("package", "name"), SCRIPTS, ids=[name for _, name in SCRIPTS])
def test_every_key_and_argument_of_a_script_is_documented_and_used(package: str, name: str) -> None:
    """The header lists each `KEYS[n]` and `ARGV[n]` of the body, in order, and no other."""
    text = files(package).joinpath(name).read_text("utf-8")
    lines = text.splitlines()
    end = next(n for n, line in enumerate(lines) if not line.startswith("--"))
    header, body = lines[:end], "\n".join(lines[end:])
    documented = [m[1] for line in header if (m := re.match(r"-- ((?:KEYS|ARGV)\[\d+\])  ", line))]
    used = set(re.findall(r"(?:KEYS|ARGV)\[\d+\]", body))
    for kind in ("KEYS", "ARGV"):
        ours = [each for each in documented if each.startswith(kind)]
        assert ours == [f"{kind}[{n + 1}]" for n in range(len(ours))]
    assert set(documented) == used
    assert any(line.startswith("-- Returns ") for line in header)


def test_all_scripts_are_covered() -> None:
    """They are those that the code loads."""
    names = {name.removesuffix(".lua") for package, name in SCRIPTS if package == "paystate.cache"}
    assert names == {script.name for script in (GET, FILL, MARK, PUT, KEEP, REPORT)}
