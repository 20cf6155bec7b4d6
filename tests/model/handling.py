"""Webhook handlers: commit, mark, acknowledge, as in `paystate/payments/recording.py`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.rows import GIVEN_UP, NOBODY
from tests.model.state import (
    CLAIMED,
    IDLE,
    MARKED_EARLY,
    NO_HANDLER,
    NO_WORKER,
    TO_ACKNOWLEDGE,
    TO_MARK,
    TO_MARK_AGAIN,
    TO_MARK_LATE,
    TO_PUT,
    UNMARKED,
    WAITING,
    Handler,
    State,
    Step,
    Worker,
    with_handler,
)
from tests.model.world import World

__all__ = ["Handlers"]


class Handlers(World):
    """What handlers do."""

    def handle(self, state: State, number: int) -> Iterator[Step]:
        """Yield what one handler can do."""
        handler = state.handlers[number]
        step, event, told, timer = handler
        if step == IDLE:
            if number == 0 or state.handlers[number - 1][0] != IDLE:
                yield from self._deliver(state, number)
            return
        yield ("handler dies", event), with_handler(state, number, NO_HANDLER)
        if step in (TO_MARK, TO_MARK_AGAIN, TO_MARK_LATE):
            yield from self._mark(state, number, handler)
        elif step == TO_ACKNOWLEDGE:
            yield self._acknowledge(state, number, handler, NO_HANDLER)
        elif step == WAITING and timer >= self.cache.waits:
            yield (
                ("has waited", event),
                with_handler(state, number, (TO_ACKNOWLEDGE, event, told, 0)),
            )
        elif step == MARKED_EARLY:
            yield from self._record(state, number, event, TO_ACKNOWLEDGE)
        if step == TO_MARK and self.without == "1":
            yield self._acknowledge(state, number, handler, (TO_MARK_LATE, event, told, 0))

    def _deliver(self, state: State, number: int) -> Iterator[Step]:
        """A webhook arrives: for the first time, once more, or again after it was acknowledged."""
        for event, what in enumerate(self.scenario.events):
            if what.ours and self.without == "9":
                continue
            if self.without != "2":
                yield from self._record(state, number, event, TO_MARK)
                continue
            outcome = self.database.acknowledge(state.rows, state.inbox, event)
            if self.free(state, outcome.touched, number):
                told = self.told(outcome, outcome.touched)
                early = with_handler(state, number, (MARKED_EARLY, event, self.seen(told), 0))
                for nodes in self.everywhere(early, told):
                    yield ("marks early", event, told), early._replace(nodes=nodes)

    def _record(self, state: State, number: int, event: int, then: int) -> Iterator[Step]:
        before = state.inbox[event][0]
        outcome = self.database.acknowledge(state.rows, state.inbox, event)
        if not self.free(state, outcome.touched, number):
            return
        told = self.told(outcome, outcome.touched)
        new = outcome.inbox != state.inbox
        if self.without == "3" and not new:
            then = TO_ACKNOWLEDGE
        after = with_handler(state, number, (then, event, self.seen(told), 0))
        again = new and before in GIVEN_UP
        if again and self.without != "8r":
            after = self._disown(after, event)
        label = ("records", event, told, again) if new else ("repeats", event, told)
        yield label, after._replace(rows=outcome.rows, inbox=outcome.inbox)

    @staticmethod
    def _disown(state: State, event: int) -> State:
        """The event is opened again: who claimed it before that has nothing to do with it."""
        workers: list[Worker] = []
        for step, mine, choice, timer, data in state.workers:
            if mine == event and step in (CLAIMED, UNMARKED):
                workers.append(NO_WORKER)
            elif mine == event and step == TO_PUT:
                workers.append((step, mine, NOBODY, timer, data))
            else:
                workers.append((step, mine, choice, timer, data))
        return state._replace(workers=tuple(sorted(workers, reverse=True)))

    def _mark(self, state: State, number: int, handler: Handler) -> Iterator[Step]:
        step, event, told, timer = handler
        if step == TO_MARK_AGAIN and timer < 1:
            return
        following = {
            TO_MARK_LATE: NO_HANDLER,
            TO_MARK: (TO_ACKNOWLEDGE, event, told, 0),
            TO_MARK_AGAIN: (TO_ACKNOWLEDGE, event, told, 0),
        }
        if self.cache.deletes_twice and step == TO_MARK:
            following[TO_MARK] = (TO_MARK_AGAIN, event, told, 0)
        marked = with_handler(state, number, following[step])
        for nodes in self.everywhere(state, told):
            yield ("marks", event, told), marked._replace(nodes=nodes)
        if self.scenario.unreachable and step == TO_MARK:
            then = TO_ACKNOWLEDGE if self.without == "8" else WAITING
            waiting = with_handler(
                state, number, (then, event, told, 0 if then != WAITING else timer)
            )
            yield ("cannot mark", event), waiting
            for nodes in self.everywhere(state, told):
                yield ("marks unheard", event, told), waiting._replace(nodes=nodes)

    def _acknowledge(self, state: State, number: int, handler: Handler, then: Handler) -> Step:
        _, event, told, _ = handler
        row, references, _ = state.inbox[event]
        inbox = (*state.inbox[:event], (row, references, True), *state.inbox[event + 1 :])
        after = with_handler(state, number, then)._replace(inbox=inbox)
        return ("acknowledges", event), self.promise(after, told)
