"""Lookups: get, read, fill, as in `paystate/payments/lookup.py`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.hashes import Read
from tests.model.state import IDLE, NO_LOOKUP, TO_FILL, TO_READ, State, Step, at, with_lookup
from tests.model.world import World

__all__ = ["Readers"]


class Readers(World):
    """What lookups do."""

    def look_up(self, state: State, number: int) -> Iterator[Step]:
        """Yield what one lookup can do."""
        step, token, shown, version, fits = state.lookups[number]
        entity = self.scenario.lookups[number]
        reader = number + 1
        if step == IDLE:
            yield from self._get(state, number, entity)
            return
        gone = self._forget(with_lookup(state, number, NO_LOOKUP), reader)
        yield ("lookup dies", number, entity), gone
        if step == TO_READ:
            row = state.rows[entity]
            read = Read(
                self.database.shown(state.rows, entity),
                row[1],
                self.database.cacheable(state.rows, entity),
            )
            label = ("reads", number, entity, read)
            if self.cache.offers(read, token):
                yield label, with_lookup(state, number, (TO_FILL, False, *read))
            else:
                yield label, gone
            return
        read = Read(shown, version, fits)
        for which, node in enumerate(gone.nodes):
            held = self.cache.fill(state.nodes[which][entity], reader, read)
            if held != state.nodes[which][entity]:
                nodes = at(gone.nodes, which, at(node, entity, held))
                yield ("fills", number, entity, read, which), gone._replace(nodes=nodes)

    def _get(self, state: State, number: int, entity: int) -> Iterator[Step]:
        reached = False
        for which, node in enumerate(state.nodes):
            if self.cache.hit(node[entity]) is not None:
                continue
            held, token = self.cache.grant(node[entity], number + 1)
            after = with_lookup(state, number, (TO_READ, token, 0, 0, False))
            nodes = at(state.nodes, which, at(node, entity, held))
            yield ("misses", number, entity, token, which), after._replace(nodes=nodes)
            reached = reached or not token
        if self.scenario.unreachable and not reached:
            after = with_lookup(state, number, (TO_READ, False, 0, 0, False))
            yield ("cannot get", number, entity), after

    def _forget(self, state: State, reader: int) -> State:
        """The reader's token stays where it was granted, and nobody can use it any more."""
        nodes = tuple(tuple(self.cache.forget(h, reader) for h in node) for node in state.nodes)
        snapshot = state.snapshot
        if snapshot is not None:
            snapshot = tuple(self.cache.forget(h, reader) for h in snapshot)
        return state._replace(nodes=nodes, snapshot=snapshot)
