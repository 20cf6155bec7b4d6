"""What is expected to be paid: told before the payment, known at once, and compared with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from bench.topologies import Cluster
from paystate.audit import open_audit
from paystate.expected import Expected
from paystate.keys import Entity, EntityKind
from paystate.metrics import Metrics
from paystate.payments.expecting import Registrar
from paystate.payments.previews import Previewer
from paystate.store.operations import Wanted
from tests.conftest import Opener
from tests.harness import (
    TOKEN,
    Answer,
    World,
    make_payment,
    new_id,
    open_provider,
    open_world,
    provider_settings,
)
from tests.servers import OwnValkey
from tests.unit import bodies


@pytest.fixture
async def on_sqlite(sqlite_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """What a process holds open, on SQLite alone."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, sqlite_url, valkey_url)


async def register(
    world: World, tx_ref: object, amount: object = "1500.25", currency: object = "NGN",
    *, token: str = TOKEN, query: str = "", **headers: str,
) -> Answer:  # fmt: skip
    """Register an expected payment."""
    body = {"tx_ref": tx_ref, "amount": amount, "currency": currency}
    async with world.session.post(
        f"{world.url}/api/payments{query}", json=body,
        headers={"Authorization": f"Bearer {token}", **headers},
    ) as response:  # fmt: skip
        return Answer(response.status, await response.json(content_type=None), response.headers)


def charge(number: int, status: str = "successful", **more: Any) -> Any:
    return bodies.v3_charge(id=number, status=status, **{"tx_ref": f"ref-{number}", **more})


async def rows(world: World, entity: Entity) -> list[tuple[str, str, str, str | None]]:
    history = await world.resources.store.history(entity)
    return [(row["api"], row["type"], row["state"], row["reason"]) for row in history]


def payment(number: int) -> Entity:
    return Entity("default", EntityKind.CHARGE, str(number))


def reference(number: int) -> Entity:
    return Entity.reference("default", f"ref-{number}")


async def nothing_wrong(world: World) -> None:
    """Everything that must hold of the rows holds, and no cached entry is old."""
    async with open_audit(replace(world.resources, metrics=Metrics()), url="") as audit:
        await audit.rows.round(500)
        while not await audit.entries.round(500):
            pass
        assert audit.ledger.violations == []


async def test_a_registered_payment_is_pending_before_anything_was_heard_of_it(
    open_process: Opener,
) -> None:
    """A lookup that has just been told "unknown" is no reason to tell the next one so."""
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        unknown = await world.get(f"/api/payments/by-ref/ref-{number}/status")
        assert unknown.status == 404
        answer = await register(world, f"ref-{number}", "1500.250")
        assert answer.status == 201, answer.body
        assert (answer.body["status"], answer.body["amount"], answer.body["currency"]) == (
            "pending", "1500.25", "NGN",
        )  # fmt: skip
        shown = await world.reference(f"ref-{number}")
        assert (shown["status"], shown["payment_id"], shown["fresh"], shown["version"]) == (
            "pending", None, True, 1,
        )  # fmt: skip
        assert await rows(world, reference(number)) == [("operator", "expected", "applied", None)]
        details = (await world.get(f"/api/payments/by-ref/ref-{number}")).body
        assert (details["expected_amount"], details["amount"]) == ("1500.25", None)
        explained = (await world.get(f"/api/payments/by-ref/ref-{number}/explain")).body
        assert explained["timeline"][0]["claim"]["amount"] == "1500.25"
        changes = (await world.get("/api/changes?after=0.0")).body["changes"]
        assert [(c["status"], c["version"]) for c in changes] == [("pending", 1)]
        await nothing_wrong(world)


