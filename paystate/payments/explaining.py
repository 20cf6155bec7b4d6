"""Explain a payment: everything that came, what it was taken for, and what is shown now and why.

Only what is safe to show: identifiers, words of status, amounts, times. No card, no customer. It
reads and changes nothing; the cache is asked by the script that lookups use, without a token, so
that no reader loses one.
"""

from __future__ import annotations

from typing import Any

import orjson

from paystate.cache.scripts import GET, run
from paystate.changes import iso_utc
from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import PaymentNotFound
from paystate.keys import Entity, EntityKind, Keys
from paystate.payments.explanations import (
    CachedJson,
    ChangedStep,
    EndedStep,
    ExplanationJson,
    GivenUpJson,
    ListingJson,
    ReceivedStep,
    RulingStep,
    StateJson,
    Step,
    StuckJson,
)
from paystate.payments.meanings import meaning
from paystate.state import EntityState
from paystate.store import Ending, Store
from paystate.store.operations import EventRow, GivenUp, Trail
from paystate.store.rulings import REJECTED, RELEASED
from paystate.updates import OverlayJson

__all__ = ["Explainer", "listing"]

_STUCK = frozenset({Ending.HELD.value, Ending.DEAD.value})
_RULED = frozenset({RELEASED, REJECTED})
_SAFE = (
    "status", "provider_status", "tx_ref", "amount", "currency", "type", "overlay_id", "flaws",
    "rejects", "by",
)  # fmt: skip
_HELD_FIELDS = ["status", "version", "at", "link", "floor", "proven_at", "token_until"]

# Of one moment: what arrived, what was ruled, how it ended, what that changed.
_RANKS = {"received": 0, "ruling": 1, "ended": 2, "changed": 3}

NOT_KEPT = (
    "Who was listening when a change was published: whoever missed it reads it in the change log.",
    "When an event that is open again was opened before, but where an operator replayed it.",
    "Repeated deliveries of an event that was recorded already: they are counted in the metrics.",
)


def _claim_of(event: EventRow) -> dict[str, Any] | None:
    """Return what an event said, without what must not be shown; None if it is gone."""
    if event.content is None:
        return None
    try:
        content = orjson.loads(event.content)
        return {name: content[name] for name in _SAFE if name in content}
    except (ValueError, TypeError):
        return {"unreadable": True}


def listing(found: GivenUp) -> ListingJson:
    """Return given-up events in their public form."""
    return {
        "events": [_listed(event, found.now_ms) for event in found.events],
        "counts": [{"state": s, "reason": r, "events": n} for s, r, n in found.counts],
        "total": sum(n for _, _, n in found.counts),
    }


def _listed(event: EventRow, now_ms: int) -> GivenUpJson:
    return {
        "event": event.id,
        "state": event.state,
        "reason": event.reason,
        "meaning": meaning(event.state, event.reason),
        "merchant": event.merchant,
        "kind": event.entity.kind.value,
        "payment_id": event.entity.id,
        "api": event.api,
        "type": event.type,
        "received_at": iso_utc(event.received_ms),
        "age_s": max(0, now_ms - event.received_ms) // 1000,
        "attempts": event.attempts,
        "claim": _claim_of(event),
    }


_NEVER_HEARD = "nothing has been heard of it here; a lookup would ask Flutterwave"


