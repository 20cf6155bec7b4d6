"""Workers: claim, mark, commit, put, as in `paystate/payments/settling.py`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import words
from tests.model.rows import (
    ABSENT,
    FAILED,
    NOBODY,
    OPEN,
    SUCCESSFUL,
    VOIDED,
    Decision,
    Outcome,
    Row,
)
from tests.model.state import (
    CLAIMED,
    IDLE,
    NO_WORKER,
    TO_COMMIT,
    TO_PUT,
    UNMARKED,
    State,
    Step,
    Worker,
    with_worker,
)
from tests.model.world import World

__all__ = ["Workers"]


class Workers(World):
    """What workers do."""

    def work(self, state: State, number: int) -> Iterator[Step]:
        """Yield what one worker can do."""
        worker = state.workers[number]
        step, event, choice, timer, _ = worker
        if step == IDLE:
            if number == 0 or state.workers[number - 1][0] != IDLE:
                yield from self._claim(state, number)
            return
        yield ("worker stops", event), with_worker(state, number, NO_WORKER)
        if step == CLAIMED:
            chosen = self.scenario.events[event].decisions
            for one in range(len(chosen)) if choice == NOBODY else (choice,):
                yield from self._settle(state, number, one)
        elif step == TO_COMMIT:
            yield from self._commit(state, number, choice, marked=True)
        elif step == UNMARKED and (timer >= self.cache.waits or self.without == "8w"):
            yield from self._commit(state, number, choice, marked=False)
        elif step == TO_PUT:
            yield from self._put(state, number, worker)

    def _claim(self, state: State, number: int) -> Iterator[Step]:
        for event, (row, _, _) in enumerate(state.inbox):
            direct = self.without == "9" and self.scenario.events[event].ours and row == ABSENT
            if row == OPEN or direct:
                yield ("claims", event), with_worker(state, number, (CLAIMED, event, NOBODY, 0, ()))

    def _transaction(self, state: State, event: int, decision: Decision) -> Outcome | None:
        if state.inbox[event][0] == ABSENT:
            return self.database.write_directly(state.rows, state.inbox, event, decision)
        return self.database.settle(state.rows, state.inbox, event, decision)

    def _settle(self, state: State, number: int, choice: int) -> Iterator[Step]:
        """Lock the rows, compute what they become, and mark that in the cache."""
        _, event, _, timer, _ = state.workers[number]
        decision = self.scenario.events[event].decisions[choice]
        if state.inbox[event][0] not in (OPEN, ABSENT):
            yield ("nothing left", event), with_worker(state, number, NO_WORKER)
            return
        outcome = self._transaction(state, event, decision)
        if outcome is None or not self.free(state, outcome.touched, None):
            return
        told = self.told(outcome, outcome.touched)
        marked = with_worker(state, number, (TO_COMMIT, event, choice, 0, outcome.touched))
        if self.without == "6" or not self.cache.marks_before_worker_commits:
            yield ("locks", event, decision), marked
            return
        for nodes in self.everywhere(state, told):
            yield ("worker marks", event, decision, told), marked._replace(nodes=nodes)
        if self.scenario.unreachable:
            waiting = with_worker(state, number, (UNMARKED, event, choice, timer, ()))
            yield ("worker cannot mark", event, decision), waiting
            for nodes in self.everywhere(state, told):
                yield (
                    ("worker marks unheard", event, decision, told),
                    waiting._replace(nodes=nodes),
                )

    def _commit(self, state: State, number: int, choice: int, *, marked: bool) -> Iterator[Step]:
        event = state.workers[number][1]
        decision = self.scenario.events[event].decisions[choice]
        outcome = self._transaction(state, event, decision)
        if outcome is None:
            yield ("nothing left", event), with_worker(state, number, NO_WORKER)
            return
        if not self.free(state, outcome.touched, None, but=number):
            return
        told = self.told(outcome, outcome.touched)
        then = choice if outcome.opened else NOBODY
        after = with_worker(state, number, (TO_PUT, event, then, 0, self.seen(told)))
        after = after._replace(
            rows=outcome.rows, inbox=outcome.inbox, broken=self._judge(state, outcome, decision)
        )
        # That it was opened somewhere is promised to nobody yet.
        if not outcome.opened and not self.scenario.acknowledged_only:
            after = self.promise(after, self.seen(told))
        changed = tuple(t for t in told if outcome.rows[t[0]] != state.rows[t[0]])
        yield ("commits", event, outcome.inbox[event][0], changed, outcome.opened, marked), after

    def _put(self, state: State, number: int, worker: Worker) -> Iterator[Step]:
        _, event, choice, _, told = worker
        then = NO_WORKER if choice == NOBODY else (CLAIMED, event, choice, 0, ())
        after = with_worker(state, number, then)
        for nodes in self.everywhere(state, told, put=True):
            yield ("puts", event, told), after._replace(nodes=nodes)
        if self.scenario.unreachable:
            yield ("cannot put", event), after

    def _judge(self, state: State, outcome: Outcome, decision: Decision) -> str:
        """Return which promise this commit breaks in the database itself."""
        for entity, (before, after) in enumerate(zip(state.rows, outcome.rows, strict=True)):
            flaw = self._regress(entity, before, after, decision)
            if flaw:
                return words.of_entity(flaw, entity, self.scenario.payments)
        return ""

    def _regress(self, entity: int, before: Row, after: Row, decision: Decision) -> str:
        if after[1] < before[1]:
            return "a version went down"
        if after[2] < 0 or after[3] < 0:
            return "more events ended than were open"
        if after[0] == before[0]:
            return ""
        if before[0] == SUCCESSFUL:
            return "G2: successful was left"
        settled = before[0] in (FAILED, VOIDED) and not self.database.is_reference(entity)
        if settled and not (after[0] == SUCCESSFUL and decision.proven):
            return "G2: a settled status was left without a proof"
        if before[2] == 0 and self.without not in ("9", "9r", "9m"):
            return "rule 9: a status changed with no event open"
        return ""
