"""Merchants that come, go and change while the processes run; and tokens bound to them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from paystate.flutterwave.accounts import budget_of
from paystate.flutterwave.budget import Budget
from paystate.keys import Entity, EntityKind
from paystate.merchants import Merchant
from paystate.metrics import Metrics
from paystate.roster import Roster
from tests.conftest import Opener, settings_for
from tests.harness import World, make_payment, new_id, open_provider, open_world, provider_settings
from tests.unit import bodies

CANARY = "c4n4ry-s3cr3t"
HANGS_S = 30
SHOP = '[shop]\nsecret_hash = "shop-hash"\ntokens = ["page:read=shop-reader"]\n'


class File:
    """A merchants file, and how a process comes to know of what is written to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "merchants.toml"
        self._writes = 0

    def write(self, text: str) -> None:
        """Replace it as careful people do, with a time of change of its own."""
        draft = self.path.with_suffix(".new")
        draft.write_text(text, "utf-8")
        self._writes += 1
        os.utime(draft, ns=(self._writes, self._writes))
        draft.replace(self.path)

    async def say(self, text: str, *rosters: Roster) -> None:
        """Write it, and have processes look at it as often as it takes."""
        self.write(text)
        for roster in rosters:
            for _ in range(3):
                await roster.look()


@pytest.fixture
def file(tmp_path: Path) -> File:
    """An empty merchants file."""
    found = File(tmp_path)
    found.write("")
    return found


@pytest.fixture
async def on_sqlite(sqlite_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """What a process holds open, on the one database: what is tested has nothing to do with it."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, sqlite_url, valkey_url)


@pytest.fixture
async def world(on_sqlite: Opener, file: File) -> AsyncIterator[World]:
    """A process whose merchants file is `file`."""
    async with open_world(on_sqlite, MERCHANTS_FILE=str(file.path)) as opened:
        yield opened


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return what a metric says."""
    return metrics.registry.get_sample_value(name, labels)


async def status_of(
    world: World,
    number: int,
    token: str,
    query: str = "",
    *,
    by: aiohttp.ClientSession | None = None,
) -> tuple[int, Any]:
    """Return the code, and the status or the reason, of a lookup; `by` has its own connection."""
    path = f"{world.url}/api/payments/{number}/status{query}"
    headers = {"Authorization": f"Bearer {token}"}
    async with (by or world.session).get(path, headers=headers) as response:
        body = await response.json(content_type=None)
        return response.status, body.get("status" if response.status == 200 else "reason")


# --- while it runs --------------------------------------------------------------------------------


async def test_a_merchant_that_is_added_is_served_without_a_restart(
    world: World, file: File
) -> None:
    """Its webhooks are taken and settled, its token reads, and streams hear of it."""
    number = new_id()
    body = bodies.v3_charge(id=number)
    assert (await world.v3(body, secret="shop-hash", merchant="shop")).status == 404
    assert await status_of(world, number, "shop-reader") == (401, "token_unknown")

    await file.say(SHOP, world.resources.roster)
    assert (await world.v3(body, secret="shop-hash", merchant="shop")).status == 200
    await world.settle()
    assert await status_of(world, number, "shop-reader") == (200, "successful")
    assert await status_of(world, number, "operator-token", "?merchant=shop") == (200, "successful")
    assert sample(world.resources.metrics, "paystate_merchants_reloads_total", outcome="taken") == 1


async def test_a_rotated_secret_counts_at_once_and_the_old_one_as_long_as_it_is_listed(
    world: World, file: File
) -> None:
    roster = world.resources.roster

    async def codes() -> list[int]:
        return [
            (await world.v3(bodies.v3_charge(id=new_id()), secret=secret, merchant="shop")).status
            for secret in ("old", "new")
        ]

    await file.say('[shop]\nsecret_hash = "old"\n', roster)
    assert await codes() == [200, 401]
    await file.say('[shop]\nsecret_hash = "new,old"\n', roster)
    assert await codes() == [200, 200]
    await file.say('[shop]\nsecret_hash = "new"\n', roster)
    assert await codes() == [401, 200]


async def test_new_credentials_are_asked_with_at_once(on_sqlite: Opener, file: File) -> None:
    async with (
        open_provider() as sandbox,
        open_world(
            on_sqlite, **{**provider_settings(sandbox), "MERCHANTS_FILE": str(file.path)}
        ) as world,
    ):
        shop = '[shop]\nsecret_hash = "h"\nsecret_key = "{}"\n'
        await file.say(shop.format("wrong"), world.resources.roster)
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref="r-1")
        await world.v3(bodies.v3_charge(id=number, tx_ref="r-1"), secret="h", merchant="shop")
        await world.settle()
        token = "operator-token"
        assert await status_of(world, number, token, "?merchant=shop") == (200, "processing")
        await file.say(shop.format(sandbox.sandbox.config.secret_key), world.resources.roster)
        await world.make_due()
        await world.settle()
        assert await status_of(world, number, token, "?merchant=shop") == (200, "successful")


