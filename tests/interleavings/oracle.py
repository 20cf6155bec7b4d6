"""What must be true of every answer and of every history, whatever the schedule."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paystate.errors import PaystateError
from paystate.keys import Entity
from paystate.payments.answers import Source, StatusAnswer
from paystate.state import EntityState
from paystate.status import Status
from paystate.store import Recorded
from tests.interleavings.steps import Process, Schedule

__all__ = ["Oracle"]


@dataclass(frozen=True, slots=True)
class _Answered:
    who: str
    answer: StatusAnswer


class Oracle:
    """Knows what has been acknowledged and committed, and holds each answer against it.

    `violations` says in words what was broken. The floor of an entity is the latest version that
    every lookup from now on must know of: of a webhook once it is acknowledged, of a worker's
    change once it is committed. And what one lookup was told, no later one falls back behind, as
    long as every call gets its answer.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._floors: dict[Entity, int] = {}
        self._told: dict[Entity, int] = {}
        self._writers: dict[tuple[Entity, int], Process] = {}
        # Up to which version the cache may have forgotten an entity, gone back to an earlier time.
        self._forgotten: dict[Entity, int] = {}
        self._acknowledged: set[int] = set()
        self._answers: list[_Answered] = []
        self.lookups = 0
        self.violations: list[str] = []

    def knows(self, entity: Entity) -> bool:
        """Say whether anything was ever committed of `entity`."""
        return entity in self._floors

    def acknowledged(self, recorded: Recorded) -> None:
        """Note that a webhook has got its 200."""
        if recorded.inbox_id is not None:
            self._acknowledged.add(recorded.inbox_id)
        self.committed(recorded.states)

    def committed(self, states: Iterable[EntityState], by: Process | None = None) -> None:
        """Note states that every lookup from now on must know of; `by` writes them through."""
        for state in states:
            if by is not None:
                self._writers[state.entity, state.version] = by
            self._floors[state.entity] = max(self._floors.get(state.entity, 0), state.version)

    async def watch(
        self,
        process: Process,
        entity: Entity,
        question: Awaitable[StatusAnswer],
        *,
        near: bool = False,
    ) -> None:
        """Ask, and hold the answer against what had been acknowledged before the question.

        That is when its first read was sent, or when it was put, if it needed none. What is
        `successful` may have an older version, of a link or an overlay, if it is held `near`, if
        whoever was to write the later ones through could not (the mark leaves it half a minute), or
        if the cache has forgotten them.
        """
        who, floor, told = process.name, self._floors.get(entity, 0), self._told.get(entity, 0)

        def sent() -> None:
            nonlocal floor, told
            floor, told = self._floors.get(entity, 0), self._told.get(entity, 0)

        process.begun.append(sent)
        try:
            answer = await question
        except PaystateError:
            return  # an error is no answer
        self.lookups += 1
        self._schedule.trace.append(
            f"{who}: is told {answer.status} version {answer.version} ({answer.source})"
        )
        final = answer.status is Status.SUCCESSFUL and (
            near
            or (answer.source is Source.CACHE
                and self._unwritten(entity, answer.version, max(floor, told)))
        )  # fmt: skip
        if answer.fresh and answer.version < floor and not final:
            self.violations.append(
                f"stale: {who} was told {answer.status} version {answer.version} of"
                f" {entity.row_key} as fresh, after version {floor} had been acknowledged"
            )
        if answer.fresh and answer.version < told and not final:
            self.violations.append(
                f"step back: {who} was told {answer.status} version {answer.version} of"
                f" {entity.row_key}, after somebody had been told version {told}"
            )
        if answer.fresh and not near:
            self._told[entity] = max(self._told.get(entity, 0), answer.version)
        self._answers.append(_Answered(who, answer))

    def _unwritten(self, entity: Entity, told: int, latest: int) -> bool:
        """Say whether no version after `told`, up to `latest`, need have come to the cache."""
        after = max(told, self._forgotten.get(entity, 0))
        writers = [self._writers.get((entity, v)) for v in range(after + 1, latest + 1)]
        return all(w is not None and (w.crashed or w.call_failed) for w in writers)

    def set_back(self) -> None:
        """Note that the cache has gone back to what it held at an earlier time."""
        self._forgotten = dict(self._floors)

    def at_rest(
        self,
        rows: Sequence[tuple[int, str]],
        log: Sequence[tuple[str, int, str, bool]],
        states: Mapping[Entity, EntityState],
    ) -> None:
        """Hold the inbox, the change log and the rows against each other and every answer."""
        ended = dict(rows)
        for row_id in self._acknowledged:
            if ended.get(row_id, "lost") in ("open", "lost"):
                self.violations.append(f"lost: event {row_id} is {ended.get(row_id, 'lost')}")
        for state in states.values():
            if state.open_events:
                self.violations.append(f"{state.entity.row_key} counts {state.open_events} open")
        self._check_log(log, states)
        said = {(key, version): status for key, version, status, _ in log}
        for entry in self._answers:
            key = entry.answer.entity.row_key
            if said.get((key, entry.answer.version)) != entry.answer.status:
                self.violations.append(
                    f"invented: {entry.who} was told {entry.answer.status} version"
                    f" {entry.answer.version} of {key}, which it never was"
                )

    def _check_log(
        self, log: Sequence[tuple[str, int, str, bool]], states: Mapping[Entity, EntityState]
    ) -> None:
        last: dict[str, Any] = {}
        for key, version, status, terminal in log:
            if key in last:
                before_version, before, was_terminal = last[key]
                if version != before_version + 1:
                    self.violations.append(f"{key}: version {version} follows {before_version}")
                if was_terminal and status not in (before, Status.SUCCESSFUL):
                    self.violations.append(f"regressed: {key} went from {before} to {status}")
            last[key] = (version, status, terminal)
        for entity, state in states.items():
            held = last.get(entity.row_key)
            if held is None or (held[0], held[1]) != (state.version, state.shown):
                self.violations.append(f"{entity.row_key}: row and change log differ: {held}")
