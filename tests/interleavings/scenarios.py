"""What happens to a payment, by whom: the small stories whose every interleaving is tried."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from paystate.keys import DEFAULT_MERCHANT
from paystate.payments.recording import observation
from paystate.status import Status
from paystate.store import Decision, Ending
from paystate.updates import Api
from tests.interleavings.steps import Step
from tests.interleavings.world import Site, World, observed, webhook

__all__ = ["SCENARIOS", "TELLING", "Scenario", "compose"]


async def nothing(_world: World) -> None:
    """Leave it at that."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story: what is there before (gates open), then who does what at once (gates shut).

    `pending`: the first payment and its reference are known as pending.
    """

    name: str
    about: str
    at_once: Callable[[World], None]
    pending: bool = True
    before: Callable[[World], Awaitable[None]] = nothing
    lease: bool = True
    confirming: bool = False


async def cached(world: World) -> None:
    """Have the payment and its reference cached under a lease."""
    site = Site(world, "before")
    for entity in (world.entities[0], world.entities[2]):
        await site.look(entity, 1)


async def replicated(world: World) -> None:
    """Have it cached, by a replica too that will be promoted."""
    await cached(world)
    await world.snapshot()


async def connected(world: World) -> None:
    """Have it cached, and asked for twice on a connection: by now the process knows the caller."""
    site = Site(world, "web")
    await site.look(world.entities[0], 2, over_http=True)
    world.web = site


async def success_acknowledged(world: World) -> None:
    """Have its success acknowledged and not yet settled."""
    event = webhook(world.ids[0], Status.SUCCESSFUL, world.refs[0], number=1)
    await Site(world, "before").record(event)


async def failure_acknowledged(world: World) -> None:
    """Have its failure acknowledged and not yet settled."""
    event = webhook(world.ids[0], Status.FAILED, world.refs[0], number=1)
    await Site(world, "before").record(event)


async def pending_acknowledged(world: World) -> None:
    """Have it acknowledged once more that it is pending, and not yet settled."""
    event = webhook(world.ids[0], Status.PENDING, world.refs[0], number=7)
    await Site(world, "before").record(event)


async def successful(world: World) -> None:
    """Have it settled without a reference, and not cached."""
    site = Site(world, "before")
    await site.record(webhook(world.ids[0], Status.SUCCESSFUL, None))
    await site.sweep(1)
    await world.evict()


def hook(world: World, status: Status, *, number: int = 1, name: str = "webhook") -> None:
    """Let a webhook of the first payment come in."""
    site = Site(world, name)
    site.process.start(site.record(webhook(world.ids[0], status, world.refs[0], number=number)))


def worker(world: World, *, rounds: int = 1, name: str = "worker") -> None:
    """Let a worker sweep."""
    site = Site(world, name)
    site.process.start(site.sweep(rounds))


def reader(world: World, *, times: int = 1, entity: int = 0, name: str = "reader") -> None:
    """Let somebody look up the first payment, or another of the entities."""
    site = Site(world, name)
    site.process.start(site.look(world.entities[entity], times))


def happens(world: World, name: str, what: Callable[[], Awaitable[None]]) -> None:
    """Let something happen to the cache at some time."""
    process = world.schedule.process(name)

    async def once() -> None:
        async with process.gate(Step("happens", "cache", writes=True)):
            await what()

    process.start(once())


def _webhook_and_eviction(world: World) -> None:
    hook(world, Status.SUCCESSFUL)
    happens(world, "eviction", world.evict)
    reader(world, times=2)


def _worker_and_eviction(world: World) -> None:
    worker(world)
    happens(world, "eviction", world.evict)
    reader(world, times=3)  # the first look marks, the second may fill, the third be told


def _webhook_and_failover(world: World) -> None:
    hook(world, Status.SUCCESSFUL)
    happens(world, "failover", world.fail_over)
    reader(world)


def _webhook_and_readers(world: World) -> None:
    hook(world, Status.SUCCESSFUL)
    reader(world, name="reader 1")
    reader(world, name="reader 2")


def _webhook_and_one_process(world: World) -> None:
    """Two callers of one process, the second at any time: when may it share the first's read?"""
    hook(world, Status.SUCCESSFUL)
    site = Site(world, "web", delays=True)
    site.process.start(site.look(world.entities[0], 1))
    site.process.start(site.look(world.entities[0], 1, later=True))


