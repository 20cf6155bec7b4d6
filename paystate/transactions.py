"""What arq puts into a transaction, in one exchange with the server.

arq asks its Redis client for pipelines with MULTI and EXEC: three of them for each job. redis-py's
own take a third of a millisecond of processor time each, most of it for telling replies apart that
nobody looks at. Here the commands, their MULTI and their EXEC travel as `paystate.wire` sends them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arq.connections import ArqRedis

from paystate.wire import Client, WirePipeline

__all__ = ["QueueClient", "Transaction"]


class Transaction(WirePipeline):
    """Commands that are run together or not at all; their replies are as the server gave them.

    It has those that arq runs a job with, and cannot WATCH: what has to look before it writes is a
    script here.
    """

    def get(self, name: str) -> None:
        """Add a GET."""
        self.execute_command("GET", name)

    def set(self, name: str, value: Any, *, px: int | None = None) -> None:
        """Add a SET, for `px` milliseconds."""
        self.execute_command("SET", name, value, *(() if px is None else ("PX", px)))

    def psetex(self, name: str, time_ms: int, value: Any) -> None:
        """Add a PSETEX."""
        self.execute_command("PSETEX", name, time_ms, value)

    def delete(self, *names: str) -> None:
        """Add a DEL."""
        self.execute_command("DEL", *names)

    def incr(self, name: str) -> None:
        """Add an INCR."""
        self.execute_command("INCR", name)

    def expire(self, name: str, time_s: int) -> None:
        """Add an EXPIRE."""
        self.execute_command("EXPIRE", name, time_s)

    def pexpire(self, name: str, time_ms: int) -> None:
        """Add a PEXPIRE."""
        self.execute_command("PEXPIRE", name, time_ms)

    def zadd(self, name: str, scores: Mapping[str, int]) -> None:
        """Add a ZADD."""
        pairs = [part for member, score in scores.items() for part in (score, member)]
        self.execute_command("ZADD", name, *pairs)

    def zrem(self, name: str, *members: str) -> None:
        """Add a ZREM."""
        self.execute_command("ZREM", name, *members)

    def zincrby(self, name: str, amount: int, member: str) -> None:
        """Add a ZINCRBY."""
        self.execute_command("ZINCRBY", name, amount, member)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands and return their replies. Raises the error of all, or of any."""
        self._commands = [("MULTI",), *self._commands, ("EXEC",)]
        *_, replies = await super().execute(raise_on_error)
        if isinstance(replies, Exception):
            raise replies
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return list(replies)


class QueueClient(Client, ArqRedis):  # type: ignore[misc]  # redis-py names command_info twice
    """arq's client, whose transactions are a `Transaction`."""

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Return a pipeline."""
        if not transaction:
            return super().pipeline(transaction, shard_hint)
        return Transaction(self.connection_pool)  # type: ignore[arg-type]
