"""The operators' board over HTTP: who gets in, what each may see and do, and whose figures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis
from sqlalchemy import event

from paystate.cache.reports import Reporter, read_reports, total
from paystate.keys import Keys
from paystate.metrics import Metrics
from tests.conftest import Opener
from tests.harness import TOKEN, World, new_id, open_world
from tests.servers import OwnValkey
from tests.unit import bodies
from webhook_server.sessions import COOKIE

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def on_sqlite(sqlite_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """What a process holds open, on SQLite alone."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, sqlite_url, valkey_url)


def v3(number: int, status: str, **more: Any) -> Any:
    return bodies.v3_charge(id=number, status=status, **{"tx_ref": f"ref-{number}", **more})


async def sign_in(world: World, token: str, **headers: str) -> aiohttp.ClientResponse:
    return await world.session.post(
        f"{world.url}/sign-in", data={"token": token}, headers=headers, allow_redirects=False
    )


async def cookie_of(world: World, token: str = TOKEN) -> str:
    """Return a session's cookie, as a header has it."""
    answer = await sign_in(world, token, **OWN)
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    world.session.cookie_jar.clear()
    return f"{COOKIE}={answer.cookies[COOKIE].value}"


async def board(world: World, query: str = "", token: str = TOKEN) -> Any:
    answer = await world.get(f"/api/board{query}", token=token)
    assert answer.status == 200, answer.body
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.body


# --- who gets in ----------------------------------------------------------------------------------


