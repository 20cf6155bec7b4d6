"""The audit can fail: whatever is planted is found, and a sound system gives it nothing to say."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from prometheus_client import generate_latest

from bench.topologies import Cluster
from paystate.audit import Audit, open_audit
from paystate.audit.ledger import SPOT
from paystate.changes import Change, Cursor
from paystate.flutterwave.payloads import parse_event
from paystate.keys import Entity, EntityKind
from paystate.payments.recording import new_event
from paystate.settings import Settings
from paystate.status import Status
from paystate.store.violations import KEPT, Violation
from paystate.updates import Api
from tests.conftest import Opener
from tests.harness import (
    TOKEN,
    World,
    make_payment,
    new_id,
    open_provider,
    open_world,
    provider_settings,
)
from tests.parts import ROOT, start_part
from tests.servers import OwnValkey
from tests.unit import bodies
from worker.audit import Auditor

ALL = 10_000


@asynccontextmanager
async def audited(
    open_process: Opener, *, over_http: bool = False, **settings: str
) -> AsyncIterator[tuple[World, Audit]]:
    """Serve a process and open an audit in it."""
    settings = {"PENDING_LEASE_MS": "5000", **settings}
    async with (
        open_world(open_process, **settings) as world,
        open_audit(world.resources, url=world.url if over_http else "", token=TOKEN) as audit,
    ):
        yield world, audit


def charge(number: object) -> Entity:
    """Return the identity of a charge of the default merchant."""
    return Entity("default", EntityKind.CHARGE, str(number))


async def settled(world: World, status: str, **more: Any) -> int:
    """Make a payment that was pending and then became `status`; return its id."""
    number = new_id()
    for each in ("pending", status):
        await world.v3(bodies.v3_charge(id=number, status=each, **more))
        await world.settle()
    return number


async def plant(
    world: World, entity: Entity, status: str, version: int, *, age_ms: int = 0
) -> None:
    """Put an entry into the cache as a faulty process would: under a lease that runs."""
    redis: Any = world.resources.redis
    seconds, micros = await redis.time()
    info = await redis.info("replication")
    key = world.resources.keys.hash(entity)
    await redis.delete(key)
    await redis.hset(
        key,
        mapping={
            "status": status, "version": version, "at": 1, "link": "",
            "proven_at": seconds * 1000 + micros // 1000 - age_ms,
            "incarnation": info["master_replid"],
        },
    )  # fmt: skip


async def sweep(audit: Audit) -> list[tuple[str, Entity | None]]:
    """Go through everything once and return what was found, by kind and whose it is."""
    before = len(audit.ledger.violations)
    while not await audit.entries.round(ALL):
        pass
    while not (await audit.rows.round(ALL))[1]:
        pass
    await audit.rows.claims()
    return [(str(v.kind), v.entity) for v in audit.ledger.violations[before:]]


async def flush(world: World) -> None:
    """Empty the cache."""
    redis: Any = world.resources.redis
    await redis.flushall()


async def execute(world: World, statement: str) -> None:
    """Change the database behind paystate's back."""

    async def work(connection: Any) -> None:
        await connection.exec_driver_sql(statement)

    await world.resources.store._database.write(work)


# --- cached entries ---


async def test_every_entry_that_would_be_served_and_is_wrong_is_found(
    open_process: Opener,
) -> None:
    planted = (
        ("successful", "pending", 2, "stale_entry"),
        ("failed", "successful", 3, "stale_entry"),
        ("failed", "successful", 4, "wrong_status"),
        ("failed", "successful", 9, "ahead_of_database"),
        ("successful", "failed", 4, "wrong_status"),
    )
    async with audited(open_process) as (world, audit):
        wrong: dict[Entity, str] = {}
        versions: dict[Entity, int] = {}
        for status, _, _, _ in planted:
            await settled(world, status)
        assert await sweep(audit) == []
        for status, entry, version, kind in planted:
            entity = charge(await settled(world, status))
            await plant(world, entity, entry, version)
            wrong[entity], versions[entity] = kind, version
        assert {entity: kind for kind, entity in await sweep(audit)} == wrong
        for found in audit.ledger.violations:
            assert found.entity is not None
            shown, held = found.evidence["shown_version"], found.evidence["version"]
            assert (shown, held) == (versions[found.entity], 4)
        listed = await world.resources.store.sampling.listed(since_ms=60_000)
        assert {v.entity: v.kind for v in listed} == wrong
        assert {v.entity: v.evidence for v in listed} == {
            v.entity: v.evidence for v in audit.ledger.violations
        }


