"""The oracle of the drills flags what must never be answered, and nothing else."""

from __future__ import annotations

import random

import pytest

from bench.drill.lives import draw_life
from bench.drill.oracle import Oracle, Phase, count_lost
from bench.drill.recovery import NEEDED, Recovery
from bench.drill.subscribers import Subscriber
from paystate.status import TERMINAL, Status

PAYMENT, REFERENCE = "charge:default:1", "reference:default:r1"
BOTH = (PAYMENT, REFERENCE)


def test_a_pending_after_the_acknowledgement_of_an_end_is_stale() -> None:
    oracle = Oracle()
    oracle.acknowledge(BOTH, Status.SUCCESSFUL, 1.0)
    for key in BOTH:
        oracle.answer(oracle.ask("page", key, 1.01), Status.PENDING, 1)
    assert oracle.stale == 2
    assert "stale" in oracle.violations[0]


def test_a_lookup_that_began_before_the_acknowledgement_may_answer_pending() -> None:
    oracle = Oracle()
    question = oracle.ask("page", PAYMENT, 0.99)
    oracle.acknowledge(BOTH, Status.SUCCESSFUL, 1.0)
    oracle.answer(question, Status.PENDING, 1)
    assert (oracle.stale, oracle.regressed, oracle.at_risk) == (0, 0, 1)


def test_an_answer_that_says_it_is_not_fresh_is_counted_and_not_blamed() -> None:
    oracle = Oracle()
    oracle.acknowledge(BOTH, Status.FAILED, 1.0)
    oracle.answer(oracle.ask("page", PAYMENT, 2.0), Status.PENDING, 1, fresh=False)
    assert (oracle.stale, oracle.unsure) == (0, 1)


def test_processing_is_what_an_acknowledged_end_may_show() -> None:
    oracle = Oracle()
    oracle.acknowledge(BOTH, Status.SUCCESSFUL, 1.0)
    oracle.answer(oracle.ask("page", PAYMENT, 2.0), Status.PROCESSING, 2)
    oracle.answer(oracle.ask("page", PAYMENT, 3.0), Status.SUCCESSFUL, 3)
    assert (oracle.stale, oracle.regressed) == (0, 0)


def test_a_payment_that_is_unknown_after_its_acknowledgement_is_stale() -> None:
    oracle = Oracle()
    oracle.answer(oracle.ask("page", PAYMENT, 0.5), None)
    oracle.acknowledge(BOTH, Status.PENDING, 1.0)
    assert oracle.stale == 0
    oracle.answer(oracle.ask("page", PAYMENT, 1.5), None)
    assert oracle.stale == 1


def test_a_failed_attempt_is_no_end_of_its_reference() -> None:
    oracle = Oracle()
    oracle.acknowledge(BOTH, Status.FAILED, 1.0)
    oracle.answer(oracle.ask("page", REFERENCE, 2.0), Status.FAILED, 3)
    oracle.answer(oracle.ask("page", REFERENCE, 3.0), Status.PENDING, 4)
    assert (oracle.stale, oracle.regressed) == (0, 0)


def test_a_version_that_goes_back_for_one_observer_is_a_regress() -> None:
    oracle = Oracle()
    oracle.answer(oracle.ask("a", PAYMENT, 1.0), Status.PROCESSING, 2)
    oracle.answer(oracle.ask("b", PAYMENT, 2.0), Status.PENDING, 1)
    assert oracle.regressed == 0  # another observer
    oracle.answer(oracle.ask("a", PAYMENT, 3.0), Status.PENDING, 1)
    assert oracle.regressed == 1


@pytest.mark.parametrize(
    ("shown", "later"),
    [(Status.SUCCESSFUL, Status.FAILED), (Status.SUCCESSFUL, Status.PROCESSING),
     (Status.FAILED, Status.PENDING), (Status.FAILED, Status.PROCESSING)],
)  # fmt: skip
def test_after_an_end_nothing_goes_back_for_anybody(shown: Status, later: Status) -> None:
    oracle = Oracle()
    oracle.answer(oracle.ask("a", PAYMENT, 1.0), shown, 3)
    oracle.answer(oracle.ask("b", PAYMENT, 2.0), later, 4)
    assert oracle.regressed == 1


