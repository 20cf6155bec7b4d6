"""Customers: profiles, payments and details, what is cached of them, and that they are forgotten.

Each test runs over SQLite with one Valkey, and over PostgreSQL with a cluster, where the keys of
one customer lie on different servers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from alembic import command
from click.testing import CliRunner
from sqlalchemy import Connection, text

from bench.topologies import Cluster
from paystate.cache.documents import Document, DocumentCache, Slip
from paystate.cli.commands import cli
from paystate.errors import CacheUnavailable
from paystate.flutterwave.sandbox import RunningSandbox
from paystate.flutterwave.sandbox.faults import Fault, FaultMode
from paystate.flutterwave.sandbox.records import Customer
from paystate.keys import Entity, EntityKind, Keys
from paystate.payments.customers import CustomerId
from paystate.payments.desk import open_desk
from paystate.store.customers import Customers
from paystate.store.engine import open_database
from paystate.store.migrate import _config, upgrade_async
from paystate.store.ownership import customer_key
from paystate.updates import Person
from tests.conftest import Opener, _database
from tests.harness import World, make_payment, new_id, open_provider, open_world, provider_settings
from tests.integration.test_store import unmigrated
from tests.servers import OwnValkey
from tests.unit import bodies

KEYS = Keys()
BEFORE_CUSTOMERS = "0007"
PROFILE_FIELDS = {
    "customer_id", "name", "email", "phone", "created_at", "payment_methods", "payments",
    "first_seen_at", "last_active_at", "version", "as_of", "source", "fresh",
}  # fmt: skip


@pytest.fixture(params=["sqlite-valkey", "postgresql-cluster"])
async def opener(
    request: pytest.FixtureRequest, tmp_path: Path, valkey_url: str
) -> AsyncIterator[Opener]:
    """What a process holds open, over each database and each kind of cache."""
    database, cache = request.param.split("-")
    url = await _database(database, request, tmp_path)
    cache_url = valkey_url
    if cache == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        cache_url = cluster.url
    async with AsyncExitStack() as stack:
        yield Opener(stack, url, cache_url)


@asynccontextmanager
async def _world(opener: Opener, **settings: str) -> AsyncIterator[World]:
    # On a busy machine a server may take its time, and what is looked at here is not that.
    settings = {"QUEUE_URL": _queue_of(opener), "CACHE_TIMEOUT_MS": "10000", **settings}
    async with open_world(opener, **settings) as world:
        yield world


def _queue_of(opener: Opener) -> str:
    # A cluster cannot hold the queue; nothing here is taken from one.
    cluster = "+cluster" in opener.cache
    return "redis://127.0.0.1:1/0" if cluster else opener.cache


@asynccontextmanager
async def _shop(opener: Opener, **settings: str) -> AsyncIterator[tuple[World, RunningSandbox]]:
    """A paystate that can ask a Flutterwave."""
    async with (
        open_provider() as sandbox,
        _world(opener, **provider_settings(sandbox), **settings) as world,
    ):
        yield world, sandbox


async def _paid(
    world: World, sandbox: RunningSandbox, who: Customer, *, v4: bool = False, **more: Any
) -> int | str:
    """Have a customer pay successfully, and settle it; return the payment's id."""
    number: int | str = f"chg_{new_id()}" if v4 else new_id()
    payment = make_payment(sandbox, number, more.pop("status", "successful"), **more)
    payment.customer = who
    told: dict[str, Any] = {"id": number, "amount": 1500.25, "currency": "NGN"}
    if v4:
        body = bodies.v4_charge(**told, reference=payment.tx_ref, customer={"id": who.v4_id})
        answer = await world.v4({**body, "webhook_id": f"wbk_{number}"})
    else:
        answer = await world.v3(bodies.v3_charge(**told, tx_ref=payment.tx_ref))
    assert answer.status == 200
    await world.settle()
    return number


