"""The lease against failover, and the state of a cluster or of the sentinels."""

from __future__ import annotations

from paystate.cluster.slots import SLOTS
from paystate.doctor.case import Case, Check
from paystate.doctor.findings import NotKnown, Verdict, fail, known, ok, skipped, warn

__all__ = ["CHECKS"]

# A restart of one primary takes this at the very least, in ms.
_QUICK_RESTART_MS = 2000


def check_lease(case: Case) -> Verdict:
    """The lease is far shorter than what it must not outlive."""
    lease = case.settings.lease_ms
    if "PENDING_LEASE_MS" in case.unusable:
        return skipped("PENDING_LEASE_MS cannot be read")
    if lease == 0:
        return ok("strict mode: only `successful` is served from the cache")
    bound, name = _bound(case)
    if bound is None:
        return skipped(f"{name} is not known; PENDING_LEASE_MS={lease} must be well below it")
    found = f"PENDING_LEASE_MS={lease} against {name} {bound} ms"
    advice = f"set it to {bound // 4} or less, or to 0 (strict)"
    if lease >= bound:
        return fail(f"{found}: an old pending outlives a failover", advice)
    if lease > bound // 2:
        return warn(f"{found}: it should be well below", advice)
    return ok(f"{found}: well below")


def _bound(case: Case) -> tuple[int | None, str]:
    """Return what the lease must stay below, in ms, and its name."""
    url = case.settings.cache_url
    if "+sentinel://" in url:
        down = _down_after(case)
        return (min(down) if down else None), "down-after-milliseconds"
    if "+cluster://" in url:
        found = _node_timeouts(case)
        return (min(found) if found else None), "cluster-node-timeout"
    return _QUICK_RESTART_MS, "a quick restart of"


def _down_after(case: Case) -> list[int]:
    rows = known(case.sentinels).named
    return [int(row["down-after-milliseconds"]) for row in rows if row]


def _node_timeouts(case: Case) -> list[int]:
    return [
        int(s.config["cluster-node-timeout"])
        for s in known(case.cache)
        if s.config and "cluster-node-timeout" in s.config
    ]


def check_processes_lease(case: Case) -> Verdict:
    """The running processes have the same lease as these settings."""
    said = None
    for facts in (case.web, case.worker):
        ready = getattr(facts, "ready", None)
        if ready and "lease_ms" in ready:
            said = int(ready["lease_ms"])
            if said != case.settings.lease_ms:
                return fail(
                    f"a running process has a lease of {said} ms, these settings "
                    f"{case.settings.lease_ms} ms",
                    "give every process the same PENDING_LEASE_MS, and restart them",
                )
    if said is None:
        return skipped("the running processes do not tell their lease at /readyz")
    return ok(f"the running processes have a lease of {said} ms too")


def _cluster_only(case: Case) -> None:
    if "+cluster://" not in case.settings.cache_url:
        raise NotKnown("the cache is no cluster")


def check_cluster_state(case: Case) -> list[Verdict]:
    """The cluster works, and serves all slots."""
    _cluster_only(case)
    facts = known(case.cluster)
    if facts.trouble == "no_cluster":
        return [fail("CACHE_URL says cluster, and that server is none", "write redis://host:port")]
    if facts.trouble:
        return [
            fail(
                f"no server of CACHE_URL tells of the cluster ({facts.trouble})",
                "see cache.reachable",
            )
        ]
    found = []
    if facts.state != "ok":
        found.append(
            fail(
                f"cluster_state is {facts.state}",
                "look at CLUSTER INFO and CLUSTER NODES; start what is down",
            )
        )
    if facts.slots_served < SLOTS:
        found.append(
            fail(
                f"{SLOTS - facts.slots_served} slots are not served: their keys are misses",
                "start their servers, or `valkey-cli --cluster fix`",
            )
        )
    return found or [ok("the cluster serves all slots")]


def check_cluster_coverage(case: Case) -> Verdict:
    """One dead shard does not stop the others."""
    _cluster_only(case)
    configs = [s.config for s in known(case.cache) if s.config]
    if not configs:
        return skipped(
            "CONFIG GET is forbidden, or nobody answers: see that "
            "cluster-require-full-coverage is no"
        )
    if any(c.get("cluster-require-full-coverage") == "yes" for c in configs):
        return fail(
            "cluster-require-full-coverage is yes: one dead shard stops all the others",
            "set it to no on every server",
        )
    return ok("cluster-require-full-coverage is no")


def check_cluster_shape(case: Case) -> list[Verdict]:
    """A dead primary can be replaced."""
    _cluster_only(case)
    primaries = known(case.cluster).primaries
    if primaries is None:
        return [skipped("nobody tells of the cluster")]
    found = []
    if len(primaries) < 3:
        found.append(
            warn(
                f"{len(primaries)} primaries have no majority to promote a replica",
                "three or more, on different machines",
            )
        )
    alone = [address for address, replicas in primaries.items() if not replicas]
    if alone:
        found.append(
            warn(
                f"no replica: {', '.join(sorted(alone))}",
                "add one each: until such a server is back its keys are misses",
            )
        )
    return found or [ok(f"{len(primaries)} primaries have replicas")]


def check_sentinels(case: Case) -> list[Verdict]:
    """Enough sentinels watch the service to fail it over."""
    if "+sentinel://" not in case.settings.cache_url:
        raise NotKnown("the cache has no sentinels")
    facts = known(case.sentinels)
    found = []
    if "no_service" in facts.troubles:
        found.append(
            fail(
                "sentinels do not know the service that CACHE_URL names",
                "its name is the one of `sentinel monitor NAME`",
            )
        )
    away = sum(1 for t in facts.troubles if t and t != "no_service")
    if away:
        found.append(
            warn(
                f"{away} of {len(facts.troubles)} sentinels of CACHE_URL do not answer",
                "start them, or name those that there are",
            )
        )
    rows = [row for row in facts.named if row]
    if rows and max(int(row["num-other-sentinels"]) for row in rows) < 2:
        found.append(
            warn(
                "fewer than three sentinels watch the service",
                "three or more, on different machines",
            )
        )
    if rows and max(int(row["num-slaves"]) for row in rows) < 1:
        found.append(warn("the primary has no replica to fail over to", "add one"))
    return found or [ok(f"{len(rows)} sentinels watch the service")]


CHECKS: dict[str, Check] = {
    "cache.lease": check_lease,
    "cache.lease_of_processes": check_processes_lease,
    "cluster.state": check_cluster_state,
    "cluster.coverage": check_cluster_coverage,
    "cluster.shape": check_cluster_shape,
    "sentinels.watch": check_sentinels,
}
