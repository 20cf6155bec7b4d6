"""What decisions make of rows in hand: a fold, which neither reads nor writes anything itself.

The rows are in hand because they are locked (`paystate.store.settle`), or because nothing will be
written unless they still are what they were (`paystate.store.unlocked`). Whether a decision still
changes anything is seen here: a row that has ended already is left alone, so running a decision
twice is running it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from paystate.changes import Change
from paystate.keys import Entity, EntityKind
from paystate.state import EntityState
from paystate.status import Status, is_terminal, merge, of_reference
from paystate.store.comparing import compared
from paystate.store.inbox import Ending
from paystate.store.ownership import customer_key
from paystate.store.rows import Locked
from paystate.updates import Overlay, PaymentUpdate

__all__ = ["Decision", "Folding", "OpenRow", "Settled", "references_of"]


class Decision(NamedTuple):
    """What one inbox row has come to.

    With `ending` None the merge decides between applied and superseded. `proven` says that
    `update` comes from the verify API or under a v4 signature; `moves` that it may move the payment
    to another reference, which only the provider's own answer or an operator may. `link` is the
    reference of a payment that is held and has none yet, so that it shows `processing` too.
    `opened_ms` says which opening of the event was decided; one that was given up and opened again
    since is left alone. None: whichever stands. `accepted`: a person has accepted what is said, so
    that it is not held against what was expected. `silent`: nobody has heard anything for long.
    `text` is `update` as JSON, for those who have it at hand.
    """

    inbox_id: int
    entity: Entity
    ending: Ending | None = None
    reason: str | None = None
    update: PaymentUpdate | None = None
    overlay: Overlay | None = None
    proven: bool = False
    moves: bool = False
    link: str | None = None
    opened_ms: int | None = None
    accepted: bool = False
    silent: bool = False
    text: str | None = None


@dataclass(slots=True)
class Settled:
    """What a transaction of decisions did; `waited_ms` is from each event's arrival.

    `opened` are decisions that were not applied: they concern a reference on which their event was
    not open. Now it is, for every reader to see, and they can be applied.
    """

    opened: list[Decision] = field(default_factory=list)
    states: list[EntityState] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    endings: dict[int, tuple[Ending, str]] = field(default_factory=dict)
    waited_ms: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class OpenRow:
    """An open inbox row, and the references that it is open on: one, and the one it takes over.

    `owner` is the customer whose payment it is about, None if they were erased: what is written of
    that, if anything is (`owned`).
    """

    id: int
    references: tuple[Entity, ...]
    received_ms: int
    payment: str
    owned: bool
    owner: str | None


# Observations of a payment: whether each moved its status and is proven, and its text if at hand.
_Learnt = dict[Entity, list[tuple[PaymentUpdate, bool, bool, str | None]]]


class Folding:
    """Folds decisions into the rows of `locked`; `rows` are their open inbox rows, by id.

    First each decision is applied, then the references are settled, then there is what was learnt.
    Every payment and reference that a decision bears on must be in hand by then.
    """

    def __init__(self, locked: Locked, rows: Mapping[int, OpenRow]) -> None:
        self.settled = Settled()
        self.references: set[Entity] = set()
        self._locked = locked
        self._rows = rows
        self._learnt: _Learnt = {}
        self._quiet: set[Entity] = set()
        # The customers of the payments in `details`, by the payments' row keys, in order of events.
        self.owners: dict[str, str] = {}

    def row_of(self, decision: Decision) -> OpenRow | None:
        """Return the row that `decision` ends, unless there is nothing left to end."""
        row = self._rows.get(decision.inbox_id)
        if row is None or decision.inbox_id in self.settled.endings:
            return None
        return row if decision.opened_ms in (None, row.received_ms) else None

    def apply(self, decision: Decision, row: OpenRow) -> Decision:
        """Apply one decision and return it as it was applied: held, maybe."""
        state = self._locked.now[decision.entity]
        decision = compared(decision, state, _link_after(state, decision), self._locked.expected)
        _open_link(state, row, self.references)
        self.settled.endings[row.id] = _fold(self._locked, decision, self._learnt)
        self.settled.waited_ms[row.id] = self._locked.time_ms - row.received_ms
        _add_own_reference(self._locked.now[decision.entity], self.references)
        if decision.silent:
            self._quiet.add(decision.entity)
        return decision

    def settle_references(self, attempts: Mapping[Entity, EntityState]) -> None:
        """Bring the merchant references up to their attempts, as these are left now.

        `attempts` are those of them that are stored, and may be in hand. A reference without any is
        pending if a payment is expected, and nobody is quiet about it; else it was heard of by
        events that came to nothing, and nobody knows.
        """
        locked = self._locked
        ended = Counter(
            reference
            for inbox_id in self.settled.endings
            for reference in self._rows[inbox_id].references
        )
        of = _by_reference(attempts, locked)
        for reference in self.references:
            mine = of.get(reference, [])
            held = locked.now[reference]
            status: Status
            link: str | None
            if held.status is Status.SUCCESSFUL:  # absorbing, as for a payment, and so is by whom
                status, link = held.status, held.link
            elif len(mine) == 1:  # nearly every checkout
                status, link = mine[0].status, _name(mine[0])
            elif mine:
                status = of_reference(a.status for a in mine)
                link = _deciding(held.link, [a for a in mine if a.status is status])
            else:
                awaited = reference in locked.expected and reference not in self._quiet
                status, link = Status.PENDING if awaited else Status.UNKNOWN, None
            locked.change(
                reference,
                status=status,
                open_events=held.open_events - ended[reference],
                held_events=sum(a.held_events for a in mine if a.held),
                link=link,
            )

    @property
    def learnt_of(self) -> list[str]:
        """The row keys of the payments of which something was learnt."""
        return sorted(entity.row_key for entity in self._learnt)

    def details(self, held: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return key and content of the details that change; `held` are the contents before.

        An update that moved the payment overrides, any other fills gaps. Whose payments they are is
        in `owners` then.
        """
        rows = []
        for entity, updates in self._learnt.items():
            key = entity.row_key
            text = held.get(key)
            seen, _, proven, said = updates[0]
            if text is None and len(updates) == 1 and said is not None:
                now = f"{said[:-1]},{_CONFIRMED[proven]}}}"
                owner = seen.customer_id
            else:
                content: dict[str, Any] = orjson.loads(text) if text is not None else {}
                for seen, moved, proven, _ in updates:
                    content = _learn(content, seen, moved, proven)
                now, owner = orjson.dumps(content).decode(), content.get("customer_id")
            if now != text:
                rows.append((key, now))
            if owner is not None:
                self.owners[key] = customer_key(entity.merchant, owner)
        return sorted(rows)


