"""The protocol of the model: handlers, workers, lookups and everything that can go wrong.

One step is one I/O of one actor, as in `paystate/payments/recording.py`, `settling.py` and
`lookup.py`: a transaction, a script, an acknowledgement. Between any two steps anything else may
happen, and every actor may die. Three things are said in fewer steps than they take, and lose
nothing by it:

* A lookup that hits needs no step: in every state it is asked what a `get` would be answered now.
* A claim keeps nobody out: it may have run out at any moment, so any worker may take any open row.
* The provider's answer is chosen at the step that uses it: it may say any of what the scenario
  names, the stale included.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import words
from tests.model.handling import Handlers
from tests.model.hashes import EMPTY, Naive
from tests.model.looking import Readers
from tests.model.rows import ABSENT, OPEN, SUCCESSFUL, TERMINAL
from tests.model.state import NO_HANDLER, NO_LOOKUP, NO_WORKER, ONE, State, Step, canonical
from tests.model.working import Workers

__all__ = ["ProtocolModel"]


class ProtocolModel(Handlers, Workers, Readers):
    """A scenario, to be explored."""

    def initial(self) -> State:
        """Return the state in which everything is at rest and the cache is empty."""
        scenario = self.scenario
        return State(
            rows=scenario.rows,
            inbox=((ABSENT, (), False),) * len(scenario.events),
            nodes=((EMPTY,) * len(scenario.rows),),
            snapshot=None,
            handlers=(NO_HANDLER,) * scenario.handlers,
            workers=(NO_WORKER,) * scenario.workers,
            lookups=(NO_LOOKUP,) * len(scenario.lookups),
            due=tuple(r[1] if e in self.watched else 0 for e, r in enumerate(scenario.rows)),
            young=(),
            faults=(False, ONE),
            broken="",
        )

    def steps(self, state: State) -> Iterator[Step]:
        """Return every step that anyone can take."""
        for number in range(len(state.handlers)):
            yield from self.handle(state, number)
        for number in range(len(state.workers)):
            yield from self.work(state, number)
        for number in range(len(state.lookups)):
            yield from self.look_up(state, number)
        yield from self.suffer(state)

    def canonical(self, state: State) -> State:
        """Return the state that stands for those which nothing can tell from it."""
        return canonical(state, self.scenario.lookups)

    def flaw(self, state: State) -> str | None:
        """Return which promise is broken: by a lookup that would begin now, or in the database."""
        if state.broken:
            return state.broken
        for node in state.nodes:
            for entity, held in enumerate(node):
                hit = self.cache.hit(held)
                if hit is None:
                    continue
                status, version = hit
                if status == SUCCESSFUL:
                    if state.rows[entity][0] != SUCCESSFUL:
                        return words.false_success(entity, self.scenario.payments)
                elif version < state.due[entity]:
                    settled = state.rows[entity][0] in TERMINAL
                    return words.stale(
                        entity, self.scenario.payments, hit, state.due[entity], settled=settled
                    )
        return None

    def at_rest(self, state: State) -> bool:
        """Say whether every acknowledged event has ended."""
        return all(not acked or row != OPEN for row, _, acked in state.inbox)

    def describe(self, label: tuple[object, ...]) -> str:
        """Return a step in words."""
        text = words.describe(label, self.scenario.payments)
        if isinstance(self.cache, Naive):
            return words.of_design(text, self.cache.writes, tokens=self.cache.has_tokens)
        return text
