"""Two merchants whose ids, references and webhook ids are all the same, and who never meet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.topologies import Cluster
from paystate import PaymentReader, PaymentReaderSync
from paystate.cli.commands import cli
from paystate.keys import Entity, EntityKind
from tests.conftest import Opener
from tests.harness import World, open_world
from tests.unit import bodies

HANGS_S = 30
# The same for both.
NUMBER, TX_REF, CHARGE, WEBHOOK = 731_904_226, "order-1", "chg_same", "wbk_same"
# Each merchant's own: secret, tokens, what its payments cost and came to.
OURS = ("default", "current-hash", "our-reader", "100.01", "failed")
THEIRS = ("shop", "shop-hash", "their-reader", "200.02", "successful")
TOKENS = "operator-token,us:default:read=our-reader,ops:default:operate=our-operator"
FILE = f"""
[shop]
secret_hash = "{THEIRS[1]}"
tokens = ["page:read={THEIRS[2]}", "ops:operate=their-operator"]
"""


@pytest.fixture
async def world(
    postgres_url: str, cluster: Cluster, valkey_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    """One process for both, on PostgreSQL and with its cache on a cluster, and all settled."""
    file = tmp_path / "merchants.toml"
    file.write_text(FILE, "utf-8")
    async with AsyncExitStack() as stack:
        opener = Opener(stack, postgres_url, cluster.url)
        opened = await stack.enter_async_context(
            open_world(opener, QUEUE_URL=valkey_url, MERCHANTS_FILE=str(file), API_TOKENS=TOKENS)
        )
        listening = asyncio.create_task(opened.resources.feed.run())
        async with asyncio.timeout(HANGS_S):
            await opened.resources.feed.listening.wait()
        yield opened
        listening.cancel()
        await asyncio.wait([listening], timeout=2)


async def deliver(world: World, whose: tuple[str, ...]) -> None:
    """Send a merchant's webhooks: a v3 charge, a v3 transfer and a v4 charge, and settle them."""
    merchant, secret, _, amount, status = whose
    to = {"secret": secret, "merchant": None if merchant == "default" else merchant}
    v3 = bodies.v3_charge(id=NUMBER, tx_ref=TX_REF, status=status, amount=Decimal(amount))
    transfer = bodies.v3_transfer(id=NUMBER, reference=TX_REF, status=status.upper())
    v4 = bodies.v4_charge(
        id=CHARGE,
        reference=f"{TX_REF}-v4",
        status="succeeded" if status == "successful" else status,
    )
    answers = [
        await world.v3(v3, **to),
        await world.v3(transfer, **to),
        await world.v4({**v4, "webhook_id": WEBHOOK}, **to),
    ]
    assert [answer.body["status"] for answer in answers] == ["recorded"] * 3
    await world.settle()


async def shown(world: World, whose: tuple[str, ...]) -> dict[str, Any]:
    """Return what a merchant's token is shown, by every path that answers."""
    token, found = whose[2], {}
    for path in (
        f"{NUMBER}/status",
        f"{NUMBER}/status?kind=transfer",
        f"{CHARGE}/status",
        f"by-ref/{TX_REF}/status",
        f"status?tx_ref={TX_REF}",
        f"{NUMBER}",
        f"by-ref/{TX_REF}",
    ):
        answer = await world.get(f"/api/payments/{path}", token=token)
        assert answer.status == 200, (path, answer.body)
        found[path] = answer.body
    async with world.session.post(
        world.url + "/api/payments/status",
        json={"ids": [str(NUMBER), CHARGE], "tx_refs": [TX_REF]},
        headers={"Authorization": f"Bearer {token}"},
    ) as response:
        found["many"] = (await response.json())["statuses"]
    return found


def statuses(found: dict[str, Any]) -> set[str]:
    """Return every status in what `shown` returned."""
    many = found["many"]
    return {one["status"] for one in (*(v for k, v in found.items() if k != "many"), *many)}