_CONFIRMED = {True: '"confirmed":true', False: '"confirmed":false'}


def _learn(
    before: dict[str, Any], seen: PaymentUpdate, moved: bool, proven: bool
) -> dict[str, Any]:
    after = seen.to_json()
    if moved:
        return {**before, **after, "confirmed": proven}
    confirmed = proven and before.get("status", after["status"]) == after["status"]
    return {**after, **before, "confirmed": confirmed or before.get("confirmed", False)}


def references_of(state: EntityState, decision: Decision) -> tuple[Entity, ...]:
    """Return the references that `decision` bears on: where the payment will belong, and does now.

    A transfer belongs to none: what it calls a reference is a name in another space.
    """
    if state.entity.kind is not EntityKind.CHARGE:
        return ()
    links = dict.fromkeys((_link_after(state, decision), state.link))
    return tuple(Entity.reference(state.entity.merchant, link) for link in links if link)


def _link_after(state: EntityState, decision: Decision) -> str | None:
    if decision.ending in (Ending.HELD, Ending.DEAD):
        return state.link or decision.link
    named = decision.update.tx_ref if decision.update is not None else None
    if named is not None and (state.link is None or decision.moves):
        return named
    return state.link


def _open_link(state: EntityState, row: OpenRow, references: set[Entity]) -> None:
    """Name every reference that this row can concern: where it was opened, where it belongs."""
    references.update(row.references)
    _add_own_reference(state, references)