async def _heard(world: World, customer: int, **more: Any) -> int:
    """Have a webhook come of a customer's payment where nobody can be asked, and settle it."""
    number = new_id()
    told = {"id": number, "tx_ref": f"ref-{number}", "customer": {"id": customer}, **more}
    assert (await world.v3(bodies.v3_charge(**told))).status == 200
    await world.settle()
    return number


async def _sql(world: World, statement: str) -> list[Any]:
    async def work(connection: Any) -> list[Any]:
        found = await connection.execute(text(statement))
        return list(found) if found.returns_rows else []

    return await world.resources.store._database.write(work)


async def _cached(world: World, key: str) -> dict[str, Any] | None:
    raw = await world.resources.redis.get(key)
    return orjson.loads(raw) if raw is not None else None


async def _lifetime_s(world: World, key: str) -> float:
    script = "return redis.call('PTTL', KEYS[1])"
    return int(await world.resources.redis.eval(script, 1, key)) / 1000


def _calls(world: World) -> float:
    samples = world.resources.metrics.provider_calls.collect()[0].samples
    return sum(
        s.value for s in samples
        if s.name.endswith("_total") and s.labels["purpose"] == "lookup"
    )  # fmt: skip


# --- profiles ---


async def test_a_v4_profile_comes_from_the_customers_api_and_then_from_the_cache(
    opener: Opener,
) -> None:
    async with _shop(opener) as (world, sandbox):
        who = sandbox.sandbox.truth.customers[0]
        await _paid(world, sandbox, who, v4=True)
        first = (await world.get(f"/api/customers/{who.v4_id}")).body
        assert set(first) == PROFILE_FIELDS
        assert (first["name"], first["email"], first["phone"]) == (
            f"{who.first_name} {who.last_name}", who.email, who.phone,
        )  # fmt: skip
        assert (first["source"], first["fresh"], first["payments"]) == ("provider", True, 1)
        again = await world.get(f"/api/customers/{who.v4_id}")
        assert again.headers["Cache-Control"] == "private, no-store"
        assert again.body == {**first, "source": "cache"}
        assert _calls(world) == 1
        assert 1800 <= await _lifetime_s(world, KEYS.profile("default", who.v4_id)) <= 1981


async def test_a_v3_profile_comes_from_the_customers_latest_transaction(opener: Opener) -> None:
    async with _shop(opener) as (world, sandbox):
        who = sandbox.sandbox.truth.customers[1]
        for _ in range(2):
            await _paid(world, sandbox, who)
        shown = (await world.get(f"/api/customers/{who.v3_id}")).body
        assert (shown["name"], shown["email"]) == (f"{who.first_name} {who.last_name}", who.email)
        assert shown["payments"] == 2
        for method in shown["payment_methods"]:
            assert set(method) == {"type", "last_four", "brand", "expiry"}


async def test_of_a_means_of_payment_only_type_last_four_brand_and_expiry_are_told(
    opener: Opener,
) -> None:
    async with _world(opener) as world:
        for card in ("0042", "0042", "7777"):
            await _heard(world, 8001, card={
                "first_6digits": "510510", "last_4digits": card, "type": "VISA",
                "expiry": "08/31", "token": "flw-t1nf-x",
            })  # fmt: skip
        shown = (await world.get("/api/customers/8001")).body
        assert shown["payment_methods"] == [
            {"type": "card", "last_four": last, "brand": "VISA", "expiry": "08/31"}
            for last in ("7777", "0042")
        ]
        # Nobody can be asked: a webhook's word for a name or an e-mail address is not taken.
        assert (shown["name"], shown["email"], shown["phone"]) == (None, None, None)


