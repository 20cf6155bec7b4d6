"""Customers for the sandbox: payments that begin, wait a while, and succeed or fail.

What will happen is decided first, as a `Story` out of a seeded source; telling it takes the time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal

from paystate.flutterwave.sandbox.provider import Sandbox
from paystate.flutterwave.sandbox.truth import Form, TruthRefused
from paystate.updates import Kind

__all__ = ["Attempt", "Story", "draw_story", "run"]

# Stories told at once; more are not begun until one has ended.
MAX_STORIES = 20_000

_MIX = (
    ((Form.V3, Kind.CHARGE), 45),
    ((Form.V4, Kind.CHARGE), 30),
    ((Form.FLAT, Kind.CHARGE), 10),
    ((Form.V3, Kind.TRANSFER), 7),
    ((Form.V4, Kind.TRANSFER), 6),
    ((Form.FLAT, Kind.TRANSFER), 2),
)
_CURRENCIES = ("NGN", "NGN", "NGN", "GHS", "KES")
_SUCCESS_SHARE = 0.8
# Of the charges that end well, how many failed at the first try, under the same tx_ref.
_SECOND_TRY_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Attempt:
    """One payment: pending for `pending_s` seconds, then `outcome`."""

    pending_s: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Story:
    """One checkout: its attempts follow each other under one tx_ref."""

    form: Form
    kind: Kind
    amount: Decimal
    currency: str
    attempts: tuple[Attempt, ...]


def draw_story(rng: random.Random) -> Story:
    """Return the next story that `rng` has."""
    form, kind = rng.choices([what for what, _ in _MIX], [weight for _, weight in _MIX])[0]
    outcomes = ["successful" if rng.random() < _SUCCESS_SHARE else "failed"]
    again = rng.random() < _SECOND_TRY_SHARE
    if again and outcomes == ["successful"] and kind is Kind.CHARGE:
        outcomes.insert(0, "failed")
    return Story(
        form=form,
        kind=kind,
        amount=Decimal(rng.randrange(10_000, 5_000_000, 25)).scaleb(-2),
        currency=rng.choice(_CURRENCIES),
        attempts=tuple(Attempt(rng.uniform(1.0, 8.0), outcome) for outcome in outcomes),
    )


async def run(
    sandbox: Sandbox,
    rate_per_s: float = 1.0,
    *,
    stories: int | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Begin `rate_per_s` stories a second, at random moments, until cancelled.

    With `stories`, returns when that many have been told; 0 payments a second returns at once.
    """
    if rate_per_s <= 0:
        return
    rng = random.Random(f"{sandbox.config.seed}:traffic")
    free = asyncio.Semaphore(MAX_STORIES)
    begun = 0
    async with asyncio.TaskGroup() as telling:
        while stories is None or begun < stories:
            await sleep(rng.expovariate(rate_per_s))
            await free.acquire()
            task = telling.create_task(_tell(sandbox, draw_story(rng), sleep))
            task.add_done_callback(lambda _: free.release())
            begun += 1


async def _tell(
    sandbox: Sandbox, story: Story, sleep: Callable[[float], Awaitable[object]]
) -> None:
    tx_ref = None
    for attempt in story.attempts:
        payment = sandbox.create(
            amount=story.amount,
            currency=story.currency,
            form=story.form,
            kind=story.kind,
            tx_ref=tx_ref,
            announce=True,
        )
        tx_ref = payment.tx_ref
        await sleep(attempt.pending_s)
        try:
            sandbox.settle(payment, attempt.outcome)
        except TruthRefused:  # somebody has ended this story by the control API
            return
