"""What callers hold: the same few commands as on one server, each sent to the server of its key.

A batch is split by server and its parts go at once; what one server could not be asked fails alone,
and at once where it is known to be away. Nothing is repeated after a failure (it may have been
done), but a call that was sent elsewhere (MOVED, ASK) was not done, and follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from paystate.cluster.nodes import NODE_FAILURES, Command, Node
from paystate.cluster.slots import Address, parse_redirect
from paystate.cluster.topology import REREAD_S, Topology

__all__ = ["ClusterClient", "ClusterDegraded", "ClusterPipeline"]

# A slot on the move can send a call to and fro; after so many turns the error is the answer.
REDIRECTS = 4
# Replies that say that the map, or the cluster, is not what it was: a slot has no server, or a
# server is a replica by now (redis-py has a class of its own for READONLY).
_STALE = ("CLUSTERDOWN", "MASTERDOWN")


class SlotUncovered(RedisConnectionError):
    """No server is known that could be asked."""


class ClusterDegraded(RedisConnectionError):
    """Some servers of the cluster answer and some do not."""


class ClusterClient:
    """As much of redis-py's `Redis` as paystate uses, on a cluster. Close it with `aclose`.

    `seeds` are addresses of any of its servers, `make` makes a client for one; `patience_s` is the
    longest wait for the first map, and `reread_s` how often the map is read again while nothing
    seems wrong, in seconds.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        make: Callable[[str, int], Redis],
        *,
        patience_s: float,
        reread_s: float = REREAD_S,
    ) -> None:
        self._topology = Topology(seeds, make, patience_s=patience_s, reread_s=reread_s)

    # --- one command ---

    async def get(self, name: str) -> Any:
        """GET."""
        return await self._one("GET", name)

    async def set(
        self,
        name: str,
        value: Any,
        ex: int | None = None,
        px: int | None = None,
        nx: bool = False,
    ) -> Any:
        """SET; None if `nx` found it set."""
        options: list[Any] = ["NX"] if nx else []
        options += ["EX", ex] if ex is not None else []
        options += ["PX", px] if px is not None else []
        return await self._one("SET", name, value, *options)

    async def hmget(self, name: str, keys: Sequence[str]) -> Any:
        """HMGET."""
        return await self._one("HMGET", name, *keys)

    async def hdel(self, name: str, *keys: str) -> Any:
        """HDEL."""
        return await self._one("HDEL", name, *keys)

    async def delete(self, *names: str) -> int:
        """DEL of each key at its own server. Raises the first failure, with the rest done."""
        return sum(_checked(await self.exchange([("DEL", name) for name in names])))

    async def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """EVALSHA at the server of its first key; a script names keys of one slot."""
        return await self._one("EVALSHA", sha, numkeys, *keys_and_args)

    async def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """EVAL, likewise."""
        return await self._one("EVAL", script, numkeys, *keys_and_args)

    async def script_load(self, script: str) -> None:
        """Load a script into every server that can be reached. Raises if none can."""
        await self._topology.ready()
        await self._each(self._topology.serving, ("SCRIPT", "LOAD", script))

    async def ping(self) -> bool:
        """Ask every primary. Raises ClusterDegraded if some do not answer, else their failure."""
        await self._topology.ready()
        primaries = self._topology.primaries
        if await self._each(primaries, ("PING",)) < len(primaries):
            raise ClusterDegraded("not every server of the cluster answers")
        return True

    async def aclose(self) -> None:
        """Close every connection."""
        await self._topology.aclose()

    async def scan(
        self, cursor: int = 0, match: str | None = None, count: int | None = None
    ) -> tuple[int, list[Any]]:
        """SCAN of one primary after another; begin at 0, and go on until it is 0 again.

        A failover or a slot that moves during the scan can hide keys from it, and a server fewer
        ends it.
        """
        await self._topology.ready()
        nodes = sorted(self._topology.primaries, key=lambda node: node.address)
        place, own = cursor & 0xFFFF, cursor >> 16
        if not nodes:
            raise SlotUncovered("no server is known")
        if place >= len(nodes):
            return 0, []
        options = [*(["MATCH", match] if match else []), *(["COUNT", count] if count else [])]
        (reply,) = _checked(await self._ask(nodes[place], [("SCAN", own, *options)], asking=False))
        own, found = int(reply[0]), reply[1]
        if own == 0:
            place = (place + 1) % len(nodes)
        return own << 16 | place, found

    # --- batches and news ---

    def pipeline(self, transaction: bool = False) -> ClusterPipeline:
        """Return a batch of calls. There are no transactions: its keys are anywhere."""
        if transaction:
            raise ValueError("a batch on a cluster is no transaction")
        return ClusterPipeline(self)

    def pubsub(self) -> Any:
        """Return redis-py's `PubSub` on one server, another at each call: each hears all of them.

        When its server goes away it raises; whoever listens calls again and gets the next.
        """
        # Who calls again has lost a server, and may be one who only listens and never finds out.
        self._topology.wrong()
        return self._topology.any_node().redis.pubsub()

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands to their servers; return a reply, an error reply or a failure for each."""
        await self._topology.ready()
        replies: list[Any] = [None] * len(commands)
        parts: dict[tuple[Node, bool], list[int]] = {}
        for i, command in enumerate(commands):
            node = self._node_for(command)
            if node is None:
                self._topology.wrong()
                replies[i] = SlotUncovered("no server is known for the slot")
            else:
                parts.setdefault((node, False), []).append(i)
        for _ in range(REDIRECTS):
            if not parts:
                break
            parts = await self._round(commands, replies, parts)
        return replies

    async def _round(
        self,
        commands: Sequence[Command],
        replies: list[Any],
        parts: dict[tuple[Node, bool], list[int]],
    ) -> dict[tuple[Node, bool], list[int]]:
        """Send each part and put its replies in place; return what was sent elsewhere."""
        asks = [
            self._ask(node, [commands[i] for i in which], asking=asking)
            for (node, asking), which in parts.items()
        ]
        answers = await asyncio.gather(*asks) if len(asks) > 1 else [await asks[0]]
        further: dict[tuple[Node, bool], list[int]] = {}
        for ((node, _), which), answer in zip(parts.items(), answers, strict=True):
            for i, reply in zip(which, answer, strict=True):
                replies[i] = reply
                if isinstance(reply, ResponseError):
                    to = self._learn(node, reply)
                    if to is not None:
                        further.setdefault(to, []).append(i)
        return further

    async def _ask(self, node: Node, commands: Sequence[Command], *, asking: bool) -> list[Any]:
        try:
            return await node.exchange(commands, asking=asking)
        except NODE_FAILURES as e:
            self._topology.lost(node)
            return [e] * len(commands)

    def _learn(self, node: Node, error: ResponseError) -> tuple[Node, bool] | None:
        """Take in what an error reply says of the cluster; return where it sends the call."""
        redirect = parse_redirect(error, node.address)
        if redirect is not None:
            to = self._topology.node(redirect.to)
            if redirect.moved:
                self._topology.moved(redirect.slot, to)
            return to, not redirect.moved
        if isinstance(error, ReadOnlyError) or str(error).startswith(_STALE):
            self._topology.wrong()
        return None

    def _node_for(self, command: Command) -> Node | None:
        if command[0] == "PUBLISH":
            return self._topology.any_node()
        key = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
        return self._topology.owner(key_slot(key.encode()))

    async def _one(self, *command: Any) -> Any:
        return _checked(await self.exchange([command]))[0]

    async def _each(self, nodes: Sequence[Node], command: Command) -> int:
        """Send a command to each of some servers; return how many have taken it.

        Raises the failure of one if none has.
        """
        answers = await asyncio.gather(*(self._ask(n, [command], asking=False) for n in nodes))
        failures = [reply for (reply,) in answers if isinstance(reply, Exception)]
        if len(failures) == len(answers):
            raise failures[0] if failures else SlotUncovered("no server is known")
        return len(answers) - len(failures)


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


class ClusterPipeline:
    """Calls that are collected and sent together."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._commands: list[Command] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._commands = []

    def get(self, name: str) -> Self:
        """Add a GET."""
        return self._add("GET", name)

    def hmget(self, name: str, keys: Sequence[str]) -> Self:
        """Add an HMGET."""
        return self._add("HMGET", name, *keys)

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Self:
        """Add an EVALSHA."""
        return self._add("EVALSHA", sha, numkeys, *keys_and_args)

    def publish(self, channel: str, message: Any) -> Self:
        """Add a PUBLISH, through any server that is up: all of them tell it on."""
        return self._add("PUBLISH", channel, message)

    def _add(self, *command: Any) -> Self:
        self._commands.append(command)
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the calls and return their replies in order.

        Without `raise_on_error` a call's failure, that of its connection too, stands in its place.
        """
        replies = await self._client.exchange(self._commands)
        return _checked(replies) if raise_on_error else replies
