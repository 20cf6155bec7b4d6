"""Holds what was paid against what was expected, under the locks of the transaction that settles.

Only a success is compared: what is still under way may yet change. Too little, another currency, or
an amount that nobody can read holds the event for a person; too much is paid, and flagged by the
reason that the event ends with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paystate.expected import HOLDING, Expected
from paystate.keys import Entity, EntityKind
from paystate.state import EntityState
from paystate.status import Status, merge
from paystate.store.inbox import Ending

if TYPE_CHECKING:
    from paystate.store.folding import Decision

__all__ = ["compared"]


def compared(
    decision: Decision, state: EntityState, link: str | None, expected: Mapping[Entity, Expected]
) -> Decision:
    """Return `decision`, held or flagged if what it says was paid is not what was expected.

    `state` is its payment's row, `link` the reference that the payment would belong to.
    """
    seen = decision.update
    if seen is None or link is None or decision.ending is not None or decision.accepted:
        return decision
    if seen.status is not Status.SUCCESSFUL or state.entity.kind is not EntityKind.CHARGE:
        return decision
    wanted = expected.get(Entity.reference(state.entity.merchant, link))
    if wanted is None or not _would_succeed(decision, state, link):
        return decision
    verdict = wanted.verdict(seen.amount, seen.currency)
    if verdict is None:
        return decision
    if verdict in HOLDING:
        return decision._replace(ending=Ending.HELD, reason=verdict.value, link=link)
    return decision._replace(reason=verdict.value)


def _would_succeed(decision: Decision, state: EntityState, link: str) -> bool:
    """Say whether the reference `link` would become successful by this, or could."""
    if state.status is Status.SUCCESSFUL:
        return state.link != link
    return merge(state.status, Status.SUCCESSFUL, proven=decision.proven) is Status.SUCCESSFUL
