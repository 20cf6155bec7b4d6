"""What whoever has seen one v3 webhook can do with it: send any body. It must gain them nothing."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from paystate.changes import Cursor
from paystate.flutterwave.sandbox.faults import Fault, FaultMode
from paystate.keys import Entity, EntityKind
from paystate.updates import Kind
from tests.conftest import Opener
from tests.harness import (
    World,
    make_payment,
    new_id,
    open_provider,
    open_world,
    provider_settings,
)
from tests.unit import bodies


async def _ends(world: World, payment_id: object, kind: EntityKind = EntityKind.CHARGE) -> Any:
    entity = Entity("default", kind, str(payment_id))
    return [(row["state"], row["reason"]) for row in await world.resources.store.history(entity)]


async def test_an_id_that_nobody_can_verify_is_held_not_believed(open_process: Opener) -> None:
    async with open_provider() as sandbox:
        settings = provider_settings(sandbox)
        del settings["FLW_CLIENT_ID"], settings["FLW_CLIENT_SECRET"]
        async with open_world(open_process, **settings) as world:
            await world.v3(bodies.v3_charge(id="chg_forged", tx_ref="ORDER-1"))
            await world.settle()
            assert await _ends(world, "chg_forged") == [("held", "unverifiable")]
            assert (await world.reference("ORDER-1"))["status"] != "successful"


@pytest.mark.parametrize("confirm", ["always", "v3", "never"])
async def test_a_signed_body_cannot_move_a_successful_payment_to_another_reference(
    open_process: Opener, confirm: str
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, CONFIRM=confirm, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref="CHEAP")
        await world.v3(bodies.v3_charge(id=number, tx_ref="CHEAP"))
        await world.settle()
        await world.v4(bodies.v4_charge(id=str(number), reference="VICTIM-ORDER"))
        await world.settle()
        assert (await world.status(number))["tx_ref"] == "CHEAP"
        victim = await world.get("/api/payments/by-ref/VICTIM-ORDER/status")
        assert victim.status == 404 or victim.body["status"] != "successful"


async def test_a_payout_does_not_make_a_customers_reference_successful(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        charge, payout = new_id(), new_id()
        await world.v3(bodies.v3_charge(id=charge, status="pending", tx_ref="O-9"))
        await world.v3(bodies.v3_transfer(id=payout, status="SUCCESSFUL", reference="O-9"))
        await world.settle()
        assert (await world.reference("O-9"))["status"] == "pending"
        assert (await world.status(payout, "?kind=transfer"))["tx_ref"] == "O-9"
        await world.v3(bodies.v3_transfer(id=new_id(), reference="P-1"))
        assert (await world.get("/api/payments/by-ref/P-1/status")).status == 404


async def test_a_refund_is_what_the_provider_says_it_is(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        payment = make_payment(sandbox, number, "successful", tx_ref=f"r-{number}")
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"r-{number}"))
        await world.settle()
        real = sandbox.sandbox.truth.refund(payment, at=3.0, amount=Decimal(5), word="completed")
        forged = bodies.refund(
            id=real.id, TransactionId=number, AmountRefunded=1500, status="completed-mpgs"
        )
        made_up = bodies.refund(id=77_777, TransactionId=number, status="completed-mpgs")
        await world.v3(forged)
        await world.v3(made_up)
        await world.settle()
        details = (await world.get(f"/api/payments/{number}")).body
        assert [(o["amount"], o["status"]) for o in details["overlays"]] == [("5", "initiated")]
        assert details["status"] == "successful"


async def test_a_held_event_does_not_keep_a_payment_from_settling(open_process: Opener) -> None:
    """Its genuine webhook was lost; whoever asks later gets it settled all the same."""
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref=f"h-{number}")
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"h-{number}", amount=1))
        await world.settle()
        held = await world.status(number)
        by_reference = await world.reference(f"h-{number}")
        for shown in (held, by_reference):
            assert (shown["status"], shown["held"], shown["fresh"]) == ("processing", True, False)
        await world.age("entities", "changed_ms", 120_000)
        assert (await world.status(number))["status"] == "successful"
        assert (await world.reference(f"h-{number}"))["status"] == "successful"


async def test_an_event_that_was_given_up_and_comes_again_is_looked_at_again(
    open_process: Opener,
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        body = bodies.v3_charge(id=number, tx_ref=f"d-{number}")
        await world.v3(body)
        await world.age("inbox", "received_ms", 16 * 60 * 1000)
        await world.settle()
        assert await _ends(world, number) == [("dead", "not_found")]
        make_payment(sandbox, number, "successful", tx_ref=f"d-{number}")
        assert (await world.v3(body)).body["status"] == "recorded"
        assert (await world.status(number))["held"] is False
        await world.settle()
        assert await _ends(world, number) == [("applied", None)]
        shown = await world.status(number)
        assert (shown["status"], shown["held"]) == ("successful", False)
        entity = Entity("default", EntityKind.CHARGE, str(number))
        state = (await world.resources.store.states([entity]))[entity]
        assert (state.open_events, state.held_events) == (0, 0)


async def test_a_slow_answer_for_one_payment_does_not_hold_up_the_others(
    open_process: Opener,
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        slow, quick = new_id(), new_id()
        for number in (slow, quick):
            make_payment(sandbox, number, "successful", tx_ref=f"s-{number}")
            await world.v3(bodies.v3_charge(id=number, tx_ref=f"s-{number}"))
        client = world.resources.providers["default"].client
        ask = client.payment
        go_on = asyncio.Event()

        async def sometimes_slow(kind: Any, payment_id: str, **more: Any) -> Any:
            if payment_id == str(slow):
                await go_on.wait()
            return await ask(kind, payment_id, **more)

        client.payment = sometimes_slow  # type: ignore[method-assign]
        async with world.resources.redis.pubsub() as pubsub:
            await pubsub.subscribe(f"flw:v1:tx:{quick}:changes")
            await pubsub.get_message(timeout=10)
            settling = asyncio.create_task(world.settle())
            told = await pubsub.get_message(timeout=10)
            assert told is not None
            assert b"successful" in told["data"]
        assert (await world.status(slow))["status"] == "processing"
        go_on.set()
        await settling
        assert (await world.status(slow))["status"] == "successful"


async def test_what_there_was_no_time_to_ask_is_let_go_of_and_taken_again(
    open_process: Opener,
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref=f"t-{number}")
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"t-{number}"))
        times = iter([0.0, 60.0])
        world.resources.settler._clock = lambda: next(times, 60.0)
        taken, ended = await world.resources.settler.sweep(grace_ms=0, most=10)
        assert (taken, ended) == (1, 0)
        taken, ended = await world.resources.settler.sweep(grace_ms=0, most=10)
        assert (taken, ended) == (1, 1)


async def test_a_fault_of_ours_in_one_payment_harms_no_other(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        bad, good = new_id(), new_id()
        for number in (bad, good):
            make_payment(sandbox, number, "successful", tx_ref=f"f-{number}")
            await world.v3(bodies.v3_charge(id=number, tx_ref=f"f-{number}"))
        client = world.resources.providers["default"].client
        ask = client.payment

        async def broken(kind: Any, payment_id: str, **more: Any) -> Any:
            if payment_id == str(bad):
                raise RuntimeError("a bug")
            return await ask(kind, payment_id, **more)

        client.payment = broken  # type: ignore[method-assign]
        for _ in range(14):
            await world.make_due()
            await world.settle()
        assert (await world.status(good))["status"] == "successful"
        assert await _ends(world, bad) == [("dead", "undecidable")]


async def test_a_recheck_that_brings_nothing_new_changes_nothing(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "pending", tx_ref=f"p-{number}")
        await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"p-{number}"))
        await world.settle()
        before = await world.reference(f"p-{number}")
        for _ in range(3):
            await world.age("entities", "changed_ms", 120_000)
            await world.resources.redis.flushall()
            again = await world.reference(f"p-{number}")
            assert (again["version"], again["status"]) == (before["version"], "pending")
        assert len(await _ends(world, number)) == 1


async def test_a_provider_that_is_away_does_not_make_a_claim_true(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "pending", tx_ref=f"a-{number}")
        sandbox.sandbox.faults.set(Fault(FaultMode.HTML))
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"a-{number}"))
        await world.settle()
        shown = await world.status(number)
        assert (shown["status"], shown["terminal"]) == ("processing", False)


async def test_a_lookup_answers_with_what_is_true_after_its_question(open_process: Opener) -> None:
    """A webhook acknowledged while the provider was being asked is not overlooked."""
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "pending", tx_ref=f"q-{number}")
        await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"q-{number}"))
        await world.settle()
        await world.age("entities", "changed_ms", 120_000)
        client = world.resources.providers["default"].client

        async def slow(_kind: Any, _payment_id: str, **_more: Any) -> None:
            """Know nothing of it, after a webhook has come in."""
            answer = await world.v3(bodies.v3_charge(id=number, tx_ref=f"q-{number}"))
            assert answer.status == 200

        client.payment = slow  # type: ignore[method-assign]
        assert (await world.status(number))["status"] == "processing"


async def test_redelivering_a_held_event_leaves_no_reference_open_for_ever(
    open_process: Opener,
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "failed", tx_ref="ORD-1")
        forged = bodies.v3_charge(id=number, tx_ref=None, amount=1)
        for _ in range(3):
            assert (await world.v3(forged)).status == 200
            await world.settle()
        assert (await _ends(world, number))[0][0] == "held"
        await world.v3(bodies.v3_charge(id=number, status="failed", tx_ref="ORD-1"))
        await world.settle()
        states = await world.resources.store.states(
            [
                Entity("default", EntityKind.CHARGE, str(number)),
                Entity.reference("default", "ORD-1"),
            ]
        )
        assert [state.open_events for state in states.values()] == [0, 0]
        assert (await world.reference("ORD-1"))["status"] == "failed"


async def test_a_reversal_that_is_not_signed_is_held(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", kind=Kind.TRANSFER, tx_ref="payout")
        body = bodies.v3_transfer(id=number, status="SUCCESSFUL", reference="payout")
        body["data"]["amount"], body["data"]["currency"] = Decimal("1500.25"), "NGN"
        await world.v3(body)
        await world.settle()
        await world.v3(bodies.v4_reversal(id=str(number)))
        await world.settle()
        ends = await _ends(world, number, EntityKind.TRANSFER)
        assert ends[-1] == ("held", "unverifiable")
        details = (await world.get(f"/api/payments/{number}?kind=transfer")).body
        assert (details["status"], details["overlays"]) == ("successful", [])


async def test_a_reference_shows_processing_before_an_attempt_without_one_settles_it(
    open_process: Opener,
) -> None:
    """The event was open on no reference; it is opened on the one it turns out to concern."""
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        first, second = new_id(), new_id()
        make_payment(sandbox, first, "failed", tx_ref="two")
        make_payment(sandbox, second, "successful", tx_ref="two")
        await world.v3(bodies.v3_charge(id=first, status="failed", tx_ref="two"))
        await world.settle()
        await world.v3(bodies.v3_charge(id=second, tx_ref=None))
        await world.settle()
        page = await world.resources.store.changes_after(Cursor())
        seen = [c.status for c in page.changes if c.entity == Entity.reference("default", "two")]
        assert seen == ["processing", "failed", "processing", "successful"]
        assert (await world.reference("two"))["payment_id"] == str(second)


async def test_a_dead_refund_that_comes_again_is_looked_at_again(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        payment = make_payment(sandbox, number, "successful", tx_ref=f"x-{number}")
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"x-{number}"))
        await world.settle()
        refund = sandbox.sandbox.truth.refund(payment, at=3.0, amount=Decimal(5), word="completed")
        client = world.resources.providers["default"].client
        ask = client.refund

        async def behind(_refund_id: str, **_more: Any) -> None:
            """Know nothing of it yet."""

        client.refund = behind  # type: ignore[method-assign]
        body = bodies.refund(id=refund.id, TransactionId=number)
        await world.v3(body)
        await world.age("inbox", "received_ms", 16 * 60 * 1000)
        await world.settle()
        assert (await _ends(world, number))[-1] == ("dead", "not_found")
        client.refund = ask  # type: ignore[method-assign]
        await world.v3(body)
        await world.settle()
        details = (await world.get(f"/api/payments/{number}")).body
        assert [(o["id"], o["amount"]) for o in details["overlays"]] == [(str(refund.id), "5")]
