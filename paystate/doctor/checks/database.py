"""The database: reached, the primary, at this code's schema, and keeping what it has committed."""

from __future__ import annotations

from pathlib import Path

from paystate.doctor.case import Case, Check
from paystate.doctor.checks.valkey import judge_clock
from paystate.doctor.facts.database import DatabaseFacts, PostgresFacts, revisions
from paystate.doctor.findings import NotKnown, Verdict, fail, known, ok, skipped, warn
from paystate.doctor.places import file_system, is_remote, judge_space

__all__ = ["CHECKS"]

# pg_current_xact_id and pg_snapshot_xmin came with 13.
OLDEST_POSTGRES = 130000
SUPPORTED_POSTGRES = 140000

# Word of trouble → what it means, and what to do.
_TROUBLES = {
    "no_file": (
        "there is no such SQLite file",
        "run `paystate migrate`; sqlite:///a is in each process's folder, sqlite:////a at the root",
    ),
    "no_database_file": ("that file is no SQLite database", "name another file in DATABASE_URL"),
    "no_database": ("the server has no such database", "create it, then `paystate migrate`"),
    "password": (
        "it refuses the user or password of DATABASE_URL",
        "set both, with %XX for /, #, @ and : in the password; look at pg_hba.conf",
    ),
    "forbidden": ("its user may not read the tables", "GRANT them, or let it own the database"),
    "full": ("it has no connection, memory or disk left", "look at its log; close other clients"),
    "parameter": (
        "DATABASE_URL has a parameter that asyncpg does not know",
        "leave it out; TLS is ?sslmode=verify-full&sslrootcert=FILE",
    ),
    "tls": (
        "TLS fails: it speaks none, or its certificate is not for this name",
        "write ?sslmode=require, verify-full or disable as the server has it",
    ),
    "pooler": (
        "a pooler before it refuses what paystate asks for at the start",
        "name the server itself, or add ?pooler=transaction",
    ),
    "unavailable": ("it answers, and cannot be used now", "look at its log"),
}


def _reached(case: Case) -> DatabaseFacts:
    facts = known(case.database)
    if facts.trouble:
        raise NotKnown("the database was not reached")
    return facts


def _postgres(case: Case) -> PostgresFacts:
    facts = _reached(case).postgres
    if facts is None:
        raise NotKnown("the database is SQLite")
    return facts


def check_reachable(case: Case) -> Verdict:
    """The database answers."""
    facts = known(case.database)
    if facts.trouble in ("", "replica"):
        return ok("it answers")
    found, mend = _TROUBLES.get(
        facts.trouble, ("nobody answers there", "check DATABASE_URL, the network and the firewall")
    )
    return fail(found, mend)


def check_primary(case: Case) -> Verdict:
    """The database is the primary."""
    if known(case.database).trouble == "replica":
        return fail(
            "it is a replica, which answers with the past and takes no writes",
            "name the primary in DATABASE_URL, or add ?target_session_attrs=read-write",
        )
    _reached(case)
    return ok("it is the primary")


def check_migrated(case: Case) -> Verdict:
    """The schema is this code's."""
    facts = _reached(case)
    known_revisions = revisions()
    if not facts.migrated or facts.revision is None:
        return fail("it has no tables of paystate", "run `paystate migrate`")
    if facts.revision == known_revisions[0]:
        return ok(f"its schema is this code's ({facts.revision})")
    if facts.revision in known_revisions:
        behind = known_revisions.index(facts.revision)
        return fail(
            f"its schema is {behind} migrations behind this code ({facts.revision})",
            "run `paystate migrate` before the processes start",
        )
    return fail(
        f"its schema ({facts.revision}) is of a later release, or of another program",
        "run the release that migrated it; check the database's name in DATABASE_URL",
    )


def check_clock(case: Case) -> Verdict:
    """The database's clock is this host's."""
    return judge_clock("its clock", _reached(case).ahead_s)


def check_version(case: Case) -> Verdict:
    """PostgreSQL is new enough."""
    version = _postgres(case).version
    shown = f"PostgreSQL {version // 10000}"
    if version < OLDEST_POSTGRES:
        return fail(f"{shown} is too old: the change log needs 13", "take 16 or newer")
    if version < SUPPORTED_POSTGRES:
        return warn(f"{shown} gets no fixes any more", "take 16 or newer")
    return ok(shown)