async def test_a_webhook_makes_the_profile_be_asked_for_anew(opener: Opener) -> None:
    async with _shop(opener) as (world, sandbox):
        truth = sandbox.sandbox.truth
        who = truth.customers[2]
        await _paid(world, sandbox, who, v4=True)
        path = f"/api/customers/{who.v4_id}"
        assert (await world.get(path)).body["email"] == who.email
        renamed = replace(who, email="new.address@example.com")
        truth.customers = tuple(renamed if c is who else c for c in truth.customers)
        assert (await world.get(path)).body["email"] == who.email  # no news of it yet
        await _paid(world, sandbox, renamed, v4=True)
        shown = (await world.get(path)).body
        assert (shown["email"], shown["payments"]) == ("new.address@example.com", 2)


async def test_an_older_answer_never_takes_a_newer_ones_place(opener: Opener) -> None:
    """The order is that of the tickets, which were taken before the questions."""
    async with _world(opener) as world:
        await _heard(world, 8002)
        customers, key = world.resources.store.customers, customer_key("default", "8002")
        first, second = await customers.ticket(key), await customers.ticket(key)
        assert first is not None
        assert second is not None
        assert await customers.learn(key, second, Person(name="Newer Name"))
        assert not await customers.learn(key, first, Person(name="Older Name"))
        row = await customers.row(key)
        assert row is not None
        assert row.person.name == "Newer Name"


async def test_an_older_document_never_takes_a_newer_ones_place(opener: Opener) -> None:
    async with _world(opener) as world:
        documents = DocumentCache(world.resources.redis, world.resources.metrics)
        older, newer = (Slip("profile", "flw:v1:customer:8003:profile", n) for n in (1, 2))
        await documents.keep([Document(newer, {"n": 2}, 60)])
        await documents.keep([Document(older, {"n": 1}, 60)])
        assert await documents.read([newer, older]) == [{"n": 2}, None]


async def test_without_its_provider_a_profile_is_what_was_known_and_says_so(
    opener: Opener,
) -> None:
    async with _shop(opener) as (world, sandbox):
        who = sandbox.sandbox.truth.customers[3]
        await _paid(world, sandbox, who)
        path = f"/api/customers/{who.v3_id}"
        assert (await world.get(path)).body["fresh"] is True
        await _paid(world, sandbox, who)
        sandbox.sandbox.faults.set(Fault(FaultMode.UNAVAILABLE))
        answer = await world.get(path)
        shown = answer.body
        assert (shown["name"], shown["fresh"], shown["source"]) == (
            f"{who.first_name} {who.last_name}", False, "database",
        )  # fmt: skip
        assert shown["payments"] == 2
        assert 1 <= int(answer.headers["Retry-After"]) <= 60


async def test_while_one_process_asks_the_others_tell_what_is_known(opener: Opener) -> None:
    async with _shop(opener) as (world, sandbox):
        other_process = _world(opener, **provider_settings(sandbox))
        async with other_process as other:
            who = sandbox.sandbox.truth.customers[8]
            await _paid(world, sandbox, who, v4=True)
            sandbox.sandbox.faults.set(Fault(FaultMode.SLOW))
            path = f"/api/customers/{who.v4_id}"
            asking = asyncio.create_task(world.get(path))
            await sandbox.sandbox.faults.held_back.wait()
            told = (await other.get(path)).body
            assert (told["payments"], told["email"], told["fresh"]) == (1, None, False)
            sandbox.sandbox.faults.set(Fault())
            assert (await asking).body["email"] == who.email
            assert _calls(world) + _calls(other) == 1


async def test_a_customer_whom_nobody_knows_is_asked_for_once(opener: Opener) -> None:
    async with _shop(opener) as (world, sandbox):
        for _ in range(3):
            answer = await world.get("/api/customers/cus_nobody")
            assert (answer.status, answer.reason) == (404, "unknown_customer")
        assert _calls(world) == 1
        assert (await world.get("/api/customers/404404")).status == 404  # v3 has no such question
        assert _calls(world) == 1
        known = sandbox.sandbox.truth.customers[4]
        met = (await world.get(f"/api/customers/{known.v4_id}")).body
        assert (met["email"], met["payments"], met["last_active_at"]) == (known.email, 0, None)