def test_a_merchants_budget_is_that_of_its_table_or_the_first_ones() -> None:
    """One for the hour alone has the minutes that go with it."""
    settings = settings_for(
        "sqlite:///x.db", "redis://h",
        PROVIDER_CALLS_PER_HOUR="1000", PROVIDER_CALLS_PER_MINUTE="70",
    )  # fmt: skip
    for own, budget in (
        ({}, Budget(1000, 70)),
        ({"calls_per_minute": 14}, Budget(1000, 14)),
        ({"calls_per_hour": 60_000}, Budget(60_000, 1200)),
        ({"calls_per_hour": 60_000, "calls_per_minute": 14}, Budget(60_000, 14)),
    ):
        assert budget_of(Merchant("shop", **own), settings) == budget


async def test_a_merchants_own_budget_is_its_own_and_a_larger_one_counts_at_once(
    on_sqlite: Opener, file: File
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(
            on_sqlite, **{**provider_settings(sandbox), "MERCHANTS_FILE": str(file.path)}
        ) as world,
    ):
        key = sandbox.sandbox.config.secret_key
        shop = f'[shop]\nsecret_hash = "h"\nsecret_key = "{key}"\ncalls_per_hour = {{}}\n'
        await file.say(shop.format(3), world.resources.roster)
        numbers = [new_id() for _ in range(5)]
        for number in numbers:
            make_payment(sandbox, number, "successful", tx_ref=f"r-{number}")
            body = bodies.v3_charge(id=number, tx_ref=f"r-{number}")
            await world.v3(body)
            await world.v3(body, secret="h", merchant="shop")

        async def settled(query: str) -> int:
            found = [await status_of(world, n, "operator-token", query) for n in numbers]
            return [status for _, status in found].count("successful")

        await world.settle()
        assert (await settled(""), await settled("?merchant=shop")) == (5, 3)
        await file.say(shop.format(100), world.resources.roster)
        await world.make_due()
        await world.settle()
        assert await settled("?merchant=shop") == 5


async def test_what_a_removed_merchant_was_sent_waits_and_is_not_believed_unconfirmed(
    world: World, file: File
) -> None:
    """Nobody knows any more what it asks for before it believes a webhook."""
    roster, number = world.resources.roster, new_id()
    await file.say(SHOP, roster)
    await world.v3(bodies.v3_charge(id=number), secret="shop-hash", merchant="shop")
    await file.say("", roster)
    await world.settle()
    shop = Entity("shop", EntityKind.CHARGE, str(number))
    (row,) = await world.resources.store.history(shop)
    assert row["state"] == "open"
    assert await status_of(world, number, "shop-reader") == (401, "token_unknown")
    answer = await status_of(world, number, "operator-token", "?merchant=shop")
    assert answer == (404, "unknown_merchant")

    await file.say(SHOP, roster)
    await world.make_due()
    await world.settle()
    assert await status_of(world, number, "shop-reader") == (200, "successful")


