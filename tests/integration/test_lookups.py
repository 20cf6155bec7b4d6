"""Lookups: where an answer comes from, when it is fresh, who may ask, and what HTTP says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paystate.flutterwave.sandbox.faults import Fault, FaultMode
from paystate.keys import Entity, EntityKind
from paystate.store.store import Store
from tests.conftest import Opener
from tests.harness import World, make_payment, new_id, open_provider, open_world, provider_settings
from tests.unit import bodies

STATUS_FIELDS = {
    "payment_id", "tx_ref", "kind", "status", "terminal", "version", "as_of", "source", "fresh",
    "held",
}  # fmt: skip


async def _pending(world: World, **more: Any) -> int:
    """Make a pending payment known and return its id."""
    number = new_id()
    await world.v3(bodies.v3_charge(id=number, status="pending", **more))
    await world.settle()
    return number


async def _drained(world: World) -> None:
    await world.resources.lookups.drain()


async def test_a_pending_comes_from_the_database_and_then_from_the_cache_under_its_lease(
    open_process: Opener,
) -> None:
    async with open_world(open_process, PENDING_LEASE_MS="5000") as world:
        number = await _pending(world, tx_ref="lease-1")
        first = await world.status(number)
        await _drained(world)
        second = await world.status(number)
        assert (first["source"], second["source"]) == ("database", "cache")
        assert set(first) == set(second) == STATUS_FIELDS
        assert (second["status"], second["fresh"], second["tx_ref"]) == ("pending", True, "lease-1")
        await world.v3(bodies.v3_charge(id=number, status="successful", tx_ref="lease-1"))
        assert (await world.status(number))["status"] == "processing"


async def test_in_strict_mode_a_pending_never_comes_from_the_cache(open_process: Opener) -> None:
    async with open_world(open_process, PENDING_LEASE_MS="0") as world:
        number = await _pending(world)
        for _ in range(3):
            assert (await world.status(number))["source"] == "database"
            await _drained(world)
        await world.v3(bodies.v3_charge(id=number, status="successful"))
        await world.settle()
        assert (await world.status(number))["source"] == "cache"


async def test_a_success_that_the_cache_has_lost_is_read_once_and_kept_again(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(bodies.v3_charge(id=number))
        await world.settle()
        await world.resources.redis.flushall()
        assert (await world.status(number))["source"] == "database"
        await _drained(world)
        assert (await world.status(number))["source"] == "cache"


async def test_without_a_cache_the_database_answers(database_url: str, own_valkey: Any) -> None:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        opener = Opener(stack, database_url, own_valkey.url)
        async with open_world(opener, CACHE_TIMEOUT_MS="100") as world:
            number = await _pending(world)
            own_valkey.freeze()
            try:
                shown = await world.status(number)
            finally:
                own_valkey.thaw()
            assert (shown["status"], shown["source"], shown["fresh"]) == (
                "pending",
                "database",
                True,
            )


async def test_a_database_that_is_away_gives_an_error_and_no_old_pending(
    open_process: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paystate.errors import StoreUnavailable

    async with open_world(open_process, PENDING_LEASE_MS="0") as world:
        number = await _pending(world)
        settled = new_id()
        await world.v3(bodies.v3_charge(id=settled))
        await world.settle()

        async def away(_self: Store, _entities: Any) -> Any:
            raise StoreUnavailable("database_unreachable")

        monkeypatch.setattr(Store, "states", away)
        answer = await world.get(f"/api/payments/{number}/status")
        assert (answer.status, answer.reason) == (503, "database_unreachable")
        assert (await world.status(settled))["status"] == "successful"


async def test_many_callers_share_a_query_that_was_not_yet_sent(open_process: Opener) -> None:
    async with open_world(open_process, PENDING_LEASE_MS="0") as world:
        numbers = [await _pending(world) for _ in range(5)]
        before = world.resources.metrics.database_reads._value.get()
        entities = [Entity("default", EntityKind.CHARGE, str(n)) for n in numbers]
        lookups = world.resources.lookups
        answers = await asyncio.gather(*(lookups.status(e) for e in entities * 200))
        assert {answer.status for answer in answers} == {"pending"}
        assert world.resources.metrics.database_reads._value.get() - before <= 8


async def test_an_unknown_payment_is_asked_of_the_provider_once_by_whoever_asks(
    open_process: Opener,
) -> None:
    async with open_provider() as sandbox:
        settings = provider_settings(sandbox)
        async with (
            open_world(open_process, **settings) as one,
            open_world(open_process, **settings) as other,
        ):
            number = new_id()
            make_payment(sandbox, number, "successful", tx_ref=f"ref-{number}")
            answers = await asyncio.gather(
                *(w.get(f"/api/payments/{number}/status") for w in (one, other) * 10)
            )
            found = [a.body for a in answers if a.status == 200]
            assert found
            assert {body["status"] for body in found} <= {"successful", "processing"}
            assert "provider" in {body["source"] for body in found}
            waiting = [a for a in answers if a.status == 404]
            assert all(a.headers["Retry-After"] for a in waiting)
            assert await _questions(one) + await _questions(other) == 1
            assert (await other.status(number))["status"] == "successful"
            assert (await one.reference(f"ref-{number}"))["status"] == "successful"


async def _questions(world: World) -> float:
    samples = world.resources.metrics.provider_calls.collect()[0].samples
    return sum(s.value for s in samples if s.name.endswith("_total"))


async def test_not_found_is_believed_for_a_while(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        for _ in range(3):
            answer = await world.get(f"/api/payments/{987654321}/status")
            assert (answer.status, answer.reason) == (404, "unknown_payment")
        assert await _questions(world) == 1
        reference = await world.get("/api/payments/by-ref/never-heard-of/status")
        assert (reference.status, reference.reason) == (404, "unknown_payment")


async def test_where_nobody_can_be_asked_flutterwave_is_not_said_to_have_been(
    open_process: Opener,
) -> None:
    async with open_world(open_process) as world:
        answer = await world.get(f"/api/payments/{new_id()}/status")
        assert (answer.status, answer.reason) == (404, "unknown_payment")
        assert "no credentials" in answer.body["detail"]


async def test_an_unknown_reference_is_asked_of_the_provider(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "failed", tx_ref="lost/webhook 1")
        answer = await world.get("/api/payments/status?tx_ref=lost/webhook%201")
        assert answer.status == 200
        assert (answer.body["status"], answer.body["payment_id"], answer.body["source"]) == (
            "failed",
            str(number),
            "provider",
        )


async def test_an_old_pending_is_checked_and_a_lost_webhook_mended(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        payment = make_payment(sandbox, number, "pending", tx_ref=f"ref-{number}")
        await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"ref-{number}"))
        await world.settle()
        sandbox.sandbox.truth.settle(payment, "successful", at=2.0)
        assert (await world.status(number))["status"] == "pending"  # young: not worth a call
        await world.age("entities", "changed_ms", 120_000)
        await world.resources.redis.flushall()
        shown = await world.status(number)
        assert (shown["status"], shown["source"], shown["fresh"]) == (
            "successful",
            "provider",
            True,
        )


async def test_an_old_pending_that_cannot_be_checked_is_not_fresh(open_process: Opener) -> None:
    async with (
        open_provider() as sandbox,
        open_world(open_process, **provider_settings(sandbox)) as world,
    ):
        number = new_id()
        make_payment(sandbox, number, "pending", tx_ref=f"ref-{number}")
        await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"ref-{number}"))
        await world.settle()
        await world.age("entities", "changed_ms", 120_000)
        sandbox.sandbox.faults.set(Fault(FaultMode.UNAVAILABLE))
        for _ in range(2):  # the one who asked, and the one who comes while nobody may
            answer = await world.get(f"/api/payments/{number}/status")
            assert (answer.status, answer.body["status"], answer.body["fresh"]) == (
                200,
                "pending",
                False,
            )
            assert int(answer.headers["Retry-After"]) >= 1
        unknown = await world.get("/api/payments/5550001/status")
        assert (unknown.status, unknown.reason) == (404, "unknown_and_unverified")
        assert unknown.headers["Retry-After"]


async def test_a_bare_id_is_the_charge_else_the_transfer(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(bodies.v3_transfer(id=number))
        await world.settle()
        assert (await world.status(number))["kind"] == "transfer"
        await world.v3(bodies.v3_charge(id=number, status="failed"))
        await world.settle()
        assert (await world.status(number))["kind"] == "charge"
        assert (await world.status(number, "?kind=transfer"))["status"] == "successful"
        wrong = await world.get(f"/api/payments/{number}/status?kind=gift")
        assert (wrong.status, wrong.reason) == (400, "invalid_kind")


async def test_an_unchanged_answer_is_a_304_and_a_changed_one_is_not(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = await _pending(world)
        first = await world.get(f"/api/payments/{number}/status")
        assert first.headers["Cache-Control"] == "private, no-cache"
        tag = first.headers["ETag"]
        assert tag.startswith('W/"')
        again = await world.get(f"/api/payments/{number}/status", **{"If-None-Match": tag})
        assert (again.status, again.headers["ETag"]) == (304, tag)
        await world.v3(bodies.v3_charge(id=number, status="successful"))
        changed = await world.get(f"/api/payments/{number}/status", **{"If-None-Match": tag})
        assert (changed.status, changed.body["status"]) == (200, "processing")


async def test_a_version_that_is_not_reached_is_a_409(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = await _pending(world)
        reached = await world.get(f"/api/payments/{number}/status?min_version=2")
        early = await world.get(f"/api/payments/{number}/status?min_version=3")
        assert reached.status == 200
        assert (early.status, early.reason) == (409, "version_not_reached")
        assert early.headers["Retry-After"] == "1"
        wrong = await world.get(f"/api/payments/{number}/status?min_version=soon")
        assert (wrong.status, wrong.reason) == (400, "invalid_min_version")


async def test_many_at_once(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = await _pending(world, tx_ref="bulk/1")
        answer = await world.post(
            "/api/payments/status", {"ids": [number, "nope"], "tx_refs": ["bulk/1", "never"]}
        )
        assert answer.status == 200
        assert [s["kind"] for s in answer.body["statuses"]] == ["charge", "reference"]
        assert answer.body["unknown"] == {"ids": ["nope"], "tx_refs": ["never"]}
        for body, reason in (
            ({}, "wrong_number"),
            ({"ids": [number], "references": ["bulk/1"]}, "unknown_field"),
            ({"ids": 5}, "invalid_ids"),
            ({"ids": [""]}, "invalid_id"),
            ({"ids": [[1]]}, "invalid_id"),
            ({"ids": ["7001\0"]}, "invalid_id"),
            ({"ids": [-1]}, "invalid_id"),
            ({"ids": [2**63]}, "invalid_id"),
            ({"ids": [1.5]}, "invalid_id"),
            ({"ids": [True]}, "invalid_id"),
            ({"tx_refs": [{}]}, "invalid_tx_ref"),
            ({"ids": ["a"] * 1 + [str(i) for i in range(300)]}, "wrong_number"),
            ([], "not_an_object"),
        ):
            refused = await world.post("/api/payments/status", body)
            assert (refused.status, refused.reason) == (400, reason)
        written_otherwise = await world.post("/api/payments/status", {"ids": [float(number)]})
        assert [s["payment_id"] for s in written_otherwise.body["statuses"]] == [str(number)]


async def test_details_hold_what_may_be_kept_and_nothing_else(open_process: Opener) -> None:
    async with open_world(open_process) as world:
        number = new_id()
        await world.v3(bodies.v3_charge(id=number, tx_ref="details-1"))
        await world.settle()
        details = (await world.get(f"/api/payments/{number}")).body
        assert (details["amount"], details["currency"]) == ("1500.25", "NGN")
        assert details["card"]["last_4"] == "0042"
        assert details["customer_id"] == "640112005"
        assert "Adaeze" not in str(details)
        by_reference = (await world.get("/api/payments/by-ref/details-1")).body
        assert by_reference["amount"] == "1500.25"
        assert by_reference["kind"] == "reference"


@pytest.mark.parametrize(
    ("token", "status"),
    [(None, 401), ("wrong", 401), ("operator-token", 200), ("shop-token", 200)],
)
async def test_a_token_is_needed(open_process: Opener, token: str | None, status: int) -> None:
    async with open_world(
        open_process, API_TOKENS="operator-token,shop:default:read=shop-token"
    ) as world:
        number = await _pending(world)
        answer = await world.get(f"/api/payments/{number}/status", token=token)
        assert answer.status == status
        if status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await world.get(path, token=None)).status == 200


async def test_a_token_of_one_merchant_sees_no_other(open_process: Opener, tmp_path: Any) -> None:
    path = tmp_path / "merchants.toml"
    path.write_text('[acme]\nsecret_hash = "acme-hash"\n')
    async with open_world(
        open_process, MERCHANTS_FILE=str(path), API_TOKENS="all,shop:acme:read=acme-token"
    ) as world:
        number = new_id()
        await world.v3(bodies.v3_charge(id=number))
        await world.settle()
        mine = await world.get(f"/api/payments/{number}/status", token="acme-token")
        assert mine.status == 404
        refused = await world.get(
            f"/api/payments/{number}/status?merchant=default", token="acme-token"
        )
        assert (refused.status, refused.reason) == (403, "other_merchant")
        unknown = await world.get(f"/api/payments/{number}/status?merchant=x", token="all")
        assert (unknown.status, unknown.reason) == (404, "unknown_merchant")


@pytest.mark.parametrize(
    "path",
    [
        "/api/payments/%00/status",
        "/api/payments/" + "9" * 201 + "/status",
        "/api/payments/status",
        "/api/payments/status?tx_ref=",
        "/api/payments/by-ref/%00/status",
    ],
)
async def test_ids_that_cannot_be_ids_are_refused(open_process: Opener, path: str) -> None:
    async with open_world(open_process) as world:
        answer = await world.get(path)
        assert answer.status == 400
        assert answer.reason


@pytest.mark.parametrize(
    "odd", ["1%3Ahash", "%7Btag%7D", "%E2%82%AC", "..", "a%20b", "%F0%9F%98%80"]
)
async def test_odd_ids_are_merely_unknown(open_process: Opener, odd: str) -> None:
    async with open_world(open_process) as world:
        answer = await world.get(f"/api/payments/{odd}/status")
        assert answer.status == 404
