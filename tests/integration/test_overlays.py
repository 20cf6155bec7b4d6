"""A refund or reversal is news of its payment, whose status it leaves alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from bench.topologies import Cluster
from paystate.keys import Entity, EntityKind
from tests.conftest import Opener
from tests.harness import World, new_id, open_world
from tests.integration.test_streams import feeding, stream
from tests.unit import bodies


@pytest.fixture
async def on_sqlite(sqlite_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """What a process holds open, on SQLite alone."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, sqlite_url, valkey_url)


SUMS = ("refunded_amount", "refund_pending_amount", "refund_flags")


async def _paid(world: World, number: int) -> dict[str, Any]:
    """Have a payment of 1000 NGN settled, and return what is answered of it."""
    await world.v3(bodies.v3_charge(id=number, amount=1000, currency="NGN", tx_ref=f"o-{number}"))
    await world.settle()
    return await world.status(number)


async def _refund(world: World, number: int, own_id: int, status: str, **more: Any) -> None:
    body = bodies.refund(id=own_id, TransactionId=number, status=status, **more)
    assert (await world.v3(body)).status == 200
    await world.settle()


async def _sums(world: World, number: int) -> tuple[Any, ...]:
    for path in (f"/api/payments/{number}", f"/api/payments/by-ref/o-{number}"):
        details = (await world.get(path)).body
        assert details["status"] == "successful"
    return tuple(details[name] for name in SUMS)


async def test_a_refund_is_told_to_streams_readers_and_the_long_poll(
    open_process: Opener,
) -> None:
    """Once for each step: v3's `completed` is the first, `completed-<channel>` the last."""
    async with open_world(open_process) as world, feeding(world):
        number = new_id()
        before = await _paid(world, number)
        order = await world.reference(f"o-{number}")
        assert await _sums(world, number) == ("0", "0", [])
        async with stream(world, f"/api/payments/{number}/events") as events:
            await events.next()
            version = before["version"]
            for status, refunded, pending in (
                ("completed", "0", "100.5"), ("completed-momo", "100.5", "0"),
            ):  # fmt: skip
                await _refund(world, number, 1, status, AmountRefunded=100.5)
                name, told, _ = await events.next()
                assert (name, told["status"], told["previous_status"]) == (
                    "change", "successful", "successful",
                )  # fmt: skip
                assert (told["terminal"], told["previous_version"]) == (True, version)
                shown = await world.status(number, f"?wait=25&after_version={version}")
                version += 1
                assert told["version"] == version
                assert (shown["version"], shown["source"]) == (version, "cache")
                assert await _sums(world, number) == (refunded, pending, [])
        assert {**shown, "version": 0, "as_of": ""} == {**before, "version": 0, "as_of": ""}
        assert await world.reference(f"o-{number}") == order


async def test_a_refund_that_comes_again_or_late_is_no_news(open_process: Opener) -> None:
    """Neither in other bytes, nor an earlier step after a later one."""
    async with open_world(open_process) as world:
        number = new_id()
        await _paid(world, number)
        await _refund(world, number, 1, "completed-momo")
        before = await world.status(number)
        cursor = (await world.get("/api/changes")).body["cursor"]
        await _refund(world, number, 1, "completed-momo", comments="again")
        await _refund(world, number, 1, "completed", AmountRefunded=900)
        assert await world.status(number) == before
        assert (await world.get(f"/api/changes?after={cursor}")).body["changes"] == []
        assert await _sums(world, number) == ("100", "0", [])


async def test_refunds_of_more_than_was_paid_are_shown_and_flagged(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        number = new_id()
        await _paid(world, number)
        for own_id in (1, 2):
            await _refund(world, number, own_id, "completed-momo", AmountRefunded=600)
        await _refund(world, number, 3, "completed-momo", currency="USD")
        flags = ["currency_differs", "over_refunded"]
        assert await _sums(world, number) == ("1200", "0", flags)


async def test_whoever_dies_before_it_writes_a_refund_through_leaves_an_entry_that_runs_out(
    open_process: Opener,
) -> None:
    """After half a minute; and sooner for whoever has heard of the new version."""
    async with open_world(open_process) as world:
        number = new_id()
        before = await _paid(world, number)
        key = world.resources.keys.hash(Entity("default", EntityKind.CHARGE, str(number)))
        teller = world.resources.settler._teller

        async def die(_settled: Any) -> None:
            raise RuntimeError("killed between the commit and the cache")

        teller.tell = die  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="killed"):
            await _refund(world, number, 1, "completed-momo")
        assert await world.resources.redis.pttl(key) <= 30_000
        version = before["version"] + 1
        assert (await world.get(f"/api/payments/{number}")).body["version"] == version
        shown = await world.status(number, f"?min_version={version}")
        assert (shown["version"], shown["source"]) == (version, "cache")


async def test_a_reversal_leaves_its_transfer_successful(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        number = f"trf_{new_id()}"
        await world.v4(bodies.v4_transfer(id=number))
        await world.settle()
        before = await world.status(number)
        await world.v4(bodies.v4_reversal(id=number))
        await world.settle()
        details = (await world.get(f"/api/payments/{number}?kind=transfer")).body
        assert (details["status"], details["reversal"]) == ("successful", "completed")
        assert (details["version"], details["source"]) == (before["version"] + 1, "cache")


async def test_a_cluster_keeps_the_version_that_a_refund_made(
    postgres_url: str, valkey_url: str, cluster: Cluster
) -> None:
    async with (
        AsyncExitStack() as stack,
        open_world(Opener(stack, postgres_url, cluster.url), QUEUE_URL=valkey_url) as world,
    ):
        number = new_id()
        before = await _paid(world, number)
        entity = Entity("default", EntityKind.CHARGE, str(number))
        kept = await world.resources.cache.read(entity)
        assert kept.version == before["version"]
        await _refund(world, number, 1, "completed-momo")
        kept = await world.resources.cache.read(entity)
        assert (kept.status, kept.version) == ("successful", before["version"] + 1)
