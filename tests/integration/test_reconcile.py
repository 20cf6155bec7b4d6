"""What the reconciler finds when webhooks do not come, and what it leaves alone.

Each test drives the passes by hand: time goes by when a test says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from click.testing import CliRunner

from bench.topologies import Cluster
from paystate.cli.commands import cli
from paystate.flutterwave.listing import ListPage, Lists, list_path
from paystate.flutterwave.sandbox.faults import Fault, FaultMode, Limit, Limiter
from paystate.flutterwave.sandbox.records import Chargeback, Form, Payment
from paystate.flutterwave.sandbox.server import RunningSandbox
from paystate.keys import Entity
from paystate.payments.checks import MOST_FAILURES, MOST_GAP_S, gap_s
from paystate.payments.report import Report
from paystate.status import Status
from paystate.store.unsettled import Narrowed
from paystate.updates import Api, Kind, PaymentUpdate
from tests.conftest import Opener
from tests.harness import World, new_id, open_provider, open_world, provider_settings
from tests.integration.test_expected import nothing_wrong, payment, reference, register, rows
from tests.integration.test_provider import provider
from tests.unit import bodies

HOUR_MS = 3_600_000


@pytest.fixture
async def on_sqlite(sqlite_url: str, valkey_url: str) -> AsyncIterator[Opener]:
    """What a process holds open, on SQLite alone."""
    async with AsyncExitStack() as stack:
        yield Opener(stack, sqlite_url, valkey_url)


def at_once(sandbox: RunningSandbox, **more: str) -> dict[str, str]:
    """Return the settings of a process that asks about everything that it knows of."""
    return {**provider_settings(sandbox), "RECONCILE_AFTER_S": "0", **more}


def paid(
    sandbox: RunningSandbox, number: int | str, word: str = "successful", **more: Any
) -> Payment:
    """Make a payment at the provider, now, whose webhooks are never sent."""
    values = {
        "amount": Decimal("1500.25"), "currency": "NGN", "tx_ref": f"ref-{number}",
        "form": Form.V3 if str(number).isdigit() else Form.V4, **more,
    }  # fmt: skip
    made = sandbox.sandbox.create(payment_id=str(number), **values)
    if word != "pending":
        sandbox.sandbox.settle(made, word, announce=False)
    return made


async def ask(world: World, **more: Any) -> Report:
    """Do a pass that asks, and reads no lists."""
    return await world.resources.reconciliation.round(lists=False, **more)


async def heard_pending(world: World, number: int) -> None:
    """Have a payment's first webhook come in and be settled."""
    await world.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"ref-{number}"))
    await world.settle()


async def watched(world: World) -> dict[str, tuple[int, int]]:
    """Return how often each thing was asked about, and in how many seconds it is due."""

    async def work(connection: Any) -> dict[str, tuple[int, int]]:
        found = await connection.exec_driver_sql("SELECT key, asked, due_ms FROM unsettled")
        now = time.time() * 1000
        return {row[0].rpartition(":")[2]: (row[1], round((row[2] - now) / 1000)) for row in found}

    return await world.resources.store._database.read(work)


# --- what is found --------------------------------------------------------------------------------


async def test_payments_whose_webhooks_were_all_lost_are_successful_after_one_pass(
    open_process: Opener,
) -> None:
    """Of v3 and v4, three pages of each: nobody but the provider's own lists knows of them."""
    async with open_provider() as sandbox, open_world(open_process, **at_once(sandbox)) as world:
        numbers: list[int | str] = [new_id() for _ in range(21)]
        numbers += [f"chg_lost{new_id()}" for _ in range(21)]
        for number in numbers:
            paid(sandbox, number)
        report = await world.resources.reconciliation.round()
        assert (report.pages, report.listed, report.found_in_lists) == (6 + 4, 42, 42)
        for number in (numbers[0], numbers[20], numbers[21], numbers[-1]):
            entity = Entity("default", payment(0).kind, str(number))
            state = (await world.resources.store.states([entity]))[entity]
            assert (state.status, state.link) == ("successful", f"ref-{number}")
            assert await rows(world, entity) == [("verify", "listing", "applied", None)]
        assert (await world.reference(f"ref-{numbers[7]}"))["status"] == "successful"
        again = await world.resources.reconciliation.round(Narrowed(due=False))
        assert (again.pages > 0, again.found_in_lists, again.asked) == (True, 0, 0)
        await nothing_wrong(world)


