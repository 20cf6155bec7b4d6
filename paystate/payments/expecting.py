"""Register an expected payment, so that its reference is known before the first webhook.

Commit, mark, answer, as a webhook does it: whoever has been told that the payment is expected will
not be told again that nobody knows it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from paystate.cache.statuses import StatusCache
from paystate.errors import CacheUnavailable
from paystate.expected import Expected
from paystate.keys import Entity
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.settling import Settler
from paystate.store import Store
from paystate.store.expectations import Registered, Registration

__all__ = ["Registrar", "idempotency_key_of"]

log = logger()

# Registrations under way: each takes a connection of the pool that webhooks are recorded with.
WRITERS = 4


def idempotency_key_of(merchant: str, caller: str, key: str | None) -> str | None:
    """Return the name under which a caller's Idempotency-Key is kept: theirs alone, and no text."""
    if key is None:
        return None
    parts = [merchant.encode(), caller.encode(), key.encode("utf-8", "surrogateescape")]
    return hashlib.sha256(b"".join([b"%d:%b" % (len(p), p) for p in parts])).hexdigest()


class Registrar:
    """Registers. `sleep` takes seconds and is a parameter for tests."""

    def __init__(
        self,
        store: Store,
        cache: StatusCache,
        settler: Settler,
        metrics: Metrics,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._cache = cache
        self._settler = settler
        self._metrics = metrics
        self._sleep = sleep
        # Who waits for SQLite's one writer waits here, in order, and not in its busy loop.
        self._writers = asyncio.Semaphore(1 if store.dialect == "sqlite" else WRITERS)

    async def register(
        self,
        reference: Entity,
        expected: Expected,
        *,
        operator: str,
        idempotency_key: str | None = None,
    ) -> Registered:
        """Register `expected` for `reference`; on return every lookup knows of it.

        Raises ExpectationRefused, and StoreUnavailable: then nothing is registered for sure.
        """
        digest = hashlib.sha256(f"{expected} {reference.row_key}".encode()).hexdigest()
        async with self._writers:
            registered = await self._store.expectations.register(
                Registration(reference, expected, operator, idempotency_key, digest)
            )
        await self._announce(registered)
        if registered.inbox_id is not None:
            await self._settler.settle([registered.inbox_id])
        self._metrics.expected.labels(registered.outcome).inc()
        return registered

    async def _announce(self, registered: Registered) -> None:
        """Mark what was committed, now or by the first of repeated calls, which may have died."""
        try:
            await self._cache.announce(registered.states, registered.changes)
        except CacheUnavailable:
            wait_s = self._cache.run_out_s
            log.warning("mark_failed", entities=len(registered.states), waiting_s=round(wait_s, 3))
            await self._sleep(wait_s)
