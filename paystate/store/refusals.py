"""What the database refuses for good, and how one such row is kept from harming the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from paystate.store.folding import Decision

__all__ = ["REFUSALS", "RefusedDecision", "bisect"]

# What one row can do to a statement: refused by the database, or not to be encoded for it.
REFUSALS = (DBAPIError, ValueError, TypeError, OverflowError)

T = TypeVar("T")
R = TypeVar("R")


class RefusedDecision(Exception):
    """The database refuses one decision, for a reason that another try does not mend."""

    def __init__(self, decision: Decision, cause: Exception) -> None:
        super().__init__(type(cause).__name__)
        self.decision = decision


async def bisect(
    attempt: Callable[[Sequence[T]], Awaitable[list[R]]], items: Sequence[T]
) -> list[R | Exception]:
    """Run `attempt` over `items`, halving what the database refuses until one item is left."""
    try:
        return list(await attempt(items))
    except REFUSALS as e:
        if len(items) == 1:
            return [e]
    half = len(items) // 2
    return await bisect(attempt, items[:half]) + await bisect(attempt, items[half:])
