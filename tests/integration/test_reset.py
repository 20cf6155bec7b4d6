"""A database that was restored to an earlier point, and everybody who knows what it has lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from redis.asyncio import Redis
from sqlalchemy import make_url, text

from bench.topologies import Cluster
from paystate.audit import open_audit
from paystate.cache.clearing import clear
from paystate.changes import Cursor
from paystate.cli.commands import cli
from paystate.connections import connect
from paystate.errors import CursorPruned
from paystate.keys import Keys
from paystate.metrics import Metrics
from paystate.store import Store
from paystate.store.engine import open_database
from paystate.store.tables import RAISED_BY
from tests.conftest import Opener
from tests.harness import World, new_id, open_world
from tests.servers import Postgres
from tests.unit import bodies

# Times around which the ids of a change log that comes from another server are higher than ours.
_HIGHER = 10**9


def _backup(url: str, request: pytest.FixtureRequest) -> Callable[[], str]:
    """Return what makes a copy of the database and gives the URL of the copy."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")

        def copy() -> str:
            shutil.copy(path, f"{path}.restored")
            return f"{url}.restored"

        return copy
    server: Postgres = request.getfixturevalue("_postgres")
    name = make_url(url).database
    return lambda: server.create_database(f"{name}_restored_{new_id()}", template=name)


async def _as_from_another_server(url: str) -> None:
    """Give the rows of the change log ids that a dump from a busier PostgreSQL would have."""
    database = open_database(url, pool=1, timeout_s=10)
    try:
        await database.write(lambda c: c.execute(text(f"UPDATE changes SET xid = xid + {_HIGHER}")))
    finally:
        await database.close()


async def _command(url: str, cache: str, *args: str) -> Any:
    env = {"DATABASE_URL": url, "CACHE_URL": cache}
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["cache", "reset", *args], env=env)
    assert result.exit_code == 0, result.output
    return result


def _v3(number: int, status: str) -> Any:
    return bodies.v3_charge(id=number, status=status, tx_ref=f"ref-{number}")


async def _pay(world: World, number: int, status: str) -> None:
    assert (await world.v3(_v3(number, status))).status == 200
    await world.settle()


async def test_after_a_restore_and_a_reset_nobody_is_told_of_what_was_lost(
    database_url: str, valkey_url: str, request: pytest.FixtureRequest
) -> None:
    """The lookup is answered by the restored database, with a version above every lost one."""
    copy = _backup(database_url, request)
    number, other = new_id(), new_id()
    async with AsyncExitStack() as stack:
        opener = Opener(stack, database_url, valkey_url)
        async with open_world(opener, CONFIRM="never") as world:
            await _pay(world, number, "pending")
    restored = copy()
    async with AsyncExitStack() as stack:
        opener = Opener(stack, database_url, valkey_url)
        async with open_world(opener, CONFIRM="never") as world:
            await _pay(world, number, "successful")
            await _pay(world, other, "successful")
            lost = await world.status(number)
            last = await world.resources.store.latest_cursor()
    assert lost["status"] == "successful"
    if restored.startswith("postgresql"):
        await _as_from_another_server(restored)

    done = orjson.loads((await _command(restored, valkey_url, "--yes", "--json")).stdout)
    assert done == {"epoch": 1, "raised": 2, "deleted": 4}

    async with AsyncExitStack() as stack:
        opener = Opener(stack, restored, valkey_url)
        async with open_world(opener, CONFIRM="never") as world:
            now = await world.status(number)
            assert (now["status"], now["source"]) == ("pending", "database")
            assert now["version"] > lost["version"]
            assert (await world.get(f"/api/payments/{other}/status")).status == 404
            store = world.resources.store
            for cursor in (Cursor(), last):
                with pytest.raises(CursorPruned):
                    await store.changes_after(cursor)
            begin = await store.latest_cursor()
            assert begin > last
            await _nothing_wrong(world)
            await _pay(world, number, "successful")
            assert (await world.status(number))["status"] == "successful"
            page = await store.changes_after(begin)
            assert [c.status.value for c in page.changes][-1] == "successful"
            assert page.safe == await store.latest_cursor() > begin
            assert all(c.version > lost["version"] for c in page.changes)
            await _nothing_wrong(world)
            await _prunes_to_the_end(store, begin)


async def _nothing_wrong(world: World) -> None:
    async with open_audit(replace(world.resources, metrics=Metrics()), url="") as audit:
        await audit.rows.round(500)
        while not await audit.entries.round(500):
            pass
        assert audit.ledger.violations == []


