"""Finds what is still unsettled once its changes have grown old: inside the database.

The change log is read on from where the last reader stopped, up to the first change that is too
young; what those changes left unsettled gets a row of the reconciler's. No row of it passes through
this process, so a busy system costs three statements for every few thousand changes.
"""

from __future__ import annotations

from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.changes import Cursor
from paystate.store.batches import NOW_MS
from paystate.store.tables import HORIZON, watermarks

__all__ = ["enroll"]

ENROLLED = "changes_enrolled_to"

_LOCKED = {"postgresql": " FOR UPDATE", "sqlite": ""}

# The last of the next changes, and the first of them that is too young.
_BOUNDS = """
WITH page AS (
    SELECT xid, id, changed_ms FROM changes
    WHERE (xid, id) > (:xid, :id) AND xid < {horizon} ORDER BY xid, id LIMIT :most
)
SELECT (SELECT count(*) FROM page) AS counted, last.xid, last.id, young.xid, young.id
FROM (SELECT xid, id FROM page ORDER BY xid DESC, id DESC LIMIT 1) AS last
LEFT JOIN (
    SELECT xid, id FROM page WHERE changed_ms > {now} - :grace ORDER BY xid, id LIMIT 1
) AS young ON 1 = 1
"""

# A reference is asked about for as long as something is expected and no payment of it is known.
_ENROLL = """
INSERT INTO unsettled (key, merchant, first_ms, due_ms, asked, claimed_until_ms)
SELECT e.key, e.merchant, e.created_ms, {now}, 0, 0 FROM entities AS e
WHERE e.key IN (
    SELECT entity_key FROM changes WHERE (xid, id) > (:xid, :id) AND (xid, id) {upto} (:to_xid, :to_id)
) AND e.version > 0 AND e.status IN ('unknown', 'pending', 'processing')
  AND (e.kind <> 'reference' OR (e.expected IS NOT NULL AND e.link IS NULL))
ORDER BY e.key
ON CONFLICT (key) DO NOTHING
"""  # noqa: E501


async def enroll(connection: AsyncConnection, dialect: str, *, grace_ms: int, most: int) -> bool:
    """Enroll what `most` further changes older than `grace_ms` left unsettled.

    Returns whether there may be more such changes.
    """
    words = {"horizon": HORIZON[dialect], "now": NOW_MS[dialect]}
    await connection.execute(
        text("INSERT INTO watermarks (name, value) VALUES (:name, '0.0') ON CONFLICT DO NOTHING"),
        {"name": ENROLLED},
    )
    held = await connection.execute(
        text(f"SELECT value FROM watermarks WHERE name = :name{_LOCKED[dialect]}"),  # noqa: S608
        {"name": ENROLLED},
    )
    after = Cursor.parse(str(held.scalar_one()))
    where = {"xid": after.xid, "id": after.id}
    row = (
        await connection.execute(
            text(_BOUNDS.format(**words)), {**where, "most": most, "grace": grace_ms}
        )
    ).one_or_none()
    if row is None:
        return False
    young = row[3] is not None
    upto = Cursor(row[3], row[4]) if young else Cursor(row[1], row[2])
    await connection.execute(
        text(_ENROLL.format(**words, upto="<" if young else "<=")),
        {**where, "to_xid": upto.xid, "to_id": upto.id},
    )
    # Just before the first that is too young: there is none between.
    reached = Cursor(upto.xid, upto.id - 1) if young else upto
    await connection.execute(
        update(watermarks).where(watermarks.c.name == ENROLLED).values(value=str(reached))
    )
    return not young and row[0] == most