async def test_each_sees_only_its_own_by_every_path(world: World) -> None:
    """Before the other has any, while the other changes, and after."""
    await deliver(world, OURS)
    for path in (f"{NUMBER}/status", f"by-ref/{TX_REF}/status", f"{CHARGE}/status"):
        answer = await world.get(f"/api/payments/{path}", token=THEIRS[2])
        assert (answer.status, answer.reason) == (404, "unknown_payment")
    before = await shown(world, OURS)
    assert statuses(before) == {"failed"}

    await deliver(world, THEIRS)
    for _ in range(3):  # from the database, the cache and this process
        ours, theirs = await shown(world, OURS), await shown(world, THEIRS)
        assert statuses(ours) == {"failed"}
        assert statuses(theirs) == {"successful"}
        assert (ours[f"{NUMBER}"]["amount"], theirs[f"{NUMBER}"]["amount"]) == ("100.01", "200.02")
        versions = [ours[f"{NUMBER}/status"]["version"], before[f"{NUMBER}/status"]["version"]]
        assert versions[0] == versions[1]


async def test_a_duplicate_is_one_only_for_the_merchant_that_sent_it(world: World) -> None:
    await deliver(world, OURS)
    await deliver(world, THEIRS)
    body = bodies.v4_charge(id=CHARGE, reference=f"{TX_REF}-v4", status="succeeded")
    again = await world.v4({**body, "webhook_id": WEBHOOK}, secret=THEIRS[1], merchant="shop")
    assert again.body["status"] == "duplicate"


async def test_the_very_same_webhook_is_an_event_of_each_merchant(world: World) -> None:
    """Byte for byte, with the same id: nothing but who sent it tells the two apart."""
    v3 = bodies.v3_charge(id=NUMBER, tx_ref=TX_REF)
    v4 = bodies.v4_charge(id=CHARGE, reference=f"{TX_REF}-v4") | {"webhook_id": WEBHOOK}
    ours, theirs = {"secret": OURS[1]}, {"secret": THEIRS[1], "merchant": "shop"}
    for word in ("recorded", "duplicate"):
        for to in (ours, theirs):
            assert (await world.v3(v3, **to)).body["status"] == word
            assert (await world.v4(v4, **to)).body["status"] == word
    await world.settle()
    for whose in (OURS, THEIRS):
        for number in (NUMBER, CHARGE):
            shown = await world.get(f"/api/payments/{number}/status", token=whose[2])
            assert shown.body["status"] == "successful"


async def test_neither_secrets_nor_tokens_open_anything_of_the_other(world: World) -> None:
    await deliver(world, OURS)
    await deliver(world, THEIRS)
    body = bodies.v3_charge(id=NUMBER, tx_ref=TX_REF, status="successful")
    assert (await world.v3(body, secret=OURS[1], merchant="shop")).status == 401
    assert (await world.v3(body, secret=THEIRS[1])).status == 401
    for token, other in ((OURS[2], "shop"), (THEIRS[2], "default"), ("their-operator", "default")):
        for path in ("payments/1/status", "payments/by-ref/x/status", "payments/1", "changes",
                     "payments/1/events", "payments/by-ref/x/events"):  # fmt: skip
            answer = await world.get(f"/api/{path}?merchant={other}", token=token)
            assert (answer.status, answer.reason) == (403, "other_merchant"), path


async def streamed(
    world: World, path: str, token: str, act: Callable[[], Any], count: int
) -> list[Any]:
    """Follow a stream, do `act` once it is open, and return the first `count` events."""
    found: list[Any] = []
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    async with (
        asyncio.timeout(HANGS_S),
        world.session.get(world.url + path, headers=headers) as stream,
    ):
        assert (await stream.content.readline()).startswith(b"retry")
        await act()
        async for line in stream.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                if len(found) == count:
                    return found
    return found


async def test_streams_and_the_change_log_tell_each_of_its_own(world: World) -> None:
    start = (await world.get("/api/changes", token=OURS[2])).body["cursor"]

    async def both() -> None:
        await deliver(world, THEIRS)
        await deliver(world, OURS)

    # Ours come last: a stream that told of theirs would have told of them before.
    payment = await streamed(world, "/api/changes", OURS[2], both, 2)
    assert {change["merchant"] for change in payment} == {"default"}
    for whose in (OURS, THEIRS):
        page = (await world.get(f"/api/changes?after={start}", token=whose[2])).body["changes"]
        assert {change["merchant"] for change in page} == {whose[0]}
        assert whose[4] in {change["status"] for change in page}

        async def nothing() -> None:
            """The first event is the status as it is."""

        for path in (f"/api/payments/{NUMBER}/events", f"/api/payments/by-ref/{TX_REF}/events"):
            (status,) = await streamed(world, path, whose[2], nothing, 1)
            assert status["status"] == whose[4]
    everything = (await world.get(f"/api/changes?after={start}", token="operator-token")).body
    assert {change["merchant"] for change in everything["changes"]} == {"default", "shop"}


