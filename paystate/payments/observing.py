"""What the provider said when we asked, brought into the database through inbox rows of its own.

An answer that changes nothing is not recorded. One that is held, because it is not what was
expected, is recorded once: it names itself by what was paid, not by the version it was compared
with, so that what an operator has ruled on does not come back with the next question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paystate.expected import HOLDING, Expected, Verdict
from paystate.keys import Entity
from paystate.payments.recording import Recorder, observation
from paystate.payments.settling import Settler
from paystate.state import EntityState
from paystate.status import Status, merge
from paystate.store import NewEvent, Store
from paystate.updates import Kind, PaymentUpdate

__all__ = ["Observation", "Observer", "differs"]


@dataclass(frozen=True, slots=True)
class Observation:
    """An answer about a payment of `merchant`; `state` is its row, None if there is none."""

    merchant: str
    found: PaymentUpdate
    state: EntityState | None

    @property
    def reference(self) -> Entity | None:
        """The reference that it would make successful, None if it would none."""
        tx_ref = self.found.tx_ref or (self.state.link if self.state is not None else None)
        if self.found.status is not Status.SUCCESSFUL or self.found.kind is not Kind.CHARGE:
            return None
        return Entity.reference(self.merchant, tx_ref) if tx_ref is not None else None


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
        self, observations: Sequence[Observation], *, type_: str = "verify"
    ) -> list[bool]:
        """Bring answers into the database, all that there are in one go.

        Returns of each whether there was anything to bring. `type_` is who asked: verify (a
        lookup), reconcile or listing. Raises StoreUnavailable.
        """
        telling = [one for one in observations if differs(one.state, one.found)]
        references = {one.reference for one in telling} - {None}
        expected = await self._store.expectations.of([r for r in references if r is not None])
        events = {id(one): _event(one, expected, type_) for one in telling}
        ids = dict(zip(events, await asyncio.gather(*map(self._record, events.values())),
                       strict=True))  # fmt: skip
        recorded = [inbox_id for inbox_id in ids.values() if inbox_id is not None]
        if recorded:
            await self._settler.settle(recorded)
        return [ids.get(id(one)) is not None for one in observations]

    async def _record(self, event: NewEvent | None) -> int | None:
        if event is None:
            return None
        return (await self._recorder.record(event, enqueue=False)).inbox_id


def _event(one: Observation, expected: Mapping[Entity, Expected], type_: str) -> NewEvent | None:
    """Return the inbox row for an answer, None if it waits for a person already."""
    told: str = str(one.state.version if one.state is not None else 0)
    verdict = _verdict(one, expected)
    if verdict is not None:
        if one.state is not None and one.state.held:
            return None
        told = f"{verdict}:{one.found.amount}:{one.found.currency}"
    return observation(one.merchant, one.found, told, type_=type_)


def _verdict(one: Observation, expected: Mapping[Entity, Expected]) -> Verdict | None:
    """Return why this would be held, None if it would not."""
    reference = one.reference
    wanted = expected.get(reference) if reference is not None else None
    verdict = wanted.verdict(one.found.amount, one.found.currency) if wanted else None
    return verdict if verdict in HOLDING else None
