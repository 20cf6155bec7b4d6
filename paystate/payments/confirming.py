"""Confirm: what recorded events have come to, by what is known of them and what the provider says.

One question serves all events of a payment, and each refund has one of its own. Whatever goes wrong
with a question, or with one row, puts that row off and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from paystate.backoff import delay_s
from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.client import FlutterwaveClient
from paystate.flutterwave.gate import Purpose
from paystate.logs import logger, place_of
from paystate.merchants import Confirm
from paystate.metrics import Metrics
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
from paystate.state import EntityState
from paystate.status import Status
from paystate.store import Claimed, Decision, Ending
from paystate.updates import Kind, Overlay, OverlayType

__all__ = ["Confirmer", "Provider"]

log = logger()

# A provider that is down is asked again this often at most by each row, so that everything has
# settled within 30 s of its return.
OUTAGE_RETRY_S = 12.0
# Counted attempts after which a row that only ever fails is a dead letter. Contradictions and
# unknown payments end by age instead.
MAX_FAILURES = 12
# One merchant's provider may be slow, and must leave room for the others'.
CONFIRMATIONS_AT_ONCE = 64
CONFIRMATIONS_OF_ONE_MERCHANT = 16
# No question is begun later than this after the look: an answer may take the provider's timeout,
# and all of it must fit into a job. What was not asked is let go of, and taken again at once.
LAST_QUESTION_S = 2.5
# A question can take several calls (a token, a refund); what is left is for the commit.
LAST_ANSWER_S = 10.5


UNKNOWN_MERCHANT = ProviderUnavailable("unknown_merchant", "no such merchant is configured")


@dataclass(frozen=True, slots=True)
class Provider:
    """One merchant's provider: its client, when it must be asked, and whether it can be at all.

    `places` are those for its confirmations under way at once.
    """

    client: FlutterwaveClient
    confirm: Confirm
    has_credentials: bool
    places: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(CONFIRMATIONS_OF_ONE_MERCHANT), compare=False
    )


class Confirmer:
    """Decides rows, with the provider's help where it is needed; one for each settler.

    `clock` (seconds, monotonic) and `draw` (a number in [0, 1)) are parameters for tests.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self._providers = providers
        self._metrics = metrics
        self._clock = clock
        self._draw = draw
        self._confirmations = asyncio.Semaphore(CONFIRMATIONS_AT_ONCE)

    def sort(
        self,
        rows: Sequence[Claimed],
        state: EntityState | None,
        verdicts: list[Decision | Retry],
    ) -> list[Claimed]:
        """Return those rows of one payment that the provider must be asked about; decide the rest.

        What is decided is added to `verdicts`.
        """
        if state is None:  # acknowledging made the row; without it nothing can be said
            verdicts += [self.failure(row, "entity_missing") for row in rows]
            return []
        provider = self._providers.get(state.entity.merchant)
        if provider is None:
            # Taken out of the merchants file, or not yet read in here. What it asks for before it
            # believes a webhook nobody knows, so its events wait.
            verdicts += [self._outage(row, UNKNOWN_MERCHANT) for row in rows]
            return []
        asking = []
        for row in rows:
            try:
                if provider.has_credentials and needs_provider(row, state, provider.confirm):
                    asking.append(row)
                else:
                    verdicts.append(decide(row, state, NOT_ASKED, draw=self._draw()))
            except Exception as e:
                verdicts += self._undecidable([row], e)
        return asking

    def _undecidable(self, rows: Sequence[Claimed], error: Exception) -> list[Decision | Retry]:
        """Put rows off in which something is wrong: it must not stop the others of the batch."""
        log.error("event_undecidable", inbox_ids=[row.id for row in rows],
                  error=type(error).__name__, where=place_of(error))  # fmt: skip
        return [self.failure(row, "undecidable") for row in rows]

    async def judge(
        self, rows: Sequence[Claimed], state: EntityState, seen_at: float
    ) -> list[Decision | Retry]:
        """Decide the rows of one payment, with at most one question to the provider."""
        try:
            provider = self._providers.get(state.entity.merchant)
            if provider is None:  # since a moment ago
                return [self._outage(row, UNKNOWN_MERCHANT) for row in rows]
            return await self._confirm(provider, rows, state, seen_at)
        except Exception as e:
            return self._undecidable(rows, e)

    async def _confirm(
        self, provider: Provider, rows: Sequence[Claimed], state: EntityState, seen_at: float
    ) -> list[Decision | Retry]:
        """Decide rows by what the provider says of their payment, and of each refund."""
        async with provider.places, self._confirmations:
            if self._clock() - seen_at > LAST_QUESTION_S:
                return [Retry(row.id, 0, "no_time_left") for row in rows]
            try:
                async with asyncio.timeout(LAST_ANSWER_S - self._clock() + seen_at):
                    answer = await self._ask(provider, state)
                    return [await self._confirmed(provider, row, state, answer) for row in rows]
            except TimeoutError:
                late = ProviderUnavailable("timeout")
                self._metrics.provider_calls.labels(Purpose.CONFIRM, late.reason).inc()
                return [self._outage(row, late) for row in rows]
            except (ProviderUnavailable, ProviderRejected) as e:
                self._metrics.provider_calls.labels(Purpose.CONFIRM, e.reason).inc()
                return [self._outage(row, e) for row in rows]

    async def _confirmed(
        self, provider: Provider, row: Claimed, state: EntityState, answer: Answer
    ) -> Decision | Retry:
        subject = subject_of(row)
        if isinstance(subject, Overlay):
            askable = subject.type is OverlayType.REFUND
            if not (askable and provider.client.can_verify(subject.kind, subject.overlay_id)):
                return decide(row, state, UNVERIFIABLE, draw=self._draw())
            refund = await provider.client.refund(subject.overlay_id, purpose=Purpose.CONFIRM)
            self._metrics.provider_calls.labels(Purpose.CONFIRM, _found(refund)).inc()
            return decide_refund(row, refund, answer, draw=self._draw())
        return decide(row, state, answer, draw=self._draw())

    async def _ask(self, provider: Provider, state: EntityState) -> Answer:
        """Return what the provider says of a payment; of a successful one there is no need to."""
        kind, payment_id = Kind(state.entity.kind.value), state.entity.id
        if state.status is Status.SUCCESSFUL:
            return NOT_ASKED
        if not provider.client.can_verify(kind, payment_id):
            return UNVERIFIABLE
        answer = await provider.client.payment(kind, payment_id, purpose=Purpose.CONFIRM)
        self._metrics.provider_calls.labels(Purpose.CONFIRM, _found(answer)).inc()
        return answer

    def _outage(self, row: Claimed, error: ProviderUnavailable | ProviderRejected) -> Retry:
        age_s = max(1.0, (row.now_ms - row.received_ms) / 1000)
        wait_s = min(OUTAGE_RETRY_S, age_s) * (1 - self._draw() / 2)
        if isinstance(error, ProviderUnavailable) and error.retry_after_s is not None:
            wait_s = max(wait_s, error.retry_after_s + self._draw())
        return Retry(row.id, int(wait_s * 1000), f"provider_{error.reason}")

    def failure(self, row: Claimed, reason: str) -> Decision | Retry:
        if row.attempts + 1 >= MAX_FAILURES:
            return Decision(row.id, row.entity, Ending.DEAD, reason)
        wait_s = delay_s(row.attempts + 1, first_s=1, most_s=60, draw=self._draw())
        return Retry(row.id, int(wait_s * 1000), reason, counted=True)


def _found(answer: object) -> str:
    return "not_found" if answer is None else "found"