async def test_a_connection_that_was_let_in_is_not_for_ever(world: World, file: File) -> None:
    """The way past aiohttp ends with the token, and with the merchant."""
    roster, number = world.resources.roster, new_id()
    await file.say(SHOP, roster)
    await world.v3(bodies.v3_charge(id=number), secret="shop-hash", merchant="shop")
    await world.settle()
    async with aiohttp.ClientSession() as session:
        for _ in range(4):
            found = await status_of(world, number, "shop-reader", by=session)
            assert found == (200, "successful")
        await file.say(SHOP.replace("shop-reader", "other"), roster)
        found = await status_of(world, number, "shop-reader", by=session)
        assert found == (401, "token_unknown")
    async with aiohttp.ClientSession() as session:
        for _ in range(4):
            assert await status_of(world, number, "other", by=session) == (200, "successful")
        await file.say("", roster)
        assert await status_of(world, number, "other", by=session) == (401, "token_unknown")


async def test_news_of_a_merchant_that_is_added_is_heard(world: World, file: File) -> None:
    """On its own channel, from the next heartbeat on."""
    redis, keys = world.resources.redis, world.resources.keys
    listening = asyncio.create_task(world.resources.feed.run())
    try:
        async with asyncio.timeout(HANGS_S):
            await world.resources.feed.listening.wait()
            await file.say(SHOP, world.resources.roster)
            ours, theirs = keys.all_changes("default"), keys.all_changes("shop")
            while not (await redis.pubsub_numsub(theirs))[0][1]:
                await redis.publish(ours, b'{"heartbeat": true}')
    finally:
        listening.cancel()
        await asyncio.wait([listening], timeout=2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[shop", "not valid TOML"),
        (f'{SHOP}[b]\nsecret_hash = "{CANARY}"\ncolour = "red"\n', "colour"),
        (f'{SHOP}[b]\nsecret_hash = " {CANARY}"\n', "secret_hash"),
        (f'{SHOP}[b]\nsecret_hash = "h"\ntokens = ["{CANARY}"]\n', "tokens"),
        (f'{SHOP}[b]\nsecret_hash = "h"\ntokens = ["x:read=shop-reader"]\n', "a token of [shop]"),
        (f'{SHOP}[b]\nsecret_hash = "h"\ntokens = ["x:read=operator-token"]\n', "API_TOKENS"),
        (f'{SHOP}[b]\nsecret_hash = "h"\nclient_id = "{CANARY}"\n', "go together"),
        (f'{SHOP}[b]\nsecret_hash = "h"\nbase_url = "ftp://{CANARY}"\n', "base_url"),
        (f'{SHOP}[b]\nsecret_hash = "h"\ncalls_per_hour = 0\n', "calls_per_hour"),
        (f'{SHOP}[b]\nsecret_hash = "h"\napi = "v5"\n', "api"),
    ],
)
async def test_a_file_that_cannot_be_used_changes_nothing_and_says_so(
    tmp_path: Path, text: str, complaint: str
) -> None:
    """The last good one stays in force, until it is mended."""
    file, metrics = File(tmp_path), Metrics()
    file.write(SHOP)
    settings = settings_for("sqlite:///x.db", "redis://h", MERCHANTS_FILE=str(file.path))
    roster = Roster(settings, metrics)
    told: list[object] = []
    roster.follow(told.append)
    with structlog.testing.capture_logs() as lines:
        await file.say(text, roster)
        await roster.look()
    (line,) = lines  # once, however often it is looked at
    assert (line["event"], line["log_level"]) == ("merchants_refused", "error")
    assert any(complaint in problem for problem in line["problems"])
    assert CANARY not in str(lines)
    assert list(roster.merchants) == ["default", "shop"]
    assert not told
    assert sample(metrics, "paystate_merchants_file_refused") == 1
    assert sample(metrics, "paystate_merchants_reloads_total", outcome="refused") == 1
    await file.say('[other]\nsecret_hash = "h"\n', roster)
    assert list(roster.merchants) == ["default", "other"]
    assert sample(metrics, "paystate_merchants_file_refused") == 0


async def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    file, metrics = File(tmp_path), Metrics()
    file.write(SHOP)
    settings = settings_for("sqlite:///x.db", "redis://h", MERCHANTS_FILE=str(file.path))
    roster = Roster(settings, metrics)
    file.path.unlink()
    for _ in range(3):
        await roster.look()
    assert list(roster.merchants) == ["default", "shop"]
    assert sample(metrics, "paystate_merchants_file_refused") == 1


