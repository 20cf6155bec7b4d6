"""The customer's page over HTTP: what a link opens, what it shows, how it is told of changes."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from paystate.cli.commands import cli
from paystate.keys import Entity, EntityKind
from paystate.links import Links
from tests.conftest import Opener
from tests.harness import TOKEN, World, make_payment, new_id, open_provider, open_world
from tests.harness import provider_settings as provided
from tests.integration.test_streams import Stream, feeding
from tests.unit import bodies
from webhook_server import pay

KEYS = "page-key-of-this-test,page-key-from-before"
PRIVATE = ("user@", "1500", "NGN", "flw_ref", "Jane", "4242", "card")


@pytest.fixture
async def on_sqlite(sqlite_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """What a process holds open, on SQLite alone."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, sqlite_url, valkey_url)


@asynccontextmanager
async def serving(opener: Opener, **more: str) -> AsyncIterator[World]:
    async with open_world(opener, **{"LINK_KEY": KEYS, **more}) as world:
        yield world


async def link(world: World, path: str, body: Any = None) -> Any:
    made = await world.post(path, body or {})
    assert made.status == 201, made.body
    assert made.headers["Cache-Control"] == "no-store"
    assert made.body["url"] == world.url + made.body["path"]
    return made.body


async def opened(world: World, path: str) -> Any:
    return await world.get(path, token=None, Accept="text/html,*/*;q=0.8")


def state(page: Any) -> str:
    found = re.search(r'data-state="([a-z]+)" data-version', page.body.decode())
    assert found
    return found[1]


def aged(world: World, tx_ref: str, ttl_s: int, keys: str = KEYS) -> str:
    """A link to a reference, made two hours ago."""
    import time

    maker = Links(keys.split(","), clock=lambda: time.time() - 7200)
    return f"/pay/{maker.make(Entity.reference('default', tx_ref), ttl_s)[0]}"


async def test_a_link_shows_the_status_and_nothing_of_the_customer(on_sqlite: Opener) -> None:
    """Not even the payment's id, its amount, or the shop's reference."""
    async with serving(on_sqlite) as world:
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="successful", tx_ref=f"order-{number}"))
        made = await link(world, f"/api/payments/{number}/link")
        assert (made["kind"], made["id"]) == ("charge", str(number))
        before = await opened(world, made["path"])
        assert (before.status, state(before)) == (200, "processing")
        await world.settle()
        page = await opened(world, made["path"])
        assert state(page) == "successful"
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        told = await world.get(made["path"] + "/status", token=None)
        assert told.headers["Cache-Control"] == "no-store"
        assert told.body.keys() == {"status", "terminal", "version", "fresh", "held", "as_of"}
        assert (told.body["status"], told.body["terminal"]) == ("successful", True)
        text = page.body.decode() + json.dumps(told.body)
        assert not [word for word in (*PRIVATE, str(number), "order-") if word in text]


async def test_a_stream_and_a_long_poll_tell_of_the_change(
    on_sqlite: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pay, "LOOK_AGAIN_S", math.inf)  # or it would be seen by chance
    async with serving(on_sqlite) as world, feeding(world):
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"order-{number}"))
        await world.settle()
        path = (await link(world, f"/api/payments/by-ref/order-{number}/link"))["path"]
        async with world.session.get(f"{world.url}{path}/events") as response:
            assert response.headers["Cache-Control"] == "no-store"
            stream = Stream(response)
            event, first, _ = await stream.next()
            assert (event, first["status"]) == ("status", "pending")
            asked = f"{path}/status?wait=30&after_version={first['version']}"
            polling = asyncio.create_task(world.get(asked, token=None))
            await world.v3(
                bodies.v3_charge(id=number, status="successful", tx_ref=f"order-{number}")
            )
            event, second, _ = await stream.next()
            assert (event, second["status"]) == ("status", "processing")
            polled = (await polling).body
            assert polled["version"] > first["version"]
            assert polled["status"] in ("processing", "successful")
            await world.settle()
            _, third, _ = await stream.next()
            assert (third["status"], third["terminal"]) == ("successful", True)
            assert first["version"] < second["version"] < third["version"]


