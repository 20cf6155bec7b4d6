"""The world around the actors: the servers, what can go wrong with them, time, and promises."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.hashes import EMPTY, NAIVE, Hash, Paystate
from tests.model.rows import NOBODY, Database, Outcome
from tests.model.state import (
    CLAIMED,
    HEALED,
    MARKED_EARLY,
    ONE,
    SPLIT,
    TO_COMMIT,
    TO_MARK,
    TO_MARK_AGAIN,
    UNMARKED,
    UNTOLD,
    WAITING,
    Scenario,
    State,
    Step,
    Told,
    at,
)

__all__ = ["World"]


class World:
    """A scenario with its database and its cache."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.without = scenario.without
        # Only what is looked up needs a cache: hashes bear on nothing but their own entity.
        self.watched = frozenset(scenario.lookups)
        self.database = Database(
            scenario.payments,
            scenario.events,
            opens_first=scenario.without != "9r",
            stays_open=scenario.without != "9m",
            told_where_open=scenario.without != "3r",
        )
        self.cache = (
            NAIVE[scenario.design]()
            if scenario.design
            else Paystate(scenario.lease, scenario.without)
        )

    def suffer(self, state: State) -> Iterator[Step]:
        yield from self._tick(state)
        for which, node in enumerate(state.nodes):
            for entity, held in enumerate(node):
                if held != EMPTY:
                    nodes = at(state.nodes, which, at(node, entity, EMPTY))
                    yield ("evicts", entity, which), state._replace(nodes=nodes)
        failed_over, split = state.faults
        if self.scenario.fails_over and not failed_over:
            if state.snapshot is None:
                yield ("snapshot",), state._replace(snapshot=state.nodes[0])
            else:
                promoted = tuple(self.cache.promoted(held) for held in state.snapshot)
                yield (
                    ("fails over",),
                    state._replace(nodes=(promoted,), snapshot=None, faults=(True, split)),
                )
        if self.scenario.splits and split == ONE:
            promoted = tuple(self.cache.promoted(held) for held in state.nodes[0])
            nodes = (state.nodes[0], promoted)
            yield ("splits",), state._replace(nodes=nodes, faults=(failed_over, SPLIT))
        elif split == SPLIT:
            yield ("heals",), state._replace(nodes=state.nodes[1:], faults=(failed_over, HEALED))

    def _tick(self, state: State) -> Iterator[Step]:
        cache, waits = self.cache, self.cache.waits
        nodes = tuple(tuple(cache.tick(held) for held in node) for node in state.nodes)
        snapshot = state.snapshot
        if snapshot is not None:
            snapshot = tuple(cache.tick(held) for held in snapshot)
        handlers = tuple(
            (h[0], h[1], h[2], min(h[3] + 1, waits))
            if h[0] in (WAITING, TO_MARK_AGAIN) or (h[0] == TO_MARK and self.scenario.unreachable)
            else h
            for h in state.handlers
        )
        workers = state.workers
        if self.scenario.unreachable:
            workers = tuple(
                (*w[:3], min(w[3] + 1, waits), w[4]) if w[0] in (CLAIMED, UNMARKED) else w
                for w in workers
            )
        due, young = state.due, state.young
        if young:
            due, young = self._grow_old(due, young)
        after = state._replace(
            nodes=nodes, snapshot=snapshot, handlers=tuple(sorted(handlers, reverse=True)),
            workers=tuple(sorted(workers, reverse=True)), due=due, young=young,
        )  # fmt: skip
        if after != state:
            yield ("ticks",), after

    def _grow_old(
        self, due: tuple[int, ...], young: tuple[tuple[int, int, int], ...]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]]:
        dues = list(due)
        still = []
        for entity, version, age in young:
            if age + 1 >= self.scenario.grace:
                dues[entity] = max(dues[entity], version)
            else:
                still.append((entity, version, age + 1))
        return tuple(dues), tuple(y for y in still if y[1] > dues[y[0]])

    def promise(self, state: State, told: Told) -> State:
        """From now on no lookup may be given anything older."""
        if self.scenario.grace:
            young = set(state.young)
            for entity, version, _ in told:
                if all((y[0], y[1]) != (entity, version) for y in young):
                    young.add((entity, version, 0))
            kept = sorted(y for y in young if y[1] > state.due[y[0]])
            return state._replace(young=tuple(kept))
        due = list(state.due)
        for entity, version, _ in told:
            due[entity] = max(due[entity], version)
        return state._replace(due=tuple(due))

    def told(self, outcome: Outcome, entities: tuple[int, ...]) -> Told:
        rows = outcome.rows
        return tuple(
            (e, rows[e][1], UNTOLD if e in outcome.untold else self.database.shown(rows, e))
            for e in entities
        )

    def seen(self, told: Told) -> Told:
        """Leave out what no lookup asks for."""
        return tuple(t for t in told if t[0] in self.watched)

    def everywhere(
        self, state: State, told: Told, *, put: bool = False
    ) -> Iterator[tuple[tuple[Hash, ...], ...]]:
        """Return the caches after a write to any one of them."""
        write = self.cache.put if put else self.cache.mark
        for which, node in enumerate(state.nodes):
            written = list(node)
            for entity, version, shown in self.seen(told):
                if shown != UNTOLD:
                    written[entity] = write(written[entity], version, shown)
            yield at(state.nodes, which, tuple(written))

    def free(
        self, state: State, wanted: tuple[int, ...], handler: int | None, *, but: int = NOBODY
    ) -> bool:
        """Say whether nobody else holds the locks of a transaction over `wanted`."""
        for number, worker in enumerate(state.workers):
            if worker[0] == TO_COMMIT and number != but and set(worker[4]) & set(wanted):
                return False
        for number, held in enumerate(state.handlers):
            if held[0] == MARKED_EARLY and number != handler:
                return False
        return True
