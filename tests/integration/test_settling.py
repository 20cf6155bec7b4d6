"""From a recorded event to a settled payment: confirmed, held, contradicted, retried, corrected."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import orjson
import pytest

from paystate.errors import CacheUnavailable, StoreUnavailable
from paystate.flutterwave.sandbox.faults import Fault, FaultMode
from paystate.keys import Entity, EntityKind
from paystate.payments import settling
from paystate.settings import Role
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

_webhooks = itertools.count(1)


def _v3(payment_id: int, status: str, **more: Any) -> Any:
    return bodies.v3_charge(id=payment_id, status=status, **{"tx_ref": f"ref-{payment_id}", **more})


def _v4(payment_id: str, status: str, **more: Any) -> Any:
    body = bodies.v4_charge(id=payment_id, status=status, **more)
    return {**body, "webhook_id": f"wbk_{next(_webhooks)}"}


async def _endings(world: World, payment_id: object) -> list[tuple[str, str | None]]:
    entity = Entity("default", EntityKind.CHARGE, str(payment_id))
    return [(row["state"], row["reason"]) for row in await world.resources.store.history(entity)]


async def test_without_credentials_a_body_is_applied_and_cached_for_a_day(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(_v3(number, "pending"))
        await world.settle()
        assert (await world.status(number))["status"] == "pending"
        await world.v3(_v3(number, "successful"))
        assert (await world.status(number))["status"] == "processing"
        await world.settle()
        shown = await world.status(number)
        assert (shown["status"], shown["source"], shown["terminal"]) == (
            "successful",
            "cache",
            True,
        )
        assert 86_400 <= await world.resources.redis.ttl(f"flw:v1:tx:{number}:hash") <= 95_040
        by_reference = await world.reference(f"ref-{number}")
        assert (by_reference["status"], by_reference["payment_id"]) == ("successful", str(number))


@pytest.mark.parametrize("late", ["failed", "pending", "voided", "wobbling"])
async def test_nothing_after_a_success_changes_what_is_shown(
    open_process: Opener, late: str
) -> None:
    async with open_world(open_process) as world:
        number = f"chg_{new_id()}"
        await world.v4(_v4(number, "succeeded"))
        await world.settle()
        before = await world.status(number)
        await world.v4(_v4(number, late))
        assert await world.status(number) == before
        await world.settle()
        assert await world.status(number) == before
        assert [state for state, _ in await _endings(world, number)] == ["applied", "superseded"]


async def test_a_correction_needs_more_than_a_v3_body(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        v3, v4 = new_id(), f"chg_{new_id()}"
        await world.v3(_v3(v3, "failed"))
        await world.v4(_v4(v4, "failed"))
        await world.settle()
        await world.v3(_v3(v3, "successful"))
        await world.v4(_v4(v4, "succeeded"))
        await world.settle()
        assert (await world.status(v3))["status"] == "failed"
        assert (await _endings(world, v3))[-1] == ("superseded", "correction_unproven")
        assert (await world.status(v4))["status"] == "successful"


async def test_a_reference_is_successful_when_any_attempt_is(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        first, second = new_id(), new_id()
        await world.v3(_v3(first, "failed", tx_ref="cart-1"))
        await world.settle()
        assert (await world.reference("cart-1"))["status"] == "failed"
        await world.v3(_v3(second, "successful", tx_ref="cart-1"))
        assert (await world.reference("cart-1"))["status"] == "processing"
        await world.settle()
        shown = await world.reference("cart-1")
        assert (shown["status"], shown["payment_id"]) == ("successful", str(second))
        await world.v3(_v3(first, "pending", tx_ref="cart-1"))
        await world.settle()
        assert await world.reference("cart-1") == shown


async def test_the_provider_confirms_and_its_answer_is_what_is_applied(
    open_process: Opener,
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        v3, v4 = new_id(), f"chg_{new_id()}"
        make_payment(sandbox, v3, "successful", tx_ref=f"ref-{v3}")
        make_payment(sandbox, v4, "failed", tx_ref="v4-ref", amount=Decimal("2000.5"),
                     currency="GHS")  # fmt: skip
        await world.v3(_v3(v3, "pending"))
        await world.v4(_v4(v4, "pending", reference="v4-ref"))
        await world.settle()
        assert (await world.status(v3))["status"] == "successful"
        assert (await world.status(v4))["status"] == "failed"


async def test_one_question_serves_all_events_of_a_payment(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref=f"ref-{number}")
        for word in ("pending", "successful", "failed"):
            await world.v3(_v3(number, word))
        await world.settle()
        assert await _calls(world) == {"found": 1.0}
        await world.v3(_v3(number, "pending", amount=1))
        await world.settle()  # known as successful: nobody has to be asked
        assert await _calls(world) == {"found": 1.0}


async def _calls(world: World) -> dict[str, float]:
    samples = world.resources.metrics.provider_calls.collect()[0].samples
    return {s.labels["outcome"]: s.value for s in samples if s.name.endswith("_total")}


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        ({"amount": Decimal("1.00")}, "amount_mismatch"),
        ({"currency": "USD"}, "currency_mismatch"),
        ({"tx_ref": "somebody-else"}, "reference_mismatch"),
    ],
)
async def test_a_mismatch_holds_the_event_and_a_matching_one_settles_the_payment(
    open_process: Opener, claim: dict[str, Any], reason: str
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref=f"ref-{number}")
        await world.v3(_v3(number, "successful", **claim))
        await world.settle()
        assert await _endings(world, number) == [("held", reason)]
        shown = await world.status(number)
        assert (shown["status"], shown["held"], shown["fresh"]) == ("processing", True, False)
        await world.v3(_v3(number, "successful"))
        await world.settle()
        shown = await world.status(number)
        assert (shown["status"], shown["held"], shown["fresh"]) == ("successful", False, True)
        assert (await world.get("/api/payments/by-ref/somebody-else/status")).status in (200, 404)
        other = await world.get("/api/payments/by-ref/somebody-else/status")
        assert other.status == 404 or other.body["status"] != "successful"


async def test_a_contradiction_is_asked_again_and_the_provider_has_the_last_word(
    open_process: Opener,
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "pending", tx_ref=f"ref-{number}")
        await world.v3(_v3(number, "successful"))
        await world.settle()
        assert await _endings(world, number) == [("open", "provider_says_pending")]
        assert (await world.status(number))["status"] == "processing"
        await world.age("inbox", "received_ms", 15 * 60 * 1000 + 1)
        await world.make_due()
        await world.settle()
        assert await _endings(world, number) == [("contradicted", "provider_says_pending")]
        shown = await world.status(number)
        assert (shown["status"], shown["fresh"]) == ("pending", True)


async def test_a_payment_the_provider_does_not_know_is_a_dead_letter_never_failed(
    open_process: Opener,
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        await world.v3(_v3(number, "failed"))
        await world.settle()
        assert await _endings(world, number) == [("open", "not_found")]
        await world.age("inbox", "received_ms", 15 * 60 * 1000 + 1)
        await world.make_due()
        await world.settle()
        assert await _endings(world, number) == [("dead", "not_found")]
        shown = await world.status(number)
        assert (shown["status"], shown["held"], shown["fresh"]) == ("processing", True, False)


@pytest.mark.parametrize("mode", [FaultMode.UNAVAILABLE, FaultMode.HTML, FaultMode.RATE_LIMITED])
async def test_a_provider_that_is_down_costs_no_attempt_and_fails_nobody(
    open_process: Opener, mode: FaultMode
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref=f"ref-{number}")
        sandbox.sandbox.faults.set(Fault(mode))
        await world.v3(_v3(number, "failed"))
        for _ in range(3):
            await world.make_due()
            await world.settle()
        assert (await world.status(number))["status"] == "processing"
        [(state, reason)] = await _endings(world, number)
        assert state == "open"
        assert reason is not None
        assert reason.startswith("provider_")
        entity = Entity("default", EntityKind.CHARGE, str(number))
        assert (await world.resources.store.history(entity))[0]["attempts"] == 0
        sandbox.sandbox.faults.set(Fault(FaultMode.NONE))
        await world.resources.redis.flushall()  # and the cool-off with it
        for provider in world.resources.providers.values():
            gate: Any = provider.client._v3._gate
            gate._local = type(gate._local)(hourly_budget=1000)
        await world.make_due()
        await world.settle()
        assert (await world.status(number))["status"] == "successful"


async def test_confirm_v3_believes_signed_bodies_and_asks_about_the_others(
    open_process: Opener,
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, CONFIRM="v3", **provider_settings(sandbox)) as world,
    ):
        v3, v4 = new_id(), f"chg_{new_id()}"
        make_payment(sandbox, v3, "pending", tx_ref=f"ref-{v3}")
        make_payment(sandbox, v4, "pending", tx_ref="x")
        await world.v3(_v3(v3, "successful"))
        await world.v4(_v4(v4, "succeeded"))
        await world.settle()
        assert (await world.status(v3))["status"] == "processing"
        assert (await world.status(v4))["status"] == "successful"


async def test_a_forged_v3_body_cannot_move_a_payment_to_another_reference(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        mine, theirs = new_id(), new_id()
        await world.v3(_v3(mine, "successful", tx_ref="mine"))
        await world.v3(_v3(theirs, "pending", tx_ref="theirs"))
        await world.settle()
        await world.v3(_v3(mine, "successful", tx_ref="theirs", amount=7))
        await world.settle()
        assert (await world.reference("theirs"))["status"] == "pending"
        await world.v3(_v3(theirs, "successful", tx_ref="mine"))
        await world.settle()
        assert (await _endings(world, theirs))[-1] == ("held", "reference_mismatch")
        assert (await world.reference("mine"))["payment_id"] == str(mine)


async def test_a_refund_is_an_overlay_and_the_payment_stays_successful(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(_v3(number, "successful"))
        await world.settle()
        await world.v3(bodies.refund(TransactionId=number, AmountRefunded=100))
        await world.settle()
        details = (await world.get(f"/api/payments/{number}")).body
        assert details["status"] == "successful"
        [overlay] = details["overlays"]
        assert (overlay["type"], overlay["status"], overlay["amount"]) == (
            "refund",
            "initiated",
            "100",
        )


async def test_one_event_that_cannot_be_settled_holds_up_no_other(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        good, bad = new_id(), new_id()
        await world.v3(_v3(bad, "successful"))
        await world.v3(_v3(good, "successful"))
        database = world.resources.store._database

        async def spoil(connection: Any) -> None:
            content = orjson.dumps({"kind": "charge", "status": "no such status"}).decode()
            await connection.exec_driver_sql(
                f"UPDATE inbox SET content = '{content}' WHERE entity_key LIKE '%{bad}'"
            )

        await database.write(spoil)
        for _ in range(20):
            await world.make_due()
            await world.settle()
        assert (await world.status(good))["status"] == "successful"
        assert await _endings(world, bad) == [("dead", "undecidable")]
        assert (await world.status(bad))["held"] is True


async def test_the_change_is_published_after_the_cache_was_written(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        redis = world.resources.redis
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe(f"flw:v1:tx:{number}:changes")
            assert (await pubsub.get_message(timeout=10))["type"] == "subscribe"
            await world.v3(_v3(number, "successful"))
            await world.settle()
            seen = []
            while len(seen) < 2:
                message = await pubsub.get_message(timeout=10)
                assert message is not None
                seen.append(orjson.loads(message["data"]))
                if seen[-1]["status"] == "successful":
                    assert await redis.hget(f"flw:v1:tx:{number}:hash", "status") == b"successful"
        assert [change["status"] for change in seen] == ["processing", "successful"]
        assert set(seen[1]) == {
            "payment_id", "tx_ref", "kind", "merchant", "status", "previous_status", "terminal",
            "version", "previous_version", "changed_at", "cursor",
        }  # fmt: skip
        assert (seen[1]["previous_version"], seen[1]["version"]) == (1, 2)


@pytest.mark.parametrize("lease_ms", ["1000", "0"])
async def test_without_a_cache_the_worker_waits_out_the_leases_before_it_commits(
    database_url: str, own_valkey: OwnValkey, lease_ms: str
) -> None:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, database_url, own_valkey.url)
        async with open_world(opener, PENDING_LEASE_MS=lease_ms) as world:
            number = new_id()
            await world.v3(_v3(number, "successful"))
            own_valkey.kill()
            waits: list[float] = []
            states: list[str] = []

            async def note(seconds: float) -> None:
                waits.append(seconds)
                entity = Entity("default", EntityKind.CHARGE, str(number))
                states.append((await world.resources.store.states([entity]))[entity].shown)
                now[0] += seconds

            now = [0.0]
            world.resources.settler._clock = lambda: now[0]
            world.resources.settler._sleep = note
            await world.settle()
            if lease_ms == "0":
                assert waits == []
            else:
                assert len(waits) == 1
                assert 0 < waits[0] <= 1.5
                assert states == ["processing"]
            own_valkey.restart(empty=True)
            assert (await world.status(number))["status"] == "successful"


async def test_a_part_that_cannot_be_marked_waits_for_the_leases_and_the_rest_is_told_first(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL settles what is plain without locks, and the refund with them: two marks."""
    async with open_world(open_process) as world:
        plain, refunded = new_id(), new_id()
        await world.v3(_v3(refunded, "successful"))
        await world.settle()
        await world.v3(_v3(plain, "failed"))
        await world.v3(bodies.refund(TransactionId=refunded))
        settler, mark = world.resources.settler, world.resources.cache.mark
        of_refunded = Entity("default", EntityKind.CHARGE, str(refunded))
        told: list[str] = []

        async def refuse(states: Any) -> None:
            if any(state.entity == of_refunded for state in states):
                raise CacheUnavailable("mark_failed")
            await mark(states)

        async def note(seconds: float) -> None:
            assert 0 < seconds <= 1.5
            told.append((await world.status(plain))["status"])

        monkeypatch.setattr(world.resources.cache, "mark", refuse)
        settler._clock = lambda: 0.0
        settler._sleep = note
        await settler.sweep(grace_ms=0, most=100)
        on_postgresql = world.resources.store.dialect == "postgresql"
        assert told == ["failed" if on_postgresql else "processing"]
        assert (await world.status(plain))["status"] == "failed"
        details = (await world.get(f"/api/payments/{refunded}")).body
        assert [overlay["type"] for overlay in details["overlays"]] == ["refund"]
        assert await _claims(world) == []


