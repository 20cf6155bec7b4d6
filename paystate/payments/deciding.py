"""Decide what a recorded event has come to, given the payment's state and the provider's answer.

A pure table of the rules of confirmation; fetching the answer and applying the decision are
elsewhere. A webhook is a claim. It is believed as it is only where nobody can be asked or the
operator said so; else the provider's answer is what is applied, and the claim only says when to
ask:

* the answer has come at least as far as the claim: it is applied;
* the answer lags behind the claim: ask again, for 15 minutes, then take the provider's word;
* the answer names another amount, currency or reference: a person must look;
* there is no such payment: ask again, for 15 minutes, then give up.
"""

from __future__ import annotations

from dataclasses import dataclass

from paystate.backoff import delay_s
from paystate.settings import Confirm
from paystate.state import EntityState
from paystate.status import Status, is_terminal, merge
from paystate.store import Claimed, Decision, Ending
from paystate.updates import Api, Overlay, PaymentUpdate

__all__ = ["CONTRADICTION_MS", "NotAsked", "Retry", "decide", "needs_provider", "subject_of"]

# The provider's read side lags behind its webhooks by seconds; minutes are an incident over there.
CONTRADICTION_MS = 15 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Retry:
    """Not decided yet: put the row off. `counted` uses up one of its attempts."""

    inbox_id: int
    wait_ms: int
    reason: str
    counted: bool = False


class NotAsked:
    """Stands for the provider's answer where the provider was not asked."""


NOT_ASKED = NotAsked()


def subject_of(row: Claimed) -> PaymentUpdate | Overlay:
    """Return what the row's content says."""
    if row.subject == "overlay":
        return Overlay.from_json(row.content)
    return PaymentUpdate.from_json(row.content)


def needs_provider(row: Claimed, state: EntityState, confirm: Confirm) -> bool:
    """Say whether the provider must be asked about `row` (if there is one that can be)."""
    if row.api in (Api.VERIFY, Api.OPERATOR) or state.status is Status.SUCCESSFUL:
        return False
    if confirm is Confirm.NEVER:
        return False
    return confirm is Confirm.ALWAYS or row.api != Api.V4


def decide(
    row: Claimed, state: EntityState, answer: PaymentUpdate | NotAsked | None, *, draw: float
) -> Decision | Retry:
    """Return what is to be done with `row`.

    `answer` is the provider's, None if it knows no such payment, or NOT_ASKED. `draw` in [0, 1)
    spreads retries.
    """
    subject = subject_of(row)
    if isinstance(answer, NotAsked):
        return _unconfirmed(row, state, subject)
    if answer is None:
        return _not_found(row, draw)
    if isinstance(subject, Overlay):
        return _overlay(row, subject, answer, draw)
    mismatch = _mismatch(subject, answer)
    if mismatch:
        return Decision(row.id, row.entity, Ending.HELD, mismatch)
    if _reaches(answer.status, subject.status):
        return Decision(row.id, row.entity, update=answer, proven=True)
    return _contradicted(row, answer, draw)


def _unconfirmed(
    row: Claimed, state: EntityState, subject: PaymentUpdate | Overlay
) -> Decision | Retry:
    proven = row.api in (Api.V4, Api.VERIFY, Api.OPERATOR)
    if isinstance(subject, Overlay):
        return Decision(row.id, row.entity, overlay=subject, proven=proven)
    if state.status is Status.SUCCESSFUL and not proven:
        # Nothing can be learnt from a body that may be forged; least of all a reference.
        return Decision(row.id, row.entity, Ending.SUPERSEDED, "already_successful")
    if subject.flaws:
        return Decision(row.id, row.entity, Ending.HELD, f"flawed_{subject.flaws[0]}")
    if not proven and _differ(subject.tx_ref, state.link):
        return Decision(row.id, row.entity, Ending.HELD, "reference_mismatch")
    return Decision(row.id, row.entity, update=subject, proven=proven)


def _overlay(
    row: Claimed, overlay: Overlay, answer: PaymentUpdate, draw: float
) -> Decision | Retry:
    """A refund of a payment that we do not know as successful: the payment's success was missed."""
    if answer.status is Status.SUCCESSFUL:
        return Decision(row.id, row.entity, update=answer, overlay=overlay, proven=True)
    return _contradicted(row, answer, draw)


def _mismatch(claim: PaymentUpdate, answer: PaymentUpdate) -> str | None:
    if claim.amount is not None and answer.amount is not None and claim.amount != answer.amount:
        return "amount_mismatch"
    if _differ(claim.currency, answer.currency):
        return "currency_mismatch"
    if _differ(claim.tx_ref, answer.tx_ref):
        return "reference_mismatch"
    return None


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def _reaches(answer: Status, claim: Status) -> bool:
    """Say whether `answer` has come at least as far as `claim`."""
    if is_terminal(answer) and claim is not Status.SUCCESSFUL:
        return True
    return merge(claim, answer, proven=True) is answer


def _age_ms(row: Claimed) -> int:
    return max(0, row.now_ms - row.received_ms)


def _again(row: Claimed, reason: str, draw: float) -> Retry:
    """Ask again: after a second at first, then at ever longer gaps, at most a minute."""
    wait_s = delay_s(row.attempts + 1, first_s=1, most_s=60, draw=draw)
    return Retry(row.id, int(wait_s * 1000), reason, counted=True)


def _contradicted(row: Claimed, answer: PaymentUpdate, draw: float) -> Decision | Retry:
    reason = f"provider_says_{answer.status}"
    if _age_ms(row) < CONTRADICTION_MS:
        return _again(row, reason, draw)
    return Decision(row.id, row.entity, Ending.CONTRADICTED, reason, answer, proven=True)


def _not_found(row: Claimed, draw: float) -> Decision | Retry:
    if _age_ms(row) < CONTRADICTION_MS:
        return _again(row, "not_found", draw)
    return Decision(row.id, row.entity, Ending.DEAD, "not_found")