@pytest.mark.parametrize("form", [Form.V3, Form.V4])
async def test_a_transfer_whose_webhook_was_lost_is_found_and_looked_up_like_a_payment(
    on_sqlite: Opener, form: Form
) -> None:
    """Also one that has the id of a charge, and one whose end came after it was listed."""
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        number, late = (new_id() if form is Form.V3 else f"trf_lost{new_id()}" for _ in range(2))
        paid(sandbox, number, "failed", tx_ref="shared")
        paid(sandbox, number, kind=Kind.TRANSFER, form=form, tx_ref="shared")
        pending = paid(sandbox, late, "pending", kind=Kind.TRANSFER, form=form)
        assert (await world.resources.reconciliation.round()).found_in_lists == 3
        shown = await world.status(number, "?kind=transfer")
        assert (shown["status"], shown["kind"], shown["fresh"]) == ("successful", "transfer", True)
        assert (await world.status(number))["status"] == "failed"  # a bare id is the charge
        details = (await world.get(f"/api/payments/{number}?kind=transfer")).body
        assert (details["amount"], details["currency"]) == ("1500.25", "NGN")
        # A transfer's reference and a customer's are names in different spaces.
        assert (await world.reference("shared"))["status"] == "failed"
        assert (await world.status(late))["status"] == "pending"
        sandbox.sandbox.settle(pending, "successful", announce=False)
        await world.age("unsettled", "due_ms", HOUR_MS)
        assert (await ask(world)).found == 1
        assert (await world.status(late))["status"] == "successful"
        await nothing_wrong(world)


@pytest.mark.parametrize("form", [Form.V3, Form.V4])
async def test_a_chargeback_is_found_in_its_list_and_told_as_it_goes_on(
    on_sqlite: Opener, form: Form
) -> None:
    """No webhook tells of it. Each step is news of the payment, which stays successful."""
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        number, unknown = (
            new_id() if form is Form.V3 else f"chg_disputed{new_id()}" for _ in range(2)
        )
        made = paid(sandbox, number)
        await world.resources.reconciliation.round(checks=False)
        before = await world.status(number)
        cursor = (await world.get("/api/changes")).body["cursor"]
        truth, now = sandbox.sandbox.truth, sandbox.sandbox.clock
        dispute = {"amount": Decimal("500.5"), "at": now()}
        other = paid(sandbox, unknown, "pending")
        other.chargebacks = [Chargeback(1, Decimal(5), "lost", now())]
        steps = {"initiated": "initiated", "declined": "pending", "lost": "completed"}
        for version, (word, step) in enumerate(steps.items(), before["version"] + 1):
            own = truth.charge_back(made, word=word, **dispute)
            for news in (1, 0):  # what is read again is none
                await world.age("listings", "due_ms", 12 * HOUR_MS)
                report = await world.resources.reconciliation.round(checks=False)
                assert report.found_in_lists == news + (version == before["version"] + 1) * news
            details = (await world.get(f"/api/payments/{number}")).body
            assert (details["status"], details["version"]) == ("successful", version)
            assert details["chargeback"] == step
            assert details["overlays"] == [{
                "type": "chargeback", "id": str(own.id), "status": step, "amount": "500.5",
                "currency": None,
            }]  # fmt: skip
            assert (details["refunded_amount"], details["refund_flags"]) == ("0", [])
        shown = await world.status(number)
        assert (shown["status"], shown["version"]) == ("successful", before["version"] + 3)
        truth.charge_back(made, word="accepted", **dispute)  # another word for the same
        await world.age("listings", "due_ms", 12 * HOUR_MS)
        await world.resources.reconciliation.round(checks=False)
        told = (await world.get(f"/api/changes?after={cursor}")).body["changes"]
        mine = [change for change in told if change["payment_id"] == str(number)]
        assert [change["previous_status"] for change in mine] == ["successful"] * 3
        assert (await rows(world, payment_of(number)))[1:] == [
            ("verify", "listing", "applied", None)
        ] * 3
        # What is disputed before it is known to have been paid waits for that.
        waiting = (await world.get(f"/api/payments/{unknown}")).body
        assert (waiting["status"], waiting["chargeback"]) == ("pending", None)
        sandbox.sandbox.settle(other, "successful", announce=False)
        await world.age("listings", "due_ms", 12 * HOUR_MS)
        await world.resources.reconciliation.round(Narrowed(due=False))
        known = (await world.get(f"/api/payments/{unknown}")).body
        assert (known["status"], known["chargeback"]) == ("successful", "completed")
        await nothing_wrong(world)


