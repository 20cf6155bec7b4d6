"""A cluster, or a service watched by sentinels: what its own servers say about the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from paystate.connections import REDIS_FAILURES, RedisUrl, connect_one
from paystate.doctor.facts.valkey import trouble_of

__all__ = ["ClusterFacts", "SentinelFacts", "read_cluster", "read_sentinels"]


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """A cluster. `primaries` maps each ``host:port`` that owns slots to how many replicas it has.

    `trouble` says in one word why nobody of the configured addresses could say; `state` is the
    server's own word.
    """

    trouble: str = ""
    state: str = ""
    slots_served: int = 0
    primaries: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class SentinelFacts:
    """A watched service: what each sentinel says, None for one that is away or does not know it."""

    named: Sequence[Mapping[str, Any] | None]
    troubles: Sequence[str]


async def read_cluster(url: str, *, timeout_s: float) -> ClusterFacts:
    """Ask the configured addresses, one after the other, until one has told of the cluster."""
    target = RedisUrl(url)
    trouble = "unreachable"
    for host, port in target.hosts:
        client: Redis = connect_one(
            target.server_url(host, port), connections=1, timeout_s=timeout_s
        )
        try:
            return await _view(client, host)
        except ResponseError as e:
            disabled = "cluster support disabled" in str(e)
            trouble = "no_cluster" if disabled else trouble_of(e)
        except REDIS_FAILURES as e:
            trouble = trouble_of(e)
        finally:
            await client.aclose()
    return ClusterFacts(trouble=trouble)


async def _view(client: Redis, host: str) -> ClusterFacts:
    # As two words the replies come as the server wrote them, whatever redis-py makes of them.
    info = await client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
    nodes = await client.execute_command("CLUSTER", "NODES")  # type: ignore[no-untyped-call]
    said = dict(line.split(":", 1) for line in info.decode().split())
    rows = [line.split() for line in nodes.decode().splitlines()]
    alive = [row for row in rows if not {"fail", "noaddr", "handshake"} & set(row[2].split(","))]
    primaries = {
        row[0]: _address(row[1], host)
        for row in alive
        if "master" in row[2].split(",") and len(row) > 8
    }
    replicas = [row[3] for row in alive if "slave" in row[2].split(",")]
    return ClusterFacts(
        state=said.get("cluster_state", ""),
        slots_served=int(said.get("cluster_slots_ok", "0")),
        primaries={address: replicas.count(own_id) for own_id, address in primaries.items()},
    )


def _address(text: str, asked: str) -> str:
    """Return ``host:port`` of a row; a server that does not know its own host is the asked one."""
    host, _, port = text.partition(",")[0].partition("@")[0].rpartition(":")
    return f"{host or asked}:{port}"


async def read_sentinels(url: str, *, timeout_s: float) -> SentinelFacts:
    """Ask every configured sentinel about the service of `url`."""
    target = RedisUrl(url)
    service = target.service or "mymaster"

    async def ask(host: str, port: int) -> tuple[Mapping[str, Any] | None, str]:
        client = Redis(host=host, port=port, **target.sentinel_options(timeout_s))
        try:
            return await client.sentinel_master(service), ""  # type: ignore[no-untyped-call]
        except ResponseError as e:
            unknown = "No such master" in str(e)
            return None, "no_service" if unknown else trouble_of(e)
        except REDIS_FAILURES as e:
            return None, trouble_of(e)
        finally:
            await client.aclose()

    answers = await asyncio.gather(*(ask(host, port) for host, port in target.hosts))
    return SentinelFacts([a for a, _ in answers], [t for _, t in answers])