async def test_settings_of_a_worker_need_no_webhook_secret() -> None:
    from paystate.settings import load

    assert load({}, role=Role.WORKER).secret_hashes == ()


async def _claims(world: World) -> list[tuple[int, str | None]]:
    """Return until when, and by whom, each open event is claimed."""

    async def work(connection: Any) -> list[tuple[int, str | None]]:
        found = await connection.exec_driver_sql(
            "SELECT claimed_until_ms, claimed_by FROM inbox WHERE state = 'open' ORDER BY id"
        )
        return [tuple(row) for row in found]

    return await world.resources.store._database.read(work)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let claims be released however long that takes here."""
    monkeypatch.setattr(settling, "RELEASE_S", 60.0)


@pytest.mark.usefixtures("patient")
async def test_a_worker_that_is_stopped_while_it_asks_lets_go_of_its_events(
    open_process: Opener,
) -> None:
    """They are free at once, and counted as tried, so that no sweep leaves them to the queue."""
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref=f"ref-{number}")
        await world.v3(_v3(number, "successful"))
        await world.make_due()  # whatever the machine's clock has been set to since
        sandbox.sandbox.faults.set(Fault(FaultMode.SLOW))
        stopped = asyncio.create_task(world.resources.settler.settle([1]))
        while not (await _claims(world))[0][1]:
            assert not stopped.done()
            await asyncio.sleep(0.02)
        stopped.cancel()
        await asyncio.wait([stopped])
        assert stopped.cancelled()
        assert await _claims(world) == [(0, None)]
        assert await _endings(world, number) == [("open", "broken_off")]
        sandbox.sandbox.faults.set(Fault(FaultMode.NONE))
        assert await world.resources.settler.sweep(grace_ms=60_000, most=100) == (1, 1)


@pytest.mark.usefixtures("patient")
async def test_a_sweep_that_fails_lets_go_of_its_events(open_process: Opener) -> None:
    """The next sweep finds what this one had taken, without waiting for a claim to run out."""
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(_v3(number, "successful"))
        await _run(world, "ALTER TABLE details RENAME TO hidden")
        with pytest.raises(StoreUnavailable, match="run `paystate migrate`"):
            await world.resources.settler.sweep(grace_ms=0, most=100)
        assert await _claims(world) == [(0, None)]
        await _run(world, "ALTER TABLE hidden RENAME TO details")
        assert await world.resources.settler.sweep(grace_ms=60_000, most=100) == (1, 1)
        assert (await world.status(number))["status"] == "successful"


async def _run(world: World, statement: str) -> None:
    async def work(connection: Any) -> None:
        await connection.exec_driver_sql(statement)

    await world.resources.store._database.write(work)


async def test_two_settlers_at_once_end_each_event_once(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        other = await open_process()
        numbers = [new_id() for _ in range(40)]
        await asyncio.gather(*(world.v3(_v3(n, "successful")) for n in numbers))
        results = await asyncio.gather(
            *(
                settler.sweep(grace_ms=0, most=7)
                for settler in (world.resources.settler, other.settler)
                for _ in range(6)
            )
        )
        await world.settle()
        assert sum(ended for _, ended in results) <= 40
        states = await asyncio.gather(*(world.status(n) for n in numbers))
        assert {(s["status"], s["version"]) for s in states} == {("successful", 2)}