def payment_of(number: int | str) -> Entity:
    return Entity.payment("default", Kind.CHARGE, str(number))


async def test_a_pending_whose_success_was_not_told_is_asked_about(open_process: Opener) -> None:
    async with open_provider() as sandbox, open_world(open_process, **at_once(sandbox)) as world:
        number = new_id()
        made = paid(sandbox, number, "pending")
        await heard_pending(world, number)
        first = await ask(world)
        assert (first.asked, dict(first.outcomes), first.found) == (1, {"pending": 1}, 0)
        sandbox.sandbox.settle(made, "successful", announce=False)
        assert (await ask(world)).asked == 0  # not yet due
        await world.age("unsettled", "due_ms", HOUR_MS)
        report = await ask(world)
        assert (report.asked, report.found) == (1, 1)
        assert (await rows(world, payment(number)))[1:] == [
            ("verify", "reconcile", "applied", None)
        ]
        assert (await world.reference(f"ref-{number}"))["status"] == "successful"
        assert await watched(world) == {}
        await nothing_wrong(world)


async def test_an_expected_reference_finds_its_payment(open_process: Opener) -> None:
    async with open_provider() as sandbox, open_world(open_process, **at_once(sandbox)) as world:
        found, low, missing = new_id(), new_id(), new_id()
        for number in (found, low, missing):
            await register(world, f"ref-{number}")
        paid(sandbox, found)
        paid(sandbox, low, amount=Decimal(1))
        report = await ask(world)
        assert dict(report.outcomes) == {"successful": 2, "not_found": 1}
        assert (await world.reference(f"ref-{found}"))["status"] == "successful"
        assert (await world.reference(f"ref-{missing}"))["status"] == "pending"
        for _ in range(3):  # what is held is held once
            shown = await world.reference(f"ref-{low}")
            assert (shown["status"], shown["held"]) == ("processing", True)
            await world.age("unsettled", "due_ms", HOUR_MS)
            await ask(world)
        assert await rows(world, payment(low)) == [("verify", "reconcile", "held", "underpaid")]
        assert (await watched(world)).keys() == {f"ref-{missing}", str(low)}
        await nothing_wrong(world)


async def test_a_payment_that_a_list_calls_pending_is_asked_about_from_then_on(
    on_sqlite: Opener,
) -> None:
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        number = new_id()
        made = paid(sandbox, number, "pending")
        await world.resources.reconciliation.round(checks=False)
        assert (await world.status(number))["status"] == "pending"
        sandbox.sandbox.settle(made, "successful", announce=False)
        await ask(world)
        assert (await world.status(number))["status"] == "successful"


async def test_an_event_that_is_open_is_left_to_the_worker(on_sqlite: Opener) -> None:
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        number = new_id()
        paid(sandbox, number)
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"ref-{number}"))
        report = await world.resources.reconciliation.round()
        assert report.found_in_lists == 0
        assert report.outcomes["open"] == 1
        assert [row[0] for row in await rows(world, payment(number))] == ["v3"]


# --- when, and in what order ----------------------------------------------------------------------


def test_the_gaps_grow_with_the_age() -> None:
    """Each gap is as long as the wait so far, no shorter than the first and no longer than 30 days.

    So something that never settles is asked about once more each time it is twice as old.
    """
    age, asked = 120.0, 0
    while age < 365 * 24 * 3600:
        gap = gap_s(age, least_s=120, draw=0.5)
        assert gap == min(MOST_GAP_S, age)
        age, asked = age + gap, asked + 1
    assert asked < 35
    assert gap_s(1, least_s=60, draw=0.5) == 60
    assert 95 <= gap_s(100, least_s=60, draw=0.0) < gap_s(100, least_s=60, draw=0.999) < 105.1


