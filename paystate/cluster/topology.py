"""The map from slots to servers: learnt from any server that serves, learnt anew when it is wrong.

One reading at a time, and not more often than every `GAP_S`, however many callers have failed: it
asks one server after another until one that serves has answered. Whoever is up comes first, and the
addresses of the configuration last before those that are known to be down, for they may be names
that lead to other servers by now.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from redis.asyncio import Redis

from paystate.cluster.nodes import NODE_FAILURES, Node
from paystate.cluster.slots import SLOTS, Address, View

__all__ = ["Topology"]

log = logging.getLogger("paystate.cluster")

# Between two readings of the map, in seconds: a failover takes about this at the very least.
GAP_S = 0.2
# Between two questions to a server that is down whether it is back, in seconds.
PROBE_S = 0.2
# A map that nothing has proven wrong is read again after this, in seconds: it finds servers that
# were added, and whatever else has changed without anyone being sent elsewhere.
REREAD_S = 30.0
# A server that the cluster has not named for so long is let go, in seconds: calls under way end.
FORGET_S = 60.0
CANCEL_S = 2.0


class Topology:
    """The servers of one cluster. `seeds` are the configured addresses; `make` makes a client.

    `patience_s` bounds a caller's wait for the first map, which may take as long for each server.
    Nothing is asked before the first call, so that a process starts while its cache is away.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        make: Callable[[str, int], Redis],
        *,
        patience_s: float,
        reread_s: float,
    ) -> None:
        self._patience_s = patience_s
        self._seeds = tuple(dict.fromkeys(seeds))
        self._make = make
        self._reread_s = reread_s
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Node | None] = [None] * SLOTS
        self._primaries: dict[Address, Node] = {}
        self._replicas: frozenset[Address] = frozenset()
        self._reading: asyncio.Task[None] | None = None
        self._read_at = float("-inf")
        self._watching: dict[Node, asyncio.Task[None]] = {}
        self._turn = random.randrange(1024)  # noqa: S311 - processes begin at different servers
        self._closed = False

    @property
    def primaries(self) -> list[Node]:
        """The servers that own slots, as far as is known."""
        return list(self._primaries.values())

    @property
    def serving(self) -> list[Node]:
        """The primaries, and whoever else calls were sent on to: who is given its first slot."""
        others = self._nodes.keys() - self._primaries.keys() - self._replicas - {*self._seeds}
        return [*self.primaries, *(self._nodes[address] for address in others)]

    def owner(self, slot: int) -> Node | None:
        """Return the server of a slot, None where none is known."""
        return self._owners[slot]

    def node(self, address: Address) -> Node:
        """Return the server at an address."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address, self._make(*address))
        node.named_at = _now()
        return node

    def any_node(self) -> Node:
        """Return a server that is not known to be down, another one at each call."""
        up = [node for node in self.primaries if not node.down]
        self._turn += 1
        if up:
            return up[self._turn % len(up)]
        known = [*self._primaries, *(seed for seed in self._seeds if seed not in self._primaries)]
        return self.node(known[self._turn % len(known)])

    # --- what callers find out ---

    async def ready(self) -> None:
        """Return once a map is there, or not to be had for now; have an old one read again."""
        if not self._primaries:
            if self._reading is not None or _now() - self._read_at >= GAP_S:
                await asyncio.wait([self._read()], timeout=self._patience_s)
        elif _now() - self._read_at >= self._reread_s:
            self._read()

    def moved(self, slot: int, to: Node) -> None:
        """Note that a slot has another owner. One seldom moves alone."""
        self._owners[slot] = to
        self._primaries.setdefault(to.address, to)
        self.wrong()

    def wrong(self) -> None:
        """Note that the map may be wrong: it is read again soon."""
        if not self._closed:
            self._read()

    def lost(self, node: Node) -> None:
        """Note that a server was not reached: calls to it fail at once until it answers again."""
        self.wrong()
        if node.down or self._closed or node.address not in self._primaries:
            return
        node.down = True
        log.warning("cluster_node_down: %s:%d", *node.address)
        self._watching[node] = asyncio.create_task(self._watch(node))

    async def _watch(self, node: Node) -> None:
        """Ask whether `node` is back, for as long as it is one of ours."""
        try:
            while node.address in self._primaries:
                if await node.answers():
                    log.warning("cluster_node_back: %s:%d", *node.address)
                    return
                self.wrong()
                await asyncio.sleep(PROBE_S)
        finally:
            node.down = False
            del self._watching[node]

    # --- reading the map ---

    def _read(self) -> asyncio.Task[None]:
        """Return the one reading that is under way, begun if there is none."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_once())
        return self._reading

    async def _read_once(self) -> None:
        try:
            await asyncio.sleep(self._read_at + GAP_S - _now())
            for node in self._candidates():
                view = await node.view()
                # Who does not serve may be cut off, and then knows the past at best.
                if view is not None and (view.healthy or not self._primaries):
                    await self._adopt(view)
                    if view.healthy:
                        return
        finally:
            self._read_at = _now()
            self._reading = None

    def _candidates(self) -> Iterator[Node]:
        """Yield whom to ask, each once, looked up only when it is its turn."""
        primaries = random.sample(self.primaries, len(self._primaries))
        addresses = [
            *(node.address for node in primaries if not node.down),
            *self._replicas,
            *self._seeds,
            *(node.address for node in primaries if node.down),
        ]
        return map(self.node, dict.fromkeys(addresses))

    async def _adopt(self, view: View) -> None:
        named = {address: self.node(address) for address in view.primaries}
        if named.keys() != self._primaries.keys():
            log.warning("cluster_map_changed: %s", ", ".join(f"{h}:{p}" for h, p in sorted(named)))
        self._primaries = named
        self._replicas = view.replicas
        self._owners = [named[owner] if owner is not None else None for owner in view.owners]
        keep = {*self._seeds, *named, *view.replicas}
        for address, node in list(self._nodes.items()):
            if address not in keep and _now() - node.named_at > FORGET_S:
                del self._nodes[address]
                with suppress(*NODE_FAILURES):
                    await node.redis.aclose()

    async def aclose(self) -> None:
        """Stop reading and watching, and close every connection."""
        self._closed = True
        tasks = [*self._watching.values(), *([self._reading] if self._reading else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_S)
        for node in self._nodes.values():
            await node.redis.aclose()


def _now() -> float:
    return asyncio.get_running_loop().time()
