"""A primary with replicas, and sentinels that fail over between them."""

from __future__ import annotations

from bench.ports import HOST
from bench.topologies.nodes import Node, Topology, eventually

__all__ = ["SentinelTopology"]


class SentinelTopology(Topology):
    """A primary with replicas, and sentinels that fail over between them.

    `down_after_ms`: a server that is silent for so long counts as gone; a failover takes that and
    a second or so. `nodes` are the data servers first, then the sentinels.
    """

    def __init__(
        self,
        replicas: int = 1,
        sentinels: int = 3,
        *,
        name: str = "mymaster",
        down_after_ms: int = 500,
    ) -> None:
        super().__init__()
        self._name = name
        options = {"save": '""', "appendonly": "no", "repl-diskless-sync-delay": "0"}
        first = Node(self._folder, "data0", options)
        self.servers = [first] + [
            Node(self._folder, f"data{i + 1}", {**options, "replicaof": f"{HOST} {first.port}"})
            for i in range(replicas)
        ]
        monitor = f"monitor {name} {HOST} {first.port} {sentinels // 2 + 1}\n"
        monitor += f"sentinel down-after-milliseconds {name} {down_after_ms}\n"
        monitor += f"sentinel failover-timeout {name} 3000"
        self.sentinels = [
            Node(self._folder, f"sentinel{i}", {"sentinel": monitor}, watches=True)
            for i in range(sentinels)
        ]
        self.nodes = [*self.servers, *self.sentinels]

    @property
    def addresses(self) -> list[str]:
        """The ``host:port`` of every sentinel, running or not."""
        return [node.address for node in self.sentinels]

    @property
    def url(self) -> str:
        """The CACHE_URL or QUEUE_URL of the service."""
        return f"redis+sentinel://{','.join(self.addresses)}/{self._name}"

    def start(self) -> None:
        """Start every server; returns once the sentinels know each other and the replicas."""
        for node in self.nodes:
            node.start()
        eventually(lambda: all(map(self._sees_all, self.sentinels)), "the sentinels see all")

    def _sees_all(self, sentinel: Node) -> bool:
        parts = iter(sentinel.ask("SENTINEL", "MASTER", self._name))
        row = dict(zip(parts, parts, strict=True))
        return (
            int(row["num-slaves"]) == len(self.servers) - 1
            and int(row["num-other-sentinels"]) == len(self.sentinels) - 1
            and all(self._follows(node) for node in self.servers if node is not self.primary())
        )

    @staticmethod
    def _follows(node: Node) -> bool:
        role = node.ask("ROLE")
        return bool(role[0] == "slave" and role[3] == "connected")

    def primary(self, _shard: int = 0) -> Node:
        """Return the server that most sentinels call the primary.

        Raises LookupError if no sentinel runs.
        """
        named: list[int] = []
        for sentinel in self.sentinels:
            if sentinel.running:
                _, port = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
                named.append(int(port))
        if not named:
            raise LookupError("no sentinel is running")
        port = max(named, key=named.count)
        return next(node for node in self.servers if node.port == port)

    def kill_primary(self, _shard: int = 0) -> Node:
        """End the primary as a crash would, and return it."""
        node = self.primary()
        node.kill()
        return node

    def restart_all(self) -> None:
        """Start every server that does not run; returns once the sentinels see all of them.

        A primary that comes back after its failover takes writes that will be forgotten until a
        sentinel has made it a replica, which takes about ten seconds.
        """
        for node in self.nodes:
            node.start()
        eventually(lambda: all(map(self._sees_all, self.sentinels)), "the sentinels see all")

    def failover(self, _shard: int = 0) -> Node:
        """Have a sentinel fail over while the primary lives, and return the new primary."""
        old = self.primary()
        self.sentinels[0].ask("SENTINEL", "FAILOVER", self._name)
        return self.wait_for_failover(after=old)

    def wait_for_failover(self, _shard: int = 0, *, after: Node) -> Node:
        """Return the primary once it is another than `after` and takes writes."""

        def is_another() -> bool:
            new = self.primary()
            return new is not after and new.ask("ROLE")[0] == "master"

        eventually(is_another, "the service has failed over")
        return self.primary()
