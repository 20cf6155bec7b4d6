"""Decide what a recorded event has come to, given the payment's state and the provider's answer.

A pure table of the rules of confirmation; fetching the answer and applying the decision are
elsewhere. A webhook is a claim. It is believed as it is only where nobody can be asked or the
operator said so; else the provider's answer is what is applied, and the claim only says when to
ask:

* the answer has come at least as far as the claim: it is applied;
* the answer lags behind the claim: ask again, for 15 minutes, then take the provider's word;
* the answer names another amount, currency or reference: a person must look;
* there is no such payment: ask again, for 15 minutes, then give up;
* the provider could be asked about others, but not about such an id: a person must look.

A payment that is successful already learns nothing from a webhook: its body may be forged, and a
v4 signature is no proof against it where the same secret travels in plain as v3's `verif-hash`.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from paystate.keys import EntityKind
from paystate.merchants import Confirm
from paystate.state import EntityState
from paystate.status import Status, is_terminal, merge
from paystate.store import Claimed, Decision, Ending
from paystate.store.rulings import Action
from paystate.updates import Api, Overlay, PaymentUpdate

__all__ = [
    "CONTRADICTION_MS",
    "NOT_ASKED",
    "UNVERIFIABLE",
    "Answer",
    "Retry",
    "decide",
    "decide_refund",
    "needs_provider",
    "subject_of",
]

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

# Events that are not webhooks: what they say is known, not claimed.
_OURS = frozenset({Api.VERIFY, Api.OPERATOR, Api.RECONCILER})
# Rows that say nothing of a payment: that one is expected, or that nothing was heard of it.
_ABOUT_NOTHING_SEEN = frozenset({"expected", "silence"})


class Unverifiable:
    """Stands for an answer that nobody can give, though there is a provider to ask about others."""


UNVERIFIABLE = Unverifiable()

Answer = PaymentUpdate | NotAsked | Unverifiable | None


def subject_of(row: Claimed) -> PaymentUpdate | Overlay:
    """Return what the row's content says. Raises ValueError, KeyError or TypeError if unsound."""
    content = orjson.loads(row.content)
    if row.subject == "overlay":
        return Overlay.from_json(content)
    return PaymentUpdate.from_json(content)


def needs_provider(row: Claimed, state: EntityState, confirm: Confirm) -> bool:
    """Say whether the provider must be asked about `row` (if there is one that can be)."""
    if row.api in _OURS or confirm is Confirm.NEVER:
        return False
    if row.subject == "overlay" and row.entity.kind is EntityKind.TRANSFER and row.api == Api.V4:
        return False  # a reversal is signed, and there is no API to ask about one
    if state.status is Status.SUCCESSFUL and row.subject == "payment":
        return False
    return confirm is Confirm.ALWAYS or row.api != Api.V4


def decide(row: Claimed, state: EntityState, answer: Answer, *, draw: float) -> Decision | Retry:
    """Return what is to be done with `row`.

    `answer` is the provider's, None if it knows no such payment, NOT_ASKED or UNVERIFIABLE. `draw`
    in [0, 1) spreads retries. Raises ValueError, KeyError or TypeError for unsound content.
    """
    if row.api == Api.OPERATOR and row.type == Action.REJECT:
        return Decision(row.id, row.entity, Ending.APPLIED, "rejected_by_operator")
    if row.subject in _ABOUT_NOTHING_SEEN:
        return Decision(row.id, row.entity, silent=row.subject == "silence")
    subject = subject_of(row)
    if isinstance(answer, NotAsked):
        return _unconfirmed(row, state, subject)
    if isinstance(answer, Unverifiable) or isinstance(subject, Overlay):
        return Decision(row.id, row.entity, Ending.HELD, "unverifiable")
    if answer is None:
        return _not_found(row, draw)
    mismatch = _mismatch(subject, answer)
    if mismatch:
        # The event waits for a person; whose reference it is about, the provider has said.
        return Decision(row.id, row.entity, Ending.HELD, mismatch, link=answer.tx_ref)
    if _reaches(answer.status, subject.status):
        return Decision(row.id, row.entity, update=answer, proven=True, moves=True)
    return _contradicted(row, answer, draw)


def _unconfirmed(
    row: Claimed, state: EntityState, subject: PaymentUpdate | Overlay
) -> Decision | Retry:
    proven = row.api == Api.V4 or row.api in _OURS
    if isinstance(subject, Overlay):
        if subject.flaws:
            return Decision(row.id, row.entity, Ending.HELD, f"flawed_{subject.flaws[0]}")
        return Decision(row.id, row.entity, overlay=subject, proven=proven)
    if row.api in _OURS:
        accepted = row.api == Api.OPERATOR
        return Decision(
            row.id, row.entity, update=subject, proven=True, moves=True, accepted=accepted
        )
    if state.status is Status.SUCCESSFUL:
        return Decision(row.id, row.entity, Ending.SUPERSEDED, "already_successful")
    if subject.flaws:
        reason = f"flawed_{subject.flaws[0]}"
        return Decision(row.id, row.entity, Ending.HELD, reason, link=state.link or subject.tx_ref)
    if not proven and _differ(subject.tx_ref, state.link):
        return Decision(row.id, row.entity, Ending.HELD, "reference_mismatch")
    return Decision(row.id, row.entity, update=subject, proven=proven, text=row.content)


def decide_refund(
    row: Claimed, refund: Overlay | None, answer: Answer, *, draw: float
) -> Decision | Retry:
    """Return what is to be done with a refund's row, given what the provider says of the refund.

    `answer` is what it says of the payment, if it was asked: a refund of a payment that we do not
    know as successful means that its success was missed.
    """
    if refund is None:
        return _not_found(row, draw)
    if refund.payment_id != row.entity.id:
        return Decision(row.id, row.entity, Ending.HELD, "payment_mismatch")
    update = answer if isinstance(answer, PaymentUpdate) else None
    return Decision(row.id, row.entity, update=update, overlay=refund, proven=True, moves=True)


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
    """Ask again: after a second at first, then at ever longer gaps, at most a minute.

    The gap is half of the row's age, so it needs no count: attempts are for what fails.
    """
    wait_ms = min(60_000, max(1000, _age_ms(row) // 2))
    return Retry(row.id, int(wait_ms * (1 - draw / 4)), reason)


def _contradicted(row: Claimed, answer: PaymentUpdate, draw: float) -> Decision | Retry:
    reason = f"provider_says_{answer.status}"
    if _age_ms(row) < CONTRADICTION_MS:
        return _again(row, reason, draw)
    return Decision(
        row.id, row.entity, Ending.CONTRADICTED, reason, answer, proven=True, moves=True
    )


def _not_found(row: Claimed, draw: float) -> Decision | Retry:
    if _age_ms(row) < CONTRADICTION_MS:
        return _again(row, "not_found", draw)
    return Decision(row.id, row.entity, Ending.DEAD, "not_found")
