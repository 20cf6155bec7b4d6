"""The database of the model: what `acknowledge` and `settle` do to its rows.

It follows `paystate/store/inbox.py`, `settle.py` and `rows.py` statement by statement, with the
status table of `paystate/status.py` itself. Every function takes the rows and gives new ones; that
each is one transaction under row locks is what makes it one step.

A row is ``(status, version, open, held, link)``, an inbox row ``(state, references, acked)`` with
the references that the event is open on. Entities are numbers: payments first, then references.
`NOBODY` stands for no link.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from paystate.status import Status, is_terminal, merge, of_reference, shown, shown_reference

UNKNOWN, PENDING, PROCESSING, FAILED, VOIDED, SUCCESSFUL = range(6)
WORDS = tuple(Status)
TERMINAL = frozenset(i for i, word in enumerate(WORDS) if is_terminal(word))
NOBODY = -1

ABSENT, OPEN, ENDED, HELD, DEAD, CONTRADICTED = range(6)
GIVEN_UP = frozenset({HELD, DEAD, CONTRADICTED})
ENDINGS = ("absent", "open", "ended", "held", "dead", "contradicted")

Row = tuple[int, int, int, int, int]
Rows = tuple[Row, ...]
InboxRow = tuple[int, tuple[int, ...], bool]
Inbox = tuple[InboxRow, ...]


class Decision(NamedTuple):
    """What an event can come to, as `paystate.payments.deciding` would say.

    `seen` is the status in the provider's answer (or in the claim where nobody is asked), `link`
    the reference that it names; `ending` `ENDED` leaves applied or superseded to the merge.
    """

    seen: int = NOBODY
    ending: int = ENDED
    proven: bool = True
    link: int = NOBODY
    moves: bool = True


class Event(NamedTuple):
    """A webhook, or an answer of the verify API (`ours`), about a payment."""

    payment: int
    decisions: tuple[Decision, ...]
    tx_ref: int = NOBODY
    ours: bool = False


class Outcome(NamedTuple):
    """A transaction as it will be committed. `touched`: the entities that it locks, and tells of.

    `untold`: those of them that the caller is not told of, if that rule is left out. `opened`: the
    event was only opened where it belongs.
    """

    rows: Rows
    inbox: Inbox
    touched: tuple[int, ...]
    opened: bool = False
    untold: tuple[int, ...] = ()


@cache
def shown_of(row: Row, reference: bool) -> int:
    """Return what a caller is told."""
    rule = shown_reference if reference else shown
    return WORDS.index(rule(WORDS[row[0]], open_events=row[2], held_events=row[3]))


@cache
def merged(held: int, seen: int, proven: bool) -> int:
    """Return the later of two observations, by the real table."""
    return WORDS.index(merge(WORDS[held], WORDS[seen], proven=proven))


def is_held(row: Row, reference: bool) -> bool:
    """Say whether a person must look."""
    terminal = row[0] == SUCCESSFUL if reference else row[0] in TERMINAL
    return row[3] > 0 and not terminal


def cacheable(row: Row, reference: bool) -> bool:
    """Say whether the row may be cached at all."""
    return row[0] == SUCCESSFUL or not (row[2] or is_held(row, reference))


class Database:
    """The transactions over `payments` payments, for `events`; every later entity is a reference.

    `opens_first` False leaves out that an event is opened on the reference that it turned out to
    concern, in a transaction of its own. `stays_open`: until it is applied it stays open on the
    reference that the payment leaves, too. `told_where_open`: a duplicate is told the rows that its
    event is open on, not only those that it would be opened on today.
    """

    def __init__(
        self,
        payments: int,
        events: tuple[Event, ...],
        *,
        opens_first: bool = True,
        stays_open: bool = True,
        told_where_open: bool = True,
    ) -> None:
        self.payments = payments
        self.events = events
        self.opens_first = opens_first
        self.stays_open = stays_open
        self.told_where_open = told_where_open

    def is_reference(self, entity: int) -> bool:
        """Say whether `entity` is a merchant reference."""
        return entity >= self.payments

    def shown(self, rows: Rows, entity: int) -> int:
        """Return what a caller is told of `entity`."""
        return shown_of(rows[entity], entity >= self.payments)

    def cacheable(self, rows: Rows, entity: int) -> bool:
        """Say whether the row of `entity` may be cached."""
        return cacheable(rows[entity], entity >= self.payments)

    # --- acknowledge ---

    def acknowledge(self, rows: Rows, inbox: Inbox, number: int) -> Outcome:
        """Record a delivery of event `number`; a duplicate changes nothing but is read anew."""
        event = self.events[number]
        before = rows[event.payment]
        state, references, acked = inbox[number]
        link = before[4] if before[4] != NOBODY else event.tx_ref
        if event.ours and event.tx_ref != NOBODY:
            link = event.tx_ref
        again = state in GIVEN_UP and before[0] != SUCCESSFUL
        now = dict(enumerate(rows))
        if again:
            if state != CONTRADICTED:
                now[event.payment] = _change(before, held=-1)
            if link == NOBODY and references:
                link = references[-1]
        concerned = (event.payment,) if link == NOBODY else (event.payment, link)
        if state == ABSENT or again:
            inbox = _put(inbox, number, (OPEN, concerned[1:], acked))
            for entity in concerned:
                now[entity] = _change(now[entity], opened=1)
        untold: tuple[int, ...] = ()
        if state == OPEN and references:
            # Where the event is open; if that rule is left out, where it would be opened today.
            where = (event.payment, references[-1])
            untold = () if self.told_where_open else tuple(r for r in where if r not in concerned)
            concerned = where if self.told_where_open else (*concerned, *untold)
        return Outcome(self._save(rows, now), inbox, concerned, untold=untold)

    # --- settle ---

    def settle(self, rows: Rows, inbox: Inbox, number: int, decision: Decision) -> Outcome | None:
        """Apply a decision, or open the event where it belongs; None if the event has ended."""
        state, references, acked = inbox[number]
        if state != OPEN:
            return None
        payment = self.events[number].payment
        former, link = rows[payment][4], self._link_after(rows[payment], decision)
        if self._opens_elsewhere(references, former, link):
            return self._open_on(rows, inbox, number, former, link)
        now = dict(enumerate(rows))
        now[payment] = self._fold(rows[payment], decision, link)
        for entity in references:
            now[entity] = _change(now[entity], opened=-1)
        concerned = {*references, former, link} - {NOBODY}
        for entity in concerned:
            now[entity] = self._over_attempts(now, entity)
        inbox = _put(inbox, number, (decision.ending, references, acked))
        return Outcome(self._save(rows, now), inbox, (payment, *sorted(concerned)))

    def write_directly(self, rows: Rows, inbox: Inbox, number: int, decision: Decision) -> Outcome:
        """Move a status without an open inbox row: what rule 9 forbids."""
        payment = self.events[number].payment
        row = rows[payment]
        now = dict(enumerate(rows))
        now[payment] = (merged(row[0], decision.seen, decision.proven), *row[1:])
        inbox = _put(inbox, number, (ENDED, (), inbox[number][2]))
        return Outcome(self._save(rows, now), inbox, (payment,))

    def _opens_elsewhere(self, references: tuple[int, ...], former: int, link: int) -> bool:
        """Say whether the event must first be opened where it is not."""
        if not self.opens_first:
            return False
        changing = {link, former} if self.stays_open else {link}
        return not changing - {NOBODY} <= set(references)

    def _open_on(self, rows: Rows, inbox: Inbox, number: int, former: int, target: int) -> Outcome:
        _, references, acked = inbox[number]
        wanted = (former, target) if self.stays_open else (target,)
        after = tuple(dict.fromkeys(entity for entity in wanted if entity != NOBODY))
        now = dict(enumerate(rows))
        for entity in references:
            now[entity] = _change(now[entity], opened=-1)
        for entity in after:
            now[entity] = _change(now[entity], opened=1)
        touched = tuple(sorted({self.events[number].payment, *references, *after}))
        inbox = _put(inbox, number, (OPEN, after, acked))
        return Outcome(self._save(rows, now), inbox, touched, opened=True)

    @staticmethod
    def _link_after(row: Row, decision: Decision) -> int:
        if decision.ending in (HELD, DEAD):
            return row[4] if row[4] != NOBODY else decision.link
        if decision.link != NOBODY and (row[4] == NOBODY or decision.moves):
            return decision.link
        return row[4]

    @staticmethod
    def _fold(row: Row, decision: Decision, link: int) -> Row:
        status, version, opened, held, _ = row
        if decision.ending in (HELD, DEAD):
            return status, version, opened - 1, held + 1, link
        if decision.seen != NOBODY:
            status = merged(status, decision.seen, decision.proven)
        return status, version, opened - 1, held, link

    def _over_attempts(self, now: dict[int, Row], reference: int) -> Row:
        """Bring a reference up to its attempts."""
        status, version, opened, _, link = now[reference]
        mine = [p for p in range(self.payments) if now[p][4] == reference]
        if status != SUCCESSFUL and mine:
            status = WORDS.index(of_reference(WORDS[now[p][0]] for p in mine))
            deciding = [p for p in mine if now[p][0] == status]
            link = link if link in deciding else deciding[-1]
        elif status != SUCCESSFUL:
            status, link = UNKNOWN, NOBODY
        held = sum(now[p][3] for p in mine if is_held(now[p], False))
        return status, version, opened, held, link

    def _save(self, rows: Rows, now: dict[int, Row]) -> Rows:
        """Raise the version of every row of which something visible changed."""
        saved = []
        for entity, before in enumerate(rows):
            after = now[entity]
            reference = entity >= self.payments
            if after != before and _visible(after, reference) != _visible(before, reference):
                after = (after[0], before[1] + 1, *after[2:])
            saved.append(after)
        return tuple(saved)


def _visible(row: Row, reference: bool) -> tuple[int, bool, int]:
    return shown_of(row, reference), is_held(row, reference), row[4]


def _change(row: Row, *, opened: int = 0, held: int = 0) -> Row:
    return row[0], row[1], row[2] + opened, row[3] + held, row[4]


def _put(inbox: Inbox, number: int, row: InboxRow) -> Inbox:
    return (*inbox[:number], row, *inbox[number + 1 :])
