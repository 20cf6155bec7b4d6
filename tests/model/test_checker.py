"""The explorer itself, on worlds whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.checker import explore

Jugs = tuple[int, int]


class TwoJugs:
    """A jug of five and one of three litres; nobody may have four litres in the larger one."""

    def __init__(self, flawed: int = 4, resting: Jugs | None = None) -> None:
        self.flawed = flawed
        self.resting = resting

    def initial(self) -> Jugs:
        return 0, 0

    def steps(self, jugs: Jugs) -> Iterator[tuple[str, Jugs]]:
        five, three = jugs
        yield "fill five", (5, three)
        yield "fill three", (five, 3)
        yield "empty five", (0, three)
        yield "empty three", (five, 0)
        poured = min(five, 3 - three)
        yield "five into three", (five - poured, three + poured)
        poured = min(three, 5 - five)
        yield "three into five", (five + poured, three - poured)

    def canonical(self, jugs: Jugs) -> Jugs:
        return jugs

    def flaw(self, jugs: Jugs) -> str | None:
        return "four litres" if jugs[0] == self.flawed else None

    def at_rest(self, jugs: Jugs) -> bool:
        return jugs == self.resting

    def describe(self, label: str) -> str:
        return label


class OneWay(TwoJugs):
    """A stair that is only ever climbed, and three steps high."""

    def initial(self) -> Jugs:
        return 0, 0

    def steps(self, at: Jugs) -> Iterator[tuple[str, Jugs]]:
        if at[0] < 3:
            yield "climb", (at[0] + 1, 0)


def test_the_path_to_a_flaw_is_the_shortest() -> None:
    """Six pourings make four litres, and no five do."""
    result = explore(TwoJugs())
    assert result.flaw == "four litres"
    assert result.path == [
        "fill five", "five into three", "empty three", "five into three", "fill five",
        "five into three",
    ]  # fmt: skip
    assert result.depth == 6


def test_every_state_is_visited_once() -> None:
    """Without a flaw the result counts what there is: sixteen fillings can be reached."""
    result = explore(TwoJugs(flawed=6))
    assert (result.flaw, result.path, result.bounded) == (None, [], False)
    assert result.states == 16
    assert result.transitions == 16 * 6


def test_a_run_that_was_cut_short_says_so() -> None:
    """A bound is never silent."""
    assert explore(TwoJugs(flawed=6), most_states=5).bounded


def test_a_state_from_which_rest_is_out_of_reach_is_found() -> None:
    """The nearest such state is named; where rest can always be reached there is none."""
    assert explore(TwoJugs(flawed=6, resting=(5, 3)), rest=True).flaw is None
    stuck = explore(OneWay(resting=(1, 0)), rest=True)
    assert stuck.flaw is not None
    assert stuck.flaw.startswith("G5")
    assert stuck.path == ["climb", "climb"]


def test_states_that_nothing_tells_apart_are_one() -> None:
    """What stands for them is explored in their place, unless the run is to be plain."""

    class Clock(OneWay):
        def steps(self, at: Jugs) -> Iterator[tuple[str, Jugs]]:
            yield "tick", (min(at[0] + 1, 50), 0)

        def canonical(self, at: Jugs) -> Jugs:
            return at[0] % 12, 0

    assert explore(Clock(flawed=-1)).states == 12
    assert explore(Clock(flawed=-1), plain=True).states == 51
