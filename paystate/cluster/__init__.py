"""A client for a cluster of Redis or Valkey servers: one plain client for each primary.

`docs/cluster.md` says why not redis-py's own, and what happens when servers go away.
"""

from paystate.cluster.client import ClusterClient, ClusterDegraded
from paystate.cluster.nodes import NodeDown

__all__ = ["ClusterClient", "ClusterDegraded", "NodeDown"]