async def test_a_token_is_shown_once_and_a_cookie_stands_for_it(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        form = await world.get("/", token=None)
        assert form.status == 200
        assert b'action="/sign-in"' in form.body
        assert (await world.get("/api/board", token=None)).reason == "token_missing"
        wrong = await sign_in(world, "wrong-token", **OWN)
        assert wrong.status == 401
        assert COOKIE not in wrong.cookies
        assert b"wrong-token" not in await wrong.read()

        given = (await sign_in(world, TOKEN, **OWN)).cookies[COOKIE]
        assert given["httponly"]
        assert (given["samesite"], given["path"]) == ("Strict", "/")
        assert TOKEN not in given.value
        world.session.cookie_jar.clear()
        cookie = f"{COOKIE}={given.value}"
        page = await world.get("/", token=None, Cookie=cookie)
        assert b'id="payments"' in page.body
        assert page.headers["Cache-Control"] == "no-store"
        assert (await world.get("/api/board", token=None, Cookie=cookie)).body["you"]["session"]
        behind = await sign_in(world, TOKEN, **OWN, **{"X-Forwarded-Proto": "https"})
        assert behind.cookies[COOKIE]["secure"]

        ended = await world.get("/api/board", token=None, Cookie=cookie[:-3])
        assert (ended.status, ended.reason) == (401, "session_ended")
        assert b"session has ended" in (await world.get("/", token=None, Cookie=cookie[:-3])).body


async def test_a_cookie_does_nothing_for_a_page_of_another_site(on_sqlite: Opener) -> None:
    """Nor without the browser's word for where it comes from."""
    async with open_world(on_sqlite) as world:
        number = new_id()
        await world.v3(v3(number, "successful", amount="twelve"))
        await world.settle()
        [held] = (await world.get("/api/events")).body["events"]
        cookie = await cookie_of(world)
        address = f"{world.url}/api/events/{held['event']}/release"

        async def release(**headers: str) -> int:
            async with world.session.post(
                address, json={"reason": "seen"}, headers={"Cookie": cookie, **headers}
            ) as answer:
                return answer.status

        assert await release() == 403
        for site in ("cross-site", "same-site", "none"):
            assert await release(**{"Sec-Fetch-Site": site}) == 403
        assert await release(Origin="https://elsewhere.example") == 403
        assert await release(Origin="null") == 403
        assert (await world.get("/api/events")).body["total"] == 1
        assert await release(Origin=world.url) == 200
        assert (await sign_in(world, TOKEN)).status == 403
        assert (await sign_in(world, TOKEN, **{"Sec-Fetch-Site": "cross-site"})).status == 403
        assert (await world.session.post(f"{world.url}/sign-out")).status == 403


async def test_without_tokens_only_this_machine_and_no_page_from_elsewhere(
    on_sqlite: Opener,
) -> None:
    async with open_world(on_sqlite, API_TOKENS="", LINK_KEY="key-of-this-test") as world:
        assert b'id="payments"' in (await world.get("/", token=None)).body
        path = f"{world.url}/api/payments/by-ref/r/link"
        for headers, status in (
            ({}, 201),
            ({"Origin": world.url}, 201),
            ({"Origin": "https://elsewhere.example"}, 403),
            ({"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ):
            async with world.session.post(path, headers=headers) as answer:
                assert answer.status == status, headers


# --- what is seen ---------------------------------------------------------------------------------


async def test_the_figures_are_those_of_the_rows(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        done, begun, stuck = new_id(), new_id(), new_id()
        await world.v3(v3(done, "pending"))
        await world.v3(v3(begun, "pending"))
        await world.v3(v3(stuck, "successful", amount="twelve"))
        await world.settle()
        await world.v3(v3(done, "successful"))
        await world.settle()
        await world.v3(v3(begun, "successful"))
        seen = await board(world)
        assert seen["statuses"] == {"successful": 1, "processing": 2}
        listed = {p["payment_id"]: (p["status"], p["kind"]) for p in seen["payments"]}
        assert listed == {
            str(done): ("successful", "charge"),
            str(begun): ("processing", "charge"),
            str(stuck): ("processing", "charge"),
        }
        assert (seen["inbox"]["open"], seen["inbox"]["held"], seen["inbox"]["dead"]) == (1, 1, 0)
        assert seen["visible"]["events"] == 3
        assert 0 <= seen["visible"]["p50_ms"] <= seen["visible"]["p99_ms"] < 60_000
        await world.age("inbox", "received_ms", 90_000)
        later = await board(world)
        assert 90 <= later["inbox"]["oldest_s"] < 200
        assert later["visible"]["p50_ms"] >= 90_000
        assert later["queue_depth"] == 5
        assert later["health"]["database"] == later["health"]["cache"] == "ok"


async def test_the_board_never_shows_a_pending_that_has_been_overtaken(on_sqlite: Opener) -> None:
    """However fast it is asked: an answer is read after the question."""
    async with open_world(on_sqlite) as world:
        number = new_id()
        await world.v3(v3(number, "pending"))
        await world.settle()
        assert (await board(world))["statuses"] == {"pending": 1}
        await world.v3(v3(number, "successful"))
        assert (await board(world))["statuses"] == {"processing": 1}


async def test_however_many_look_there_is_one_query_at_a_time(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        statements: list[str] = []
        engine = world.resources.store._database.engine.sync_engine
        event.listen(engine, "before_cursor_execute",
                     lambda _c, _cursor, text, *_rest: statements.append(text))  # fmt: skip
        await board(world)
        once = len(statements)
        assert 0 < once < 10
        await asyncio.gather(*(board(world) for _ in range(40)))
        assert len(statements) == 2 * once


async def test_a_bound_token_sees_its_merchant_alone_and_a_reader_rules_on_nothing(
    on_sqlite: Opener, tmp_path: Path
) -> None:
    merchants = tmp_path / "merchants.toml"
    merchants.write_text('[acme]\nsecret_hash = "acme-hash"\n')
    settings = {
        "MERCHANTS_FILE": str(merchants),
        "API_TOKENS": f"{TOKEN},shop:acme:read=acme-token",
    }
    async with open_world(on_sqlite, **settings) as world:
        ours, theirs = new_id(), new_id()
        await world.v3(v3(ours, "pending"))
        await world.v3(v3(theirs, "successful", amount="x"), secret="acme-hash", merchant="acme")
        await world.settle()
        everybody = await board(world)
        assert sum(everybody["statuses"].values()) == 2
        assert everybody["you"]["merchants"] == ["default", "acme"]
        one = await board(world, "?merchant=default")
        assert [p["payment_id"] for p in one["payments"]] == [str(ours)]
        assert (one["inbox"]["held"], one["visible"]["events"]) == (0, 1)
        bound = await board(world, token="acme-token")
        assert [p["payment_id"] for p in bound["payments"]] == [str(theirs)]
        assert (bound["inbox"]["held"], bound["visible"]["events"]) == (1, 0)
        assert bound["you"] == {
            "name": "shop", "merchant": "acme", "operator": False, "merchants": ["acme"],
            "session": False,
        }  # fmt: skip
        assert not {"fleet", "queue_depth"} & bound.keys()
        refused = await world.get("/api/board?merchant=default", token="acme-token")
        assert (refused.status, refused.reason) == (403, "other_merchant")
        cookie = await cookie_of(world, "acme-token")
        for path in ("/api/events", "/api/events/1/release"):
            method = world.session.get if path.endswith("events") else world.session.post
            async with method(world.url + path, headers={"Cookie": cookie, **OWN}) as answer:
                assert answer.status == 403
                assert (await answer.json())["reason"] == "operators_only"


async def test_what_is_away_is_named_and_the_rest_is_shown(sqlite_url: str) -> None:
    valkey = OwnValkey()
    valkey.start()
    try:
        async with AsyncExitStack() as stack:
            opener = Opener(stack, sqlite_url, valkey.url)
            async with open_world(opener, CACHE_TIMEOUT_MS="200") as world:
                await world.v3(v3(new_id(), "pending"))
                valkey.kill()
                seen = await board(world)
                health = seen["health"]
                assert (health["cache"], health["database"]) == ("unreachable", "ok")
                assert (health["worker"], health["news"]) == ("unknown", "silent")
                assert seen["inbox"]["open"] == 1
                assert seen["queue_depth"] is None
    finally:
        valkey.close()


# --- what processes say of themselves -------------------------------------------------------------


async def test_counts_of_all_processes_are_added_and_those_of_the_dead_are_not(
    redis: Redis, keys: Keys
) -> None:
    """Of web processes and workers alike, whoever is asked."""
    for role, lookups in (("web", 3), ("worker", 4)):
        counted = Metrics()
        counted.lookups.labels("cache", "true").inc(lookups)
        counted.lookups.labels("database", "false").inc()
        reporter = Reporter(redis, keys, counted, role)
        await reporter.report()
        await reporter.report()
    await redis.hset(keys.reports, "web:gone:1", '1000 {"role":"web","since_ms":0,"counts":[]}')
    await redis.hset(keys.reports, "web:odd:1", "no report")
    reports = await read_reports(redis, keys)
    assert [report.role for report in reports] == ["web", "worker"]
    assert total(reports, "paystate_lookups_total") == 9
    assert total(reports, "paystate_lookups_total", source="cache") == 7
    assert await redis.hlen(keys.reports) == 2
    assert 0 < await redis.pttl(keys.reports) <= 10_000