async def test_an_older_payment_is_asked_about_less_often(open_process: Opener) -> None:
    async with open_provider() as sandbox, open_world(
        open_process, **{**at_once(sandbox), "RECONCILE_AFTER_S": "60"}
    ) as world:  # fmt: skip
        young, old = new_id(), new_id()
        for number in (young, old):
            paid(sandbox, number, "pending")
            await heard_pending(world, number)
        assert (await ask(world)).checked == 0  # a webhook that is a minute late is not lost
        await world.age("changes", "changed_ms", 60_000)
        await world.age("entities", "created_ms", 60_000)
        await sql(world, f"UPDATE entities SET created_ms = created_ms - 7200000 WHERE key LIKE "
                         f"'%:{old}'")  # fmt: skip
        assert (await ask(world)).checked == 2
        due = {key: value[1] for key, value in (await watched(world)).items()}
        assert 50 <= due[str(young)] <= 70
        assert 6_800 <= due[str(old)] <= 7_700


async def sql(world: World, statement: str) -> None:
    async def work(connection: Any) -> None:
        await connection.exec_driver_sql(statement)

    await world.resources.store._database.write(work)


async def test_what_somebody_asks_for_comes_first_and_more_often(open_process: Opener) -> None:
    async with open_provider() as sandbox, open_world(open_process, **at_once(sandbox)) as world:
        numbers = [new_id() for _ in range(3)]
        for number in numbers:
            paid(sandbox, number, "pending")
            await heard_pending(world, number)
        await ask(world)
        await world.age("entities", "created_ms", HOUR_MS)
        await world.age("unsettled", "first_ms", HOUR_MS)
        await world.age("unsettled", "due_ms", HOUR_MS)
        await world.status(numbers[2])  # a customer looks at the page
        await world.resources.lookups.drain()
        await world.resources.interest.drain()
        noted = await world.resources.interest.recent(10)
        assert noted == [payment(numbers[2]).row_key]
        await world.age("unsettled", "asked_ms", 60_000)
        assert (await ask(world, most=1)).checked == 1
        due = await watched(world)
        assert [due[str(number)][0] for number in numbers] == [1, 1, 2]
        assert due[str(numbers[2])][1] <= 63  # and not in an hour
        # Asked about a moment ago, it is not asked about again for having been asked for.
        assert (await ask(world, most=1)).checked == 1
        assert (await watched(world))[str(numbers[2])][0] == 2


async def test_a_pass_over_everything_asks_about_each_thing_once(on_sqlite: Opener) -> None:
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        for _ in range(3):
            number = new_id()
            paid(sandbox, number, "pending")
            await heard_pending(world, number)
        for _ in range(2):
            report = await ask(world, narrowed=Narrowed(due=False), most=30)
            assert (report.checked, report.asked) == (3, 3)
            await world.age("unsettled", "asked_ms", HOUR_MS)


async def test_two_reconcilers_at_once_ask_about_each_payment_once(open_process: Opener) -> None:
    async with open_provider() as sandbox, open_world(
        open_process, **at_once(sandbox)
    ) as one, open_world(open_process, **at_once(sandbox)) as other:  # fmt: skip
        numbers = [new_id() for _ in range(50)]
        for number in numbers:
            paid(sandbox, number)
            await one.v3(bodies.v3_charge(id=number, status="pending", tx_ref=f"ref-{number}"))
        await sql(one, "UPDATE inbox SET state = 'superseded', ended_ms = received_ms")
        await sql(one, "UPDATE entities SET open_events = 0, status = 'pending'")
        reports = await asyncio.gather(
            *(world.resources.reconciliation.round() for world in (one, other))
        )
        assert sum(report.asked + report.found_in_lists for report in reports) >= 50
        assert sum(report.found + report.found_in_lists for report in reports) == 50
        assert sum(report.listed for report in reports) == 50  # the list was read once
        for number in numbers:
            kept = [row[0] for row in await rows(one, payment(number))]
            assert kept == ["v3", "verify"]