async def test_an_entry_of_a_payment_that_nobody_knows_is_found(open_process: Opener) -> None:
    async with audited(open_process) as (world, audit):
        await plant(world, charge("ghost"), "successful", 1)
        assert await sweep(audit) == [("unknown_to_database", charge("ghost"))]


async def test_an_entry_that_would_not_be_served_is_no_fault(open_process: Opener) -> None:
    async with audited(open_process) as (world, audit):
        late, foreign = [await settled(world, "failed") for _ in range(2)]
        await plant(world, charge(late), "pending", 2, age_ms=6000)
        redis: Any = world.resources.redis
        await redis.delete(world.resources.keys.hash(charge(foreign)))
        await redis.set(world.resources.keys.hash(charge(foreign)), "text")
        assert await sweep(audit) == []
        shown = await world.status(late)
        assert (shown["status"], shown["source"]) == ("failed", "database")


async def test_in_strict_mode_only_a_success_can_be_served_and_so_be_stale(
    open_process: Opener,
) -> None:
    async with audited(open_process, PENDING_LEASE_MS="0") as (world, audit):
        pending, success = await settled(world, "failed"), await settled(world, "failed")
        await plant(world, charge(pending), "pending", 2)
        await plant(world, charge(success), "successful", 2)
        assert await sweep(audit) == [("stale_entry", charge(success))]


async def test_looking_does_not_take_the_token_that_a_reader_needs(open_process: Opener) -> None:
    async with audited(open_process) as (world, audit):
        number = await settled(world, "failed")
        key = world.resources.keys.hash(charge(number))
        redis: Any = world.resources.redis
        await plant(world, charge(number), "failed", 4, age_ms=6000)
        assert await sweep(audit) == []
        assert not await redis.hexists(key, "token")


# --- lookups ---


@pytest.mark.parametrize("over_http", [False, True])
async def test_a_stale_answer_is_found_with_its_age_and_costs_nines(
    open_process: Opener, over_http: bool
) -> None:
    async with audited(open_process, over_http=over_http) as (world, audit):
        good, bad = await settled(world, "failed"), await settled(world, "successful")
        await audit.checker.lookup(charge(good), SPOT)
        await audit.checker.lookup(Entity.reference("default", "nobody's"), SPOT)
        await plant(world, charge(bad), "pending", 2)
        await world.age("changes", "changed_ms", 1500)
        await audit.checker.lookup(charge(bad), SPOT)
        counts = audit.ledger.summary()[SPOT]
        assert (counts["fresh"], counts["stale"], counts["nines"]) == (1, 1, 0.18)
        assert 1500 <= counts["worst_ms"] < 60_000
        found = audit.ledger.violations[0]
        assert (found.kind, found.entity) == ("stale_lookup", charge(bad))
        assert found.evidence["asked"] == audit.path.name
        exported = generate_latest(world.resources.metrics.registry).decode()
        assert 'paystate_audit_violations_total{kind="stale_lookup"} 1.0' in exported
        assert 'paystate_audit_nines{scale="spot"} 0.17' in exported


async def test_a_commit_that_nobody_was_told_of_yet_is_no_fault_until_it_must_have_been(
    open_process: Opener,
) -> None:
    """Between commit and mark the cache may serve what it proved before; not for ever."""
    async with audited(open_process) as (world, audit):
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, status="pending"))
        await world.settle()
        await plant(world, charge(number), "pending", 2)
        event = parse_event(Api.V3, bodies.v3_charge(id=number), b"the webhook")
        [recorded] = await world.resources.store.acknowledge([new_event("default", event)])
        assert not isinstance(recorded, Exception)
        await audit.checker.lookup(charge(number), "10ms")
        assert await sweep(audit) == []
        assert audit.ledger.summary()["10ms"]["unacknowledged"] == 1
        await audit.checker.lookup(charge(number), "100ms", heard=3)
        assert audit.ledger.summary()["100ms"]["stale"] == 1
        await world.age("changes", "changed_ms", 8000)
        await plant(world, charge(number), "pending", 2)
        assert await sweep(audit) == [("stale_entry", charge(number))]


async def test_an_answer_that_says_it_may_be_old_is_not_held_against_anybody(
    open_process: Opener,
) -> None:
    async with audited(open_process, over_http=True) as (world, audit):
        number = await settled(world, "pending")
        await execute(world, "UPDATE entities SET held_events = 1")
        await audit.checker.lookup(charge(number), SPOT)
        assert audit.ledger.summary()[SPOT]["unsure"] == 1
        assert audit.ledger.violated == 0