async def test_a_link_may_come_before_its_payment(on_sqlite: Opener) -> None:
    """The shop gives its reference a link at the checkout; the page waits for the first news."""
    async with serving(on_sqlite) as world, feeding(world):
        number = new_id()
        path = (await link(world, "/api/payments/link", {"tx_ref": f"a/b {number}"}))["path"]
        assert state(await opened(world, path)) == "unknown"
        async with world.session.get(f"{world.url}{path}/events") as response:
            stream = Stream(response)
            assert (await stream.next())[1]["status"] == "unknown"
            await world.v3(bodies.v3_charge(id=number, status="successful", tx_ref=f"a/b {number}"))
            assert (await stream.next())[1]["status"] == "processing"


async def test_a_payment_whose_webhook_never_comes_is_asked_for(on_sqlite: Opener) -> None:
    """A page that is looked at is a question like any other: Flutterwave is asked for the old."""
    settings = {"PENDING_RECHECK_S": "5", "PENDING_LEASE_MS": "0"}
    async with (
        open_provider() as provider,
        serving(on_sqlite, **provided(provider), **settings) as world,
    ):
        number = new_id()
        make_payment(provider, number, "pending", tx_ref=f"order-{number}")
        await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"order-{number}"))
        await world.settle()
        path = (await link(world, f"/api/payments/{number}/link"))["path"]
        payment = provider.sandbox.truth.find(str(number))
        assert payment is not None
        provider.sandbox.truth.settle(payment, "successful", at=1.0)
        await world.age("entities", "changed_ms", 10_000)
        assert state(await opened(world, path)) == "successful"


async def test_a_link_that_opens_nothing_says_so_to_people_and_to_programs(
    on_sqlite: Opener,
) -> None:
    async with serving(on_sqlite) as world:
        good = aged(world, "order-1", 9000)
        assert (await opened(world, good)).status == 200
        assert (await opened(world, aged(world, "order-1", 9000, KEYS.split(",")[1]))).status == 200
        refused = {
            aged(world, "order-1", 3600): (410, "link_expired", "expired"),
            aged(world, "order-1", 9000, "another-key"): (403, "link_invalid", "invalid"),
            good[:-6]: (403, "link_invalid", "invalid"),
            "/pay/nonsense": (403, "link_invalid", "invalid"),
            "/pay/%00%ff": (403, "link_invalid", "invalid"),
        }
        for path, (status, reason, shown) in refused.items():
            page = await opened(world, path)
            assert (page.status, state(page)) == (status, shown)
            assert page.headers["Cache-Control"] == "no-store"
            for ending in ("", "/status", "/events"):
                told = await world.get(path + ending, token=None)
                assert (told.status, told.reason) == (status, reason)
        text = (await world.get("/metrics", token=None)).body.decode()
        assert 'paystate_http_requests_total{route="/pay/{token}",status="410"} 2.0' in text


async def test_a_stream_ends_with_its_link(on_sqlite: Opener) -> None:
    async with serving(on_sqlite) as world:
        path = aged(world, "order-2", 7201)
        async with world.session.get(f"{world.url}{path}/events") as response:
            stream = Stream(response)
            assert (await stream.next())[0] == "status"
            assert (await stream.next())[0] == "expired"
            with pytest.raises(EOFError):
                await stream.next()


