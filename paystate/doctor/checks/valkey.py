"""The servers of cache and queue: reached, of the right kind, near, and able to do their work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

from paystate.doctor.case import Case, Check
from paystate.doctor.facts.valkey import ServerFacts
from paystate.doctor.findings import NotKnown, Verdict, each, fail, known, ok, skipped, warn

__all__ = ["CHECKS", "each_server", "judge_clock", "reached"]

MOST_SKEW_S = 2.0
SLOW_MS = 2.0


def _variable(case: Case, part: str) -> str:
    return "QUEUE_URL" if part == "queue" and case.settings.queue_url else "CACHE_URL"


# Word of trouble → what it means, and what to do. {0} is the variable.
_TROUBLES = {
    "password": ("it refuses the user or password of {0}",
                 "set redis://USER:PASSWORD@host, with %XX for /, #, @ and : in the password"),
    "forbidden": ("its user may not do what is needed",
                  "allow it: ACL SETUSER name +@all ~flw:* ~arq:* &flw:*"),
    "no_service": ("the sentinels do not know that service",
                   "the name after the / of {0} is the one of `sentinel monitor`"),
    "tls": ("TLS fails: the certificate is not for this name, or it speaks no TLS",
            "use rediss:// with a certificate that this host trusts, or redis:// without TLS"),
    "loading": ("it is still loading its data", "wait until it has; then ask again"),
    "timeout": ("it does not answer in time", "is it frozen, or a firewall in between?"),
    "database_number": ("it has no database of that number", "end {0} in /0"),
    "no_cluster": ("that server is no cluster", "set redis://host:port instead"),
}  # fmt: skip


def reached(case: Case, part: str) -> list[ServerFacts]:
    """Return the servers of cache or queue that answer. Raises NotKnown if none does."""
    servers: list[ServerFacts] = known(getattr(case, part))
    if not servers or all(s.trouble for s in servers):
        raise NotKnown(f"the {part} was not reached")
    return [s for s in servers if not s.trouble]


def each_server(
    case: Case, part: str, check: Callable[[ServerFacts], Verdict], well: str
) -> list[Verdict]:
    """Return what `check` says of each server of cache or queue that answers."""
    return each([(s.address, s) for s in reached(case, part)], check, well=well)


def check_reachable(part: str, case: Case) -> list[Verdict]:
    """The server answers."""

    def check(server: ServerFacts) -> Verdict:
        if not server.trouble:
            return ok("it answers")
        found, mend = _TROUBLES.get(
            server.trouble, ("nobody answers there", "check {0}, the network and the firewall")
        )
        return fail(found.format(_variable(case, part)), mend.format(_variable(case, part)))

    servers = known(getattr(case, part))
    return each([(s.address, s) for s in servers], check, well="every server answers")


def check_version(part: str, case: Case) -> list[Verdict]:
    """The server is new enough for scripts that read the clock and write."""

    def check(server: ServerFacts) -> Verdict:
        shown = str(server.info.get("valkey_version") or server.info.get("redis_version", ""))
        major = int(str(server.info.get("redis_version", "0")).split(".")[0] or 0)
        if major < 6:
            return fail(f"version {shown} is too old", "take Valkey 8 or Redis 7, or newer")
        if major < 7:
            return warn(f"version {shown} is older than what is tested", "take Valkey 8 or Redis 7")
        return ok(f"version {shown}")

    return each_server(case, part, check, "every server is new enough")


def check_role(part: str, case: Case) -> list[Verdict]:
    """The server takes writes."""

    def check(server: ServerFacts) -> Verdict:
        if server.info.get("role") in ("slave", "replica"):
            return fail(
                "it is a replica: every write is refused",
                f"name the primary in {_variable(case, part)}, or use redis+sentinel://",
            )
        return ok("it is a primary")

    return each_server(case, part, check, "every server is a primary")


def check_topology(part: str, case: Case) -> list[Verdict]:
    """The URL's form fits what the server is."""
    url = case.settings.cache_url if part == "cache" else case.settings.queue
    said_cluster = "+cluster://" in url

    def check(server: ServerFacts) -> Verdict:
        if server.info.get("redis_mode") == "sentinel":
            return fail(
                "it is a sentinel, which holds nothing",
                "write redis+sentinel://host:port,host:port/NAME",
            )
        if int(server.info.get("cluster_enabled", 0)) and not said_cluster:
            if part == "queue":
                return fail(
                    "it belongs to a cluster, which cannot hold the queue",
                    "set QUEUE_URL to a server of its own",
                )
            return fail(
                "it belongs to a cluster: most keys are elsewhere",
                "write redis+cluster://host:port,host:port",
            )
        return ok("the URL's form fits the server")

    return each_server(case, part, check, "the URL's form fits the servers")


