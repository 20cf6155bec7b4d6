"""One server of a cluster, and how it is found out that it is away and that it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from paystate.cluster.slots import Address, View, parse_view

__all__ = ["NODE_FAILURES", "Command", "Node", "NodeDown"]

# What says that a server was not reached, or did not answer. An error that it gives as its answer
# is a ResponseError, and stands among the replies.
NODE_FAILURES = (RedisError, OSError, asyncio.TimeoutError)

# A command as it goes over the wire, its name first.
Command = tuple[Any, ...]


class NodeDown(RedisConnectionError):
    """The server is known to be away, so nothing was sent to it."""


class Node:
    """A server at `address`, through a plain client of its own.

    `down` is set when it could not be reached, and cleared when it has answered a PING; in between
    every call fails at once. `named_at` is when the cluster last named it (seconds of the loop).
    """

    def __init__(self, address: Address, redis: Redis) -> None:
        self.address = address
        self.redis = redis
        self.down = False
        self.named_at = 0.0

    def __repr__(self) -> str:
        host, port = self.address
        return f"<{host}:{port}{' down' if self.down else ''}>"

    async def exchange(self, commands: Sequence[Command], *, asking: bool = False) -> list[Any]:
        """Send commands in one round trip; error replies stand in their place.

        `asking`: the server imports the slot and is asked for this once. Raises NODE_FAILURES.
        """
        if self.down:
            raise NodeDown(f"{self.address[0]}:{self.address[1]} is down")
        async with self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                if asking:
                    pipe.execute_command("ASKING")
                pipe.execute_command(*command)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies[1::2] if asking else replies

    async def answers(self) -> bool:
        """Say whether it answers now."""
        try:
            await self.redis.ping()
        except NODE_FAILURES:
            return False
        return True

    async def view(self) -> View | None:
        """Return what it says of the cluster, None if it says nothing of use."""
        try:
            async with self.redis.pipeline(transaction=False) as pipe:
                pipe.execute_command("CLUSTER", "INFO")
                pipe.execute_command("CLUSTER", "SLOTS")
                info, slots = await pipe.execute(raise_on_error=False)
        except NODE_FAILURES:
            return None
        if isinstance(info, ResponseError) or isinstance(slots, ResponseError):
            return None  # no member of a cluster, or nobody who may ask
        return parse_view(info, slots, self.address)