# --- what goes wrong ------------------------------------------------------------------------------


async def test_a_budget_that_is_spent_leaves_everything_for_later(open_process: Opener) -> None:
    async with open_provider() as sandbox, open_world(
        open_process, **at_once(sandbox, PROVIDER_CALLS_PER_HOUR="20")
    ) as world:  # fmt: skip
        for _ in range(20):
            number = new_id()
            paid(sandbox, number, "pending")
            await heard_pending(world, number)  # each is confirmed, out of the same budget
        report = await ask(world)
        # What the confirmations have left it is its reserve, a twentieth.
        assert (report.asked, report.put_off) == (1, {"default": "budget_spent"})
        assert sum(asked > 0 for asked, _ in (await watched(world)).values()) == report.checked < 20
        await world.resources.redis.flushall()
        fresh = await open_process(**at_once(sandbox))  # another hour
        assert (await fresh.reconciliation.round(lists=False)).asked == 20 - report.checked


async def test_an_outage_puts_payments_off_and_fails_none(open_process: Opener) -> None:
    async with open_provider() as sandbox, open_world(open_process, **at_once(sandbox)) as world:
        number = new_id()
        paid(sandbox, number, "pending")
        await heard_pending(world, number)
        sandbox.sandbox.faults.set(Fault(FaultMode.UNAVAILABLE))
        report = await world.resources.reconciliation.round()
        assert report.put_off == {"default": "http_5xx"}
        assert (await watched(world))[str(number)][0] == 0
        sandbox.sandbox.faults.set(Fault())
        assert (await ask(world)).asked == 1
        assert (await world.status(number))["status"] == "pending"


async def test_what_is_wrong_with_one_api_keeps_nobody_from_asking_the_other(
    on_sqlite: Opener,
) -> None:
    """A key of v3 is revoked after the move to v4; what is v3's is asked about a minute later."""
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        old, told, expected, lost = new_id(), *(f"chg_moved{new_id()}" for _ in range(3))
        paid(sandbox, old, "pending")
        await heard_pending(world, old)
        late = paid(sandbox, told, "pending")
        await world.v4(bodies.v4_charge(id=told, status="pending", reference=f"ref-{told}"))
        await world.settle()
        sandbox.sandbox.settle(late, "successful", announce=False)
        paid(sandbox, expected)
        for number in (expected, *(new_id() for _ in range(MOST_FAILURES))):
            await register(world, f"ref-{number}")  # all but one are unknown to v4
        revoked = (
            await on_sqlite(**at_once(sandbox, FLW_SECRET_KEY="revoked"))
        ).reconciliation  # fmt: skip
        report = await revoked.round(lists=False)
        assert (report.found, report.put_off) == (2, {"default:v3": "credentials"})
        asked, due_s = (await watched(world))[str(old)]
        assert (asked, 0 < due_s <= 60) == (1, True)
        paid(sandbox, lost)
        report = await revoked.round(Narrowed(due=False))
        assert (report.found_in_lists, report.put_off) == (1, {"default:v3": "credentials"})
        assert (await world.status(old))["status"] == "pending"
        for number in (told, expected, lost):
            assert (await world.status(number))["status"] == "successful"


async def test_a_list_goes_on_where_it_was_left(open_process: Opener) -> None:
    """The cursor is in the database: whoever comes next reads the next page."""
    async with open_provider() as sandbox, open_world(open_process, **at_once(sandbox)) as world:
        for _ in range(45):
            paid(sandbox, new_id())
        sandbox.sandbox.limiter = Limiter(Limit(calls_per_minute=2, cool_off_s=1.0))
        report = await world.resources.reconciliation.round(checks=False)
        assert (report.pages, report.put_off) == (2, {"default": "rate_limited"})
        sandbox.sandbox.limiter = Limiter()
        await world.resources.redis.flushall()  # the cool-off is over
        other = await open_process(**at_once(sandbox))
        rest = await other.reconciliation.round(checks=False)
        assert (rest.pages, rest.found_in_lists) == (3 + 5, 25)  # and the others, which are empty
        assert (await other.reconciliation.round(checks=False)).pages == 0  # not due again yet