def check_encoding(case: Case) -> Verdict:
    """Every text can be stored."""
    encoding = _postgres(case).encoding
    if encoding != "UTF8":
        return fail(
            f"its encoding is {encoding}: a reference in another script cannot be recorded",
            "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and move to it",
        )
    return ok("its encoding is UTF8")


def check_synchronous_commit(case: Case) -> Verdict:
    """What was committed is on the disk before a webhook is acknowledged."""
    facts = _postgres(case)
    if facts.synchronous_commit == "off":
        return fail(
            "synchronous_commit is off even where paystate asks for on: a crash loses "
            "acknowledged webhooks",
            "ALTER ROLE and ALTER DATABASE ... RESET synchronous_commit; a pooler must pass it on",
        )
    if facts.plain_synchronous_commit == "off":
        return warn(
            f"synchronous_commit is off by the {facts.plain_source}; paystate's connections ask "
            "for on, which a pooler may drop",
            "ALTER ROLE and ALTER DATABASE ... RESET synchronous_commit, and set it to on",
        )
    return ok(f"synchronous_commit is {facts.synchronous_commit}")


def check_fsync(case: Case) -> Verdict:
    """The disk is waited for."""
    if _postgres(case).fsync != "on":
        return fail(
            "fsync is off: a crash of the host can destroy the whole database",
            "set fsync = on, and restart PostgreSQL",
        )
    return ok("fsync is on")


def check_connections(case: Case) -> Verdict:
    """There are connections for every pool."""
    most, processes = _postgres(case).connections, case.processes
    pool = case.settings.database_pool
    needed = pool * processes
    found = f"{processes} processes of DATABASE_POOL={pool} want {needed} connections of {most}"
    advice = "raise max_connections (or the role's or database's limit), or lower DATABASE_POOL"
    if needed > most:
        return fail(found, advice)
    if needed > most * 0.8:
        return warn(f"{found}, which leaves little for others", advice)
    return ok(found)


def check_place(case: Case) -> Verdict:
    """SQLite's file is on a disk of this host, at a path that every process reads alike."""
    facts = known(case.database)
    if facts.path is None:
        raise NotKnown("the database is PostgreSQL")
    try:
        kind = file_system(_absolute(facts.path), case.options.mounts.read_text("utf-8"))
    except OSError:
        kind = ""
    if is_remote(kind):
        return fail(
            f"its file is on a network file system ({kind}), where SQLite's locks fail",
            "move it to a local disk, or use PostgreSQL for several hosts",
        )
    if not facts.path.is_absolute() and case.environ.get("DATABASE_URL"):
        return warn(
            "its path is relative: processes started in different folders see different files",
            "write sqlite://// and the whole path",
        )
    return ok(f"its file is on a local disk{f' ({kind})' if kind else ''}")


def _absolute(path: Path) -> Path:
    return path.resolve()


def check_one_host(case: Case) -> Verdict:
    """SQLite serves one host only."""
    facts = _reached(case)
    if facts.path is None:
        raise NotKnown("the database is PostgreSQL")
    hosts = known(facts.inbox).hosts
    if len(hosts) > 1:
        return fail(
            f"processes of {len(hosts)} hosts work on this SQLite file",
            "one host only, or PostgreSQL",
        )
    return ok("no second host has been seen")


def check_disk(case: Case) -> Verdict:
    """The disk below SQLite's file has room."""
    facts = known(case.database)
    if facts.path is None:
        raise NotKnown("PostgreSQL's disk is not this host's: look at it there")
    if facts.trouble:
        return skipped("there is no file yet")
    return judge_space(_absolute(facts.path).parent, "the database", case.options.measure)


CHECKS: dict[str, Check] = {
    "database.reachable": check_reachable,
    "database.primary": check_primary,
    "database.migrated": check_migrated,
    "database.clock": check_clock,
    "database.version": check_version,
    "database.encoding": check_encoding,
    "database.synchronous_commit": check_synchronous_commit,
    "database.fsync": check_fsync,
    "database.connections": check_connections,
    "database.place": check_place,
    "database.one_host": check_one_host,
    "database.disk": check_disk,
}
