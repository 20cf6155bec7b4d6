"""What is known of a payment beside its status: its details, what came of it, and their stamp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.overlays import overlays_of
from paystate.store.tables import details, entities, inbox
from paystate.updates import OverlayJson

__all__ = ["Details", "Stamp", "details_of", "history_of", "stamp_of"]


@dataclass(frozen=True, slots=True)
class Stamp:
    """A payment's version, and a number that rises with what is kept of it beside its status."""

    version: int
    revision: int


@dataclass(frozen=True, slots=True)
class Details:
    """What is known of a payment beside its status."""

    stamp: Stamp
    content: dict[str, Any]
    overlays: list[OverlayJson]


async def details_of(connection: AsyncConnection, entity: Entity) -> Details:
    """Return the details of a payment; in a snapshot all of them are as of one moment."""
    content = (
        await connection.execute(select(details.c.content).where(details.c.key == entity.row_key))
    ).scalar_one_or_none()
    return Details(
        await stamp_of(connection, entity),
        orjson.loads(content) if content else {},
        await overlays_of(connection, entity),
    )


async def stamp_of(connection: AsyncConnection, entity: Entity) -> Stamp:
    """Return the stamp of a payment; nought where it is not known."""
    found = await connection.execute(
        select(entities.c.version, func.coalesce(details.c.revision, 0))
        .outerjoin(details, details.c.key == entities.c.key)
        .where(entities.c.key == entity.row_key)
    )
    row = found.one_or_none()
    return Stamp(row[0], row[1]) if row is not None else Stamp(0, 0)


async def history_of(connection: AsyncConnection, entity: Entity) -> list[dict[str, Any]]:
    """Return the inbox rows of a payment, oldest first."""
    found = await connection.execute(
        select(
            inbox.c.id,
            inbox.c.api,
            inbox.c.type,
            inbox.c.state,
            inbox.c.reason,
            inbox.c.attempts,
            inbox.c.received_ms,
            inbox.c.ended_ms,
        )
        .where(inbox.c.entity_key == entity.row_key)
        .order_by(inbox.c.id)
    )
    return [dict(row) for row in found.mappings()]