async def test_how_long_a_profile_is_kept_depends_on_when_the_customer_last_paid(
    opener: Opener,
) -> None:
    async with _world(opener) as world:
        await _heard(world, 8004)
        for age_s, least_s in ((0, 1800), (2 * 3600, 7200), (3 * 86_400, 21_600)):
            await _sql(world, f"UPDATE customers SET active_ms = active_ms - {age_s * 1000}, "
                              "version = version + 1")  # fmt: skip
            assert (await world.get("/api/customers/8004")).status == 200
            kept_s = await _lifetime_s(world, KEYS.profile("default", "8004"))
            assert least_s - 5 <= kept_s <= least_s * 1.1


async def test_what_does_not_decode_is_deleted_and_counts_as_a_miss(opener: Opener) -> None:
    async with _world(opener) as world:
        number = await _heard(world, 8005)
        paths = {
            KEYS.profile("default", "8005"): "/api/customers/8005",
            KEYS.history("default", "8005", 1): "/api/customers/8005/payments",
            KEYS.details(Entity("default", EntityKind.CHARGE, str(number))):
                f"/api/payments/{number}",
        }  # fmt: skip
        for key, path in paths.items():
            first = (await world.get(path)).body
            for broken in (b"{not json", b"[]", b'{"version":1,"revision":0,"content":7}'):
                await world.resources.redis.set(key, broken)
                assert _same(first, (await world.get(path)).body)
                assert _same(first, (await world.get(path)).body)
            held = await _cached(world, key)
            assert held is not None
            assert isinstance(held["content"], dict)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    passing = {"as_of", "source"}
    return {n: v for n, v in one.items() if n not in passing} == {
        n: v for n, v in other.items() if n not in passing
    }


# --- payments ---


async def test_payments_come_newest_first_and_a_cursor_stays_where_it_is(opener: Opener) -> None:
    async with _world(opener) as world:
        numbers = [new_id() for _ in range(45)]
        for number in numbers:
            await world.v3(bodies.v3_charge(id=number, customer={"id": 8010}))
        await world.settle()
        newest = [str(number) for number in reversed(numbers)]
        pages = [
            (await world.get(f"/api/customers/8010/payments?page={n}")).body for n in (1, 2, 3)
        ]
        assert [p["payment_id"] for page in pages for p in page["payments"]] == newest
        assert [(p["page"], p["pages"], p["total"]) for p in pages] == [
            (n, 3, 45) for n in (1, 2, 3)
        ]
        assert pages[2]["next_cursor"] is None
        late = await _heard(world, 8010)
        path = f"/api/customers/8010/payments?cursor={pages[0]['next_cursor']}"
        after = (await world.get(path)).body
        assert [p["payment_id"] for p in after["payments"]] == newest[20:40]
        first = (await world.get("/api/customers/8010/payments")).body
        assert first["payments"][0]["payment_id"] == str(late)
        assert (await world.get("/api/customers/8010/payments?page=4")).body["payments"] == []


async def test_a_page_is_cached_and_a_new_payment_makes_all_of_them_worthless(
    opener: Opener,
) -> None:
    async with _world(opener) as world:
        first = await _heard(world, 8011)
        path, key = "/api/customers/8011/payments", KEYS.history("default", "8011", 1)
        assert [p["payment_id"] for p in (await world.get(path)).body["payments"]] == [str(first)]
        held = await _cached(world, key)
        assert held is not None
        assert 895 <= await _lifetime_s(world, key) <= 991
        second = await _heard(world, 8011)
        assert await _cached(world, key) == held
        shown = (await world.get(path)).body
        assert [p["payment_id"] for p in shown["payments"]] == [str(second), str(first)]
        hits = world.resources.metrics.documents.labels("history", "hit")._value.get()
        assert (await world.get(path)).body == shown
        assert world.resources.metrics.documents.labels("history", "hit")._value.get() == hits + 1


