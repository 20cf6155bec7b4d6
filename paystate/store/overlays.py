"""Refunds, reversals and chargebacks: what happens to a settled payment without changing it."""

from __future__ import annotations

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.tables import overlays
from paystate.updates import Overlay, OverlayJson, OverlayStatus

__all__ = ["overlays_of", "upsert_overlay"]

_ORDER = list(OverlayStatus)


async def upsert_overlay(
    connection: AsyncConnection, entity: Entity, overlay: Overlay, time_ms: int
) -> None:
    """Record an overlay by its own id; its status only ever moves forward.

    The caller holds the payment's row, so nobody else writes this one.
    """
    where = (
        (overlays.c.key == entity.row_key)
        & (overlays.c.type == overlay.type.value)
        & (overlays.c.overlay_id == overlay.overlay_id)
    )
    held = (await connection.execute(select(overlays.c.status).where(where))).scalar_one_or_none()
    amount = format(overlay.amount, "f") if overlay.amount is not None else None
    if held is None:
        await connection.execute(
            insert(overlays).values(
                key=entity.row_key,
                type=overlay.type.value,
                overlay_id=overlay.overlay_id,
                status=overlay.status.value,
                amount=amount,
                currency=overlay.currency,
                updated_ms=time_ms,
            )
        )
    elif _ORDER.index(overlay.status) > _ORDER.index(OverlayStatus(held)):
        await connection.execute(
            update(overlays)
            .where(where)
            .values(
                status=overlay.status.value,
                amount=amount if amount is not None else overlays.c.amount,
                updated_ms=time_ms,
            )
        )


async def overlays_of(connection: AsyncConnection, entity: Entity) -> list[OverlayJson]:
    """Return the overlays of a payment, oldest first, amounts as decimal strings."""
    rows = await connection.execute(
        select(overlays.c.type, overlays.c.overlay_id, overlays.c.status, overlays.c.amount,
               overlays.c.currency)
        .where(overlays.c.key == entity.row_key)
        .order_by(overlays.c.updated_ms, overlays.c.overlay_id)
    )  # fmt: skip
    return [
        {
            "type": kind,
            "id": own_id,
            "status": status,
            "amount": amount,
            "currency": currency,
        }
        for kind, own_id, status, amount, currency in rows
    ]