def _webhook_and_third_look(world: World) -> None:
    hook(world, Status.SUCCESSFUL)
    reader(world, name="reader 1")
    reader(world, name="reader 2", times=2)


def _webhook_and_third_look_unmarked(world: World) -> None:
    """The one who looks twice cannot mark, though the cache is there: its connections break."""
    hook(world, Status.SUCCESSFUL)
    reader(world, name="reader 1")
    site = Site(world, "reader 2")
    site.process.marks_refused = True
    site.process.start(site.look(world.entities[0], 2))


def _webhook_worker_and_connection(world: World) -> None:
    assert world.web is not None
    hook(world, Status.SUCCESSFUL)
    worker(world)
    world.web.process.start(world.web.look(world.entities[0], 1, later=True, over_http=True))


def _webhook_and_reader_twice(world: World) -> None:
    hook(world, Status.SUCCESSFUL)
    reader(world, times=2)


def _worker_and_readers(world: World) -> None:
    worker(world)
    reader(world, name="reader 1")
    reader(world, name="reader 2")


def _worker_and_reference(world: World) -> None:
    worker(world)
    reader(world, times=2, entity=2)


def _webhook_worker_reader(world: World) -> None:
    hook(world, Status.SUCCESSFUL)
    worker(world)
    reader(world)


def _duplicates_and_reader(world: World) -> None:
    hook(world, Status.FAILED, name="webhook 1")
    hook(world, Status.FAILED, name="webhook 2")
    reader(world)


def _two_workers_and_reader(world: World) -> None:
    worker(world, name="worker 1")
    worker(world, name="worker 2")
    reader(world)


def _moved(world: World) -> None:
    """The provider names the reference of a successful payment: a version after the last status."""
    site = Site(world, "observer")
    update = observed(world.ids[0], Status.SUCCESSFUL, world.refs[1])

    async def observe() -> None:
        await site.record(observation(DEFAULT_MERCHANT, update, 1))
        await site.sweep(1)

    site.process.start(observe())
    reader(world)


async def came_to_nothing(world: World) -> None:
    """Have the second reference known as one that an event named which came to nothing."""
    site = Site(world, "before")
    event = webhook(world.ids[1], Status.SUCCESSFUL, world.refs[1])
    await site.record(event)
    [inbox_id] = await site.store.claim("before", claim_ms=0)
    await site.store.settle(
        [Decision(inbox_id, world.entities[1], Ending.DEAD, "not_found")], site.cache.mark
    )


def registration(world: World, *, entity: int = 2) -> None:
    """Let a shop register what it expects to be paid for a reference."""
    site = Site(world, "shop")
    site.process.start(site.register(world.entities[entity]))


def _registration_and_webhook(world: World) -> None:
    registration(world)
    hook(world, Status.PENDING)
    reader(world, entity=2)


def _registration_of_the_known(world: World) -> None:
    registration(world, entity=3)
    reader(world, entity=3)