async def test_a_cached_page_holds_no_status_and_never_shows_a_pending_that_was_overtaken(
    opener: Opener,
) -> None:
    async with _world(opener) as world:
        number = await _heard(world, 8012, status="pending")
        path = "/api/customers/8012/payments"

        async def shown() -> str:
            status: str = (await world.get(path)).body["payments"][0]["status"]
            return status

        assert await shown() == "pending"
        told = {"id": number, "tx_ref": f"ref-{number}", "customer": {"id": 8012}}
        await world.v3(bodies.v3_charge(**told, status="successful"))
        assert await shown() == "processing"  # from a page that is cached and counts
        held = await _cached(world, KEYS.history("default", "8012", 1))
        assert b"pending" not in orjson.dumps(held)
        assert "status" not in orjson.dumps(held).decode()
        await world.settle()
        assert await shown() == "successful"


async def test_customers_of_two_merchants_never_meet(opener: Opener, tmp_path: Path) -> None:
    merchants = tmp_path / "merchants.toml"
    merchants.write_text('[acme]\nsecret_hash = "acme-hash"\n')
    tokens = "operator-token,shop:acme:read=acme-token"
    async with _world(opener, MERCHANTS_FILE=str(merchants), API_TOKENS=tokens) as world:
        ours = await _heard(world, 8013)
        body = bodies.v3_charge(id=new_id(), customer={"id": 8013})
        assert (await world.v3(body, secret="acme-hash", merchant="acme")).status == 200
        await world.settle()
        for query, token, ids in (("", "operator-token", [str(ours)]),
                                  ("?merchant=acme", "operator-token", [str(body["data"]["id"])]),
                                  ("", "acme-token", [str(body["data"]["id"])])):  # fmt: skip
            page = await world.get(f"/api/customers/8013/payments{query}", token=token)
            assert [p["payment_id"] for p in page.body["payments"]] == ids
        refused = await world.get("/api/customers/8013?merchant=default", token="acme-token")
        assert refused.reason == "other_merchant"
        assert (await world.get("/api/customers/8013/export", token="acme-token")).status == 403


async def test_an_id_is_checked_and_cannot_name_another_key(opener: Opener) -> None:
    async with _world(opener) as world:
        hostile = "8:profile%00 *"
        for path in ("", "/payments"):
            assert (await world.get(f"/api/customers/{'x' * 201}{path}")).reason == "invalid_id"
            assert (
                await world.get(f"/api/customers/{quote(hostile, safe='')}{path}")
            ).status == 404
        for query, reason in (("page=0", "invalid_page"), ("page=x", "invalid_page"),
                              ("cursor=-1", "invalid_cursor"),
                              ("page=1&cursor=1", "page_or_cursor"),
                              ("page=5001", "invalid_page")):  # fmt: skip
            assert (await world.get(f"/api/customers/1/payments?{query}")).reason == reason
        assert KEYS.profile("default", hostile) == "flw:v1:customer:8%3Aprofile%2500%20%2A:profile"


# --- details ---


async def test_details_are_cached_under_their_keys_and_only_with_what_may_be_kept(
    opener: Opener,
) -> None:
    async with _world(opener) as world:
        number = await _heard(world, 8020)
        entity = Entity("default", EntityKind.CHARGE, str(number))
        first = (await world.get(f"/api/payments/{number}")).body
        assert (first["amount"], first["charged_amount"]) == ("1500.25", "1521.25")
        details, verification = [
            await _cached(world, key) for key in (KEYS.details(entity), KEYS.verification(entity))
        ]
        assert details is not None
        assert verification is not None
        assert set(details["content"]) == {
            "amount", "currency", "payment_type", "flw_ref", "created_at", "customer_id", "card",
            "overlays", "refunds",
        }  # fmt: skip
        assert set(verification["content"]) == {
            "charged_amount", "app_fee", "processor_code", "provider_status", "confirmed",
        }  # fmt: skip
        assert details["version"] == verification["version"] == first["version"]
        assert 86_000 <= await _lifetime_s(world, KEYS.details(entity)) <= 95_040
        by_ref = (await world.get(f"/api/payments/by-ref/ref-{number}")).body
        assert (by_ref["amount"], by_ref["kind"]) == ("1500.25", "reference")
        hits = world.resources.metrics.documents.labels("details", "hit")._value.get()
        assert hits == 1


