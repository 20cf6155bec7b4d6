"""The scenarios: each a part of the world that is small enough to be seen whole."""

from __future__ import annotations

from tests.model.rows import (
    CONTRADICTED,
    DEAD,
    FAILED,
    HELD,
    NOBODY,
    PENDING,
    SUCCESSFUL,
    UNKNOWN,
    VOIDED,
    Decision,
    Event,
    Row,
)
from tests.model.state import Scenario

A, B = 1, 2  # the references of a single payment


def row(status: int, link: int = NOBODY) -> Row:
    """Return a row at rest."""
    return status, 1, 0, 0, link


def claims(status: int, *, stale: bool = True, tx_ref: int = NOBODY, ours: bool = False) -> Event:
    """Return an event that says `status`; the provider may confirm it, or lag behind for good."""
    decisions = [Decision(status)]
    if stale:
        decisions.append(Decision(PENDING, CONTRADICTED))
    return Event(0, tuple(decisions), tx_ref, ours)


ONE_EVENT = Scenario("one_event", (row(PENDING),), (claims(SUCCESSFUL),))
DUPLICATE = ONE_EVENT._replace(name="duplicate", handlers=2)
TWO_EVENTS = Scenario(
    "two_events", (row(PENDING),), (claims(FAILED), Event(0, (Decision(PENDING),)))
)
CORRECTION = Scenario(
    "correction",
    (row(PENDING),),
    (
        claims(FAILED, stale=False),
        # A v3 body without credentials leaves `failed`; the verify API corrects it.
        Event(0, (Decision(SUCCESSFUL, proven=False),)),
        claims(SUCCESSFUL, stale=False, ours=True),
    ),
)
SETTLED_CORRECTION = Scenario(
    "settled_correction", (row(FAILED),), (claims(SUCCESSFUL, stale=False), claims(VOIDED))
)
HOLDING = Scenario(
    "held",
    (row(PENDING),),
    (
        Event(0, (Decision(ending=HELD),)),
        claims(FAILED, stale=False),
    ),
)
DYING = Scenario(
    "dead",
    (row(PENDING),),
    (Event(0, (Decision(ending=DEAD), Decision(FAILED))),),
)
UNREACHABLE = Scenario("unreachable", (row(PENDING),), (claims(FAILED),), unreachable=True)
FAILOVER = Scenario("failover", (row(PENDING),), (claims(FAILED),), fails_over=True)
SPLIT_BRAIN = Scenario("split_brain", (row(PENDING),), (claims(FAILED),), splits=True)

# Payments P and Q are attempts at reference A, which is entity 2.
ATTEMPTS = Scenario(
    "reference_two_attempts",
    ((PENDING, 1, 0, 0, 2), (PENDING, 1, 0, 0, 2), (PENDING, 1, 0, 0, 0)),
    (Event(0, (Decision(FAILED),), 2), Event(1, (Decision(SUCCESSFUL),), 2)),
    payments=2,
    lookups=(2,),
)
# The event names no reference; the provider says that it belongs to A.
RELINK = Scenario(
    "relink",
    (row(PENDING), row(PENDING)),
    (Event(0, (Decision(FAILED, link=A),)),),
    lookups=(A,),
)
# Payments P and Q count for A (entity 2), and Q has failed; P turns out to belong to B (entity 3).
MOVE = Scenario(
    "move",
    ((PENDING, 1, 0, 0, 2), (FAILED, 1, 0, 0, 2), (PENDING, 1, 0, 0, 0), row(UNKNOWN)),
    (Event(0, (Decision(PENDING, link=3),)),),
    payments=2,
    lookups=(2,),
)
# A webhook names A; a lookup has learnt from the provider that its payment belongs to B.
TWO_NAMES = Scenario(
    "two_names",
    (row(PENDING), row(PENDING), row(UNKNOWN)),
    (
        Event(0, (Decision(FAILED, link=B),), A),
        Event(0, (Decision(PENDING, link=B),), B, ours=True),
    ),
    lookups=(A,),
)
# A lookup asks the provider, who says more than the row.
OBSERVED = Scenario("observed", (row(PENDING),), (claims(FAILED, stale=False, ours=True),))

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        ONE_EVENT, DUPLICATE, TWO_EVENTS, CORRECTION, SETTLED_CORRECTION, OBSERVED, HOLDING, DYING,
        UNREACHABLE, FAILOVER, SPLIT_BRAIN, ATTEMPTS, RELINK, MOVE, TWO_NAMES,
    )
}  # fmt: skip

# Less of the same, for the tests that run every time: one answer of the provider, or a short lease.
_FAILED = (claims(FAILED, stale=False),)
SMALLER = (
    ONE_EVENT, OBSERVED, DYING, RELINK, MOVE, ATTEMPTS._replace(lease=1),
    CORRECTION._replace(events=CORRECTION.events[::2], lease=1),
    UNREACHABLE._replace(events=_FAILED),
    FAILOVER._replace(events=_FAILED, lease=1),
)  # fmt: skip
# The split brain in which answers are measured against what was acknowledged a while ago.
TORN = SPLIT_BRAIN._replace(events=_FAILED)

# More actors in the same worlds, and more at once; minutes in all.
LARGE = (
    UNREACHABLE._replace(name="unreachable and failover", events=_FAILED, fails_over=True),
    ONE_EVENT._replace(name="one_event, 2 workers", workers=2),
    ONE_EVENT._replace(name="one_event, 2 lookups", lookups=(0, 0)),
    TWO_EVENTS._replace(name="two_events, 2 handlers", handlers=2),
    TWO_EVENTS._replace(name="two_events, 2 workers", workers=2),
    UNREACHABLE._replace(name="unreachable, 2 workers", workers=2),
    ATTEMPTS._replace(name="two attempts, looked up by id", lookups=(0,)),
    MOVE._replace(name="move, 2 lookups", lookups=(2, 3)),
)

# Each rule: where its absence shows, and what it says.
RULES = {
    "1": (ONE_EVENT, "the mark comes before the acknowledgement"),
    "2": (ONE_EVENT, "the mark comes after the commit, not before it"),
    "3": (ONE_EVENT, "a duplicate is marked too"),
    "3r": (TWO_NAMES, "a duplicate is marked where its event is open"),
    "4": (ONE_EVENT, "a fill needs its token"),
    "5": (ONE_EVENT, "nothing is stored while an event is open"),
    "6": (ONE_EVENT, "the worker marks before its commit as well"),
    "7": (FAILOVER, "tokens and leases die with the server's run"),
    "8": (UNREACHABLE, "a handler that cannot mark waits before it acknowledges"),
    "8w": (UNREACHABLE, "a worker that cannot mark waits before it commits"),
    "8r": (
        UNREACHABLE._replace(name="unreachable, 2 workers", workers=2),
        "a claim from before an event was opened again is none",
    ),
    "9": (OBSERVED, "every change of status has an open inbox row"),
    "9r": (RELINK, "an event is opened where it belongs before it is applied"),
    "9m": (MOVE, "until then it stays open on the reference that the payment leaves"),
}

# What others do, and what it breaks on. Only what was acknowledged is held against them.
DESIGNS = {
    "plain-set": ONE_EVENT,
    "delete": ONE_EVENT,
    "delete-twice": ONE_EVENT,
    "compare-and-set": ONE_EVENT,
    "memcache-lease": FAILOVER,
}
