"""The merge table, proven: every order of events ends in one status, and none goes back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import reduce

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paystate.status import (
    TERMINAL,
    Status,
    from_provider,
    is_terminal,
    merge,
    of_reference,
    shown,
    shown_reference,
)

# A slow machine proves nothing.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

U, PE, PR, F, V, S = Status

# The order that the module promises, written down once more and by hand.
RANK = {U: 0, PE: 1, PR: 2, F: 3, V: 3, S: 4}

Seen = tuple[Status, bool]

statuses = st.sampled_from(Status)
observations = st.tuples(statuses, st.booleans())


def end_of(events: Iterable[Seen], start: Status = U) -> Status:
    """Return the status after `events`, each a status and whether it was proven."""
    return reduce(lambda held, seen: merge(held, seen[0], proven=seen[1]), events, start)


def proven_orders(length: int) -> Iterator[tuple[Status, ...]]:
    """Yield every order of `length` statuses, duplicates included."""
    return itertools.product(Status, repeat=length)


def expected_end(order: tuple[Status, ...]) -> Status:
    """Return where proven observations must end: the highest, the first of `failed`, `voided`."""
    highest = max(order, key=RANK.__getitem__, default=U)
    return next((seen for seen in order if RANK[seen] == RANK[highest]), U)


@pytest.mark.parametrize("length", range(7))
def test_every_order_of_up_to_six_proven_events_ends_in_the_highest(length: int) -> None:
    """Whatever the order and the duplicates, the highest wins, and the first of the one tie."""
    for order in proven_orders(length):
        assert end_of((seen, True) for seen in order) is expected_end(order), order


def test_all_orders_of_the_same_events_end_alike_but_for_the_tie() -> None:
    """Two orders of the same six events can differ only in `failed` against `voided`."""
    ends: dict[tuple[Status, ...], set[Status]] = {}
    for order in proven_orders(6):
        bag = tuple(sorted(order))
        ends.setdefault(bag, set()).add(end_of((seen, True) for seen in order))
    for bag, found in ends.items():
        tie = S not in bag and {F, V} <= set(bag)
        assert found == {F, V} if tie else len(found) == 1, bag


def test_no_order_of_up_to_four_events_ever_goes_back() -> None:
    """With proven and unproven events mixed, no step of any order lowers the status."""
    kinds = list(itertools.product(Status, (True, False)))
    for order in itertools.product(kinds, repeat=4):
        held = U
        for seen, proven in order:
            after = merge(held, seen, proven=proven)
            assert after in (held, seen)
            assert after is held or RANK[after] > RANK[held], order
            held = after


@unhurried
@given(st.lists(observations, max_size=40))
def test_no_longer_history_ever_goes_back(events: list[Seen]) -> None:
    """However long the history, the status only rises, and settles at most twice."""
    path = [U]
    for seen, proven in events:
        path.append(merge(path[-1], seen, proven=proven))
    ranks = [RANK[status] for status in path]
    assert ranks == sorted(ranks)
    settled = [b for a, b in itertools.pairwise(path) if a is not b and b in TERMINAL]
    assert len(settled) <= 2


@unhurried
@given(st.data(), st.lists(statuses, max_size=30))
def test_any_shuffle_of_proven_events_ends_alike(data: st.DataObject, order: list[Status]) -> None:
    """The same proven events in another order end in the same status, but for the tie."""
    shuffled = data.draw(st.permutations(order))
    ends = {end_of((seen, True) for seen in some) for some in (order, shuffled)}
    assert len(ends) == 1 or ends == {F, V}


@unhurried
@given(statuses, st.lists(observations, max_size=20))
def test_a_repeated_history_changes_nothing(start: Status, events: list[Seen]) -> None:
    """Everything delivered a second time, in the same order, leaves a proven end where it was."""
    once = end_of(events, start)
    again = end_of(events, once)
    assert again is once or (again is S and (S, True) in events)


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize(("held", "seen"), list(itertools.product(Status, Status)))
def test_a_duplicate_changes_nothing(held: Status, seen: Status, *, proven: bool) -> None:
    """Merging the same observation twice is merging it once."""
    once = merge(held, seen, proven=proven)
    assert merge(once, seen, proven=proven) is once


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("seen", Status)
def test_successful_absorbs_everything(seen: Status, *, proven: bool) -> None:
    """Nothing moves a payment that is `successful`."""
    assert merge(S, seen, proven=proven) is S


@pytest.mark.parametrize("held", [F, V])
def test_a_correction_must_be_proven(held: Status) -> None:
    """`successful` after `failed` or `voided` counts if proven and changes nothing if not."""
    assert merge(held, S, proven=False) is held
    assert merge(held, S, proven=True) is S


@pytest.mark.parametrize("held", [U, PE, PR])
def test_an_unsettled_payment_believes_an_unproven_success(held: Status) -> None:
    """Only what has come to an end needs proof to become `successful`."""
    assert merge(held, S, proven=False) is S


@pytest.mark.parametrize("proven", [True, False])
def test_the_first_of_failed_and_voided_wins(*, proven: bool) -> None:
    """Between `failed` and `voided` the one that was there first stays."""
    assert merge(F, V, proven=proven) is F
    assert merge(V, F, proven=proven) is V


@pytest.mark.parametrize("status", Status)
def test_terminal_are_exactly_failed_voided_and_successful(status: Status) -> None:
    """Three statuses end a payment, three do not."""
    assert is_terminal(status) is (status in {F, V, S})
    assert (status in TERMINAL) is is_terminal(status)


UNSETTLED = [(1, 0), (0, 1), (2, 3)]


@pytest.mark.parametrize(("status", "busy"), [(U, PR), (PE, PR), (PR, PR), (F, F), (V, V), (S, S)])
def test_a_payment_shows_processing_while_an_event_is_open_or_held(
    status: Status, busy: Status
) -> None:
    """An open or held event makes an unsettled payment `processing` and leaves a settled one."""
    assert shown(status, open_events=0, held_events=0) is status
    for open_events, held_events in UNSETTLED:
        assert shown(status, open_events=open_events, held_events=held_events) is busy


@pytest.mark.parametrize(
    ("status", "busy"), [(U, PR), (PE, PR), (PR, PR), (F, PR), (V, PR), (S, S)]
)
def test_a_reference_shows_processing_while_an_event_is_open_or_held(
    status: Status, busy: Status
) -> None:
    """Only `successful` ends a reference; everything else is overtaken by an open event."""
    assert shown_reference(status, open_events=0, held_events=0) is status
    for open_events, held_events in UNSETTLED:
        assert shown_reference(status, open_events=open_events, held_events=held_events) is busy


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ((), PE),
        ((U,), U),
        ((PE,), PE),
        ((PR,), PR),
        ((F,), F),
        ((V,), V),
        ((S,), S),
        ((F, S), S),
        ((S, PR, PE, U, F, V), S),
        ((F, PR), PR),
        ((PE, PR), PR),
        ((F, PE), PE),
        ((V, U), U),
        ((U, PE), PE),
        ((V, F), F),
        ((V, V), V),
        ((F, F), F),
    ],
)
def test_the_status_of_a_reference_over_its_attempts(
    attempts: tuple[Status, ...], expected: Status
) -> None:
    """`successful` if any is, else the furthest that still goes on, else `failed`, else `voided`.

    The order in which the attempts are named, and repeating one, makes no difference.
    """
    for order in itertools.permutations(attempts):
        assert of_reference(order) is expected
        assert of_reference(order + order[:1]) is expected


def test_every_set_of_attempts_follows_the_same_ladder() -> None:
    """All 63 sets of attempts give the first of the ladder that is among them."""
    ladder = (S, PR, PE, U, F, V)
    for size in range(1, 7):
        for some in itertools.combinations(Status, size):
            assert of_reference(some) is next(s for s in ladder if s in some)


# Every word that the provider uses for the status of a payment, v3 and v4, charges and transfers.
WORDS = {
    "successful": S,
    "succeeded": S,
    "failed": F,
    "pending": PE,
    "success-pending-validation": PE,
    "new": PE,
    "initiated": PE,
    "processing": PR,
    "voided": V,
    "cancelled": V,
}


@pytest.mark.parametrize(("word", "expected"), WORDS.items())
def test_every_word_of_the_provider_is_known_in_any_case(word: str, expected: Status) -> None:
    """Upper, lower and mixed case and spaces around a word make no difference."""
    for form in (word, word.upper(), word.title(), word.swapcase(), f"  {word}\n"):
        assert from_provider(form) is expected


@pytest.mark.parametrize(
    "word",
    ["success", "SUCCESS", "error", "ok", "completed", "completed-momo", "reversed", "", " "],
)
def test_a_word_that_says_nothing_of_a_payment_is_unknown(word: str) -> None:
    """`success` is the word of an envelope, `completed` that of a refund: neither is a status."""
    assert from_provider(word) is U


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@unhurried
@given(anything)
def test_anything_else_is_unknown(value: object) -> None:
    """Whatever stands where a status should be is `unknown`, unless it is one of the words."""
    known = isinstance(value, str) and value.strip().casefold() in WORDS
    assert known or from_provider(value) is U


@unhurried
@given(st.sampled_from(Status))
def test_our_own_words_are_not_taken_from_objects_that_only_look_like_text(status: Status) -> None:
    """Bytes and lists that spell a status are not words."""
    assert from_provider(status.value.encode()) is U
    assert from_provider([status.value]) is U