async def test_details_that_are_not_of_the_proven_version_do_not_count(opener: Opener) -> None:
    async with _world(opener) as world:
        number = await _heard(world, 8021, status="pending")
        entity = Entity("default", EntityKind.CHARGE, str(number))
        before = (await world.get(f"/api/payments/{number}")).body
        assert (before["status"], before["provider_status"]) == ("pending", "pending")
        assert 295 <= await _lifetime_s(world, KEYS.details(entity)) <= 330
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"ref-{number}", customer={"id": 8021}))
        await world.settle()
        after = (await world.get(f"/api/payments/{number}")).body
        assert (after["status"], after["provider_status"]) == ("successful", "successful")
        # A refund changes the version alone.
        await world.v3(bodies.refund(TransactionId=number, AmountRefunded=5))
        await world.settle()
        refunded = (await world.get(f"/api/payments/{number}")).body
        assert refunded["version"] == after["version"] + 1
        assert [overlay["amount"] for overlay in refunded["overlays"]] == ["5"]


# --- what was there before ---


async def test_payments_from_before_there_were_customers_are_theirs_too(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for kind in ("sqlite", "postgresql"):
        url = await unmigrated(request, tmp_path, kind)
        database = open_database(url, pool=1, timeout_s=30)

        def to_before(connection: Connection) -> None:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, BEFORE_CUSTOMERS)

        async def fill(connection: Any) -> None:
            for n, customer in ((3, "cus_a"), (1, "cus_a"), (2, "cus:b"), (4, None)):
                said = {"amount": "5"} | ({"customer_id": customer} if customer else {})
                await connection.execute(
                    text("INSERT INTO details (key, content, updated_ms) VALUES (:k, :c, :n)"),
                    {"k": f"charge:acme:{n}", "c": orjson.dumps(said).decode(), "n": n},
                )

        async with database.engine.connect() as connection:
            write = await connection.execution_options(paystate_write=True)
            async with write.begin():
                await write.run_sync(to_before)
                await fill(write)
        await upgrade_async(url)
        customers = Customers(database)
        found = await customers.history("acme:cus_a")
        assert found is not None
        assert [entity.id for _, entity, _ in found.payments] == ["3", "1"]
        other = await customers.dossier("acme:cus:b")
        assert other is not None
        assert (other.payments, other.row.active_ms) == (1, 2)
        await database.close()


# --- forgetting ---


async def _everything(world: World) -> str:
    """Return all that is in the database and in the cache, as text."""
    store = world.resources.store
    tables = ("entities", "details", "overlays", "inbox", "changes", "customers",
              "customer_payments", "rulings", "violations")  # fmt: skip
    found = [str(row) for table in tables for row in await _sql(world, f"SELECT * FROM {table}")]
    assert store is world.resources.store
    redis, cursor = world.resources.redis, 0
    while True:
        cursor, keys = await redis.scan(cursor, match="flw:v1:*", count=1000)
        for key in keys:
            found.append(key.decode())
            kind = await redis.eval("return redis.call('TYPE', KEYS[1]).ok", 1, key.decode())
            if kind == b"string":
                found.append(str(await redis.get(key.decode())))
        if not cursor:
            return "\n".join(found)


