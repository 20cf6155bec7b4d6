"""Connections to whichever server the sentinels call the primary, from a pool that waits."""

from __future__ import annotations

import weakref
from typing import Any

from redis.asyncio.sentinel import Sentinel

from paystate.wire import SentinelTlsWire, SentinelWire, WirePool

__all__ = ["SentinelPool"]


class SentinelPool(WirePool):
    """Connections to the primary of `service`.

    redis-py's own pool for sentinels refuses the caller who finds every connection in use, and
    holds its lock while it connects: a burst becomes errors, and one slow sentinel everybody's.
    Each connection asks the sentinels when it connects, and a server that answers READONLY is
    disconnected from, so a failover is followed without anybody being told of it.
    """

    # What redis-py's connections ask of their pool.
    is_master = True
    check_connection = False

    def __init__(self, service: str, sentinels: Sentinel, *, tls: bool, **options: Any) -> None:
        super().__init__(
            connection_class=SentinelTlsWire if tls else SentinelWire,
            **options,
        )
        self.connection_kwargs["connection_pool"] = weakref.proxy(self)
        self._service = service
        self._sentinels = sentinels
        self._primary: tuple[str, int] | None = None

    async def get_master_address(self) -> tuple[str, int]:
        """Return where the primary is. Raises redis-py's ConnectionError if nobody knows."""
        primary: tuple[str, int] = await self._sentinels.discover_master(self._service)
        if primary != self._primary:
            self._primary = primary
            await self.disconnect(inuse_connections=False)  # those lead to the one before
        return primary

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close connections; with those in use, as a client does at its end, the sentinels' too."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self._sentinels.sentinels:
                await sentinel.aclose()
