"""What the provider said when we asked, brought into the database through an inbox row of its own.

An answer that changes nothing is not recorded. One that is held, because it is not what was
expected, is recorded once: it names itself by what was paid, not by the version it was compared
with, so that what an operator has ruled on does not come back with the next question.
"""

from __future__ import annotations

from paystate.expected import HOLDING, Verdict
from paystate.keys import Entity
from paystate.payments.recording import Recorder, observation
from paystate.payments.settling import Settler
from paystate.state import EntityState
from paystate.status import Status, merge
from paystate.store import Store
from paystate.updates import Kind, PaymentUpdate

__all__ = ["Observer", "differs"]


def differs(state: EntityState | None, found: PaymentUpdate) -> bool:
    """Say whether the provider's answer would change what we have of the payment."""
    if state is None or (found.tx_ref is not None and found.tx_ref != state.link):
        return True
    return merge(state.status, found.status, proven=True) is not state.status or (
        state.status is Status.UNKNOWN and found.status is not Status.UNKNOWN
    )


class Observer:
    """Records what the provider said, and settles it at once."""

    def __init__(self, store: Store, recorder: Recorder, settler: Settler) -> None:
        self._store = store
        self._recorder = recorder
        self._settler = settler

    async def observe(
        self,
        merchant: str,
        found: PaymentUpdate,
        state: EntityState | None,
        *,
        type_: str = "verify",
    ) -> bool:
        """Bring `found` into the database; `state` is the payment's row, None if there is none.

        Returns whether there was anything to bring. `type_` is who asked: verify (a lookup),
        reconcile or listing. Raises StoreUnavailable.
        """
        if not differs(state, found):
            return False
        version = state.version if state else 0
        verdict = await self._verdict(merchant, found, state)
        if verdict is not None and state is not None and state.held:
            return False  # it waits for a person already
        told = f"{verdict}:{found.amount}:{found.currency}" if verdict else str(version)
        recorded = await self._recorder.record(
            observation(merchant, found, told, type_=type_), enqueue=False
        )
        if recorded.inbox_id is not None:
            await self._settler.settle([recorded.inbox_id])
        return recorded.inbox_id is not None

    async def _verdict(
        self, merchant: str, found: PaymentUpdate, state: EntityState | None
    ) -> Verdict | None:
        """Return why this would be held, None if it would not."""
        tx_ref = found.tx_ref or (state.link if state is not None else None)
        if found.status is not Status.SUCCESSFUL or tx_ref is None or found.kind is not Kind.CHARGE:
            return None
        reference = Entity.reference(merchant, tx_ref)
        expected = (await self._store.expectations.of([reference])).get(reference)
        verdict = expected.verdict(found.amount, found.currency) if expected else None
        return verdict if verdict in HOLDING else None
