"""What operators can do with events that were given up, and what is kept and pruned."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from paystate.audit import open_audit
from paystate.cli.commands import cli
from paystate.errors import RulingRefused, SettingsInvalid
from paystate.keys import Entity, EntityKind
from paystate.metrics import Metrics
from paystate.payments.operating import Operator
from paystate.payments.retention import Pruner, Retention
from paystate.settings import load
from paystate.store.rulings import Action, Ruling
from tests.conftest import Opener
from tests.harness import (
    World,
    make_payment,
    new_id,
    open_provider,
    open_world,
    provider_settings,
)
from tests.servers import OwnValkey
from tests.unit import bodies
from worker.pruning import PruningLoop

DAY_MS = 24 * 3600 * 1000


@pytest.fixture
async def on_sqlite(sqlite_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """What a process holds open, on SQLite alone."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, sqlite_url, valkey_url)


def _v3(number: int, status: str, **more: Any) -> Any:
    return bodies.v3_charge(id=number, status=status, **{"tx_ref": f"ref-{number}", **more})


def _charge(number: object) -> Entity:
    return Entity("default", EntityKind.CHARGE, str(number))


async def _rows(world: World, number: object) -> list[tuple[str, str, str | None]]:
    history = await world.resources.store.history(_charge(number))
    return [(row["api"], row["state"], row["reason"]) for row in history]


async def _id(world: World, number: object) -> int:
    row_id: int = (await world.resources.store.history(_charge(number)))[0]["id"]
    return row_id


async def _flawed(world: World, *, amount: str | None = "twelve") -> int:
    """Have an event held for an amount that cannot be read; return the payment's id."""
    number = new_id()
    await world.v3(_v3(number, "successful", amount=amount))
    await world.settle()
    assert await _rows(world, number) == [("v3", "held", "flawed_amount")]
    assert (await world.status(number))["held"] is True
    return number


async def _versions(world: World, number: int) -> list[tuple[int, int]]:
    trail = await world.resources.store.operations.trail(_charge(number))
    return [(change["previous_version"], change["version"]) for change in trail.changes]


async def _nothing_wrong(world: World) -> None:
    """Everything that must hold of the rows holds, and no cached entry is old."""
    async with open_audit(replace(world.resources, metrics=Metrics()), url="") as audit:
        await audit.rows.round(500)
        while not await audit.entries.round(500):
            pass
        assert audit.ledger.violations == []


async def _rule(world: World, action: str, event: int, reason: str = "seen the receipt") -> Any:
    return await world.post(f"/api/events/{event}/{action}", {"reason": reason})


async def _sql(world: World, statement: str) -> list[Any]:
    async def work(connection: Any) -> list[Any]:
        found = await connection.exec_driver_sql(statement)
        return list(found) if found.returns_rows else []

    return await world.resources.store._database.write(work)


# --- release and reject ---------------------------------------------------------------------------