async def test_a_file_that_is_being_written_is_not_read_half_way(tmp_path: Path) -> None:
    """Half of it may be valid, and would take merchants away: it is read once it stays the same."""
    file = File(tmp_path)
    file.write(SHOP)
    settings = settings_for("sqlite:///x.db", "redis://h", MERCHANTS_FILE=str(file.path))
    roster = Roster(settings, Metrics())
    file.write("")
    await roster.look()
    file.write(SHOP + '[b]\nsecret_hash = "h"\n')
    await roster.look()
    assert list(roster.merchants) == ["default", "shop"]
    await roster.look()
    assert list(roster.merchants) == ["default", "shop", "b"]


async def test_a_merchant_that_has_one_api_takes_no_webhooks_of_the_other(
    world: World, file: File
) -> None:
    await file.say(
        '[three]\nsecret_hash = "h"\napi = "v3"\n[four]\nsecret_hash = "h"\napi = "v4"\n',
        world.resources.roster,
    )
    v3, v4 = bodies.v3_charge(id=new_id()), bodies.v4_charge(id=f"chg_{new_id()}")
    assert (await world.v3(v3, secret="h", merchant="three")).status == 200
    assert (await world.v4(v4, secret="h", merchant="four")).status == 200
    refused = [
        await world.v4(v4, secret="h", merchant="three"),
        await world.v3(v3, secret="h", merchant="four"),
    ]
    assert [(answer.status, answer.reason) for answer in refused] == [(401, "other_api")] * 2


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_token_reads_or_operates_and_only_for_its_merchant(
    world: World, file: File
) -> None:
    await file.say(
        '[shop]\nsecret_hash = "h"\ntokens = ["page:read=reader", "ops:operate=operator"]\n'
        '[stall]\nsecret_hash = "h"\n',
        world.resources.roster,
    )

    async def codes(path: str) -> list[int]:
        return [(await world.get(path, token=token)).status for token in ("reader", "operator")]

    assert await codes("/api/events") == [403, 200]
    assert await codes("/api/payments/1/explain?merchant=stall") == [403, 403]
    assert await codes("/api/payments/1/status?merchant=stall") == [403, 403]
    assert await codes("/api/payments/1/status") == [404, 404]
    assert await codes("/api/changes") == [200, 200]


async def test_a_token_may_make_so_many_calls_a_minute_over_all_processes(
    on_sqlite: Opener, file: File
) -> None:
    """Those answered in front of aiohttp count too; another token has a limit of its own."""
    file.write(SHOP + "api_calls_per_minute = 1000\n")
    limit = {"API_CALLS_PER_MINUTE": "100", "MERCHANTS_FILE": str(file.path)}
    number, minute = new_id(), int(time.time() // 60)
    async with AsyncExitStack() as stack:
        worlds = [await stack.enter_async_context(open_world(on_sqlite, **limit)) for _ in "ab"]
        await worlds[0].v3(bodies.v3_charge(id=number))
        await worlds[0].settle()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        found = [
            await status_of(worlds[turn % 2], number, "operator-token", by=session)
            for turn in range(310)
        ]
        answered = found.count((200, "successful"))
        assert answered + found.count((429, "too_many_calls")) == 310
        minutes = int(time.time() // 60) - minute + 1
        assert answered <= 100 * minutes
        if minutes == 1:
            assert answered == 100
            refused = await worlds[0].get(f"/api/payments/{number}/status")
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
        others = [await status_of(worlds[0], number, "shop-reader") for _ in range(30)]
        assert set(others) == {(404, "unknown_payment")}


async def test_without_redis_a_token_may_make_a_quarter_of_its_calls(on_sqlite: Opener) -> None:
    async with open_world(
        on_sqlite, API_CALLS_PER_MINUTE="40", CACHE_URL="redis://127.0.0.1:1"
    ) as world:
        codes = [(await world.get("/api/changes")).status for _ in range(30)]
        assert codes.count(200) in (10, 20)
        assert set(codes) == {200, 429}
