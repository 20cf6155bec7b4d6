"""A customer's page of payments under every schedule: no status of it is stale, no payment missing.

And both mechanisms are needed: with a status that is stored in the page, or a page that counts
under any version, the same search finds the schedule that shows it.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from paystate.cache.documents import Slip
from paystate.keys import DEFAULT_MERCHANT, Keys
from paystate.payments.answers import StatusAnswer
from paystate.payments.customers import CustomerId
from paystate.payments.history import History
from paystate.payments.recording import new_event
from paystate.status import Status
from paystate.store import NewEvent
from paystate.updates import Api, Event, Kind, PaymentUpdate
from tests.interleavings.explore import Run, every_schedule
from tests.interleavings.scenarios import Scenario
from tests.interleavings.world import Servers, Site, World

# Of each story there are some hundreds; those that tell come early.
MOST = 60


def _customer(world: World) -> CustomerId:
    return CustomerId(DEFAULT_MERCHANT, f"c{world.ids[0]}")


def _event(world: World, which: int, status: Status) -> NewEvent:
    """Return a webhook of one of the customer's payments."""
    update = PaymentUpdate(
        Kind.CHARGE, world.ids[which], status, status.value,
        tx_ref=world.refs[which], customer_id=_customer(world).id,
    )  # fmt: skip
    return new_event(DEFAULT_MERCHANT, Event(Api.V4, "charge.completed", f"page {which}", update))


async def _cached(world: World) -> None:
    """Have the first payment known as pending and as the customer's, and their page cached."""
    site = Site(world, "before")
    await site.record(_event(world, 0, Status.PENDING))
    await site.sweep(1)
    await site.history.page(_customer(world))


async def _acknowledged(world: World) -> None:
    """Have its success acknowledged besides, and that of a payment nobody has heard of."""
    await _cached(world)
    site = Site(world, "before too")
    for which in (0, 1):
        await site.record(_event(world, which, Status.SUCCESSFUL))


def _look(world: World, settled: set[str], *, times: int) -> None:
    """Let somebody look at the page, and hold it against what was known before they asked."""
    site = Site(world, "reader")

    async def look() -> None:
        for _ in range(times):
            before, found = set(settled), set[str]()

            async def ask(found: set[str] = found) -> StatusAnswer:
                page = await site.history.page(_customer(world))
                answers = {status.entity: status for _, status in page.payments}
                found.update(entity.id for entity in answers)
                return answers[world.entities[0]]

            await world.oracle.watch(site.process, world.entities[0], ask())
            if not before <= found:
                world.oracle.violations.append(f"missing: {before - found}, settled before")

    site.process.start(look())


def _webhook_and_page(world: World) -> None:
    site = Site(world, "webhook")
    site.process.start(site.record(_event(world, 0, Status.SUCCESSFUL)))
    _look(world, set(), times=2)


def _worker_and_page(world: World) -> None:
    site, settled = Site(world, "worker"), set[str]()

    async def settle() -> None:
        await site.sweep(1)
        settled.update(world.ids)

    site.process.start(settle())
    _look(world, settled, times=2)


STORIES = {
    story.name: story
    for story in (
        Scenario("page", "a webhook of a payment on a page", _webhook_and_page, before=_cached),
        Scenario("page-settling", "a worker settles a payment on a page, and a new one",
                 _worker_and_page, before=_acknowledged),
    )
}  # fmt: skip


async def _first_broken(servers: Servers, name: str, most: int = 10_000) -> tuple[Run | None, int]:
    number = 0
    async with aclosing(every_schedule(servers, STORIES[name])) as runs:
        async for run in runs:
            number += 1
            if run.violations:
                return run, number
            if number == most:
                break
    return None, number


@pytest.mark.parametrize("name", STORIES)
async def test_no_schedule_shows_a_stale_status_or_leaves_out_a_payment(
    servers: Servers, name: str
) -> None:
    broken, number = await _first_broken(servers, name, MOST)
    assert broken is None, str(broken)
    assert number > 10


async def test_a_status_stored_in_the_page_would_be_stale(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    join, stored = History._join, dict[str, Any]()

    async def once(self: History, who: CustomerId, payments: list[dict[str, Any]]) -> Any:
        page = str((who, payments))
        if page not in stored:
            stored[page] = await join(self, who, payments)
        return stored[page]

    monkeypatch.setattr(History, "_join", once)
    broken, _ = await _first_broken(servers, "page")
    assert broken is not None
    assert broken.violations[0].startswith("stale")


async def test_a_page_that_counts_under_any_version_would_leave_out_a_new_payment(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unversioned(_self: History, who: CustomerId, number: int, _version: int) -> Slip:
        return Slip("history", Keys().history(who.merchant, who.id, number), 0)

    monkeypatch.setattr(History, "_slip", unversioned)
    broken, _ = await _first_broken(servers, "page-settling")
    assert broken is not None
    assert broken.violations[0].startswith("missing")