async def test_what_is_erased_is_gone_and_payments_keep_their_statuses(opener: Opener) -> None:
    async with _shop(opener) as (world, sandbox):
        who = replace(sandbox.sandbox.truth.customers[5], email="erase.me@example.com")
        cards = [new_id() for _ in range(3)]
        for number in cards:
            make_payment(sandbox, number, "successful").customer = who
            await world.v3(
                bodies.v3_charge(
                    id=number,
                    customer={"id": who.v3_id},
                    amount=1500.25,
                    tx_ref=sandbox.sandbox.truth.find(str(number)).tx_ref,
                )
            )
        await world.settle()
        held = bodies.v3_charge(id=new_id(), customer={"id": who.v3_id}, amount=1)
        make_payment(sandbox, held["data"]["id"], "successful").customer = who
        await world.v3(held)
        await world.settle()
        path = f"/api/customers/{who.v3_id}"
        assert (await world.get(path)).body["email"] == who.email
        for more in ("/payments", "/export"):
            assert (await world.get(path + more)).status == 200
        await world.get(f"/api/payments/{cards[0]}")
        statuses = [(await world.status(number))["status"] for number in cards]
        before = await _everything(world)
        personal = (who.email, who.phone, f"{who.first_name} {who.last_name}")
        assert all(word in before for word in personal)
        card = re.compile(r"\b0042\b")  # by itself, not as the end of an id
        assert card.search(before)
        async with world.session.delete(
            world.url + path, headers={"Authorization": "Bearer operator-token"}
        ) as response:
            assert response.status == 200
            assert (await response.json())["payments"] == 3
        after = await _everything(world)
        assert not [word for word in personal if word in after]
        assert '"customer_id"' not in after
        assert not card.search(after)
        for more in ("", "/payments", "/export"):
            gone = await world.get(path + more)
            assert (gone.status, gone.reason) == (410, "customer_erased")
        assert [(await world.status(number))["status"] for number in cards] == statuses
        details = (await world.get(f"/api/payments/{cards[0]}")).body
        assert (details["amount"], details["customer_id"], details["card"]) == (
            "1500.25",
            None,
            None,
        )


async def test_a_late_webhook_brings_nothing_back_and_a_new_payment_does(opener: Opener) -> None:
    async with _world(opener) as world:
        number = await _heard(world, 8030, status="pending")
        waiting = new_id()  # recorded before, applied after
        await world.v3(bodies.v3_charge(id=waiting, customer={"id": 8030}))
        desk = open_desk(world.resources)
        await desk.personal.erase(CustomerId("default", "8030"), operator="test")
        await world.settle()
        for status in ("successful", "successful"):
            body = bodies.v3_charge(id=number, status=status, tx_ref=f"ref-{number}",
                                    customer={"id": 8030})  # fmt: skip
            await world.v3({**body, "again": new_id()})
            await world.settle()
        assert (await world.status(number))["status"] == "successful"
        assert (await world.status(waiting))["status"] == "successful"
        assert (await world.get("/api/customers/8030")).status == 410
        assert '"customer_id"' not in await _everything(world)
        newer = await _heard(world, 8030)
        assert (await world.get("/api/customers/8030")).body["payments"] == 1
        page = (await world.get("/api/customers/8030/payments")).body
        assert [p["payment_id"] for p in page["payments"]] == [str(newer)]
        # Not even then does an earlier payment become theirs again.
        body = bodies.v3_charge(id=number, customer={"id": 8030}, tx_ref=f"ref-{number}")
        await world.v3({**body, "again": new_id()})
        await world.settle()
        assert (await world.get("/api/customers/8030/payments")).body["total"] == 1


async def test_a_payment_under_way_at_the_erasure_does_not_bring_its_customer_back(
    opener: Opener,
) -> None:
    """Whose it is, only Flutterwave's answer says, and that comes after the erasure."""
    async with _shop(opener) as (world, sandbox):
        who = replace(sandbox.sandbox.truth.customers[7], email="under.way@example.com")
        await _paid(world, sandbox, who)
        number = new_id()
        made = make_payment(sandbox, number, "successful")
        made.customer = who
        told = {"id": number, "tx_ref": made.tx_ref, "amount": 1500.25, "status": "pending"}
        await world.v3(bodies.v3_charge(**told, customer=None, card=None))
        desk = open_desk(world.resources)
        await desk.personal.erase(CustomerId("default", str(who.v3_id)), operator="test")
        await world.settle()
        assert (await world.status(number))["status"] == "successful"
        assert (await world.get(f"/api/customers/{who.v3_id}")).reason == "customer_erased"
        assert '"customer_id"' not in await _everything(world)