async def test_channels_and_keys_are_each_ones_own(world: World, cluster: Cluster) -> None:
    """What is published for one is on no channel of the other, and no key is written by both."""
    keys, heard = world.resources.keys, []
    entity = Entity("default", EntityKind.CHARGE, str(NUMBER))
    ours = [keys.all_changes("default"), keys.changes(entity)]
    async with world.resources.redis.pubsub() as pubsub:
        await pubsub.subscribe(*ours)
        for _ in ours:
            await pubsub.get_message(timeout=HANGS_S)
        await deliver(world, THEIRS)
        before = _all_keys(cluster)
        await deliver(world, OURS)
        async with asyncio.timeout(HANGS_S):
            while not heard or heard[-1]["status"] != OURS[4]:
                message = await pubsub.get_message(timeout=HANGS_S)
                if message is not None and b"version" in message["data"]:
                    heard.append(json.loads(message["data"]))
    assert {change["merchant"] for change in heard} == {"default"}
    hashes = {key for key in _all_keys(cluster) - before if key.endswith(":hash")}
    theirs = {key for key in before if key.endswith(":hash")}
    assert theirs
    assert all(key.startswith("flw:v1:merchant:shop:") for key in theirs)
    assert all(key.startswith(("flw:v1:tx:", "flw:v1:transfer:", "flw:v1:ref:")) for key in hashes)


def _all_keys(cluster: Cluster) -> set[str]:
    found: set[str] = set()
    for node in cluster.nodes:
        if node.ask("ROLE")[0] == "master":
            found |= set(node.ask("KEYS", "*"))
    return found


async def test_readers_of_other_services_see_their_merchants_own(
    world: World, cluster: Cluster
) -> None:
    await deliver(world, OURS)
    await deliver(world, THEIRS)
    for merchant, _, token, _, status in (OURS, THEIRS):
        async with PaymentReader(
            cluster.url, api_url=world.url, api_token=token, merchant=merchant
        ) as reader:
            assert (await reader.status(str(NUMBER))).status == status
            assert (await reader.reference(TX_REF)).status == status
            details = await reader.payment(str(NUMBER))
            assert details.answer.status == status
        with PaymentReaderSync(
            cluster.url, api_url=world.url, api_token=token, merchant=merchant
        ) as other:
            assert (await asyncio.to_thread(other.status, NUMBER)).status == status


async def test_operators_and_commands_work_on_their_merchants_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver(world, OURS)
    await deliver(world, THEIRS)
    for token, whose in (("our-operator", OURS), ("their-operator", THEIRS)):
        explained = await world.get(f"/api/payments/{NUMBER}/explain", token=token)
        assert explained.status == 200
        text = json.dumps(explained.body)
        assert [amount in text for amount in (OURS[3], THEIRS[3])] == [
            whose is OURS,
            whose is THEIRS,
        ]
        assert (await world.get("/api/events", token=token)).body["events"] == []
    monkeypatch.setenv("NO_COLOR", "1")
    for whose in (OURS, THEIRS):
        arguments = ["lookup", str(NUMBER), "--merchant", whose[0], "--json"]
        arguments += ["--url", world.url, "--token", "operator-token"]
        run = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
        assert run.exit_code == 0, run.output
        assert json.loads(run.output)["status"] == whose[4]
        run = await asyncio.to_thread(
            CliRunner().invoke,
            cli,
            ["explain", str(NUMBER), "--merchant", whose[0], "--json"],
            env={
                "DATABASE_URL": world.resources.settings.database_url,
                "CACHE_URL": world.resources.settings.cache_url,
                "QUEUE_URL": world.resources.settings.queue_url,
            },
        )
        assert run.exit_code == 0, run.output
        shown_ = [amount in run.output for amount in (OURS[3], THEIRS[3])]
        assert shown_ == [whose is OURS, whose is THEIRS]
