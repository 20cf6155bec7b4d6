"""A breadth-first explorer of explicit states.

A model names its first state and, for every state, the steps that can be taken from it. All states
are visited, the nearest first, so the first broken promise that is found has the shortest path to
it. States must be hashable and equal when nothing can tell them apart.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Model", "Result", "explore"]


class Model(Protocol):
    """What is explored."""

    def initial(self) -> Hashable:
        """Return the first state."""

    def steps(self, state: Any) -> Iterable[tuple[Any, Any]]:
        """Return (label, next state) for every step that can be taken now."""

    def canonical(self, state: Any) -> Any:
        """Return the one that stands for all states which nothing can tell from `state`."""

    def flaw(self, state: Any) -> str | None:
        """Return which promise is broken in `state`, or None."""

    def at_rest(self, state: Any) -> bool:
        """Say whether everything that was promised has been done in `state`."""

    def describe(self, label: Any) -> str:
        """Return a step in words."""


@dataclass(slots=True)
class Result:
    """What an exploration has seen.

    `depth`: steps to the farthest state, or to the flaw; `seconds` are of the processor. `flaw`
    None: nothing is broken in any state reached; then `bounded` says whether some were left out.
    """

    states: int
    transitions: int
    depth: int
    seconds: float
    flaw: str | None = None
    path: list[str] = field(default_factory=list)
    bounded: bool = False


def explore(
    model: Model, *, most_states: int | None = None, rest: bool = False, plain: bool = False
) -> Result:
    """Visit every state of `model`, or as far as the first flaw.

    `plain`: do not merge states that nothing can tell apart, so that a path shows real values.

    `rest`: see too that from every state one at rest can still be reached (so nothing that was
    promised can become impossible). `most_states` bounds the run, and the result says so.
    """
    collects = gc.isenabled()
    gc.disable()  # millions of tuples and no cycle among them
    try:
        return _Explorer(model, keeps_arcs=rest, plain=plain).run(most_states)
    finally:
        if collects:
            gc.enable()


class _Explorer:
    """The states found so far, in the order of their distance, and how each was reached."""

    def __init__(self, model: Model, *, keeps_arcs: bool, plain: bool) -> None:
        self.model = model
        self.canonical = None if plain else model.canonical
        self.started = time.process_time()
        self.order = [model.initial()]
        self.index = {self.order[0]: 0}
        self.came: list[tuple[int, Any]] = [(-1, None)]
        self.arcs: list[list[int]] | None = [] if keeps_arcs else None
        self.transitions = 0
        self.depth = 0

    def run(self, most_states: int | None) -> Result:
        """Visit all states, layer by layer, until one is flawed or there are too many."""
        flaw = self.model.flaw(self.order[0])
        if flaw:
            return self.result(flaw)
        frontier = [0]
        while frontier:
            following: list[int] = []
            for here in frontier:
                flaw = self.expand(here, following)
                if flaw:
                    return self.result(flaw, len(self.order) - 1)
                if most_states is not None and len(self.order) >= most_states:
                    return self.result(None, bounded=True)
            self.depth += bool(following)
            frontier = following
        if self.arcs is not None:
            stuck = _first_stuck(self.arcs, [self.model.at_rest(state) for state in self.order])
            if stuck is not None:
                return self.result("G5: from here what was promised can never be done", stuck)
        return self.result(None)

    def expand(self, here: int, following: list[int]) -> str | None:
        """Take every step from one state; return the flaw of the first new state that has one."""
        index, canonical = self.index, self.canonical
        arc = []
        for label, reached in self.model.steps(self.order[here]):
            self.transitions += 1
            state = reached
            there = index.get(state)
            if there is None and canonical is not None:
                state = canonical(state)
                there = index.get(state)
            if there is None:
                there = index[state] = len(self.order)
                self.order.append(state)
                self.came.append((here, label))
                following.append(there)
                flaw = self.model.flaw(state)
                if flaw:
                    return flaw
            arc.append(there)
        if self.arcs is not None:
            self.arcs.append(arc)
        return None

    def result(self, flaw: str | None, at: int = 0, *, bounded: bool = False) -> Result:
        """Return what was seen, with the path to the flaw."""
        path = [self.model.describe(label) for label in _path(self.came, at)] if flaw else []
        return Result(
            states=len(self.order),
            transitions=self.transitions,
            depth=len(path) if flaw else self.depth,
            seconds=time.process_time() - self.started,
            flaw=flaw,
            path=path,
            bounded=bounded,
        )


def _path(came: Sequence[tuple[int, Any]], at: int) -> list[Any]:
    labels = []
    while came[at][0] >= 0:
        at, label = came[at]
        labels.append(label)
    return labels[::-1]


def _first_stuck(arcs: Sequence[Sequence[int]], resting: Sequence[bool]) -> int | None:
    """Return the nearest state from which no resting one can be reached."""
    back: list[list[int]] = [[] for _ in resting]
    for here, arc in enumerate(arcs):
        for there in arc:
            back[there].append(here)
    reach = [i for i, rests in enumerate(resting) if rests]
    seen = list(resting)
    while reach:
        for before in back[reach.pop()]:
            if not seen[before]:
                seen[before] = True
                reach.append(before)
    return next((i for i, ok in enumerate(seen) if not ok), None)
