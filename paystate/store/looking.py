"""Look: what is known of open events and of all that they bear on, in one statement.

Nothing is locked and nothing claimed. On PostgreSQL every row comes with who wrote it last
(``xmin``), so that a commit can see whether it still stands (`paystate.store.unlocked`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from paystate.expected import Expected
from paystate.keys import Entity
from paystate.state import EntityState
from paystate.status import STATUSES
from paystate.store.batches import Batch
from paystate.store.claims import Claimed
from paystate.store.engine import Database
from paystate.store.folding import OpenRow
from paystate.store.rows import state_of

__all__ = ["WRITER", "Look", "look"]

# The transaction that wrote a row version. Whatever changes a payment or a reference, its events or
# its attempts writes its row, so where this is the same all of it is.
WRITER = "CAST(CAST({table}.xmin AS TEXT) AS BIGINT)"


@dataclass(slots=True)
class Look:
    """What was seen at one moment of open events, `rows` by their ids.

    `states` are the payments and references that they bear on, `writers` who wrote each last (none
    on SQLite), `details` what is known of payments, by row key, `attempts` the payments that the
    references have beside, `expected` what is to be paid for those for which that was registered.
    `seen_ms` is when, by the database's clock.
    """

    rows: list[Claimed] = field(default_factory=list)
    opened: dict[int, OpenRow] = field(default_factory=dict)
    states: dict[Entity, EntityState] = field(default_factory=dict)
    writers: dict[Entity, int] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    attempts: dict[Entity, EntityState] = field(default_factory=dict)
    expected: dict[Entity, Expected] = field(default_factory=dict)
    seen_ms: int = 0
    _at: float = field(default_factory=time.monotonic)

    @property
    def time_ms(self) -> int:
        """The database's clock now, as well as this process can tell."""
        return self.seen_ms + int((time.monotonic() - self._at) * 1000)

    def forget(self, entities: Iterable[Entity]) -> None:
        """Count no more on what was seen of `entities`: it has been changed."""
        for entity in entities:
            self.writers.pop(entity, None)


_STATE = "{t}.status, {t}.version, {t}.open_events, {t}.held_events, {t}.link, {t}.changed_ms"

# A reference without a link has no attempts: whoever links one brings the reference up to it. The
# id of a reference comes after its kind and merchant in its key.
_ATTEMPTS = """
    CASE WHEN f.link IS NOT NULL THEN (
        SELECT CAST(json_agg(json_build_array(a.key, a.status, a.version, a.open_events,
                                              a.held_events, a.link, a.changed_ms)) AS TEXT)
        FROM entities AS a
        WHERE a.merchant = f.merchant AND a.kind = 'charge'
          AND a.link = substr(f.key, length('reference:' || f.merchant || ':') + 1)
    ) END
"""

# By their ids, as in `paystate.store.claims`.
_LOOK = Batch(
    "id bigint",
    f"""
    SELECT i.id, i.api, i.type, i.subject, i.entity_key, i.content, i.attempts, i.received_ms,
           {{now}}, i.reference_key, i.leaving_key,
           {_STATE.format(t="e")}, {{writer}},
           {_STATE.format(t="f")}, {{other_writer}}, d.content, {{attempts}}, f.expected,
           p.id, p.customer_key
    FROM {{r}} JOIN inbox AS i ON i.id = r.id
    LEFT JOIN entities AS e ON e.key = i.entity_key
    LEFT JOIN entities AS f ON f.key = i.reference_key
    LEFT JOIN details AS d ON d.key = i.entity_key
    LEFT JOIN customer_payments AS p ON p.key = i.entity_key
    WHERE i.state = 'open' AND CASE WHEN CAST(:holder AS TEXT) = ''
        THEN i.claimed_until_ms <= {{now}} AND i.due_ms <= {{now}}
        ELSE i.claimed_by = CAST(:holder AS TEXT) END
    """,  # noqa: S608 - ours
    writer={"postgresql": WRITER.format(table="e"), "sqlite": "0"},
    other_writer={"postgresql": WRITER.format(table="f"), "sqlite": "0"},
    attempts={"postgresql": _ATTEMPTS, "sqlite": "NULL"},
)


async def look(database: Database, ids: Sequence[int], holder: str | None) -> Look:
    """Return what is known of those events of `ids` that `holder` has claimed.

    With `holder` None, of those that are due and that nobody holds.
    """
    if not ids:
        return Look()
    keys = [(i,) for i in sorted(set(ids))]
    if database.lanes is not None:
        found = await _LOOK.fetch(database, keys, holder=holder or "")
    else:
        found = await database.read(lambda c: _LOOK.run(c, keys, holder=holder or ""))
    return _look(found, straight=database.lanes is not None)


def _look(found: Iterable[Any], *, straight: bool) -> Look:
    seen = Look()
    for row in found:
        (row_id, api, type_, subject, key, content, tries, received_ms, now_ms, reference_key,
         leaving_key, *rest) = row  # fmt: skip
        entity = Entity.from_row_key(key)
        seen.rows.append(
            Claimed(row_id, api, type_, subject, entity, content, tries, received_ms, now_ms)
        )
        reference = Entity.from_row_key(reference_key) if reference_key else None
        references = [reference] if reference is not None else []
        if leaving_key:
            references.append(Entity.from_row_key(leaving_key))
        owned, owner = rest[17] is not None, rest[18]
        seen.opened[row_id] = OpenRow(row_id, tuple(references), received_ms, key, owned, owner)
        for one, values in ((entity, rest[:7]), (reference, rest[7:14])):
            # Version 0 is a row that a transaction made to have something to lock.
            if one is not None and values[1]:
                seen.states[one] = EntityState(one, STATUSES[values[0]], *values[1:6])
                if straight:
                    seen.writers[one] = values[6]
        if rest[14] is not None:
            seen.details[key] = rest[14]
        if rest[15] is not None:
            for attempt in map(state_of, orjson.loads(rest[15])):
                seen.attempts[attempt.entity] = attempt
        if reference is not None and rest[16] is not None:
            seen.expected[reference] = Expected.parse(rest[16])
        seen.seen_ms = max(seen.seen_ms, now_ms)
    seen.rows.sort(key=lambda claimed: claimed.id)
    return seen