async def test_a_reconciler_that_dies_gives_back_what_it_had(open_process: Opener) -> None:
    async with open_provider() as sandbox, open_world(open_process, **at_once(sandbox)) as world:
        number = new_id()
        paid(sandbox, number)
        await register(world, f"ref-{number}")
        reconciling = world.resources.store.unsettled
        while await reconciling.enroll(grace_ms=0, most=100):
            pass
        assert len(await reconciling.claim(Narrowed(), claim_ms=60_000, most=10)) == 1
        assert (await ask(world)).checked == 0  # somebody has it
        await world.age("unsettled", "claimed_until_ms", 60_000)
        assert (await ask(world)).found == 1


async def test_long_silence_is_unknown_and_for_a_person_and_never_failed(
    open_process: Opener,
) -> None:
    """What the provider goes on calling pending stays pending; both are flagged, once.

    And whatever is heard of them later counts as ever.
    """
    async with open_provider() as sandbox, open_world(open_process, **at_once(sandbox)) as world:
        abandoned, stuck, gone = new_id(), new_id(), new_id()
        await register(world, f"ref-{abandoned}")
        made = paid(sandbox, stuck, "pending")
        await heard_pending(world, stuck)
        paid(sandbox, gone, "pending")
        await heard_pending(world, gone)
        sandbox.sandbox.truth._payments.clear()
        sandbox.sandbox.truth._payments[made.key] = made
        sandbox.sandbox.truth._by_reference.clear()
        await ask(world)
        assert (await listed(world))["flagged"] == []
        for table, column in (("unsettled", "first_ms"), ("unsettled", "due_ms")):
            await world.age(table, column, 4 * 24 * HOUR_MS)
        report = await ask(world)
        assert (report.asked, report.flagged) == (3, 3)
        # Before anybody looks them up, who would have the provider asked again.
        flagged = {one["id"]: one for one in (await listed(world))["flagged"]}
        assert {key: one["status"] for key, one in flagged.items()} == {
            f"ref-{abandoned}": "unknown", str(stuck): "pending", str(gone): "unknown",
        }  # fmt: skip
        assert [row[1] for row in await rows(world, payment(stuck))] == ["charge.completed"]
        assert (await world.reference(f"ref-{abandoned}"))["status"] == "unknown"
        assert await rows(world, reference(abandoned)) == [
            ("operator", "expected", "applied", None),
            ("reconciler", "silence", "applied", None),
        ]
        assert (await rows(world, payment(gone)))[-1] == (
            "reconciler", "silence", "applied", "silence",
        )  # fmt: skip
        shown = await world.status(gone)
        assert (shown["status"], shown["fresh"], shown["terminal"]) == ("unknown", False, False)
        assert (await world.reference(f"ref-{gone}"))["status"] == "unknown"
        assert (await world.status(stuck))["status"] == "pending"
        assert flagged[f"ref-{abandoned}"]["expected"] == "1500.25 NGN"
        await nothing_wrong(world)
        await world.age("unsettled", "due_ms", 90 * 24 * HOUR_MS)
        assert (await ask(world)).flagged == 0
        assert len(await rows(world, payment(gone))) == 2  # said once
        sandbox.sandbox.settle(made, "successful", announce=False)
        paid(sandbox, new_id(), tx_ref=f"ref-{abandoned}")
        await world.age("unsettled", "due_ms", 90 * 24 * HOUR_MS)
        assert (await ask(world)).found == 2
        assert (await world.reference(f"ref-{abandoned}"))["status"] == "successful"
        assert [one["id"] for one in (await listed(world))["flagged"]] == [str(gone)]
        await nothing_wrong(world)


async def listed(world: World) -> dict[str, Any]:
    """Return what waits for a person, as the API lists it."""
    answer = await world.get("/api/unsettled")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


