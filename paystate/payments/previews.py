"""What opening given-up events again would come to, told without doing it.

The same rules decide as for a worker, on an answer of the provider's that is asked for now; nothing
is written. What the provider says when it is done may be something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.gate import Purpose
from paystate.keys import Entity
from paystate.payments.deciding import (
    NOT_ASKED,
    UNVERIFIABLE,
    Answer,
    Retry,
    decide,
    decide_refund,
    needs_provider,
    subject_of,
)
from paystate.payments.settling import Provider
from paystate.state import EntityState
from paystate.status import Status, merge
from paystate.store import Claimed, Decision, Store
from paystate.store.comparing import compared
from paystate.store.operations import EventRow, Wanted
from paystate.updates import Kind, Overlay, OverlayType

__all__ = ["Preview", "Previewer"]


@dataclass(frozen=True, slots=True)
class Preview:
    """What opening one event again would come to, as far as can be told without doing it.

    `verdict` is how it would end, ``asked_again`` if it would not yet, or why it would not be
    opened; `status` is what the payment would show then, None if that cannot be told.
    """

    event: EventRow
    verdict: str
    reason: str | None
    status_now: Status | None
    status: Status | None

    def to_json(self) -> dict[str, Any]:
        """Return the public form."""
        return {
            "event": self.event.id,
            "kind": self.event.entity.kind.value,
            "payment_id": self.event.entity.id,
            "state": self.event.state,
            "was_reason": self.event.reason,
            "verdict": self.verdict,
            "reason": self.reason,
            "status": self.status_now.value if self.status_now else None,
            "would_show": self.status.value if self.status else None,
        }


class Previewer:
    """Judges given-up events as a worker would."""

    def __init__(self, store: Store, providers: Mapping[str, Provider]) -> None:
        self._store = store
        self._providers = providers

    async def preview(self, wanted: Wanted, *, most: int, questions: int) -> list[Preview]:
        """Say what replaying `wanted` would change; writes nothing.

        Asks the provider `questions` times at most, out of what its budget has left for what can
        wait. Raises StoreUnavailable.
        """
        found = await self._store.operations.given_up(wanted, most=most)
        states = await self._store.states([event.entity for event in found.events])
        previews = []
        for event in found.events:
            state = states.get(event.entity)
            preview, asked = await self._preview(event, state, found.now_ms, questions > 0)
            questions -= asked
            previews.append(preview)
        return previews

    async def _preview(
        self, event: EventRow, state: EntityState | None, now_ms: int, may_ask: bool
    ) -> tuple[Preview, int]:
        """Return what `event` would come to, and how many questions that took."""
        shown = state.shown if state is not None else None
        if state is None or event.content is None:
            return Preview(event, "not_opened", "pruned", shown, shown), 0
        if state.status is Status.SUCCESSFUL and event.subject == "payment":
            return Preview(event, "not_opened", "already_successful", shown, shown), 0
        row = _as_claimed(event, now_ms)
        provider = self._providers.get(event.merchant)
        asks = provider is not None and needs_provider(row, state, provider.confirm)
        if asks and provider is not None and provider.has_credentials:
            if not may_ask:
                return Preview(event, "would_ask", "no_question_left", shown, None), 0
            return await self._ask(provider, row, event, state)
        return await self._judged(event, state, lambda: decide(row, state, NOT_ASKED, draw=0.0)), 0

    async def _ask(
        self, provider: Provider, row: Claimed, event: EventRow, state: EntityState
    ) -> tuple[Preview, int]:
        try:
            subject = subject_of(row)
            if isinstance(subject, Overlay):
                refund = await _refund(provider, subject)
                if refund is not UNVERIFIABLE:
                    return await self._judged(
                        event, state, lambda: decide_refund(row, refund, NOT_ASKED, draw=0.0)
                    ), 1
                return await self._judged(
                    event, state, lambda: decide(row, state, UNVERIFIABLE, draw=0.0)
                ), 0
            answer: Answer = UNVERIFIABLE
            if provider.client.can_verify(subject.kind, state.entity.id):
                answer = await provider.client.payment(
                    Kind(state.entity.kind.value), state.entity.id, purpose=Purpose.AUDIT
                )
        except (ProviderUnavailable, ProviderRejected) as e:
            return Preview(event, "would_ask", f"provider_{e.reason}", state.shown, None), 1
        except (ValueError, KeyError, TypeError):
            return Preview(event, "dead", "undecidable", state.shown, None), 0
        return await self._judged(event, state, lambda: decide(row, state, answer, draw=0.0)), 1

    async def _judged(
        self, event: EventRow, state: EntityState, judge: Callable[[], Decision | Retry]
    ) -> Preview:
        """Return what a verdict comes to, held against what is expected to be paid."""
        try:
            verdict = judge()
        except (ValueError, KeyError, TypeError):
            return Preview(event, "dead", "undecidable", state.shown, None)
        if isinstance(verdict, Decision) and verdict.update is not None:
            link = verdict.update.tx_ref or state.link
            named = [Entity.reference(event.merchant, link)] if link is not None else []
            expected = await self._store.expectations.of(named)
            verdict = compared(verdict, state, link, expected)
        return _told(event, state, verdict)


async def _refund(provider: Provider, subject: Overlay) -> Any:
    """Return what the provider says of a refund, None if nothing, or UNVERIFIABLE."""
    askable = subject.type is OverlayType.REFUND
    if not (askable and provider.client.can_verify(subject.kind, subject.overlay_id)):
        return UNVERIFIABLE
    return await provider.client.refund(subject.overlay_id, purpose=Purpose.AUDIT)


def _as_claimed(event: EventRow, now_ms: int) -> Claimed:
    """Return the row as a worker would be given it, just opened again."""
    return Claimed(
        id=event.id,
        api=event.api,
        type=event.type,
        subject=event.subject,
        entity=event.entity,
        content=event.content or "",
        attempts=0,
        received_ms=now_ms,
        now_ms=now_ms,
    )


def _told(event: EventRow, state: EntityState, verdict: Decision | Retry) -> Preview:
    if isinstance(verdict, Retry):
        return Preview(event, "asked_again", verdict.reason, state.shown, Status.PROCESSING)
    if verdict.ending is not None:
        return Preview(event, verdict.ending.value, verdict.reason, state.shown, state.shown)
    seen = verdict.update.status if verdict.update is not None else state.status
    after = merge(state.status, seen, proven=verdict.proven)
    changes = after is not state.status or verdict.overlay is not None
    ending = "applied" if changes else "superseded"
    # Events held beside this one keep an unsettled payment where it is.
    others = EntityState(
        state.entity, after, state.version, 0, max(0, state.held_events - 1), state.link, 0
    )
    return Preview(event, ending, verdict.reason, state.shown, others.shown)