async def test_a_released_event_is_applied_as_proven_and_its_reason_is_kept(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        number = await _flawed(world)
        answer = await _rule(world, "release", await _id(world, number))
        assert answer.status == 200, answer.body
        assert (answer.body["status"], answer.body["held"], answer.body["settled"]) == (
            "successful", False, True,
        )  # fmt: skip
        assert await _rows(world, number) == [
            ("v3", "released", "flawed_amount"),
            ("operator", "applied", None),
        ]
        shown = await world.status(number)
        assert (shown["status"], shown["source"], shown["held"]) == ("successful", "cache", False)
        assert (await world.reference(f"ref-{number}"))["status"] == "successful"
        state = (await world.resources.store.states([_charge(number)]))[_charge(number)]
        assert (state.open_events, state.held_events) == (0, 0)
        versions = await _versions(world, number)
        assert versions == [(n, n + 1) for n in range(state.version)]
        explained = (await world.get(f"/api/payments/{number}/explain")).body
        [ruling] = [step for step in explained["timeline"] if step["what"] == "ruling"]
        assert (ruling["by"], ruling["why"], ruling["was_state"], ruling["was_reason"]) == (
            "operator", "seen the receipt", "held", "flawed_amount",
        )  # fmt: skip
        await _nothing_wrong(world)


async def test_a_rejected_event_changes_nothing_and_the_payment_is_no_longer_held(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(_v3(number, "pending"))
        await world.settle()
        await world.v3(_v3(number, "successful", amount="twelve"))
        await world.settle()
        held = (await world.resources.store.history(_charge(number)))[-1]["id"]
        before = (await world.get(f"/api/payments/{number}")).body
        assert (before["status"], before["held"]) == ("processing", True)
        answer = await _rule(world, "reject", held, "no such transfer")
        assert (answer.status, answer.body["status"]) == (200, "pending")
        after = (await world.get(f"/api/payments/{number}")).body
        assert (after["status"], after["held"], after["amount"]) == (
            "pending", False, before["amount"],
        )  # fmt: skip
        assert (await world.reference(f"ref-{number}"))["status"] == "pending"
        assert (await _rows(world, number))[1:] == [
            ("v3", "rejected", "flawed_amount"),
            ("operator", "applied", "rejected_by_operator"),
        ]
        await _nothing_wrong(world)
        await world.v3(_v3(number, "successful", amount="twelve"))  # delivered again: rejected
        assert (await world.status(number))["status"] == "pending"


async def test_a_ruling_given_twice_is_given_once_and_the_opposite_is_refused(
    on_sqlite: Opener,
) -> None:
    async with open_world(on_sqlite) as world:
        number = await _flawed(world)
        event = await _id(world, number)
        first, again = await _rule(world, "release", event), await _rule(world, "release", event)
        assert (first.body["repeated"], again.body["repeated"]) == (False, True)
        assert {**again.body, "repeated": False} == first.body
        assert len(await _rows(world, number)) == 2
        assert (await _rule(world, "reject", event)).reason == "ruled_otherwise"
        other = await _flawed(world)
        assert (await _rule(world, "reject", await _id(world, other), " ")).reason == (
            "reason_missing"
        )
        assert (await _rule(world, "release", 10**9)).status == 404
        await world.v3(_v3(other, "successful"))
        await world.settle()
        refused = await _rule(world, "release", await _id(world, other))
        assert (refused.status, refused.reason) == (409, "already_successful")
        assert (await _rule(world, "reject", await _id(world, other))).status == 200
        await _nothing_wrong(world)


async def test_rulings_and_a_delivery_at_once_count_the_held_event_once(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        numbers = [await _flawed(world) for _ in range(4)]
        events = [await _id(world, number) for number in numbers]
        answers = await asyncio.gather(
            *(_rule(world, action, event) for event in events for action in ("release", "reject")),
            *(_rule(world, "release", event) for event in events),
            *(world.v3(_v3(n, "successful", amount="twelve")) for n in numbers),
        )
        assert {a.status for a in answers} <= {200, 409}
        await world.settle()
        await _nothing_wrong(world)
        for number in numbers:
            state = (await world.resources.store.states([_charge(number)]))[_charge(number)]
            assert state.open_events == 0
            assert len([row for row in await _rows(world, number) if row[0] == "operator"]) <= 1


async def test_a_process_that_dies_after_a_ruling_leaves_the_rest_to_the_sweeper(
    open_process: Opener,
) -> None:
    """The operator's own event is open: whoever reads sees `processing` until it has ended."""
    async with open_world(open_process) as world:
        number = await _flawed(world)
        ruling = Ruling(await _id(world, number), Action.RELEASE, "ada", "seen the receipt")
        ruled = await world.resources.store.operations.rule(ruling)
        state = (await world.resources.store.states([_charge(number)]))[_charge(number)]
        assert (state.open_events, state.held_events, state.shown) == (1, 0, "processing")
        assert {s.entity.kind for s in ruled.states} == {EntityKind.CHARGE, EntityKind.REFERENCE}
        await _nothing_wrong(world)
        await world.settle()
        assert (await world.status(number))["status"] == "successful"
        await _nothing_wrong(world)


async def test_a_ruling_marks_what_it_committed_before_it_is_settled(on_sqlite: Opener) -> None:
    """A failed payment may be served under a lease; a release takes that entry away at once."""
    async with open_world(on_sqlite, PENDING_LEASE_MS="5000") as world:
        number = new_id()
        await world.v3(_v3(number, "successful", amount="twelve"))
        await world.settle()
        floors: list[bytes | None] = []
        settler = world.resources.settler

        class Watching:
            async def settle(self, ids: list[int]) -> int:
                version = (await world.resources.store.states([_charge(number)]))[
                    _charge(number)
                ].version
                floor = await world.resources.redis.hmget(f"flw:v1:tx:{number}:hash", ["floor"])
                floors.append(floor[0])
                assert floor[0] == str(version).encode()
                return await settler.settle(ids)

        operator = Operator(
            world.resources.store, world.resources.cache, world.resources.queue,
            Watching(), world.resources.metrics,  # type: ignore[arg-type]
        )  # fmt: skip
        await operator.rule(Ruling(await _id(world, number), Action.RELEASE, "ada", "seen it"))
        assert len(floors) == 1


async def test_without_a_cache_a_ruling_waits_out_the_leases(
    sqlite_url: str, own_valkey: OwnValkey
) -> None:
    async with AsyncExitStack() as stack:
        resources = await Opener(stack, sqlite_url, own_valkey.url)()
        async with open_world(Opener(stack, sqlite_url, own_valkey.url)) as world:
            number = await _flawed(world)
            event = await _id(world, number)
        own_valkey.kill()
        waits: list[float] = []

        async def note(seconds: float) -> None:
            waits.append(seconds)

        resources.settler._sleep = note
        operator = Operator(
            resources.store, resources.cache, resources.queue, resources.settler,
            resources.metrics, sleep=note,
        )  # fmt: skip
        outcome = await operator.rule(Ruling(event, Action.RELEASE, "ada", "seen it"))
        assert outcome.state.shown == "successful"
        assert waits[0] == 1.5


async def test_a_release_may_move_a_payment_to_the_reference_that_it_names(
    on_sqlite: Opener,
) -> None:
    async with open_world(on_sqlite) as world:
        number = new_id()
        await world.v3(_v3(number, "pending"))
        await world.settle()
        await world.v3(_v3(number, "successful", tx_ref="another"))
        await world.settle()
        held = (await world.resources.store.history(_charge(number)))[-1]["id"]
        assert (await _rule(world, "release", held)).body["tx_ref"] == "another"
        assert (await world.reference("another"))["status"] == "successful"
        assert (await world.reference(f"ref-{number}"))["status"] == "unknown"
        await _nothing_wrong(world)


async def test_what_cannot_be_read_can_be_rejected_but_not_released(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        number = await _flawed(world)
        await _sql(world, "UPDATE inbox SET content = '{\"kind\": 7}', state = 'dead'")
        event = await _id(world, number)
        assert (await _rule(world, "release", event)).reason == "claim_unreadable"
        assert (await _rule(world, "reject", event)).status == 200
        await _nothing_wrong(world)


@pytest.mark.parametrize("reason", ["x" * 501, "two\nlines"])
async def test_a_reason_is_one_line_of_bounded_text(on_sqlite: Opener, reason: str) -> None:
    resources = await on_sqlite()
    operator = Operator(
        resources.store, resources.cache, resources.queue, resources.settler, resources.metrics
    )
    with pytest.raises(RulingRefused):
        await operator.rule(Ruling(1, Action.RELEASE, "ada", reason))


async def test_a_released_refund_is_an_overlay_without_what_could_not_be_read(
    on_sqlite: Opener,
) -> None:
    async with open_world(on_sqlite) as world:
        number = new_id()
        await world.v3(_v3(number, "successful"))
        await world.settle()
        await world.v3(bodies.refund(TransactionId=number, AmountRefunded="some"))
        await world.settle()
        assert (await _rows(world, number))[-1] == ("v3", "held", "flawed_amount")
        held = (await world.resources.store.history(_charge(number)))[-1]["id"]
        assert (await _rule(world, "release", held)).body["ending"] == "applied"
        [overlay] = (await world.get(f"/api/payments/{number}")).body["overlays"]
        assert (overlay["type"], overlay["amount"]) == ("refund", None)
        assert (await world.status(number))["status"] == "successful"
        await _nothing_wrong(world)


# --- HTTP -----------------------------------------------------------------------------------------


async def test_operations_need_an_operators_token_of_that_merchant(
    on_sqlite: Opener, tmp_path: Path
) -> None:
    merchants = tmp_path / "merchants.toml"
    merchants.write_text('[shop]\nsecret_hash = "shop-hash"\n')
    tokens = "operator-token,r:default:read=reader,s:shop:operate=shopkeeper"
    async with open_world(on_sqlite, API_TOKENS=tokens, MERCHANTS_FILE=str(merchants)) as world:
        number = await _flawed(world)
        event = await _id(world, number)
        assert (await world.get("/api/events", token="reader")).status == 403
        assert (await world.get(f"/api/payments/{number}/explain", token="reader")).status == 403
        assert (await world.get("/api/events", token=None)).status == 401
        assert (await world.get("/api/events", token="shopkeeper")).body["events"] == []
        assert (await world.get("/api/events?merchant=default", token="shopkeeper")).status == 403
        async with world.session.post(
            f"{world.url}/api/events/{event}/release",
            json={"reason": "mine"}, headers={"Authorization": "Bearer shopkeeper"},
        ) as response:  # fmt: skip
            assert response.status == 404
        assert len((await world.get("/api/events")).body["events"]) == 1
        assert (await world.get("/api/events?state=open")).reason == "invalid_state"
        assert (await world.get("/api/events?reason=%00")).reason == "invalid_reason"
        assert (await world.post("/api/events/x/release", {"reason": "?"})).reason == "invalid_id"
        assert (await world.post(f"/api/events/{event}/reject", [])).reason == "invalid_reason"


async def test_what_was_given_up_is_listed_with_its_reason_age_and_number(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        number = await _flawed(world)
        await _flawed(world)
        await world.age("inbox", "received_ms", 3_600_000)
        body = (await world.get("/api/events?state=held&limit=1")).body
        [listed] = body["events"]
        assert (listed["payment_id"], listed["reason"]) == (str(number), "flawed_amount")
        assert 3600 <= listed["age_s"] < 3700
        assert listed["claim"]["status"] == "successful"
        assert "customer_id" not in json.dumps(body)
        assert "card" not in json.dumps(body)
        assert body["counts"] == [{"state": "held", "reason": "flawed_amount", "events": 2}]
        assert (await world.get("/api/events?state=dead")).body["total"] == 0


# --- replay ---------------------------------------------------------------------------------------


async def test_a_replayed_event_is_open_again_and_settles(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        await world.v3(_v3(number, "successful"))
        await world.settle()
        await world.age("inbox", "received_ms", 15 * 60 * 1000 + 1)
        await world.make_due()
        await world.settle()
        assert await _rows(world, number) == [("v3", "dead", "not_found")]
        make_payment(sandbox, number, "successful", tx_ref=f"ref-{number}")
        [preview] = await _previews(world, questions=1)
        assert (preview["verdict"], preview["would_show"]) == ("applied", "successful")
        assert await _rows(world, number) == [("v3", "dead", "not_found")]  # written: nothing
        assert (await _previews(world, questions=0))[0]["verdict"] == "would_ask"
        event = await _id(world, number)
        await world.resources.redis.delete(world.resources.keys.queue)
        assert (await world.post(f"/api/events/{event}/replay", {})).body["opened"] is True
        state = (await world.resources.store.states([_charge(number)]))[_charge(number)]
        assert (state.open_events, state.held_events) == (1, 0)
        assert await world.resources.queue.depth() == 1
        await _nothing_wrong(world)
        await world.settle()
        assert (await world.status(number))["status"] == "successful"
        assert (await world.post(f"/api/events/{event}/replay", {})).reason == "is_applied"
        await _nothing_wrong(world)


async def _previews(world: World, *, questions: int) -> list[dict[str, Any]]:
    from paystate.payments.previews import Previewer
    from paystate.store.operations import Wanted

    previewer = Previewer(world.resources.store, world.resources.providers)
    found = await previewer.preview(Wanted(), most=10, questions=questions)
    return [preview.to_json() for preview in found]


async def test_an_event_of_a_payment_that_has_settled_without_it_is_not_opened_again(
    on_sqlite: Opener,
) -> None:
    """Nor does a dry run say that it would be; a person can still rule on it."""
    async with open_world(on_sqlite) as world:
        number = await _flawed(world)
        event = await _id(world, number)
        await world.v3(_v3(number, "successful", amount=1500))
        await world.settle()
        before = await world.status(number)
        assert (before["status"], before["held"]) == ("successful", False)
        [preview] = await _previews(world, questions=0)
        assert (preview["verdict"], preview["would_show"]) == ("not_opened", "successful")
        answer = await world.post(f"/api/events/{event}/replay", {})
        assert (answer.status, answer.reason) == (409, "already_successful")
        assert await _rows(world, number) == [
            ("v3", "held", "flawed_amount"), ("v3", "applied", None),
        ]  # fmt: skip
        assert (await world.status(number))["version"] == before["version"]
        await _nothing_wrong(world)


async def test_a_dry_run_says_what_would_be_held_again(on_sqlite: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(on_sqlite, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref=f"ref-{number}")
        await world.v3(_v3(number, "successful", amount=Decimal("1.00")))
        await world.settle()
        [preview] = await _previews(world, questions=5)
        assert (preview["verdict"], preview["reason"]) == ("held", "amount_mismatch")
        assert preview["would_show"] == "processing"


# --- pruning --------------------------------------------------------------------------------------


async def _prune(world: World, **days: int) -> Pruner:
    kept = {"inbox_days": 90, "event_keys_days": 400, "changes_days": 90, **days}
    pruner = Pruner(world.resources.store, Retention(**kept), most=3)
    for _ in range(50):
        if not await pruner.batch():
            return pruner
    raise AssertionError("pruning does not come to an end")


async def test_a_late_duplicate_of_a_pruned_event_does_not_count_twice(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        numbers = [new_id() for _ in range(5)]
        for number in numbers:
            await world.v3(_v3(number, "failed"))
        await world.settle()
        await world.age("inbox", "received_ms", 91 * DAY_MS)
        before = [await world.status(number) for number in numbers]
        pruner = await _prune(world)
        assert (pruner.done.emptied, pruner.done.removed) == (5, 0)
        assert await _sql(world, "SELECT count(*) FROM inbox WHERE content IS NOT NULL") == [(0,)]
        for number in numbers:
            answer = await world.v3(_v3(number, "failed"))
            assert answer.body["status"] == "duplicate"
        assert await world.settle() == 0
        after = [await world.status(number) for number in numbers]
        assert [a["version"] for a in after] == [b["version"] for b in before]
        await _nothing_wrong(world)
        await world.age("inbox", "received_ms", 310 * DAY_MS)
        assert (await _prune(world)).done.removed == 5
        assert await _sql(world, "SELECT count(*) FROM inbox") == [(0,)]
        await _nothing_wrong(world)


async def test_pruning_leaves_what_is_open_held_dead_or_contradicted(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        for _ in range(4):
            await _flawed(world)
        for state in ("dead", "contradicted"):
            await _sql(
                world, f"UPDATE inbox SET state = '{state}' "
                "WHERE id = (SELECT min(id) FROM inbox WHERE state = 'held')"
            )  # fmt: skip
        await world.v3(_v3(new_id(), "successful"))
        settled = new_id()
        await world.v3(_v3(settled, "successful"))
        await world.resources.settler.settle([await _id(world, settled)])
        await world.age("inbox", "received_ms", 500 * DAY_MS)
        rows = "SELECT id, state, content FROM inbox WHERE state != 'applied' ORDER BY id"
        before = await _sql(world, rows)
        assert [row[1] for row in before] == ["dead", "contradicted", "held", "held", "open"]
        pruner = await _prune(world)
        assert pruner.done.removed == 1
        assert await _sql(world, rows) == before
        assert await _sql(world, "SELECT count(*) FROM inbox WHERE state = 'applied'") == [(0,)]
        again = await _prune(world)
        assert (again.done.emptied, again.done.removed) == (0, 0)


async def test_a_worker_prunes_by_its_settings(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        await world.v3(_v3(new_id(), "failed"))
        await world.settle()
        await world.age("inbox", "received_ms", 2 * DAY_MS)
        stop = asyncio.Event()
        stop.set()
        for days, left in ((3, 1), (0, 1), (1, 0)):
            pruner = Pruner(world.resources.store, Retention(days, 0, 0))
            await PruningLoop(pruner, stop).work()
            full = await _sql(world, "SELECT count(*) FROM inbox WHERE content IS NOT NULL")
            assert full == [(left,)]


def test_keys_are_kept_at_least_as_long_as_what_they_are_the_keys_of() -> None:
    with pytest.raises(SettingsInvalid, match="EVENT_KEYS_KEEP_DAYS"):
        load({"INBOX_KEEP_DAYS": "90", "EVENT_KEYS_KEEP_DAYS": "89"})
    assert load({"INBOX_KEEP_DAYS": "0", "EVENT_KEYS_KEEP_DAYS": "0"}).inbox_keep_days == 0


async def test_old_changes_go_and_new_ones_stay(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        first, second = new_id(), new_id()
        await world.v3(_v3(first, "failed"))
        await world.settle()
        await world.age("changes", "changed_ms", 91 * DAY_MS)
        await world.v3(_v3(second, "failed"))
        await world.settle()
        assert (await _prune(world, changes_days=0)).done.changes == 0
        assert (await _prune(world)).done.changes == 4
        assert await _versions(world, first) == []
        assert len(await _versions(world, second)) == 2


# --- explain --------------------------------------------------------------------------------------


async def test_an_explanation_has_every_event_change_and_what_the_cache_would_say(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(_v3(number, "pending"))
        await world.settle()
        await world.v3(_v3(number, "successful"))
        await world.settle()
        await world.v3(_v3(number, "failed"))
        await world.settle()
        await world.v3(bodies.refund(TransactionId=number, AmountRefunded=100))
        await world.settle()
        explained = (await world.get(f"/api/payments/{number}/explain")).body
        assert explained["now"]["shown"] == "successful"
        assert (explained["cache"]["served"], explained["cache"]["holds"]["status"]) == (
            True, "successful",
        )  # fmt: skip
        assert explained["overlays"][0]["type"] == "refund"
        steps = explained["timeline"]
        assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)
        ended = [(s["state"], s["reason"]) for s in steps if s["what"] == "ended"]
        assert ended[:3] == [
            ("applied", None), ("applied", None), ("superseded", "already_successful"),
        ]  # fmt: skip
        assert all(s["settled_by"] for s in steps if s["what"] == "ended")
        changed = [(s["version"], s["status"]) for s in steps if s["what"] == "changed"]
        assert changed[:4] == [
            (1, "processing"), (2, "pending"), (3, "processing"), (4, "successful"),
        ]  # fmt: skip
        assert f"flw:v1:tx:{number}:changes" in steps[-1].get(
            "told_on", [f"flw:v1:tx:{number}:changes"]
        )
        by_ref = (await world.get(f"/api/payments/by-ref/ref-{number}/explain")).body
        assert [a["id"] for a in by_ref["attempts"]] == [str(number)]
        assert len([s for s in by_ref["timeline"] if s["what"] == "received"]) == 4
        text = json.dumps([explained, by_ref])
        assert "customer" not in text
        assert "card" not in text
        assert (await world.get("/api/payments/nobody/explain")).status == 404


async def test_explaining_takes_no_readers_token(on_sqlite: Opener) -> None:
    async with open_world(on_sqlite) as world:
        number = new_id()
        await world.v3(_v3(number, "pending"))
        await world.settle()
        explained = (await world.get(f"/api/payments/{number}/explain")).body
        assert explained["cache"]["served"] is False
        await world.status(number)
        await world.resources.lookups.drain()
        explained = (await world.get(f"/api/payments/{number}/explain")).body
        assert explained["cache"]["why"] == "proven, under its lease"
        # An entry whose lease has run out is what a token is given for.
        key = f"flw:v1:tx:{number}:hash"
        await world.resources.redis.eval("redis.call('HSET', KEYS[1], 'proven_at', 0)", 1, key)
        await world.resources.redis.hdel(key, "token", "token_until")
        explained = (await world.get(f"/api/payments/{number}/explain")).body
        assert (explained["cache"]["served"], "status" in explained["cache"]["holds"]) == (
            False, True,
        )  # fmt: skip
        assert await world.resources.redis.hmget(key, ["token"]) == [None]


# --- the command line -----------------------------------------------------------------------------


async def test_the_commands_work_on_the_database_itself(
    sqlite_url: str, valkey_url: str, on_sqlite: Opener, tmp_path: Path
) -> None:
    """From the list to the release, and each ends with the exit code that says what happened."""
    async with open_world(on_sqlite) as world:
        released, rejected = await _flawed(world), await _flawed(world)
        env = {"DATABASE_URL": sqlite_url, "CACHE_URL": valkey_url, "USER": "ada"}

        async def run(*args: str, code: int = 0) -> Any:
            result = await asyncio.to_thread(
                CliRunner().invoke, cli, [*args, "--data-dir", str(tmp_path), "--json"], env=env
            )
            assert result.exit_code == code, result.output
            return orjson.loads(result.stdout) if code == 0 else result.output

        listed = await run("dead-letters", "--held")
        assert [event["payment_id"] for event in listed["events"]] == [str(released), str(rejected)]
        first, second = (str(event["event"]) for event in listed["events"])
        dry = await run("replay", "--reason", "flawed_amount", "--dry-run")
        assert [one["verdict"] for one in dry["events"]] == ["held", "held"]
        done = await run("release", first, "--reason", "seen the receipt")
        assert done["status"] == "successful"
        await run("reject", second, "--reason", "not ours", "--by", "bob")
        assert "no event 999999" in await run("release", "999999", "--reason", "x", code=1)
        explained = await run("explain", str(released))
        assert [s["by"] for s in explained["timeline"] if s["what"] == "ruling"] == ["ada"]
        assert (await run("explain", f"ref-{released}", "--ref"))["now"]["kind"] == "reference"
        await run("explain", "nobody", code=1)
        await run("replay", code=2)
        await run("replay", first, code=1)
        pruned = await run("prune", "--older-than", "1d", "--dry-run")
        assert pruned == {"dry_run": True, "emptied": 0, "removed": 0, "changes": 0}
        await world.age("inbox", "received_ms", 2 * DAY_MS)
        assert (await run("prune", "--older-than", "1d"))["emptied"] == 4