async def test_without_credentials_nothing_is_asked_and_silence_is_said_all_the_same(
    on_sqlite: Opener,
) -> None:
    async with open_world(on_sqlite, RECONCILE_AFTER_S="0") as world:
        number = new_id()
        await heard_pending(world, number)
        report = await world.resources.reconciliation.round()
        assert (report.asked, dict(report.outcomes)) == (0, {"impossible": 1})
        for column in ("first_ms", "due_ms"):
            await world.age("unsettled", column, 4 * 24 * HOUR_MS)
        await ask(world)
        assert (await world.status(number))["status"] == "unknown"
        await world.v3(bodies.v3_charge(id=number, tx_ref=f"ref-{number}"))
        await world.settle()
        assert (await world.status(number))["status"] == "successful"


async def test_the_reconciler_with_its_cache_on_a_cluster(
    postgres_url: str, cluster: Cluster, valkey_url: str
) -> None:
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(open_provider())
        opener = Opener(stack, postgres_url, cluster.url)
        settings = at_once(sandbox, QUEUE_URL=valkey_url)
        world = await stack.enter_async_context(open_world(opener, **settings))
        numbers = [new_id() for _ in range(6)]
        for number in numbers:
            paid(sandbox, number)
            await register(world, f"ref-{number}")
            await world.reference(f"ref-{number}")
        lost = new_id()
        paid(sandbox, lost, kind=Kind.TRANSFER)
        report = await world.resources.reconciliation.round()
        assert (report.found, report.found_in_lists) == (0, 7)
        assert (await world.status(lost))["kind"] == "transfer"
        for number in numbers:
            assert (await world.reference(f"ref-{number}"))["status"] == "successful"
        await nothing_wrong(world)


# --- the command ----------------------------------------------------------------------------------


async def test_the_command_does_a_pass_and_says_what_it_would_do(
    sqlite_url: str, valkey_url: str, tmp_path: Path, on_sqlite: Opener
) -> None:
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        env = {**at_once(sandbox), "DATABASE_URL": sqlite_url, "CACHE_URL": valkey_url}

        async def run(*args: str, code: int = 0) -> Any:
            result = await asyncio.to_thread(
                CliRunner().invoke, cli, ["reconcile", *args, "--data-dir", str(tmp_path)], env=env
            )
            assert result.exit_code == code, result.output
            return orjson.loads(result.stdout) if "--json" in args else result.output

        known, lost = new_id(), new_id()
        made = paid(sandbox, known, "pending")
        await heard_pending(world, known)
        await ask(world)
        await world.age("unsettled", "asked_ms", HOUR_MS)
        assert (await run("--dry-run", "--json"))["due"] == []
        planned = (await run("--dry-run", "--all", "--json"))["due"]
        assert [(one["id"], one["status"], one["asked"]) for one in planned] == [
            (str(known), "pending", 1)
        ]
        assert (await run("--dry-run", "--all", "--older-than", "1h", "--json"))["due"] == []
        assert str(known) in await run("--dry-run", "--all")
        sandbox.sandbox.settle(made, "successful", announce=False)
        paid(sandbox, lost)
        done = await run("--all", "--json")
        assert (done["asked"], done["found"], done["found_in_lists"]) == (0, 0, 2)
        assert (await world.status(known))["status"] == "successful"
        assert (await world.status(lost))["status"] == "successful"
        assert (await run("--flagged", "--json"))["flagged"] == []
        sandbox.sandbox.faults.set(Fault(FaultMode.UNAVAILABLE))
        assert "Put off for default: http_5xx" in await run("--all", code=1)
        assert "no merchant" in await run("--merchant", "nobody", code=2)


# --- lists ----------------------------------------------------------------------------------------


def _page(*made: str | None, unreadable: int = 0) -> ListPage:
    updates = [
        PaymentUpdate(Kind.CHARGE, str(n), Status.PENDING, "pending", created_at=at)
        for n, at in enumerate(made)
    ]
    return ListPage(tuple(updates), unreadable, None)


def test_a_list_counts_as_going_back_in_time_only_as_far_as_it_was_seen_to() -> None:
    one, two, three = (f"2026-01-0{day}T00:00:00.000+00:00" for day in (1, 2, 3))
    assert _page(three, two, one).ordered(None) == 1767225600000
    assert _page(three, two).ordered(1767225600000) is None  # younger than the page before
    assert _page(one, two).ordered(None) is None
    assert _page(two, None).ordered(None) is None
    assert _page(two, unreadable=1).ordered(None) is None


