"""A cluster, whose primaries can be killed, failed over, and relieved of slots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis

from bench.ports import HOST, free_port
from bench.topologies.nodes import Node, Topology, eventually

__all__ = ["SLOTS", "Cluster"]

SLOTS = 16_384


class Cluster(Topology):
    """A cluster of `primaries` shards, with `replicas` spread over them (0 is fine).

    `node_timeout_ms` is `cluster-node-timeout`: a primary that is gone is failed over to its
    replica after about 1.5 to 3 of them. Slots without a server do not stop the others
    (`cluster-require-full-coverage no`). A failover by vote needs a majority of the primaries, so
    at least three; with fewer use `failover`.
    """

    def __init__(
        self, primaries: int = 3, replicas: int = 0, *, node_timeout_ms: int = 500
    ) -> None:
        super().__init__()
        self._primaries = primaries
        self._replicas = replicas
        options = {
            "save": '""',
            "appendonly": "no",
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(node_timeout_ms),
            "cluster-require-full-coverage": "no",
            "cluster-allow-replica-migration": "no",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
        }
        self.nodes = [
            Node(self._folder, f"node{i}", {**options, "cluster-port": str(free_port())})
            for i in range(primaries + replicas)
        ]

    @property
    def addresses(self) -> list[str]:
        """The ``host:port`` of every server, running or not, the first primaries first."""
        return [node.address for node in self.nodes]

    @property
    def url(self) -> str:
        """The CACHE_URL of the cluster, which names the servers of the first primaries."""
        return "redis+cluster://" + ",".join(self.addresses[: self._primaries])

    def start(self) -> None:
        """Start every server and make them one cluster; returns once all slots are served."""
        for node in self.nodes:
            node.start()
        first, primaries = self.nodes[0], self.nodes[: self._primaries]
        for i, node in enumerate(primaries):
            from_, to = SLOTS * i // len(primaries), SLOTS * (i + 1) // len(primaries) - 1
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", from_, to)
        for node in self.nodes[1:]:
            _, bus_port = node.ask("CONFIG", "GET", "cluster-port")
            first.ask("CLUSTER", "MEET", HOST, node.port, bus_port)
        eventually(lambda: all(self._knows_all(node) for node in self.nodes), "the nodes meet")
        for i, node in enumerate(self.nodes[self._primaries :]):
            node.ask("CLUSTER", "REPLICATE", self.id_of(primaries[i % len(primaries)]))
        self.wait_until_whole()

    def _knows_all(self, node: Node) -> bool:
        rows = node.ask("CLUSTER", "NODES").splitlines()
        flags = {flag for row in rows for flag in row.split()[2].split(",")}
        return len(rows) == len(self.nodes) and not flags & {"handshake", "noaddr"}

    @staticmethod
    def id_of(node: Node) -> str:
        """Return the id by which the cluster knows `node`."""
        return str(node.ask("CLUSTER", "MYID"))

    # --- which server is what ---

    def primary(self, shard: int) -> Node:
        """Return the server that serves `shard` (0 to primaries - 1, by slots) now.

        Raises LookupError while there is none.
        """
        return self.owner_of(SLOTS * shard // self._primaries)

    def owner_of(self, slot: int) -> Node:
        """Return the server that serves `slot` now. Raises LookupError while there is none."""
        for node in self._running():
            with contextlib.suppress(redis.RedisError, OSError):
                for from_, to, (_, port, *_), *_ in node.ask("CLUSTER", "SLOTS"):
                    if from_ <= slot <= to and self._is_primary(port):
                        return self._on(port)
        raise LookupError(f"no server serves slot {slot}")

    def replicas_of(self, shard: int) -> list[Node]:
        """Return the servers that now follow the primary of `shard`."""
        primary = self.primary(shard)
        rows = primary.ask("CLUSTER", "REPLICAS", self.id_of(primary))
        ports = {int(row.split()[1].split("@")[0].rpartition(":")[2]) for row in rows}
        return [node for node in self._running() if node.port in ports]

    def _is_primary(self, port: int) -> bool:
        node = self._on(port)
        return node.running and node.ask("ROLE")[0] == "master"

    def _on(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def _running(self) -> Iterator[Node]:
        return (node for node in self.nodes if node.running)

    # --- what goes wrong ---

    def kill_primary(self, shard: int) -> Node:
        """End the primary of `shard` as a crash would, and return it."""
        node = self.primary(shard)
        node.kill()
        return node

    def restart_all(self) -> None:
        """Start every server that does not run, at its own port; returns once all is served."""
        for node in self.nodes:
            node.start()
        self.wait_until_whole()

    def failover(self, shard: int) -> Node:
        """Make a replica of `shard` its primary by hand, and return it.

        While the primary lives no write is lost; the cluster agrees within moments.
        """
        old = self.primary(shard)
        new = self.replicas_of(shard)[0]
        new.ask("CLUSTER", "FAILOVER", *(() if old.running else ("TAKEOVER",)))
        eventually(lambda: self.primary(shard) is new, "the replica is primary")
        return new

    def wait_for_failover(self, shard: int, *, after: Node) -> Node:
        """Return the primary of `shard` once it is another than `after`."""

        def is_another() -> bool:
            with contextlib.suppress(LookupError):
                return self.primary(shard) is not after
            return False

        eventually(is_another, f"shard {shard} has failed over")
        return self.primary(shard)

    def wait_until_whole(self) -> None:
        """Return once every running server sees all slots served, and every replica follows."""
        eventually(lambda: all(map(self._is_whole, self._running())), "the cluster is whole")

    @staticmethod
    def _is_whole(node: Node) -> bool:
        state = dict(line.split(":") for line in node.ask("CLUSTER", "INFO").splitlines())
        role = node.ask("ROLE")
        return (
            state["cluster_state"] == "ok"
            and int(state["cluster_slots_ok"]) == SLOTS
            and (role[0] == "master" or role[3] == "connected")
        )

    # --- slots on the move ---

    def begin_move(self, slot: int, to: Node) -> Node:
        """Begin to move `slot` to another primary: from now on some of its keys get ASK.

        Returns where it comes from. `move_keys` moves keys, `end_move` ends it.
        """
        source = self.owner_of(slot)
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
        return source

    @staticmethod
    def move_keys(source: Node, to: Node, *keys: str) -> None:
        """Move keys that are there from one server to another."""
        source.ask("MIGRATE", HOST, to.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, source: Node, to: Node) -> None:
        """Give `slot` to `to`: from now on its keys get MOVED at `source`."""
        owner = self.id_of(to)
        for node in (to, source, *self._running()):
            with contextlib.suppress(redis.ResponseError):  # a replica learns it from its primary
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", owner)

    def undo_move(self, slot: int, source: Node, to: Node) -> None:
        """Give `slot` back to `source`, however its move was left. Empties both servers."""
        for node in (to, source):
            node.ask("FLUSHALL")
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        if self.owner_of(slot) is to:  # it has the greater epoch: only another import outdoes that
            self.end_move(slot, self.begin_move(slot, source), source)