async def test_an_answer_that_was_asked_for_before_the_erasure_is_turned_away(
    opener: Opener,
) -> None:
    async with _world(opener) as world:
        await _heard(world, 8031)
        customers, key = world.resources.store.customers, customer_key("default", "8031")
        documents = DocumentCache(world.resources.redis, world.resources.metrics)
        row, ticket = await customers.row(key), await customers.ticket(key)
        assert row is not None
        assert ticket is not None
        await open_desk(world.resources).personal.erase(CustomerId("default", "8031"), operator="x")
        assert not await customers.learn(key, ticket, Person(name="Come Back"))
        profile = KEYS.profile("default", "8031")
        slip = Slip("profile", profile, row.version, row.profile_ticket)
        await documents.keep([Document(slip, {"name": "Come Back"}, 60)])
        assert "Come Back" not in await _everything(world)
        assert await customers.ticket(key) is None


async def test_an_erasure_that_the_cache_has_not_heard_of_is_refused_and_can_be_done_again(
    sqlite_url: str, own_valkey: OwnValkey
) -> None:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, sqlite_url, own_valkey.url)
        async with open_world(opener, CACHE_TIMEOUT_MS="100") as world:
            await _heard(world, 8032)
            await world.get("/api/customers/8032")
            desk, who = open_desk(world.resources), CustomerId("default", "8032")
            own_valkey.freeze()
            try:
                with pytest.raises(CacheUnavailable):
                    await desk.personal.erase(who, operator="test")
            finally:
                own_valkey.thaw()
            assert (
                await world.get("/api/customers/8032")
            ).status == 410  # from the first moment on
            done = await desk.personal.erase(who, operator="test")
            assert done["payments"] == 1
            assert '"customer_id"' not in await _everything(world)


async def test_an_export_holds_the_person_their_payments_and_every_event_kept(
    opener: Opener,
) -> None:
    async with _shop(opener) as (world, sandbox):
        who = sandbox.sandbox.truth.customers[6]
        number = await _paid(world, sandbox, who)
        await world.get(f"/api/customers/{who.v3_id}")
        told = (await world.get(f"/api/customers/{who.v3_id}/export")).body
        assert told["person"]["email"] == who.email
        (payment,) = told["payments"]
        assert (payment["payment_id"], payment["status"]) == (str(number), "successful")
        assert payment["details"]["customer_id"] == str(who.v3_id)
        assert [event["state"] for event in payment["events"]] == ["applied"]


async def test_the_commands_do_what_http_does(sqlite_url: str, valkey_url: str) -> None:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, sqlite_url, valkey_url)
        async with open_world(opener) as world:
            number = await _heard(world, 8040)
            env = {"DATABASE_URL": sqlite_url, "CACHE_URL": valkey_url}

            async def run(*args: str, code: int = 0) -> str:
                result = await asyncio.to_thread(
                    CliRunner().invoke, cli, ["customer", *args], env=env, input="n\n"
                )
                assert result.exit_code == code, result.output
                return result.output

            shown = orjson.loads(await run("show", "8040", "--json"))
            assert _same(shown, (await world.get("/api/customers/8040")).body)
            assert "paid by" in await run("show", "8040")
            assert str(number) in await run("payments", "8040")
            assert orjson.loads(await run("export", "8040"))["payments"][0]["payment_id"] == str(
                number
            )
            await run("erase", "8040", code=1)  # asked, and told no
            assert orjson.loads(await run("erase", "8040", "--yes", "--json"))["erased"] is True
            assert "erased" in await run("show", "8040", code=1)
            assert (await world.get("/api/customers/8040")).status == 410
            await run("show", "8041", code=1)