async def _prunes_to_the_end(store: Store, begin: Cursor) -> None:
    """Pruning what is left of the lost history opens nothing of it again."""
    assert await store.prune_changes(older_than_ms=-60_000, most=1) == 1
    with pytest.raises(CursorPruned):
        await store.changes_after(begin._replace(xid=begin.xid - 1))
    await store.changes_after(begin)


async def test_a_payment_that_only_the_lost_history_knew_begins_above_it(
    database_url: str, valkey_url: str, request: pytest.FixtureRequest
) -> None:
    """Else who holds its lost `pending` would take the new success for as old as that."""
    number, alone = new_id(), new_id()
    async with AsyncExitStack() as stack:
        opener = Opener(stack, database_url, valkey_url)
        restored = _backup(database_url, request)()
        async with open_world(opener, CONFIRM="never") as world:
            await _pay(world, number, "pending")
            path = f"/api/payments/{number}/status"
            lost = await world.get(path)
    await _command(restored, valkey_url, "--yes")

    async with AsyncExitStack() as stack:
        opener = Opener(stack, restored, valkey_url)
        async with open_world(opener, CONFIRM="never") as world:
            await _pay(world, number, "successful")
            now = await world.get(path, **{"If-None-Match": lost.headers["ETag"]})
            assert (now.status, now.body["status"]) == (200, "successful")
            assert now.body["version"] == RAISED_BY + 2
            body = {"tx_ref": f"new-{alone}", "amount": "5", "currency": "NGN"}
            assert (await world.post("/api/payments", body)).status < 300
            registered = await world.reference(f"new-{alone}")
            assert registered["version"] == RAISED_BY + 1
            await _nothing_wrong(world)


async def test_a_second_reset_begins_another_epoch(store: Store) -> None:
    """Cursors of the first one are not read from either."""
    assert await store.epoch.begin() == 1
    first = await store.latest_cursor()
    assert await store.epoch.begin() == 2
    with pytest.raises(CursorPruned):
        await store.changes_after(first)


async def test_every_version_is_raised_in_batches(open_process: Opener) -> None:
    async with open_world(open_process, CONFIRM="never") as world:
        numbers = [new_id() for _ in range(3)]
        for number in numbers:
            await _pay(world, number, "pending")
        before = {number: (await world.status(number))["version"] for number in numbers}
        last: str | None = ""
        raised = 0
        while last is not None:
            batch = await world.resources.store.epoch.raise_versions(last, most=2)
            raised, last = raised + batch.count, batch.last
        assert raised == await world.resources.store.epoch.count() == 6
        for number in numbers:
            answer = await world.get(f"/api/payments/{number}/status?min_version={RAISED_BY}")
            assert answer.body["version"] == before[number] + RAISED_BY


async def test_without_a_yes_nothing_is_touched(sqlite_url: str, redis: Redis) -> None:
    await redis.set("flw:v1:tx:1:hash", "x")
    env = {"DATABASE_URL": sqlite_url, "CACHE_URL": "redis://127.0.0.1:1/0"}
    result = await asyncio.to_thread(
        CliRunner().invoke, cli, ["cache", "reset"], env=env, input="n\n"
    )
    assert result.exit_code == 1
    assert await redis.exists("flw:v1:tx:1:hash")


async def test_only_what_can_be_had_again_is_cleared_on_every_server(
    cluster: Cluster, keys: Keys
) -> None:
    """Of every merchant; neither the queue nor what is counted against a provider's limits."""
    client = connect(cluster.url, timeout_s=5)
    derived = [f"flw:v1:tx:{n}:hash" for n in range(50)] + [
        "flw:v1:ref:order:hash", "flw:v1:transfer:9:details", "flw:v1:customer:c:profile",
        "flw:v1:merchant:shop:tx:1:hash", "flw:v1:merchant:tx:ref:1:hash",
    ]  # fmt: skip
    kept = ["flw:v1:queue", "flw:v1:rate:default:hour", "flw:v1:heartbeat", "arq:job:1",
            "other:v1:tx:1:hash"]  # fmt: skip
    try:
        for key in derived + kept:
            await client.set(key, "x", px=600_000)
        assert sum([count async for count in clear(client, keys)]) == len(derived)
        assert [key for key in derived if await client.get(key) is not None] == []
        assert [key for key in kept if await client.get(key) is None] == []
    finally:
        await client.aclose()
