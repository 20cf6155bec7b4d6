"""What the model of the protocol is made of: a scenario, and a state of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.hashes import Hash
from tests.model.rows import NOBODY, Event, Inbox, Rows

# What a handler does next.
IDLE, TO_MARK, TO_ACKNOWLEDGE, WAITING, MARKED_EARLY, TO_MARK_LATE, TO_MARK_AGAIN = range(7)
# What a worker does next.
CLAIMED, TO_COMMIT, TO_PUT, UNMARKED = 1, 2, 3, 4
# What a lookup does next.
TO_READ, TO_FILL = 1, 2

Told = tuple[tuple[int, int, int], ...]  # entity, version, shown
Handler = tuple[int, int, Told, int]
Worker = tuple[int, int, int, int, tuple[object, ...]]
Lookup = tuple[int, bool, int, int, bool]

NO_HANDLER: Handler = (IDLE, 0, (), 0)
NO_WORKER: Worker = (IDLE, 0, NOBODY, 0, ())
NO_LOOKUP: Lookup = (IDLE, False, 0, 0, False)

# Stands in `Told` for what is shown of an entity that is promised and not marked.
UNTOLD = -2

ONE, SPLIT, HEALED = range(3)


class Scenario(NamedTuple):
    """A part of the world to explore.

    `lease` in ticks, 0 for strict; `lookups`: the entity that each looks up, again and again.
    `without`: a rule left out; `design`: a naive protocol in place of ours. `grace`: ticks after an
    acknowledgement for which an older answer is let pass (to measure the bound of a split brain).
    `acknowledged_only`: a worker's commit promises nothing, only an acknowledgement does.
    """

    name: str
    rows: Rows
    events: tuple[Event, ...]
    payments: int = 1
    lookups: tuple[int, ...] = (0,)
    handlers: int = 1
    workers: int = 1
    lease: int = 2
    without: str = ""
    design: str = ""
    unreachable: bool = False
    fails_over: bool = False
    splits: bool = False
    grace: int = 0
    acknowledged_only: bool = False
    most_states: int | None = None


class State(NamedTuple):
    """Everything. `nodes`: the caches (two in a split brain); `snapshot`: what a replica has.

    `due`: the version that a lookup which begins now must at least be given, for each entity;
    `young`: what will be due when its grace is over; `broken`: a promise the database broke.
    """

    rows: Rows
    inbox: Inbox
    nodes: tuple[tuple[Hash, ...], ...]
    snapshot: tuple[Hash, ...] | None
    handlers: tuple[Handler, ...]
    workers: tuple[Worker, ...]
    lookups: tuple[Lookup, ...]
    due: tuple[int, ...]
    young: tuple[tuple[int, int, int], ...]
    faults: tuple[bool, int]
    broken: str


Step = tuple[tuple[object, ...], State]


def with_handler(state: State, number: int, handler: Handler) -> State:
    changed = (*state.handlers[:number], handler, *state.handlers[number + 1 :])
    return state._replace(handlers=tuple(sorted(changed, reverse=True)))


def with_worker(state: State, number: int, worker: Worker) -> State:
    changed = (*state.workers[:number], worker, *state.workers[number + 1 :])
    return state._replace(workers=tuple(sorted(changed, reverse=True)))


def with_lookup(state: State, number: int, lookup: Lookup) -> State:
    return state._replace(lookups=at(state.lookups, number, lookup))


def at(values: tuple, number: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:number], value, *values[number + 1 :])


def canonical(state: State, lookups: tuple[int, ...]) -> State:
    """Return the state that stands for all that differ from it only in the size of versions.

    Versions are compared and counted up, nothing else: so those of an entity that occur anywhere
    may be renumbered from 1 in their order. Events that are given up and delivered again for ever
    then make no more states.
    """
    used: list[set[int]] = [{0, row[1]} for row in state.rows]
    for entity, version in _versions(state, lookups):
        used[entity].add(version)
    if all(len(versions) - 1 == max(versions) for versions in used):
        return state
    names = [{v: i for i, v in enumerate(sorted(versions))} for versions in used]
    return _renumbered(state, names, lookups)


def _versions(state: State, lookups: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (entity, version) wherever the state holds one beside its rows."""
    for entity in set(lookups):
        yield entity, state.due[entity]
        for node in state.nodes:
            yield entity, node[entity][1]
            yield entity, node[entity][2]
        if state.snapshot is not None:
            yield entity, state.snapshot[entity][1]
            yield entity, state.snapshot[entity][2]
    for entity, version, _ in state.young:
        yield entity, version
    for told in (*(h[2] for h in state.handlers), *(w[4] for w in state.workers if w[0] == TO_PUT)):
        for entity, version, _ in told:
            yield entity, version
    for entity, lookup in zip(lookups, state.lookups, strict=True):
        yield entity, lookup[3]


def _renumbered(state: State, names: list[dict[int, int]], lookups: tuple[int, ...]) -> State:
    def of_node(node: tuple[Hash, ...]) -> tuple[Hash, ...]:
        return tuple((h[0], names[e][h[1]], names[e][h[2]], *h[3:]) for e, h in enumerate(node))

    def of_told(told: Told) -> Told:
        return tuple((e, names[e][v], shown) for e, v, shown in told)

    return state._replace(
        rows=tuple((r[0], names[e][r[1]], *r[2:]) for e, r in enumerate(state.rows)),
        nodes=tuple(map(of_node, state.nodes)),
        snapshot=state.snapshot and of_node(state.snapshot),
        handlers=tuple(
            sorted(((h[0], h[1], of_told(h[2]), h[3]) for h in state.handlers), reverse=True)
        ),
        workers=tuple(
            sorted(
                ((*w[:4], of_told(w[4])) if w[0] == TO_PUT else w for w in state.workers),
                reverse=True,
            )
        ),
        lookups=tuple(
            (k[0], k[1], k[2], names[e][k[3]], k[4])
            for e, k in zip(lookups, state.lookups, strict=True)
        ),
        due=tuple(names[e][v] for e, v in enumerate(state.due)),
        young=tuple(sorted((e, names[e][v], age) for e, v, age in state.young)),
    )