def check_idle(part: str, case: Case) -> list[Verdict]:
    """The server does not hang up on those who wait."""

    def check(server: ServerFacts) -> Verdict:
        if server.config is None:
            return skipped("CONFIG GET is forbidden here: see that timeout is 0")
        seconds = int(server.config.get("timeout", "0"))
        if seconds:
            return warn(
                f"timeout is {seconds}: it hangs up on idle connections, and the next call on "
                "each fails",
                "set timeout 0, and tcp-keepalive 60",
            )
        return ok("timeout is 0")

    return each_server(case, part, check, "timeout is 0 everywhere")


def check_persistence(part: str, case: Case) -> list[Verdict]:
    """The server can write its files."""

    def check(server: ServerFacts) -> Verdict:
        for name, what in (("aof_last_write_status", "append-only file"),
                           ("rdb_last_bgsave_status", "snapshot")):  # fmt: skip
            if server.info.get(name, "ok") != "ok":
                return fail(
                    f"its last write of the {what} failed: it may refuse every write",
                    "look at its log; the disk may be full or the folder not its own",
                )
        return ok("its files are written")

    return each_server(case, part, check, "the servers' files are written")


def check_clock(part: str, case: Case) -> list[Verdict]:
    """The server's clock is this host's."""

    def check(server: ServerFacts) -> Verdict:
        return judge_clock("its clock", server.ahead_s)

    return each_server(case, part, check, "the clocks agree")


def judge_clock(whose: str, ahead_s: float) -> Verdict:
    """Return what a clock that is `ahead_s` ahead of this host's means."""
    if abs(ahead_s) <= MOST_SKEW_S:
        return ok(f"{whose} agrees with this host's within {MOST_SKEW_S:g} s")
    way = "ahead of" if ahead_s > 0 else "behind"
    return warn(
        f"{whose} is {abs(ahead_s):.1f} s {way} this host's", "let NTP (chrony) run on both hosts"
    )


def check_latency(part: str, case: Case) -> list[Verdict]:
    """The server is near."""

    def check(server: ServerFacts) -> Verdict:
        if not server.pings_ms:
            return skipped("nothing was measured")
        typical = median(server.pings_ms)
        if typical > SLOW_MS:
            return warn(
                f"a round trip takes {typical:.1f} ms (median of {len(server.pings_ms)})",
                "put it into the processes' own zone; look at SLOWLOG and its processor",
            )
        return ok(f"a round trip takes {typical:.2f} ms (median of {len(server.pings_ms)})")

    return each_server(case, part, check, f"no round trip takes more than {SLOW_MS:g} ms")


def check_timeout(case: Case) -> list[Verdict]:
    """CACHE_TIMEOUT_MS leaves room for the answers that come."""
    limit = case.settings.cache_timeout_ms

    def check(server: ServerFacts) -> Verdict:
        worst = max(server.pings_ms, default=0.0)
        if worst > limit / 2:
            return warn(
                f"a round trip took {worst:.0f} ms, and CACHE_TIMEOUT_MS is {limit}: answers of "
                "the cache are given up",
                "raise it to ten round trips or more",
            )
        return ok(f"CACHE_TIMEOUT_MS={limit} leaves room")

    return each_server(case, "cache", check, f"CACHE_TIMEOUT_MS={limit} leaves room")


def check_script(case: Case) -> list[Verdict]:
    """paystate's script runs, reads the clock and writes."""
    return _used(case, "script", "the script that answers lookups",
                 "allow +evalsha +script|load +time +info and ~flw:* for its user")  # fmt: skip


def check_news(case: Case) -> list[Verdict]:
    """What is published is heard."""
    return _used(case, "news", "publishing on a channel and hearing it",
                 "allow &flw:* and +publish +subscribe for its user")  # fmt: skip


def _used(case: Case, part: str, what: str, mend: str) -> list[Verdict]:
    word = getattr(reached(case, "cache")[0], part)
    if word is None:
        return [skipped("was not tried")]
    if not word:
        return [ok(f"{what} works")]
    if word == "forbidden":
        return [fail(f"{what} is forbidden to its user", mend)]
    return [fail(f"{what} fails ({word})", f"{mend}; see cache.role and cache.topology too")]


_OF_BOTH = {
    "reachable": check_reachable,
    "version": check_version,
    "role": check_role,
    "topology": check_topology,
    "idle": check_idle,
    "persistence": check_persistence,
    "clock": check_clock,
    "latency": check_latency,
}

CHECKS: dict[str, Check] = {
    **{f"cache.{name}": partial(check, "cache") for name, check in _OF_BOTH.items()},
    **{f"queue.{name}": partial(check, "queue") for name, check in _OF_BOTH.items()},
    "cache.script": check_script,
    "cache.news": check_news,
    "cache.timeout": check_timeout,
}