def _add_own_reference(state: EntityState, references: set[Entity]) -> None:
    """A charge counts for its merchant reference; a transfer's is a name in another space."""
    if state.entity.is_reference:  # an event of its own
        references.add(state.entity)
    elif state.link is not None and state.entity.kind is EntityKind.CHARGE:
        references.add(Entity.reference(state.entity.merchant, state.link))


def _fold(locked: Locked, decision: Decision, learnt: _Learnt) -> tuple[Ending, str]:
    """Apply one decision to the rows in hand and return how its inbox row ends."""
    entity = decision.entity
    state = locked.now[entity]
    locked.change(entity, open_events=state.open_events - 1)
    if decision.ending in (Ending.HELD, Ending.DEAD):
        locked.change(entity, held_events=state.held_events + 1, link=state.link or decision.link)
        return decision.ending, decision.reason or ""
    if entity.is_reference:  # what it is now, its attempts say
        return Ending.APPLIED, decision.reason or ""
    if decision.silent:
        return _silence(locked, entity)
    changed = False
    reason = decision.reason or ""
    if decision.update is not None:
        changed, moved, refused = _merge_into(locked, decision, decision.update)
        reason = refused or reason
        seen = (decision.update, moved, decision.proven, decision.text)
        learnt.setdefault(entity, []).append(seen)
    if decision.ending is not None:
        return decision.ending, reason
    if changed or decision.overlay is not None:
        return Ending.APPLIED, reason
    return Ending.SUPERSEDED, reason or "no_news"


def _silence(locked: Locked, entity: Entity) -> tuple[Ending, str]:
    """Say that nobody knows what has become of a payment, unless something was heard meanwhile."""
    state = locked.now[entity]
    if is_terminal(state.status) or state.open_events:
        return Ending.SUPERSEDED, "no_news"
    locked.change(entity, status=Status.UNKNOWN)
    return Ending.APPLIED, "silence"


def _merge_into(locked: Locked, decision: Decision, seen: PaymentUpdate) -> tuple[bool, bool, str]:
    """Merge one observation.

    Returns whether it changed the row, whether it moved the status, and why it was refused.
    """
    state = locked.now[decision.entity]
    merged = merge(state.status, seen.status, proven=decision.proven)
    refused = ""
    if merged is state.status and seen.status is Status.SUCCESSFUL is not state.status:
        refused = "correction_unproven"
    link = _link_after(state, decision)
    moved = merged is not state.status
    locked.change(decision.entity, status=merged, link=link)
    return moved or link != state.link, moved, refused


def _name(attempt: EntityState) -> str:
    """Return an attempt as a reference's link names it."""
    return f"{attempt.entity.kind}:{attempt.entity.id}"


def _deciding(current: str | None, attempts: Sequence[EntityState]) -> str | None:
    """Return the attempt that decides: the one that already did, else the latest."""
    latest = sorted(attempts, key=lambda a: (a.changed_ms, a.entity.row_key))
    names = [_name(a) for a in latest]
    return current if current in names else names[-1]


def _by_reference(
    attempts: Mapping[Entity, EntityState], locked: Locked
) -> dict[Entity, list[EntityState]]:
    """Return the attempts of each reference: those in hand as they are now, the rest as stored."""
    found = {**attempts, **{e: s for e, s in locked.now.items() if e.kind is EntityKind.CHARGE}}
    by_reference: dict[Entity, list[EntityState]] = {}
    for entity, state in found.items():
        if state.link is not None:
            reference = Entity.reference(entity.merchant, state.link)
            by_reference.setdefault(reference, []).append(state)
    return by_reference
