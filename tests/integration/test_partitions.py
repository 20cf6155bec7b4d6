"""The change log in partitions, made and thrown away by the very statements of docs/scaling.md."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import Any

from paystate.store.engine import open_database
from tests.conftest import Opener
from tests.harness import World, new_id, open_world
from tests.integration.test_expected import nothing_wrong
from tests.parts import ROOT
from tests.unit import bodies

PAGE = (ROOT / "docs" / "scaling.md").read_text("utf-8")


async def _run(url: str, name: str, **replaced: str) -> None:
    """Run the statements of the page under `name`, with parts of them replaced."""
    found = re.search(rf"<!-- {name} -->\n```sql\n(.*?)```", PAGE, re.DOTALL)
    assert found
    text = found[1]
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    database = open_database(url, pool=1, timeout_s=30)
    async with database.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        await driver.execute(text)
    await database.close()


async def _sizes(world: World) -> dict[str, int]:
    """Return how many changes are in each partition that has any."""

    async def work(connection: Any) -> dict[str, int]:
        found = await connection.exec_driver_sql(
            "SELECT tableoid::regclass::text, count(*) FROM changes GROUP BY 1"
        )
        return {row[0]: row[1] for row in found}

    return await world.resources.store._database.read(work)


async def _paid(world: World, count: int) -> list[int]:
    numbers = [new_id() for _ in range(count)]
    for number in numbers:
        await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"ref-{number}"))
        await world.settle()
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"ref-{number}"))
        await world.settle()
    return numbers


async def test_a_change_log_in_partitions_is_read_written_and_thrown_away_like_one_table(
    postgres_url: str, valkey_url: str
) -> None:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, postgres_url, valkey_url)
        async with open_world(opener) as world:
            before = await _paid(world, 2)
            start = (await world.get("/api/changes?after=0.0")).body["changes"]
            # Sixteen changes to a partition, where the page has ten million.
            await _run(
                postgres_url, "partition", **{"size bigint := 10000000": "size bigint := 16"}
            )
            after = await _paid(world, 5)
            sizes = await _sizes(world)
            assert sizes["changes_first"] >= len(start)
            assert len(sizes) >= 3
            told = (await world.get("/api/changes?after=0.0")).body["changes"]
            assert told[: len(start)] == start
            assert len(told) == sum(sizes.values())
            cursors = [tuple(map(int, change["cursor"].split("."))) for change in told]
            assert cursors == sorted(cursors)
            for number in (*before, *after):
                assert (await world.status(number))["status"] == "successful"
            explained = (await world.get(f"/api/payments/{before[0]}/explain")).body
            assert [step["what"] for step in explained["timeline"]].count("changed") >= 2

            await _run(postgres_url, "drop")
            gone = await world.get("/api/changes?after=0.0")
            assert (gone.status, gone.reason) == (410, "cursor_pruned")
            rest = await world.get(f"/api/changes?after={told[-2]['cursor']}")
            assert rest.body["changes"] == told[-1:]
            assert "changes_first" not in await _sizes(world)
            (number,) = await _paid(world, 1)
            assert (await world.status(number))["status"] == "successful"
            assert await world.resources.store.prune_changes(older_than_ms=0, most=1000) > 0
            await nothing_wrong(world)