def test_a_failed_payment_may_turn_out_successful() -> None:
    oracle = Oracle()
    oracle.answer(oracle.ask("a", PAYMENT, 1.0), Status.FAILED, 3)
    oracle.answer(oracle.ask("a", PAYMENT, 2.0), Status.SUCCESSFUL, 4)
    assert oracle.regressed == 0


def test_a_stream_that_tells_an_old_version_is_a_regress() -> None:
    oracle = Oracle()
    oracle.told("events", PAYMENT, 2, before=0)
    assert oracle.regressed == 0
    oracle.told("events", PAYMENT, 2, before=2)
    assert oracle.regressed == 1


@pytest.mark.parametrize(("began", "at_risk"), [(0.94, 0), (0.96, 1), (1.04, 1), (1.06, 0)])
def test_a_lookup_within_50_ms_of_an_acknowledgement_is_at_risk(began: float, at_risk: int) -> None:
    oracle = Oracle()
    if began < 1.0:
        oracle.answer(oracle.ask("a", PAYMENT, began), None)
    oracle.acknowledge(BOTH, Status.PENDING, 1.0)
    if began > 1.0:
        oracle.answer(oracle.ask("a", PAYMENT, began), Status.PROCESSING, 1)
    assert oracle.at_risk == at_risk


def test_counts_are_kept_by_the_phase_of_the_drill() -> None:
    oracle = Oracle()
    oracle.acknowledge(BOTH, Status.PENDING, 1.0)
    oracle.phase = Phase.DURING
    oracle.answer(oracle.ask("a", PAYMENT, 2.0), Status.PENDING, 1)
    assert (oracle.acknowledged[Phase.BEFORE], oracle.acknowledged[Phase.DURING]) == (1, 0)
    assert (oracle.lookups[Phase.BEFORE], oracle.lookups[Phase.DURING]) == (0, 1)


def test_recovery_is_a_hundred_good_requests_in_a_row_begun_after_the_fault() -> None:
    recovery = Recovery()
    recovery.outcome(0.0, True, 0.1)  # nothing is counted before the fault has ended
    recovery.begin(10.0)
    recovery.outcome(9.9, True, 10.1)  # begun before its end
    for n in range(NEEDED - 1):
        recovery.outcome(10.0, True, 10.0 + n / 100)
    recovery.outcome(11.0, False, 11.0)
    for n in range(NEEDED):
        assert recovery.seconds is None
        recovery.outcome(11.0, True, 12.0 + n / 100)
    assert recovery.seconds == pytest.approx(2.99)


def test_an_event_that_is_not_in_the_inbox_or_has_not_ended_is_lost() -> None:
    inbox = {"a": "applied", "b": "open", "c": "held"}
    assert count_lost({"a", "c"}, inbox) == 0
    assert count_lost({"a", "b", "never-committed"}, inbox) == 2


def test_a_subscriber_that_misses_or_invents_a_change_differs_from_the_database() -> None:
    truth = {"charge:default:1": ("successful", 3), "charge:default:2": ("failed", 2)}
    subscriber = Subscriber("feed", Oracle(), dict(truth))
    assert subscriber.differs_from(truth) == 0
    subscriber.held["charge:default:1"] = ("processing", 2)
    del subscriber.held["charge:default:2"]
    subscriber.held["charge:default:3"] = ("pending", 1)
    assert subscriber.differs_from(truth) == 3


def test_three_of_ten_deliveries_are_duplicates_and_every_claim_comes_true() -> None:
    """A claimed success that never came true would stay open for a quarter of an hour."""
    rng = random.Random(4)
    lives = [draw_life(rng) for _ in range(4000)]
    steps = [step for life in lives for step in life.steps]
    deliveries = sum(len(step.copies) for step in steps)
    assert 0.28 < 1 - len(steps) / deliveries < 0.32
    lies = late = 0
    for life in lives:
        truths = [step.truth for step in life.steps if step.truth]
        claims = [step.claim for step in life.steps]
        assert truths
        assert Status.SUCCESSFUL in truths or Status.SUCCESSFUL not in claims
        lies += any(step.truth is None and step.claim in TERMINAL for step in life.steps)
        late += claims[-1] is Status.PENDING
    assert lies > 100
    assert late > 100
