"""Refunds, reversals and chargebacks: what happens to a settled payment without changing it."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.keys import Entity
from paystate.store.tables import among, overlays
from paystate.updates import Overlay, OverlayJson, OverlayStatus, OverlayType

__all__ = ["is_news", "known_overlays", "overlays_of", "upsert_overlay"]

_ORDER = list(OverlayStatus)


async def upsert_overlay(
    connection: AsyncConnection, entity: Entity, overlay: Overlay, time_ms: int
) -> bool:
    """Record an overlay by its own id; its status only ever moves forward.

    Returns whether anything is known now that was not. The caller holds the payment's row, so
    nobody else writes this one.
    """
    where = (
        (overlays.c.key == entity.row_key)
        & (overlays.c.type == overlay.type.value)
        & (overlays.c.overlay_id == overlay.overlay_id)
    )
    held = (
        await connection.execute(
            select(overlays.c.status, overlays.c.amount, overlays.c.currency).where(where)
        )
    ).one_or_none()
    if held is None:
        await connection.execute(
            insert(overlays).values(
                key=entity.row_key,
                type=overlay.type.value,
                overlay_id=overlay.overlay_id,
                status=overlay.status.value,
                amount=_text(overlay),
                currency=overlay.currency,
                updated_ms=time_ms,
            )
        )
    else:
        news = _news(overlay, held[0], held[1], held[2])
        if not news:
            return False
        await connection.execute(update(overlays).where(where).values(**news, updated_ms=time_ms))
    return True


def _news(
    overlay: Overlay, status: str, amount: str | None, currency: str | None
) -> dict[str, str | None]:
    """Return what `overlay` changes of what is held of it: a later step, or what was missing.

    A later step brings its own amount. An earlier one that comes late fills gaps, and no more.
    """
    new: dict[str, str | None] = {}
    forward = _ORDER.index(overlay.status) > _ORDER.index(OverlayStatus(status))
    if forward:
        new["status"] = overlay.status.value
    if overlay.amount is not None and (forward or amount is None):
        new["amount"] = _text(overlay)
    if overlay.currency is not None and (forward or currency is None):
        new["currency"] = overlay.currency
    return new


def is_news(overlay: Overlay, held: OverlayJson | None) -> bool:
    """Say whether `overlay` would change anything of what is `held` of it, None if nothing is."""
    if held is None:
        return True
    return bool(_news(overlay, held["status"], held["amount"], held["currency"]))


def _text(overlay: Overlay) -> str | None:
    return format(overlay.amount, "f") if overlay.amount is not None else None


async def known_overlays(
    connection: AsyncConnection, dialect: str, entities: Collection[Entity], type_: OverlayType
) -> dict[tuple[str, str], OverlayJson]:
    """Return the overlays of `type_` on payments, by the payment's row key and their own id."""
    rows = await connection.execute(
        select(overlays.c.key, overlays.c.overlay_id, overlays.c.status, overlays.c.amount,
               overlays.c.currency)
        .where(among(dialect, overlays.c.key, sorted(one.row_key for one in entities)))
        .where(overlays.c.type == type_.value)
    )  # fmt: skip
    return {
        (key, own_id): {
            "type": type_.value, "id": own_id, "status": status, "amount": amount,
            "currency": currency,
        }
        for key, own_id, status, amount, currency in rows
    }  # fmt: skip


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