async def test_links_are_made_for_those_who_may_ask(on_sqlite: Opener, tmp_path: Path) -> None:
    merchants = tmp_path / "merchants.toml"
    merchants.write_text('[acme]\nsecret_hash = "acme-hash"\n')
    settings = {
        "MERCHANTS_FILE": str(merchants),
        "API_TOKENS": f"{TOKEN},shop:acme:read=acme-token",
        "PUBLIC_URL": "https://pay.example.com/",
    }
    async with serving(on_sqlite, **settings) as world:
        made = await world.session.post(
            f"{world.url}/api/payments/by-ref/r1/link",
            headers={"Authorization": "Bearer acme-token"},
        )
        body = await made.json()
        assert body["url"] == f"https://pay.example.com{body['path']}"
        token = body["path"].rpartition("/")[2]
        link = Links(KEYS.split(",")).read(token)
        assert link.entity == Entity("acme", EntityKind.REFERENCE, "r1")
        async with world.session.post(f"{world.url}/api/payments/by-ref/r1/link") as answer:
            assert answer.status == 401
        for asked, status, reason in (
            ({"id": "999999"}, 404, "unknown_payment"),
            ({}, 400, "id_or_tx_ref"),
            ({"id": "1", "tx_ref": "r"}, 400, "id_or_tx_ref"),
            ({"tx_ref": "r", "ttl_s": 59}, 400, "invalid_ttl_s"),
            ({"tx_ref": "r", "ttl_s": True}, 400, "invalid_ttl_s"),
            ({"tx_ref": "r", "ttl_s": 10**9}, 400, "invalid_ttl_s"),
            ({"tx_ref": ["r"]}, 400, "invalid_tx_ref"),
            ({"id": "r\0"}, 400, "invalid_id"),
            ({"tx_ref": "r", "kind": "order"}, 400, "invalid_kind"),
            (["r"], 400, "not_an_object"),
        ):
            refused = await world.post("/api/payments/link", asked)
            assert (refused.status, refused.reason) == (status, reason), asked
        made = await world.post("/api/payments/link", {"tx_ref": "r", "ttl_s": 600.0})
        assert made.status == 201
        other = await world.get("/api/payments/link")
        assert (other.status, other.headers["Allow"]) == (405, "POST")


async def test_without_a_key_there_are_no_links(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        refused = await world.post("/api/payments/by-ref/r1/link", {})
        assert (refused.status, refused.reason) == (501, "link_key_missing")
        assert (await world.get("/pay/x", token=None)).status == 403


async def test_the_command_prints_a_link_that_opens(on_sqlite: Opener, tmp_path: Path) -> None:
    async with serving(on_sqlite) as world:
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="pending"))

        def run(*words: str) -> Any:
            server = ["--url", world.url, "--token", TOKEN, "--data-dir", str(tmp_path)]
            return CliRunner().invoke(cli, ["link", *words, *server])

        made = await asyncio.to_thread(run, str(number), "--ttl", "60")
        assert made.exit_code == 0, made.output
        # The server of this test logs to where the command writes.
        [path] = re.findall(rf"^{world.url}(/pay/\S+)$", made.output, re.MULTILINE)
        page = await opened(world, path)
        assert (page.status, state(page)) == (200, "processing")
        assert (await asyncio.to_thread(run, "88888888")).exit_code == 1
        by_ref = await asyncio.to_thread(run, "any/ref", "--ref", "--json")
        [answer] = re.findall(r"^\{.*\}$", by_ref.output, re.MULTILINE)
        assert json.loads(answer)["kind"] == "reference"


async def test_what_pages_use_is_checked_each_time_and_sent_once(on_sqlite: Opener) -> None:
    async with serving(on_sqlite) as world:
        style = await world.get("/pages/pay.css", token=None)
        assert (style.status, style.headers["Cache-Control"]) == (200, "no-cache")
        assert style.headers["Content-Type"] == "text/css; charset=utf-8"
        again = await world.get(
            "/pages/pay.css", token=None, **{"If-None-Match": style.headers["ETag"]}
        )
        assert (again.status, again.body) == (304, b"")
        for path in ("/pages/pay.html", "/pages/nothing.css", "/pages/..%2Fapp.py"):
            assert (await world.get(path, token=None)).status == 404
