"""Redis topologies on this machine: a cluster, and a primary watched by sentinels.

For tests and drills that stop servers. Every server is a child of this process on a loopback port
that stays its own over restarts, with its files in a folder of the topology's own, and is ended by
its own process id. Everything here blocks (starting a cluster takes about a second), so code on an
event loop calls it with `asyncio.to_thread`::

    with Cluster(primaries=3, replicas=3) as cluster:
        client = connect(cluster.url, timeout_s=0.5)
        cluster.kill_primary(0)

Nothing is kept on disk but what a cluster knows of itself: a server that was killed comes back
empty, unless it is a replica of one that is not.
"""

from bench.topologies.cluster import Cluster
from bench.topologies.nodes import Node
from bench.topologies.sentinel import SentinelTopology

__all__ = ["Cluster", "Node", "SentinelTopology"]