async def test_no_lookup_is_made_that_would_spend_a_call_to_the_provider(
    open_process: Opener,
) -> None:
    async with audited(open_process) as (world, audit):
        number = await settled(world, "pending")
        await world.age("entities", "changed_ms", 120_000)
        await audit.checker.lookup(charge(number), SPOT)
        assert audit.ledger.summary()[SPOT]["skipped"] == 1


async def test_a_refused_token_and_a_server_that_is_away_are_no_answers(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        number = await settled(world, "failed")
        async with open_audit(world.resources, url=world.url, token="wrong") as audit:
            await audit.checker.lookup(charge(number), SPOT)
            assert audit.ledger.summary()[SPOT]["unanswered"] == 1
            assert audit.checker.last_unanswered is not None
            assert audit.checker.last_unanswered.status == 401


# --- following changes ---


@asynccontextmanager
async def hearing(audit: Audit) -> AsyncIterator[None]:
    """Follow changes in the background."""

    async def for_ever() -> None:
        while True:
            with suppress(TimeoutError):  # nobody beats here
                await audit.follower.hear()

    task = asyncio.create_task(for_ever())
    try:
        async with asyncio.timeout(30):
            await audit.follower.listening.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=5)


async def seen(audit: Audit, condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; it is looked at after each lookup and violation."""
    ledger, more = audit.ledger, asyncio.Event()
    for name in ("looked", "violate"):
        count = getattr(ledger, name)

        def told(*arguments: Any, _count: Any = count) -> None:
            _count(*arguments)
            more.set()

        setattr(ledger, name, told)
    async with asyncio.timeout(60):
        while not condition():
            more.clear()
            await more.wait()


async def looked_at(audit: Audit, scale: str, count: int) -> None:
    """Wait until that many lookups have been compared at `scale`."""
    await seen(audit, lambda: sum(audit.ledger.outcomes.get(scale, {}).values()) >= count)


async def test_a_change_is_looked_up_again_and_its_way_from_the_webhook_is_timed(
    open_process: Opener,
) -> None:
    async with audited(open_process, over_http=True) as (world, audit), hearing(audit):
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, tx_ref="followed"))
        await world.settle()
        await looked_at(audit, "1s", 4)  # payment and reference, recorded and settled
        summary = audit.ledger.summary()
        assert [summary[scale]["fresh"] for scale in ("10ms", "100ms", "1s")] == [4, 4, 4]
        exported = generate_latest(world.resources.metrics.registry).decode()
        for seen in ("news", "lookup"):
            assert f'paystate_audit_visible_seconds_count{{seen="{seen}"}} 1.0' in exported
        await audit.follower.count()
        await settled(world, "failed")  # eight changes more, of which not all may be followed
        await audit.follower.count()
        counted = world.resources.metrics.registry.get_sample_value
        followed, left = (
            counted("paystate_audit_changes_total", {"sampled": sampled})
            for sampled in ("followed", "left")
        )
        assert followed is not None
        assert left is not None
        assert (followed >= 4, followed + left) == (True, 12)
        assert audit.ledger.violated == 0


async def test_a_lookup_below_what_was_in_the_news_is_stale(open_process: Opener) -> None:
    settings = {"AUDIT_CHANGES_PER_S": "100"}
    async with audited(open_process, **settings) as (world, audit), hearing(audit):
        number = await settled(world, "failed")
        news = Change(
            charge(number), str(number), None, Status.SUCCESSFUL, Status.FAILED, True, 99, 4, 1,
            Cursor(),
        )  # fmt: skip
        redis: Any = world.resources.redis
        await redis.publish(world.resources.keys.all_changes("default"), json.dumps(news.to_json()))
        await seen(audit, lambda: bool(audit.ledger.violations))
        found = audit.ledger.violations[0]
        assert (found.kind, found.entity) == ("stale_lookup", charge(number))
        assert (found.evidence["heard_version"], found.evidence["scale"]) == (99, "10ms")


async def test_a_busy_and_sound_system_gives_nothing_to_report(open_process: Opener) -> None:
    """Payments settle, fail, repeat and are asked for while everything is audited at once."""
    settings = {
        "PENDING_LEASE_MS": "1000", "AUDIT_CHANGES_PER_S": "100", "CACHE_TIMEOUT_MS": "20000",
    }  # fmt: skip
    async with audited(open_process, **settings) as (world, audit), hearing(audit):
        numbers = [new_id() for _ in range(20)]
        busy = True

        async def pay(number: int, last: str) -> None:
            for status in ("pending", "pending", last, "pending", last):
                await world.v3(bodies.v3_charge(id=number, status=status, tx_ref=f"b-{number}"))
                await world.status(number)

        async def while_busy(work: Any) -> None:
            while busy:
                await work()
                await asyncio.sleep(0)

        async def ask() -> None:
            for number in numbers:
                await audit.checker.lookup(charge(number), SPOT)
                await audit.checker.lookup(Entity.reference("default", f"b-{number}"), SPOT)

        watching = [
            asyncio.create_task(while_busy(work))
            for work in (world.settle, ask, lambda: sweep(audit))
        ]
        await asyncio.gather(
            *(pay(n, "failed" if i % 3 else "successful") for i, n in enumerate(numbers))
        )
        await looked_at(audit, "100ms", 12)
        busy = False
        await asyncio.gather(*watching)
        await world.settle()
        assert await sweep(audit) == []
        assert [v.to_json() for v in audit.ledger.violations] == []
        assert audit.ledger.summary()[SPOT]["fresh"] > 12
        assert audit.ledger.passes["entries"] > 2


# --- invariants ---


# What is done to one payment, its reference, its events or its changes, and what is found of it.
BROKEN = (
    ("UPDATE entities SET open_events = 1 WHERE key = '{charge}'", "open_events_differ"),
    ("UPDATE entities SET open_events = 1 WHERE key = '{reference}'", "open_events_differ"),
    ("UPDATE inbox SET state = 'open' WHERE entity_key = '{charge}'", "open_events_differ"),
    ("UPDATE entities SET held_events = 1 WHERE key = '{charge}'", "held_events_differ"),
    ("UPDATE inbox SET state = 'dead' WHERE entity_key = '{charge}'", "held_events_differ"),
    ("UPDATE entities SET version = 9 WHERE key = '{charge}'", "version_differs_from_log"),
    (
        "DELETE FROM changes WHERE entity_key = '{charge}' AND version > 2",
        "version_differs_from_log",
    ),
    (
        "UPDATE entities SET status = 'pending' WHERE key = '{reference}'",
        "reference_differs_from_attempts",
    ),
    ("UPDATE entities SET status = 'gone' WHERE key = '{charge}'", "row_faulty"),
)


async def test_every_row_that_does_not_agree_with_the_rest_is_found(open_process: Opener) -> None:
    async with audited(open_process) as (world, audit):
        names = [f"inv-{n}" for n in range(len(BROKEN))]
        numbers = [await settled(world, "failed", tx_ref=name) for name in names]
        assert await sweep(audit) == []
        await flush(world)  # what is asked here is asked of the database alone
        for (statement, _), number, name in zip(BROKEN, numbers, names, strict=True):
            keys = {
                "charge": charge(number).row_key,
                "reference": Entity.reference("default", name).row_key,
            }
            await execute(world, statement.format(**keys))
        found: dict[str, set[str]] = {}
        for kind, entity in await sweep(audit):
            assert entity is not None
            name = entity.id if entity.is_reference else names[numbers.index(int(entity.id))]
            found.setdefault(name, set()).add(kind)
        for (statement, kind), name in zip(BROKEN, names, strict=True):
            assert kind in found.get(name, set()), statement


async def test_all_statements_of_a_snapshot_see_one_moment(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        await settled(world, "failed")
        database = world.resources.store._database

        async def work(connection: Any) -> list[int]:
            counted = []
            for _ in range(2):
                found = await connection.exec_driver_sql("SELECT count(*) FROM inbox")
                counted.append(found.scalar_one())
                await world.v3(bodies.v3_charge(id=new_id()))
            return counted

        assert await database.snapshot(work) == [2, 2]
        async with database.engine.connect() as connection:  # and the next one is as always
            found = await connection.exec_driver_sql("SELECT count(*) FROM inbox")
            assert found.scalar_one() == 4
            if database.dialect == "postgresql":
                level = await connection.exec_driver_sql("SHOW transaction_isolation")
                assert level.scalar_one() == "read committed"


async def test_events_under_way_are_counted_on_payment_and_reference(open_process: Opener) -> None:
    async with audited(open_process) as (world, audit):
        number = await settled(world, "pending", tx_ref="inv-2")
        for status in ("failed", "successful"):
            await world.v3(bodies.v3_charge(id=number, status=status, tx_ref="inv-2"))
        assert await sweep(audit) == []
        page = await world.resources.store.sampling.page("", ALL)
        assert [(r.entity.kind, r.open_events, r.open_rows) for r in page.rows] == [
            ("charge", 2, 2), ("reference", 2, 2),
        ]  # fmt: skip
        assert (await world.resources.store.sampling.page(page.rows[0].key, 1)).last is not None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE inbox SET claimed_until_ms = 5, due_ms = due_ms + 3600000 WHERE state = 'open'",
        "UPDATE inbox SET claimed_until_ms = due_ms + 3600000 WHERE state = 'open'",
    ],
)
async def test_a_claim_that_keeps_everybody_away_is_found(
    open_process: Opener, statement: str
) -> None:
    async with audited(open_process) as (world, audit):
        number = new_id()
        await world.v3(bodies.v3_charge(id=number))
        await world.resources.store.claim("somebody", claim_ms=15_000)
        assert await sweep(audit) == []
        await execute(world, statement)
        assert await sweep(audit) == [("claim_faulty", charge(number))]


async def test_pruned_changes_are_not_missed(open_process: Opener) -> None:
    async with audited(open_process) as (world, audit):
        await settled(world, "failed")
        await world.age("changes", "changed_ms", 10_000_000)
        await world.age("entities", "changed_ms", 10_000_000)
        await settled(world, "failed")
        await world.resources.store.prune_changes(older_than_ms=1_000_000)
        assert await sweep(audit) == []


# --- the list of violations ---


async def test_a_violation_that_stands_is_written_down_once_and_the_list_is_bounded(
    open_process: Opener,
) -> None:
    async with audited(open_process) as (world, audit):
        sampling = world.resources.store.sampling
        one = Violation("stale_entry", charge(1), {"text": "x" * 5000})
        assert await sampling.record([one, one]) == [one]
        assert await sampling.record([one]) == []
        [listed] = await sampling.listed(since_ms=60_000)
        assert listed.evidence["cut"].startswith('{"text":"xxx')
        await world.age("violations", "at_ms", 11 * 60_000)
        await audit.checker.report([one])
        assert len(await sampling.listed(since_ms=3_600_000)) == 2
        await sampling.record([Violation("stale_entry", charge(n)) for n in range(2, KEPT + 5)])
        listed = await sampling.listed(since_ms=3_600_000, most=KEPT * 2)
        assert len(listed) == KEPT
        assert listed[0].entity == charge(KEPT + 4)


# --- the provider ---


async def test_a_payment_that_the_provider_sees_otherwise_is_reported_and_healed(
    open_process: Opener,
) -> None:
    async with open_provider() as sandbox:
        settings = {**provider_settings(sandbox), "CONFIRM": "never"}
        async with audited(open_process, **settings) as (world, audit):
            same, lost, other = [await settled(world, s) for s in ("failed",) * 2 + ("successful",)]
            for number, status in ((same, "failed"), (lost, "successful"), (other, "failed")):
                make_payment(sandbox, number, status, tx_ref=(await world.status(number))["tx_ref"])
            page, _ = await audit.rows.round(ALL)
            assert audit.provider.askable(page) == []  # the provider may still lag behind
            await world.age("entities", "changed_ms", 16 * 60_000)
            page, _ = await audit.rows.round(ALL)
            for entity in audit.provider.askable(page):
                await audit.provider.compare(entity)
            found = {v.entity: v.evidence for v in audit.ledger.violations}
            assert set(found) == {charge(lost), charge(other)}
            assert [found[charge(n)]["recorded"] for n in (lost, other)] == [True, False]
            assert found[charge(lost)]["provider_status"] == "successful"
            assert (await world.status(lost))["status"] == "successful"
            assert (await world.status(other))["status"] == "successful"
            assert audit.ledger.compared["provider"] == 3


async def test_the_provider_is_asked_no_more_often_than_the_budget_says(
    open_process: Opener,
) -> None:
    async with open_provider() as sandbox:
        settings = {**provider_settings(sandbox), "CONFIRM": "never"}
        async with open_world(open_process, **settings) as world:
            number = await settled(world, "failed")
            make_payment(sandbox, number, "failed")
            await world.age("entities", "changed_ms", 16 * 60_000)
            for per_hour, asked in (("10", 1), ("0", 0)):
                process = await open_process(**settings, AUDIT_PROVIDER_CALLS_PER_HOUR=per_hour)
                async with open_audit(process) as audit:
                    page, _ = await audit.rows.round(ALL)
                    for _ in range(3):
                        await audit.provider.one_of(page)
                    assert audit.ledger.compared["provider"] == asked


# --- the worker ---


async def test_a_cache_that_is_away_keeps_the_audit_from_nothing_else(
    database_url: str, own_valkey: OwnValkey
) -> None:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, database_url, own_valkey.url)
        async with audited(opener, CACHE_TIMEOUT_MS="200") as (world, audit):
            await settled(world, "failed")
            own_valkey.kill()
            await execute(world, "UPDATE entities SET open_events = 1 WHERE kind = 'charge'")
            await Auditor(audit, asyncio.Event(), every_s=0, sample=ALL).work()
            assert audit.ledger.passes == {"rows": 1}
            assert [v.kind for v in audit.ledger.violations] == ["open_events_differ"]


PLANT = "return redis.call('HSET', KEYS[1], 'status', 'successful', 'version', 3, 'at', 1)"


async def test_the_entries_of_every_server_of_a_cluster_are_compared(
    sqlite_url: str, valkey_url: str, cluster: Cluster
) -> None:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, sqlite_url, cluster.url)
        async with audited(opener, QUEUE_URL=valkey_url) as (world, audit):
            numbers = [await settled(world, "failed") for _ in range(6)]
            for number in numbers:
                key = world.resources.keys.hash(charge(number))
                await world.resources.redis.eval(PLANT, 1, key)
            while not await audit.entries.round(ALL):
                pass
            found = {violation.entity for violation in audit.ledger.violations}
            assert found == {charge(number) for number in numbers}


# --- whole processes ---


async def run_cli(settings: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run `paystate audit` and return its exit code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "paystate", "audit", *arguments, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", **settings},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode() + err.decode()


def _variables(settings: Settings) -> dict[str, str]:
    return {
        "DATABASE_URL": settings.database_url,
        "CACHE_URL": settings.cache_url,
        "PENDING_LEASE_MS": "5000",
    }


async def test_the_command_says_by_its_exit_code_what_it_found(
    sqlite_url: str, valkey_url: str
) -> None:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, sqlite_url, valkey_url)
        world = await stack.enter_async_context(open_world(opener, PENDING_LEASE_MS="5000"))
        number = await settled(world, "failed")
        settings = _variables(world.resources.settings)
        elsewhere = ("--data-dir", "nowhere/at/all")
        code, text = await run_cli(settings, "--json", *elsewhere, "--url", world.url,
                                   "--token", TOKEN)  # fmt: skip
        assert code == 0, text
        report = json.loads(text)
        assert (report["violations"], report["asked"]) == ([], world.url)
        assert report["lookups"]["spot"]["fresh"] == report["compared"]["rows"]
        await plant(world, charge(number), "successful", 3)
        found, unusable, unreachable, refused = await asyncio.gather(
            run_cli(settings, *elsewhere, "--seconds", "0.2"),
            run_cli({**settings, "AUDIT_SAMPLE": "many"}, *elsewhere),
            run_cli({**settings, "CACHE_URL": "redis://127.0.0.1:1/0"}, *elsewhere),
            run_cli(
                {**settings, "CACHE_URL": settings["CACHE_URL"][:-1] + "1"}, *elsewhere,
                "--url", world.url, "--token", "wrong",
            ),
        )  # fmt: skip
        assert found[0] == 1, found[1]
        for word in ("stale_entry", "stale_lookup", str(number), "shown_version=3"):
            assert word in found[1]
        assert unusable[0] == 2, unusable[1]
        assert unreachable[0] == 3, unreachable[1]
        assert refused[0] == 4, refused[1]


async def test_the_worker_finds_a_planted_entry_within_a_round_and_still_stops_at_once(
    open_process: Opener,
) -> None:
    async with open_world(open_process, PENDING_LEASE_MS="5000") as world:
        number = await settled(world, "failed")
        settings = {
            **_variables(world.resources.settings), "WORKER_PORT": "0", "AUDIT_ROUND_S": "1",
        }  # fmt: skip
        async with start_part("worker", settings) as worker:
            await plant(world, charge(number), "successful", 3)
            line = await worker.event("audit_violation", id=str(number), fault="stale_entry")
            assert line["recorded"] is True
            assert line["evidence"]["shown_status"] == "successful"
            async with world.session.get(f"{worker.url}/metrics") as response:
                exported = await response.text()
            assert 'paystate_audit_violations_total{kind="stale_entry"}' in exported
            assert await worker.stop() == 0