class Explainer:
    """Tells what is known of payments. `lease_ms` is the lease in force; 0 is strict."""

    def __init__(self, store: Store, redis: CacheClient, keys: Keys, *, lease_ms: int) -> None:
        self._store = store
        self._redis = redis
        self._keys = keys
        self._lease_ms = lease_ms

    async def payment(
        self, merchant: str, payment_id: str, kind: EntityKind | None
    ) -> ExplanationJson:
        """Explain a charge, or else a transfer. Raises PaymentNotFound and StoreUnavailable."""
        kinds = (kind,) if kind is not None else (EntityKind.CHARGE, EntityKind.TRANSFER)
        named = [Entity(merchant, one, payment_id) for one in kinds]
        states = await self._store.states(named)
        found = next((entity for entity in named if entity in states), None)
        if found is None:
            raise PaymentNotFound("unknown_payment", _NEVER_HEARD)
        return await self._explain(found)

    async def reference(self, merchant: str, tx_ref: str) -> ExplanationJson:
        """Explain a reference and its attempts. Raises PaymentNotFound and StoreUnavailable."""
        return await self._explain(Entity.reference(merchant, tx_ref))

    async def _explain(self, entity: Entity) -> ExplanationJson:
        trail = await self._store.operations.trail(entity)
        # After the trail: what the cache is compared with must not be older than it.
        cached = await self._cached(entity)
        states = await self._store.states([entity, *trail.attempts])
        if entity not in states:
            raise PaymentNotFound("unknown_payment", _NEVER_HEARD)
        overlays: list[OverlayJson] = []
        if not entity.is_reference:
            _, overlays = await self._store.payment(entity)
        return {
            "now": _state(states[entity]),
            "attempts": [_state(states[one]) for one in trail.attempts if one in states],
            "cache": cached,
            "overlays": overlays,
            "to_rule_on": [_stuck(e, trail.now_ms) for e in trail.events if e.state in _STUCK],
            "timeline": self._timeline(trail),
            "older_events_left_out": trail.more,
            "not_kept": list(NOT_KEPT),
        }

    def _timeline(self, trail: Trail) -> list[Step]:
        steps: list[tuple[int, Step]] = []
        for event in trail.events:
            steps += _event_steps(event, trail)
        steps += [(row["changed_ms"], self._change(row)) for row in trail.changes]
        steps += [(row["at_ms"], _ruling(row)) for row in trail.rulings]
        steps.sort(key=lambda timed: (timed[0], _RANKS[timed[1]["what"]]))
        return [step for _, step in steps]

    def _change(self, row: dict[str, Any]) -> ChangedStep:
        entity = Entity.from_row_key(row["entity_key"])
        return {
            "at": iso_utc(row["changed_ms"]),
            "what": "changed",
            "kind": entity.kind.value,
            "id": entity.id,
            "version": row["version"],
            "previous_version": row["previous_version"],
            "status": row["status"],
            "previous_status": row["previous_status"],
            "payment_id": row["payment_id"],
            "tx_ref": row["tx_ref"],
            "cursor": f"{row['xid']}.{row['id']}",
            "told_on": [self._keys.changes(entity), self._keys.all_changes(entity.merchant)],
        }

    async def _cached(self, entity: Entity) -> CachedJson:
        """Return what the cache holds of `entity`, and whether it would answer with that now."""
        key = self._keys.hash(entity)
        try:
            reply = await self._redis.hmget(key, _HELD_FIELDS)
            held = {n: _text(v) for n, v in zip(_HELD_FIELDS, reply, strict=True) if v is not None}
            served = held.get("status") == "successful"
            if "status" in held and "version" in held and not served and self._lease_ms:
                answer = (await run(self._redis, [(GET, key, (self._lease_ms, ""))]))[0]
                served = not isinstance(answer, Exception) and answer[0] == 1
        except REDIS_FAILURES as e:
            return {"key": key, "reachable": False, "error": type(e).__name__}
        return {
            "key": key,
            "reachable": True,
            "holds": held,
            "served": served,
            "why": self._why(held, served),
        }

    def _why(self, held: dict[str, str], served: bool) -> str:
        status = held.get("status")
        if served:
            return "successful is final" if status == "successful" else "proven, under its lease"
        if status is None:
            return "no entry is held; the database answers"
        if not self._lease_ms:
            return "strict: nothing but successful is served from the cache"
        if held.get("version", "").isdigit() and int(held["version"]) < int(held.get("floor", 0)):
            return "a later version is known (the floor); the database answers"
        return "its lease has run out, or the server began anew; the database answers"


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _state(state: EntityState) -> StateJson:
    return {
        "kind": state.entity.kind.value,
        "id": state.entity.id,
        "merchant": state.entity.merchant,
        "payment_id": state.payment_id,
        "tx_ref": state.tx_ref,
        "shown": state.shown.value,
        "row_status": state.status.value,
        "terminal": state.terminal,
        "version": state.version,
        "open_events": state.open_events,
        "held_events": state.held_events,
        "held": state.held,
        "changed_at": iso_utc(state.changed_ms),
    }


def _stuck(event: EventRow, now_ms: int) -> StuckJson:
    return {
        "event": event.id,
        "state": event.state,
        "reason": event.reason,
        "meaning": meaning(event.state, event.reason),
        "age_s": max(0, now_ms - event.received_ms) // 1000,
        "claim": _claim_of(event),
        "release": f'paystate release {event.id} --reason "..."',
        "reject": f'paystate reject {event.id} --reason "..."',
        "replay": f"paystate replay {event.id}",
    }


def _event_steps(event: EventRow, trail: Trail) -> list[tuple[int, Step]]:
    kind, payment_id = event.entity.kind.value, event.entity.id
    received: ReceivedStep = {
        "at": iso_utc(event.received_ms),
        "what": "received",
        "event": event.id,
        "kind": kind,
        "payment_id": payment_id,
        "api": event.api,
        "type": event.type,
        "claim": _claim_of(event),
    }
    at_ms = event.ended_ms if event.ended_ms is not None else trail.now_ms
    state, reason = event.state, event.reason
    if state in _RULED:  # how it had ended is in the ruling
        state = next(
            (r["was_state"] for r in reversed(trail.rulings) if r["inbox_id"] == event.id), state
        )
    ended: EndedStep = {
        "at": iso_utc(at_ms),
        "what": "ended",
        "event": event.id,
        "kind": kind,
        "payment_id": payment_id,
        "state": state,
        "reason": reason,
        "meaning": meaning(state, reason),
        "attempts": event.attempts,
        "settled_by": event.settled_by,
    }
    if event.ended_ms is None:
        ended["due_at"] = iso_utc(event.due_ms)
    return [(event.received_ms, received), (at_ms, ended)]


def _ruling(row: dict[str, Any]) -> RulingStep:
    return {
        "at": iso_utc(row["at_ms"]),
        "what": "ruling",
        "event": row["inbox_id"],
        "action": row["action"],
        "by": row["operator"],
        "why": row["why"],
        "was_state": row["was_state"],
        "was_reason": row["was_reason"],
        "through_event": row["through_id"],
    }
