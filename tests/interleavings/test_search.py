"""The search finds all that any order of the steps can lead to, without trying every order."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.interleavings.search import Search
from tests.interleavings.steps import Step

# A process is a list of instructions on shared places: ("read", place) or ("write", place, value).
Program = list[list[tuple[str, ...]]]


def _run(program: Program, order: list[int]) -> str:
    """Return what every process has read, and what the places hold, after one schedule."""
    places: dict[str, str] = {}
    seen: list[list[str]] = [[] for _ in program]
    at = [0] * len(program)
    for process in order:
        kind, place, *value = program[process][at[process]]
        at[process] += 1
        if kind == "read":
            seen[process].append(places.get(place, "-"))
        else:
            places[place] = value[0]
    return f"{seen} {sorted(places.items())}"


def _all_outcomes(program: Program) -> set[str]:
    slots = [process for process, steps in enumerate(program) for _ in steps]
    return {_run(program, list(order)) for order in set(itertools.permutations(slots))}


def _searched(program: Program) -> tuple[set[str], int]:
    search, outcomes, runs = Search(), set(), 0
    while search.unfinished:
        search.restart()
        at, order = [0] * len(program), []
        while True:
            moves = {}
            for process, steps in enumerate(program):
                if at[process] < len(steps):
                    kind, place, *_ = steps[at[process]]
                    step = Step(f"{kind} {at[process]}", place, writes=kind == "write")
                    moves[f"{process}: {step.name}"] = step
            if not moves:
                runs += 1
                outcomes.add(_run(program, order))
                break
            key = search.choose(moves)
            if key is None:
                break
            process = int(key.partition(":")[0])
            at[process] += 1
            order.append(process)
        search.learn()
    return outcomes, runs


@pytest.mark.parametrize("seed", range(60))
def test_finds_every_outcome_that_any_order_of_the_steps_has(seed: int) -> None:
    draw = random.Random(seed)
    program: Program = [
        [
            ("read", draw.choice("ab")) if draw.random() < 0.5
            else ("write", draw.choice("ab"), f"{process}{number}")
            for number in range(draw.randint(1, 3))
        ]
        for process in range(3 if draw.random() < 0.5 else 2)
    ]  # fmt: skip
    found, _ = _searched(program)
    assert found == _all_outcomes(program)


def test_runs_one_schedule_where_no_order_matters() -> None:
    _, runs = _searched([[("read", "a")] * 3, [("read", "a")] * 3, [("write", "b", "1")]])
    assert runs == 1
