"""The audit's rules: when an answer is wrong for certain, and what may be claimed of the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from paystate.audit.following import Allowance
from paystate.audit.invariants import faults_of
from paystate.audit.ledger import Ledger, Outcome
from paystate.audit.verdicts import Fault, Shown, Suspicion, is_certain, nines, suspect
from paystate.keys import Entity, EntityKind, Keys
from paystate.state import EntityState
from paystate.status import Status
from paystate.store.sampling import SampledRow

CHARGE = Entity("default", EntityKind.CHARGE, "1")
SETTLED = EntityState(CHARGE, Status.SUCCESSFUL, 4, 0, 0, "ref", 1000)
OPEN = SETTLED._replace(status=Status.PENDING, version=3, open_events=1)


# --- nines ---


@pytest.mark.parametrize(
    ("checked", "faulty", "claimed"),
    [(0, 0, 0), (9, 0, 1), (999, 0, 3), (999, 1, 2.699), (999, 999, 0), (99_999, 9, 4)],
)
def test_nines_are_those_that_one_more_and_faulty_lookup_would_leave(
    checked: int, faulty: int, claimed: float
) -> None:
    assert nines(checked, faulty) == pytest.approx(claimed, abs=0.001)


@given(st.integers(1, 10**9), st.data())
def test_nines_never_claim_more_than_was_measured_or_than_the_sample_can_show(
    checked: int, data: st.DataObject
) -> None:
    faulty = data.draw(st.integers(0, checked))
    claimed = nines(checked, faulty)
    assert 0 <= claimed <= math.log10(checked + 1)
    if faulty:
        assert claimed <= -math.log10(faulty / checked) + 1e-9


def test_only_answers_that_said_to_be_fresh_count_for_the_nines() -> None:
    registry = CollectorRegistry()
    ledger = Ledger(registry)
    for outcome in (Outcome.UNSURE, Outcome.UNANSWERED, Outcome.SKIPPED, Outcome.UNACKNOWLEDGED):
        ledger.looked("1s", outcome)
    assert ledger.nines("1s") == 0
    for _ in range(98):
        ledger.looked("1s", Outcome.FRESH)
    ledger.looked("1s", Outcome.STALE, 250)
    ledger.looked("1s", Outcome.STALE, 120)
    assert ledger.summary()["1s"] | {"nines": 0} == {
        "fresh": 98, "stale": 2, "unacknowledged": 1, "unsure": 1, "unanswered": 1, "skipped": 1,
        "nines": 0, "worst_ms": 250,
    }  # fmt: skip
    assert ledger.nines("1s") == pytest.approx(math.log10(101 / 3))
    exported = generate_latest(registry).decode()
    assert 'paystate_audit_lookups_total{outcome="stale",scale="1s"} 2.0' in exported
    assert 'paystate_audit_worst_age_seconds{scale="1s"} 0.25' in exported


# --- verdicts ---


@pytest.mark.parametrize(
    ("shown", "before", "heard", "suspected"),
    [
        (Shown(Status.SUCCESSFUL, 4), SETTLED, 4, None),
        (Shown(Status.PROCESSING, 3), OPEN, 0, None),
        (Shown(None, 0), None, 0, None),
        (Shown(Status.PENDING, 2), SETTLED, 0, Suspicion.OVERTAKEN),
        (Shown(Status.SUCCESSFUL, 4), SETTLED, 5, Suspicion.OVERTAKEN),
        (Shown(Status.FAILED, 4), SETTLED, 0, Suspicion.WRONG_STATUS),
        (Shown(Status.PENDING, 3), OPEN, 0, Suspicion.WRONG_STATUS),
        (Shown(Status.FAILED, 5), SETTLED, 0, Suspicion.AHEAD),
        (Shown(Status.FAILED, 1), None, 0, Suspicion.AHEAD),
        (Shown(None, 0), OPEN, 0, Suspicion.NOTHING),
    ],
)
def test_an_answer_is_compared_by_version_and_then_by_status(
    shown: Shown, before: EntityState | None, heard: int, suspected: Suspicion | None
) -> None:
    assert suspect(shown, before, heard=heard) is suspected


@pytest.mark.parametrize(
    ("shown", "before", "heard", "overtaken_ms", "certain"),
    [
        # A webhook has just been committed: its acknowledgement, and the mark, are still to come.
        (Shown(Status.PENDING, 2), OPEN, 0, 1400, False),
        # No lease from before that commit can still run.
        (Shown(Status.PENDING, 2), OPEN, 0, 1600, True),
        # News is published after the mark.
        (Shown(Status.PENDING, 2), OPEN, 3, 0, True),
        # Settling marks before it commits.
        (Shown(Status.PENDING, 2), SETTLED, 0, 0, True),
        # Another link, while the entry that has it is on its way; and when it never came.
        (Shown(Status.SUCCESSFUL, 3), SETTLED, 0, 5000, False),
        (Shown(Status.SUCCESSFUL, 3), SETTLED, 0, 12_000, True),
    ],
)
def test_an_old_answer_is_a_fault_only_once_the_cache_must_have_been_told(
    shown: Shown, before: EntityState, heard: int, overtaken_ms: int, certain: bool
) -> None:
    found = is_certain(shown, before, heard=heard, overtaken_ms=overtaken_ms, lease_ms=1000)
    assert found is certain


# --- invariants ---


def row(key: str = "charge:default:1", **values: Any) -> SampledRow:
    """Return a row of which everything holds, but for what `values` says."""
    sound: dict[str, Any] = {
        "status": "pending", "version": 2, "open_events": 0, "held_events": 0, "changed_ms": 1000,
        "logged_version": 2,
    }  # fmt: skip
    return SampledRow(key, **{**sound, **values})


REFERENCE = "reference:default:cart"


@pytest.mark.parametrize(
    ("sampled", "faults"),
    [
        (row(), []),
        (row(open_events=2, open_rows=2), []),
        (row(open_events=2, open_rows=1), [Fault.OPEN_EVENTS]),
        (row(open_events=0, open_rows=1), [Fault.OPEN_EVENTS]),
        (row(held_events=1, held_rows=1), []),
        (row(held_events=0, held_rows=1), [Fault.HELD_EVENTS]),
        (row(logged_version=3), [Fault.VERSION]),
        (row(logged_version=1), [Fault.VERSION]),
        (row(logged_version=None), [Fault.VERSION]),
        (row(logged_version=None, changed_ms=400), []),  # pruned
        (row(logged_version=3, changed_ms=400), [Fault.VERSION]),
        (row(status="unknown", version=0, logged_version=None), []),
        (row(version=0, logged_version=None), [Fault.ROW]),
        (row(status="weird"), [Fault.ROW]),
        (row(REFERENCE, attempts={"pending": (1, 0)}), []),
        (row(REFERENCE, attempts={"failed": (2, 0), "pending": (1, 0)}), []),
        (row(REFERENCE, attempts={"successful": (1, 0)}), [Fault.REFERENCE]),
        (row(REFERENCE, status="successful", attempts={"failed": (1, 0)}), []),
        (row(REFERENCE, status="failed"), [Fault.REFERENCE]),
        (row(REFERENCE, status="unknown"), []),
        (row(REFERENCE, attempts={"successful": (1, 0)}, open_events=1, open_rows=1), []),
        (row(REFERENCE, held_events=1, attempts={"pending": (1, 1)}), []),
        (row(REFERENCE, held_events=0, attempts={"pending": (1, 1)}), [Fault.HELD_EVENTS]),
        (row(REFERENCE, status="failed", attempts={"failed": (1, 1)}), []),
    ],
)
def test_a_row_agrees_with_its_events_its_log_and_its_attempts(
    sampled: SampledRow, faults: list[Fault]
) -> None:
    assert [found.kind for found in faults_of(sampled, logged_since_ms=500)] == faults


# --- what is followed, and what is found in the cache ---


def test_no_more_changes_are_followed_than_allowed_over_time() -> None:
    clock = [0.0]
    allowance = Allowance(2, lambda: clock[0])
    assert sum(allowance.take(0.9) for _ in range(100)) == 8
    assert allowance.is_spent
    assert allowance.wait_s == 2
    clock[0] += 10
    assert sum(allowance.take(0.9) for _ in range(100)) == 8
    clock[0] += 1
    assert sum(allowance.take(0.9) for _ in range(100)) == 2


def test_of_a_burst_not_only_what_comes_first_is_followed() -> None:
    allowance = Allowance(2, lambda: 0.0)
    taken = [allowance.take(0.1 if n % 2 else 0.9) for n in range(20)]
    assert taken[:4] == [True] * 4
    assert taken[4:12] == [True, False] * 4


@given(
    st.sampled_from(["default", "acme", "a-1"]),
    st.sampled_from(EntityKind),
    st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()),
)
def test_the_entity_of_a_key_is_found_again(merchant: str, kind: EntityKind, own_id: str) -> None:
    entity = Entity(merchant, kind, own_id)
    assert Keys().entity_of(Keys().hash(entity)) == entity


@pytest.mark.parametrize(
    "key",
    ["flw:v1:queue", "flw:v1:tx:1:asked", "flw:v1:tx:%31:hash", "flw:v1:gift:1:hash", "tx:1:hash",
     "flw:v1:tx::hash", "other:v1:tx:1:hash", "flw:v1:merchant:default:tx:1:hash", ""],
)  # fmt: skip
def test_a_key_that_is_no_status_hash_has_no_entity(key: str) -> None:
    assert Keys().entity_of(key) is None
