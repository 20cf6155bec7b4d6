"""What stands in the provider's lists of chargebacks, brought into the database.

No webhook tells of a chargeback unless an account was set up for it, and no body of one is known.
So the lists are read, all that was made in the last months each time: a dispute is open for weeks,
and its row changes in place. What is new, or has come further, is recorded as an event of its own
and settled like a refund. The payment stays successful.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from paystate.keys import Entity
from paystate.logs import logger
from paystate.payments.recording import Recorder, disputed
from paystate.payments.settling import Settler
from paystate.status import Status
from paystate.store import Store
from paystate.store.overlays import is_news
from paystate.updates import Overlay

__all__ = ["Disputes"]

log = logger()


class Disputes:
    """Records chargebacks, and settles them at once."""

    def __init__(self, store: Store, recorder: Recorder, settler: Settler) -> None:
        self._store = store
        self._recorder = recorder
        self._settler = settler

    async def bring_in(self, merchant: str, overlays: Sequence[Overlay]) -> int:
        """Record what is new of some chargebacks; return how many. Raises StoreUnavailable.

        One on a payment that is not known as successful waits: the reconciler finds that first,
        and the list is read again.
        """
        if not overlays:
            return 0
        of = {id(one): Entity.payment(merchant, one.kind, one.payment_id) for one in overlays}
        entities = set(of.values())
        states, known = await asyncio.gather(
            self._store.states(sorted(entities)), self._store.listings.chargebacks(entities)
        )
        telling = []
        for one in overlays:
            state = states.get(of[id(one)])
            if state is None or state.status is not Status.SUCCESSFUL:
                continue
            if is_news(one, known.get((of[id(one)].row_key, one.overlay_id))):
                telling.append(one)
        recorded = await asyncio.gather(
            *(self._recorder.record(disputed(merchant, one), enqueue=False) for one in telling)
        )
        ids = [one.inbox_id for one in recorded if one.inbox_id is not None]
        if ids:
            await self._settler.settle(ids)
        return len(ids)
