"""What the servers of cache and queue keep and what they throw away: memory, files, disk."""

from __future__ import annotations

from urllib.parse import urlsplit

from paystate.doctor.case import LOOPBACKS, Case, Check
from paystate.doctor.checks.valkey import each_server, reached
from paystate.doctor.facts.valkey import ServerFacts
from paystate.doctor.findings import NotKnown, Verdict, fail, ok, skipped, warn
from paystate.doctor.places import judge_space

__all__ = ["CHECKS"]

DEEP_QUEUE = 1000


def _policy(server: ServerFacts) -> str:
    return str(server.info.get("maxmemory_policy", ""))


def _is_limited(server: ServerFacts) -> bool:
    return bool(int(server.info.get("maxmemory", 0)))


def _is_shared(case: Case) -> bool:
    caches, queues = reached(case, "cache"), reached(case, "queue")
    runs = {s.info.get("run_id") for s in caches}
    return any(s.info.get("run_id") in runs for s in queues)


def check_queue_eviction(case: Case) -> list[Verdict]:
    """Nothing of the queue is evicted."""
    if _shares(case):
        return [ok("the queue shares the cache's server: see cache.shared")]

    def check(server: ServerFacts) -> Verdict:
        policy = _policy(server)
        if policy == "noeviction":
            return ok("nothing is evicted")
        found, advice = f"maxmemory-policy is {policy}: jobs may vanish", "set it to noeviction"
        if not _is_limited(server):
            return warn(f"{found} as soon as maxmemory is set", advice)
        return fail(found, advice)

    return each_server(case, "queue", check, "nothing is evicted")


def check_cache_eviction(case: Case) -> list[Verdict]:
    """A full cache makes room for what is new."""
    if _shares(case):
        return [ok("the cache shares the queue's server: see cache.shared")]

    def check(server: ServerFacts) -> Verdict:
        policy = _policy(server)
        if policy == "noeviction" and _is_limited(server):
            return warn(
                "maxmemory-policy is noeviction: once full it refuses every write, and each "
                "webhook waits one and a half leases",
                "set maxmemory-policy allkeys-lru",
            )
        if policy == "noeviction":
            return warn("maxmemory-policy is noeviction", "set allkeys-lru, and maxmemory")
        return ok(f"maxmemory-policy is {policy}")

    return each_server(case, "cache", check, "a full server makes room")


def _shares(case: Case) -> bool:
    try:
        return _is_shared(case)
    except NotKnown:
        return False


def check_shared(case: Case) -> Verdict:
    """Cache and queue together evict nothing."""
    if not _is_shared(case):
        return ok("cache and queue have a server each")
    server = reached(case, "queue")[0]
    if _policy(server) == "noeviction":
        return ok("cache and queue share a server that evicts nothing")
    return fail(
        f"cache and queue share a server whose maxmemory-policy is {_policy(server)}: the queue "
        "can be evicted",
        "set noeviction there, or give the queue a server of its own (QUEUE_URL)",
    )


def check_memory(case: Case) -> list[Verdict]:
    """The cache's memory has a limit."""

    def check(server: ServerFacts) -> Verdict:
        if _is_limited(server):
            return ok("maxmemory is set")
        return warn(
            "maxmemory is not set: it grows until the system ends it",
            "set maxmemory to what the host can spare",
        )

    return each_server(case, "cache", check, "maxmemory is set everywhere")


def check_appendonly(case: Case) -> list[Verdict]:
    """The queue outlives a restart."""

    def check(server: ServerFacts) -> Verdict:
        if int(server.info.get("aof_enabled", 0)):
            return ok("appendonly is on")
        return warn(
            "appendonly is off: a restart forgets what was queued, and it waits for the sweeper",
            "set appendonly yes",
        )

    return each_server(case, "queue", check, "appendonly is on")


def check_appendfsync(case: Case) -> list[Verdict]:
    """The queue's file is written to the disk in time."""

    def check(server: ServerFacts) -> Verdict:
        if server.config is None:
            return skipped("CONFIG GET is forbidden here: see that appendfsync is everysec")
        if server.config.get("appendonly") == "yes" and server.config.get("appendfsync") == "no":
            return warn(
                "appendfsync is no: a crash of the host loses half a minute of the queue",
                "set appendfsync everysec",
            )
        return ok(f"appendfsync is {server.config.get('appendfsync', 'not known')}")

    return each_server(case, "queue", check, "appendfsync is set well")


def check_disk(case: Case) -> list[Verdict]:
    """The disk below the queue's append-only file has room."""
    url = case.settings.queue
    if "+sentinel://" in url or urlsplit(url).hostname not in LOOPBACKS:
        return [skipped("the queue's server is on another host: look at its disk there")]

    def check(server: ServerFacts) -> Verdict:
        if server.config is None:
            return skipped("CONFIG GET is forbidden here: the folder is not known")
        if not int(server.info.get("aof_enabled", 0)):
            return ok("nothing is written there")
        return judge_space(
            server.config.get("dir", ""), "the append-only file", case.options.measure
        )

    return each_server(case, "queue", check, "there is room")


def check_depth(case: Case) -> Verdict:
    """The queue does not pile up."""
    if isinstance(case.queue_depth, int):
        if case.queue_depth > DEEP_QUEUE:
            return warn(
                f"{case.queue_depth} jobs wait", "start more workers; look at worker.sweeping"
            )
        return ok(f"{case.queue_depth} jobs wait")
    return skipped(case.queue_depth.reason)


CHECKS: dict[str, Check] = {
    "cache.eviction": check_cache_eviction,
    "cache.shared": check_shared,
    "cache.memory": check_memory,
    "queue.eviction": check_queue_eviction,
    "queue.appendonly": check_appendonly,
    "queue.appendfsync": check_appendfsync,
    "queue.disk": check_disk,
    "queue.depth": check_depth,
}