SCENARIOS = {
    story.name: story
    for story in (
        Scenario("two-readers", "a webhook of a payment that two look up", _webhook_and_readers),
        Scenario("cached", "a webhook of a payment that is cached as pending",
                 _webhook_and_reader_twice, before=cached),
        Scenario("one-process", "a webhook, and two who ask the same process",
                 _webhook_and_one_process, lease=False),
        Scenario("connection", "webhook, worker, and one who asks again on a connection",
                 _webhook_worker_and_connection, before=connected),
        Scenario("step-back", "a webhook of a payment that one looks up, and another twice",
                 _webhook_and_third_look),
        Scenario("cut-off", "the same, and who looks up twice cannot mark",
                 _webhook_and_third_look_unmarked),
        Scenario("duplicates", "the same webhook twice at once", _duplicates_and_reader),
        Scenario("evicted", "a webhook, a reader, and an entry that is evicted",
                 _webhook_and_eviction),
        Scenario("failover", "a webhook, a reader, and a replica that has missed the mark",
                 _webhook_and_failover, before=replicated),
        Scenario("settling", "a worker settles a failure that two look up", _worker_and_readers,
                 before=failure_acknowledged),
        Scenario("settling-evicted", "a worker, a reader, and an entry that is evicted",
                 _worker_and_eviction, before=failure_acknowledged),
        Scenario("reference", "a worker settles a success; its reference is looked up",
                 _worker_and_reference, before=success_acknowledged),
        Scenario("two-workers", "two workers sweep the same event", _two_workers_and_reader,
                 before=failure_acknowledged),
        Scenario("all-three", "webhook, worker and reader at once", _webhook_worker_reader),
        Scenario("overtaken", "a webhook while a worker settles the one before, and a reader",
                 _webhook_worker_reader, before=pending_acknowledged),
        Scenario("strict", "webhook, worker and reader, without leases", _webhook_worker_reader,
                 lease=False),
        Scenario("registered", "a registration, a webhook of that reference, and a lookup of it",
                 _registration_and_webhook, pending=False),
        Scenario("registered-again", "a registration of a reference that is known, and a reader",
                 _registration_of_the_known, pending=False, before=came_to_nothing),
        Scenario("moved", "a successful payment is moved to a reference", _moved, pending=False,
                 before=successful),
    )
}  # fmt: skip


# The story in which the want of each mechanism shows.
TELLING = {
    "token": "evicted",
    "mark": "cached",
    "incarnation": "failover",
    "version": "moved",
    "open_event": "settling-evicted",
    "near": "one-process",
    "forestall": "step-back",
    "wait": "cut-off",
    "unsent": "one-process",
    "prepared": "connection",
    "writer": "overtaken",
}


def compose(draw: random.Random) -> Scenario:
    """Return a story that chance has made: more of everything, with what can go wrong around it."""
    confirming, pending = draw.random() < 0.4, draw.random() < 0.8

    async def before(world: World) -> None:
        for payment_id, tx_ref in zip(world.ids, (world.refs[0], world.refs[0]), strict=True):
            last = draw.choice([Status.SUCCESSFUL, Status.FAILED, Status.SUCCESSFUL])
            script = [Status.PENDING, Status.PROCESSING, Status.FAILED, Status.SUCCESSFUL]
            world.provider.script[payment_id] = [s for s in script[:-1] if draw.random() < 0.6] + [
                last
            ]
            world.provider.at[payment_id] = draw.randrange(len(world.provider.script[payment_id]))
            world.provider.tx_refs[payment_id] = tx_ref
        world.provider.lag = lambda: draw.choice([0, 0, 0, 1])
        if pending and draw.random() < 0.5:
            await cached(world)
        await world.snapshot()

    def at_once(world: World) -> None:
        statuses = [Status.PENDING, Status.PROCESSING, Status.FAILED, Status.SUCCESSFUL]
        for number in range(draw.randint(1, 3)):
            payment_id = draw.choice([world.ids[0], world.ids[0], world.ids[1]])
            tx_ref = draw.choice([world.refs[0], world.refs[0], world.refs[0], None, world.refs[1]])
            event = webhook(
                payment_id, draw.choice(statuses), tx_ref, number=number,
                api=draw.choice([Api.V3, Api.V4]),
            )  # fmt: skip
            for delivery in range(draw.choice([1, 1, 2])):
                site = Site(world, f"webhook {number}.{delivery}")
                site.process.start(site.record(event))
        for number in range(draw.randint(1, 2)):
            worker(world, rounds=draw.randint(1, 3), name=f"worker {number}")
        for number in range(draw.randint(1, 2)):
            site = Site(world, f"web {number}", recheck_s=-1 if draw.random() < 0.15 else 1_000_000)
            for _ in range(draw.randint(1, 2)):
                entity = world.entities[draw.choice([0, 0, 0, 1, 2, 2, 3])]
                over_http, times = draw.random() < 0.4, draw.randint(1, 3)
                site.process.start(site.look(entity, times, later=over_http, over_http=over_http))

    return Scenario(
        "random", "made by chance", at_once, pending, before, lease=draw.random() < 0.8,
        confirming=confirming,
    )  # fmt: skip