def test_v3_is_asked_for_days_and_v4_for_moments() -> None:
    """Whatever day it is where the provider counts them."""
    since, until = 1767225600000, 1767225600000 + 3 * HOUR_MS
    assert list_path(Api.V3, Lists.CHARGES, since, until, 2) == (
        "/transactions?from=2025-12-31&to=2026-01-01&page=2"
    )
    assert list_path(Api.V4, Lists.CHARGES, since, until, 1) == (
        "/charges?from=2026-01-01T00%3A00%3A00Z&to=2026-01-01T03%3A00%3A01Z&page=1"
    )


async def test_a_list_that_goes_back_in_time_is_left_before_the_window(on_sqlite: Opener) -> None:
    """The second window has one page of a hundred; what is older has been read."""
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        clock = sandbox.sandbox.clock
        sandbox.sandbox.clock = lambda: clock() - 3600
        for _ in range(25):
            paid(sandbox, new_id())
        sandbox.sandbox.clock = clock
        assert (await world.resources.reconciliation.round()).pages == 3 + 5
        paid(sandbox, new_id())
        await world.age("listings", "due_ms", HOUR_MS // 2)
        report = await world.resources.reconciliation.round()
        assert (report.pages, report.found_in_lists) == (1 + 3, 1)


async def test_what_a_list_shows_a_minute_late_is_in_the_next_window(on_sqlite: Opener) -> None:
    """The lists of the real one lag behind its payments."""
    async with open_provider() as sandbox, open_world(on_sqlite, **at_once(sandbox)) as world:
        assert (await world.resources.reconciliation.round()).found_in_lists == 0
        clock = sandbox.sandbox.clock
        sandbox.sandbox.clock = lambda: clock() - 60
        for number in (new_id(), f"chg_late{new_id()}"):
            paid(sandbox, number)
        await world.age("listings", "due_ms", HOUR_MS // 2)
        assert (await world.resources.reconciliation.round()).found_in_lists == 2


async def test_an_account_that_may_not_see_its_transfers_has_its_charges_read_all_the_same(
    on_sqlite: Opener,
) -> None:
    """And it is not asked for them again in the next pass, but when the list is due."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == "/transfers":
            return web.json_response({"status": "error", "message": "Forbidden"}, status=403)
        if request.path == "/chargebacks":
            return web.json_response({"status": "success", "data": "on request only"})
        # One page, whichever is asked for, of a list that says nothing of its length.
        body = bodies.v3_charge(id=531_904_400, created_at=None)["data"]
        return web.Response(
            body=bodies.encode({"status": "success", "data": [body]}),
            content_type="application/json",
        )

    async with (
        provider(answer) as url,
        open_world(on_sqlite, FLW_BASE_URL=url, FLW_SECRET_KEY="k", RECONCILE_AFTER_S="0") as world,
    ):
        report = await world.resources.reconciliation.round(checks=False)
        assert (report.put_off, report.pages, report.found_in_lists) == ({}, 2, 1)
        assert asked == ["/transactions", "/transactions", "/transfers", "/chargebacks"]
        await world.resources.reconciliation.round(checks=False)
        assert len(asked) == 4
        for column in ("due_ms", "claimed_until_ms"):
            await world.age("listings", column, HOUR_MS // 4)
        await world.resources.reconciliation.round(checks=False)
        assert asked[4:] == ["/transactions", "/transactions", "/transfers"]


async def test_what_is_young_is_left_to_its_webhook(on_sqlite: Opener) -> None:
    """Its webhook is on its way: to bring it in from a list would only be work done twice."""
    async with open_provider() as sandbox, open_world(
        on_sqlite, **{**at_once(sandbox), "RECONCILE_AFTER_S": "60"}
    ) as world:  # fmt: skip
        paid(sandbox, new_id())
        clock = sandbox.sandbox.clock
        sandbox.sandbox.clock = lambda: clock() - 120
        paid(sandbox, new_id())
        report = await world.resources.reconciliation.round()
        assert (report.listed, report.found_in_lists) == (2, 1)