async def test_the_same_registration_is_made_once_and_another_is_refused(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        answers = await asyncio.gather(
            *(register(world, "order-1", amount) for amount in ("10", "11.5") * 5)
        )
        by_amount = {"10": answers[0::2], "11.5": answers[1::2]}
        won = next(amount for amount, given in by_amount.items() if given[0].status != 409)
        assert sorted(a.status for a in by_amount.pop(won)) == [200] * 4 + [201]
        assert {(a.status, a.reason) for a in by_amount.popitem()[1]} == {
            (409, "expected_otherwise")
        }
        assert (await register(world, "order-1", won, "GHS")).status == 409
        assert (await world.reference("order-1"))["version"] == 1
        assert (await register(world, "order-1", won)).status == 200


async def test_an_idempotency_key_gives_the_same_answer_to_the_same_body_only(
    open_process: Opener,
) -> None:
    async with open_world(
        open_process, API_TOKENS=f"{TOKEN},three,two:default:operate=two"
    ) as world:  # fmt: skip
        same: dict[str, str] = {"Idempotency-Key": "checkout-7"}
        answers = await asyncio.gather(*(register(world, "order-1", **same) for _ in range(6)))
        assert [answer.status for answer in answers] == [201] * 6
        replayed = [answer.headers.get("Idempotency-Replayed") for answer in answers]
        assert sorted(str(value) for value in replayed) == ["None", *["true"] * 5]
        plain = [{k: v for k, v in a.body.items() if k not in ("as_of", "source")} for a in answers]
        assert all(body == plain[0] for body in plain)
        for tx_ref, amount in (("order-1", "1"), ("order-2", "1500.25")):
            other = await register(world, tx_ref, amount, **same)
            assert (other.status, other.reason) == (422, "idempotency_key_reused")
        assert (await world.get("/api/payments/by-ref/order-2/status")).status == 404
        # Whoever else uses the same text means another key; and the status is that of now.
        assert (await register(world, "order-2", token="two", **same)).status == 201
        assert (await register(world, "order-3", token="three", **same)).status == 201
        await world.v3(bodies.v3_charge(id=new_id(), status="successful", tx_ref="order-1"))
        await world.settle()
        assert (await register(world, "order-1", **same)).body["status"] == "successful"
        refused = await register(world, "order-3", **{"Idempotency-Key": "x" * 256})
        assert (refused.status, refused.reason) == (400, "invalid_idempotency_key")


async def test_a_late_registration_changes_no_status(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        settled, open_ = new_id(), new_id()
        await world.v3(charge(settled, "failed"))
        await world.settle()
        await world.v3(charge(open_, "successful"))  # acknowledged, and not yet settled
        for number, status in ((settled, "failed"), (open_, "processing")):
            before = await world.reference(f"ref-{number}")
            answer = await register(world, f"ref-{number}")
            assert (answer.status, answer.body["status"]) == (201, status)
            assert (await world.reference(f"ref-{number}"))["version"] == before["version"]
            assert await rows(world, reference(number)) == [
                ("operator", "expected", "superseded", "late_registration")
            ]
        await nothing_wrong(world)
        await world.settle()
        assert (await world.reference(f"ref-{open_}"))["status"] == "successful"


@pytest.mark.parametrize(
    ("paid", "reason"),
    [
        ({"amount": Decimal("1500.24")}, "underpaid"),
        ({"amount": Decimal("1500.25"), "currency": "GHS"}, "wrong_currency"),
    ],
    ids=["underpaid", "wrong currency"],
)
async def test_what_is_paid_otherwise_than_expected_is_held_until_a_person_has_ruled(
    open_process: Opener, paid: dict[str, Any], reason: str
) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        for action, status in (("release", "successful"), ("reject", "pending")):
            number = new_id()
            await register(world, f"ref-{number}")
            make_payment(sandbox, number, "pending", tx_ref=f"ref-{number}", **paid)
            await world.v3(charge(number, "pending", **paid))
            await world.settle()
            sandbox.sandbox.truth.settle(
                sandbox.sandbox.truth.find(str(number)), "successful", at=2.0  # type: ignore[arg-type]
            )  # fmt: skip
            await world.v3(charge(number, **paid))
            await world.settle()
            for shown in (await world.status(number), await world.reference(f"ref-{number}")):
                assert (shown["status"], shown["held"], shown["fresh"]) == (
                    "processing", True, False,
                )  # fmt: skip
            listed = (await world.get(f"/api/events?state=held&reason={reason}")).body["events"]
            event = next(one for one in listed if one["payment_id"] == str(number))
            assert "expected for the reference" in event["meaning"]
            previewer = Previewer(world.resources.store, world.resources.providers)
            wanted = Wanted(ids=(event["event"],))
            [preview] = await previewer.preview(wanted, most=1, questions=1)
            assert (preview.verdict, preview.reason) == ("held", reason)
            # Lookups that ask find the same again, and do not pile up what a person must rule on.
            held = len(await rows(world, payment(number)))
            for _ in range(2):
                await world.age("entities", "changed_ms", 120_000)
                await world.resources.redis.flushall()
                assert (await world.status(number))["held"] is True
            assert len(await rows(world, payment(number))) == held
            answer = await world.post(f"/api/events/{event['event']}/{action}", {"reason": "seen"})
            assert (answer.status, answer.body["status"]) == (200, status), answer.body
            assert (await world.reference(f"ref-{number}"))["status"] == status
            rulings = [
                step
                for step in (await world.get(f"/api/payments/{number}/explain")).body["timeline"]
                if step["what"] == "ruling"
            ]
            assert [(one["why"], one["was_reason"]) for one in rulings] == [("seen", reason)]
            await nothing_wrong(world)
        # What was rejected comes back once, as an answer of the provider's, and no more after that.
        for _ in range(3):
            await world.age("entities", "changed_ms", 120_000)
            await world.resources.redis.flushall()
            await world.status(number)
            found = (await world.get(f"/api/events?state=held&reason={reason}")).body["events"]
            if not found:
                break
            await world.post(f"/api/events/{found[0]['event']}/reject", {"reason": "no"})
        assert [row[0] for row in await rows(world, payment(number))].count("verify") == 1
        details = (await world.get(f"/api/payments/{number}")).body
        assert (details["status"], details["mismatch"]) == ("pending", None)
        await nothing_wrong(world)


async def test_a_lookup_that_finds_too_little_paid_holds_it_too(open_process: Opener) -> None:
    """And a payment that was found so is not answered as successful by any name."""
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        await register(world, f"ref-{number}", "2000")
        make_payment(sandbox, number, "successful", tx_ref=f"ref-{number}")
        shown = await world.status(number)
        assert (shown["status"], shown["held"]) == ("processing", True)
        assert (await world.reference(f"ref-{number}"))["status"] == "processing"
        assert await rows(world, payment(number)) == [("verify", "verify", "held", "underpaid")]
        await nothing_wrong(world)


async def test_too_much_is_successful_and_flagged(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await register(world, f"ref-{number}", 1500)
        await world.v3(charge(number))
        await world.settle()
        assert (await world.reference(f"ref-{number}"))["status"] == "successful"
        for path in (f"/api/payments/{number}", f"/api/payments/by-ref/ref-{number}"):
            details = (await world.get(path)).body
            assert (details["mismatch"], details["expected_amount"], details["amount"]) == (
                "overpaid", "1500", "1500.25",
            )  # fmt: skip
        assert await rows(world, payment(number)) == [
            ("v3", "charge.completed", "applied", "overpaid")
        ]


async def test_an_expected_reference_is_pending_again_when_a_forged_event_came_to_nothing(
    open_process: Opener,
) -> None:
    """So is one that is registered after that: nobody has paid it, and somebody is expected to."""
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        before, after = new_id(), new_id()
        await register(world, f"ref-{before}")
        for number in (before, after):
            await world.v3(charge(number))
            assert (await world.reference(f"ref-{number}"))["status"] == "processing"
        await world.age("inbox", "received_ms", 16 * 60_000)
        await world.settle()
        assert (await world.reference(f"ref-{before}"))["status"] == "pending"
        heard_of = await world.reference(f"ref-{after}")
        assert heard_of["status"] == "unknown"
        answer = await register(world, f"ref-{after}")
        assert (answer.status, answer.body["status"]) == (201, "pending")
        assert answer.body["version"] > heard_of["version"]
        assert await rows(world, reference(after)) == [("operator", "expected", "applied", None)]
        await nothing_wrong(world)


async def test_only_a_token_that_may_operate_registers(on_sqlite: Opener) -> None:
    tokens = "shop:default:operate=shop,board:default:read=board"
    async with open_world(on_sqlite, API_TOKENS=tokens) as world:
        refused = await register(world, "order-1", token="board")
        assert (refused.status, refused.reason) == (403, "operators_only")
        assert (await register(world, "order-1", token="nobody")).status == 401
        other = await register(world, "order-1", token="shop", query="?merchant=acme")
        assert (other.status, other.reason) == (403, "other_merchant")
        assert (await register(world, "order-1", token="shop")).status == 201


async def test_a_body_that_cannot_be_expected_says_what_is_wrong_with_it(
    on_sqlite: Opener,
) -> None:
    async with open_world(on_sqlite) as world:
        wrong: list[tuple[Any, Any, Any, str]] = [
            ("", "1", "NGN", "invalid_tx_ref"),
            ("a\nb", "1", "NGN", "invalid_tx_ref"),
            ("x" * 201, "1", "NGN", "invalid_tx_ref"),
            (None, "1", "NGN", "invalid_tx_ref"),
            ("\ud800", "1", "NGN", "invalid_tx_ref"),
            ("order", "0", "NGN", "invalid_amount"),
            ("order", "-1", "NGN", "invalid_amount"),
            ("order", "1e3", "NGN", "invalid_amount"),
            ("order", "1,5", "NGN", "invalid_amount"),
            ("order", "0.0000000001", "NGN", "invalid_amount"),
            ("order", True, "NGN", "invalid_amount"),
            ("order", None, "NGN", "invalid_amount"),
            ("order", "1", "naira", "invalid_currency"),
            ("order", "1", None, "invalid_currency"),
        ]
        for tx_ref, amount, currency, reason in wrong:
            refused = await register(world, tx_ref, amount, currency)
            assert (refused.status, refused.reason) == (400, reason), (tx_ref, amount, currency)
        more = {"tx_ref": "order", "amount": "1", "currency": "NGN", "amout": "2"}
        assert (await world.post("/api/payments", more)).reason == "unknown_field"
        assert (await world.post("/api/payments", [])).reason == "not_an_object"
        assert (await world.get("/api/payments/by-ref/order/status")).status == 404
        exact = await register(world, "order", "123456789012345.123456789")
        assert exact.body["amount"] == "123456789012345.123456789"
        counted = world.resources.metrics.expected.labels("invalid_amount")
        assert counted._value.get() == 7


async def test_without_a_cache_a_registration_waits_out_the_leases(
    sqlite_url: str, own_valkey: OwnValkey
) -> None:
    """An entry may still be served that says otherwise, so the answer comes after its lease."""
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    async with AsyncExitStack() as stack:
        opener = Opener(stack, sqlite_url, own_valkey.url)
        world = await stack.enter_async_context(open_world(opener, PENDING_LEASE_MS="400"))
        resources = world.resources
        registrar = Registrar(
            resources.store, resources.cache, resources.settler, resources.metrics, sleep=wait
        )
        order = Entity.reference("default", "order-1")
        expected = Expected(Decimal("1500.25"), "NGN")
        await registrar.register(order, expected, operator="shop")
        assert waits == []
        own_valkey.kill()
        for tx_ref in ("order-1", "order-2"):  # whether it is the first call or a later one
            order = Entity.reference("default", tx_ref)
            await registrar.register(order, expected, operator="shop")
        assert waits == [pytest.approx(0.6)] * 2
        assert (await world.reference("order-2"))["status"] == "pending"


async def test_a_registration_before_its_webhook_and_a_mismatch_on_a_cluster(
    postgres_url: str, cluster: Cluster, valkey_url: str
) -> None:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, postgres_url, cluster.url)
        world = await stack.enter_async_context(open_world(opener, QUEUE_URL=valkey_url))
        numbers = [new_id() for _ in range(6)]  # on every shard
        for number in numbers:
            await register(world, f"ref-{number}")
            assert (await world.reference(f"ref-{number}"))["status"] == "pending"
            amount = Decimal("1500.25") if number % 2 else Decimal(1)
            await world.v3(charge(number, amount=amount))
            assert (await world.reference(f"ref-{number}"))["status"] == "processing"
        await world.settle()
        for number in numbers:
            shown = await world.reference(f"ref-{number}")
            wanted = ("successful", False) if number % 2 else ("processing", True)
            assert (shown["status"], shown["held"]) == wanted
        await nothing_wrong(world)
