"""The lives of payments under drill: what happens to each, and which webhooks tell of it.

Drawn from a seed. Three of ten deliveries are duplicates; some webhooks come after a later one,
some contradict the truth. Every contradiction is one that time dissolves: where a webhook claims a
success, the payment does succeed in the end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from paystate.status import Status

__all__ = ["Life", "Step", "draw_life"]

# One delivery in 1.43 is the first of its webhook: 30 % are duplicates.
SHARE_REPEATED = 0.43
SHARE_V4 = 0.5
SHARE_FAILED = 0.15
SHARE_CORRECTED = 0.05
SHARE_WITHOUT_PENDING = 0.2
SHARE_REORDERED = 0.12
SHARE_CONTRADICTED = 0.08
SHARE_SECOND_ATTEMPTS = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """At `at_s` after its birth: `truth` becomes so, and a webhook that says `claim` goes out.

    `copies` are the seconds after which each copy of the webhook is delivered.
    """

    at_s: float
    claim: Status
    truth: Status | None = None
    copies: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, slots=True)
class Life:
    """One payment's steps, in order."""

    v4: bool
    second_attempt: bool
    steps: tuple[Step, ...]


def draw_life(rng: random.Random) -> Life:
    """Return a life."""
    corrected = rng.random() < SHARE_CORRECTED
    failed = not corrected and rng.random() < SHARE_FAILED
    end = Status.FAILED if failed else Status.SUCCESSFUL
    end_at = rng.uniform(0.3, 1.2)
    steps = []
    if rng.random() >= SHARE_WITHOUT_PENDING:
        late = rng.random() < SHARE_REORDERED
        at_s = end_at + rng.uniform(0.01, 0.4) if late else 0.0
        steps.append(Step(at_s, Status.PENDING))
    if rng.random() < SHARE_CONTRADICTED / 2:
        claim = Status.FAILED if failed or rng.random() < 0.5 else Status.SUCCESSFUL
        steps.append(Step(end_at * rng.uniform(0.4, 0.9), claim))
    if corrected:
        steps.append(Step(end_at, Status.FAILED, Status.FAILED))
        end_at += rng.uniform(0.4, 1.0)
    steps.append(Step(end_at, end, end))
    if not failed and rng.random() < SHARE_CONTRADICTED / 2:
        steps.append(Step(end_at + rng.uniform(0.0, 0.5), Status.FAILED))
    steps.sort(key=lambda step: step.at_s)
    return Life(
        v4=rng.random() < SHARE_V4,
        second_attempt=rng.random() < SHARE_SECOND_ATTEMPTS,
        steps=tuple(
            Step(step.at_s, step.claim, step.truth, _copies(rng)) for step in steps
        ),
    )  # fmt: skip


def _copies(rng: random.Random) -> tuple[float, ...]:
    if rng.random() >= SHARE_REPEATED:
        return (0.0,)
    # Half of the duplicates come at the same moment, by another connection.
    return (0.0, 0.0 if rng.random() < 0.5 else rng.uniform(0.01, 0.6))
