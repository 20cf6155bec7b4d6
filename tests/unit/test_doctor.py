"""The doctor finds each planted mistake by its name and says how to mend it; no server is asked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from paystate.cli.commands import cli
from paystate.cli.devdata import Running, lock_data_dir
from paystate.doctor import CHECKS, Case, Finding, Options, Outcome, examine, judge, open_case
from paystate.doctor.facts.database import DatabaseFacts, InboxFacts, PostgresFacts, revisions
from paystate.doctor.facts.endpoints import WebFacts, WorkerFacts
from paystate.doctor.facts.provider import ProviderFacts
from paystate.doctor.facts.topology import ClusterFacts, SentinelFacts
from paystate.doctor.facts.valkey import ServerFacts
from paystate.doctor.findings import fail
from paystate.doctor.places import file_system, is_remote
from tests.parts import ROOT

MARK = "c4n4ry"
SOUND = {
    "DATABASE_URL": f"postgresql://paystate:{MARK}-database@db/paystate",
    "CACHE_URL": f"redis://:{MARK}-cache@cache:6379/0",
    "QUEUE_URL": f"redis://:{MARK}-queue@queue:6379/0",
    "FLW_SECRET_HASH": f"{MARK}-hash-hash-hash-hash",
    "FLW_SECRET_KEY": f"FLWSECK-{MARK}-key-key-key-X",
    "FLW_CLIENT_ID": f"{MARK}-client-id",
    "FLW_CLIENT_SECRET": f"{MARK}-client-secret",
    "API_TOKENS": f"{MARK}-token-token-token,shop:default:read={MARK}-read-read-read",
    "LINK_KEY": f"{MARK}-link-link-link-link-link",
    "HOST": "0.0.0.0",
}
INFO = {
    "redis_version": "7.2.4",
    "valkey_version": "9.1.0",
    "role": "master",
    "redis_mode": "standalone",
    "cluster_enabled": 0,
    "maxmemory": 10**9,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
}
CONFIG = {"appendonly": "yes", "appendfsync": "everysec", "timeout": "0", "dir": "/nowhere"}
CACHE = ServerFacts(
    "cache",
    info={**INFO, "run_id": "a", "maxmemory_policy": "allkeys-lru"},
    config=CONFIG,
    pings_ms=[0.2] * 20,
    script="",
    news="",
)
QUEUE = replace(
    CACHE, address="queue", info={**INFO, "run_id": "b", "maxmemory_policy": "noeviction"}
)
POSTGRES = PostgresFacts(
    version=160004,
    encoding="UTF8",
    fsync="on",
    synchronous_commit="on",
    plain_synchronous_commit="on",
    plain_source="default",
    connections=97,
)
DATABASE = DatabaseFacts(
    migrated=True, revision=revisions()[0], postgres=POSTGRES, inbox=InboxFacts()
)
READY = {"ready": True, "database": "ok", "cache": "ok", "queue": "ok", "lease_ms": 1000}
WEB = WebFacts("https://pay.example", ready=READY, refused=401, large=401)
WORKER = WorkerFacts("http://worker:8081", ready=READY)


def sound(**variables: str | None) -> Case:
    """Return a case in which all is well but for `variables`; None takes one away."""
    environ = {k: v for k, v in {**SOUND, **variables}.items() if v is not None}
    case = open_case(environ, Options(url="https://pay.example"))
    case.cache, case.queue, case.queue_depth = [CACHE], [QUEUE], 0
    case.database, case.web, case.worker = DATABASE, WEB, WORKER
    case.provider = {"default": ProviderFacts("", "", "")}
    return case


def of(findings: list[Finding], check: str) -> Finding:
    """Return the one finding of `check` that is worst."""
    order = (Outcome.FAIL, Outcome.WARN, Outcome.SKIPPED, Outcome.OK)
    return min((f for f in findings if f.check == check), key=lambda f: order.index(f.outcome))


def everything_said(findings: list[Finding]) -> str:
    return json.dumps([f.to_json() for f in findings])


def test_a_sound_system_has_nothing_to_mend() -> None:
    """Nothing is wrong, and nothing is to be looked at."""
    findings = judge(sound())
    assert [f for f in findings if f.outcome in (Outcome.FAIL, Outcome.WARN)] == []
    assert {f.check for f in findings} == set(CHECKS)
    assert MARK not in everything_said(findings)


@dataclass(frozen=True)
class Slip:
    """A mistake in the variables: what is set, which check finds it, with which words."""

    check: str
    outcome: str
    found: str
    mend: str
    variables: dict[str, str | None]


LIVE = f"FLWSECK-{MARK}-live-key-key-X"
SLIPS = [
    Slip("settings.valid", "fail", "PORT must be", "paystate config", {"PORT": "eighty"}),
    Slip("settings.valid", "fail", "must start with", "mend", {"CACHE_URL": "cache:6379"}),
    Slip("settings.valid", "fail", "go together", "mend", {"FLW_CLIENT_ID": None}),
    Slip("settings.known", "fail", "FLW_SECRET_HAS is no", "rename it to FLW_SECRET_HASH",
         {"FLW_SECRET_HASH": None, "FLW_SECRET_HAS": f"{MARK}-value-value"}),
    Slip("settings.known", "fail", "PENDING_LEASE is no", "rename it to PENDING_LEASE_MS",
         {"PENDING_LEASE": "0"}),
    Slip("settings.known", "fail", "PAYSTATE_LOG_LEVEL", "rename it to LOG_LEVEL",
         {"PAYSTATE_LOG_LEVEL": "DEBUG"}),
    Slip("settings.known", "warn", "flw_secret_key is no", "remove flw_secret_key",
         {"flw_secret_key": MARK}),
    Slip("settings.known", "warn", "FLW_WEBHOOKS is no", "paystate config",
         {"FLW_WEBHOOKS": MARK}),
    Slip("settings.defaults", "warn", "DATABASE_URL is not set", "for every process",
         {"DATABASE_URL": None}),
    Slip("settings.defaults", "fail", "REDIS_URL is", "set CACHE_URL to what REDIS_URL has",
         {"CACHE_URL": None, "REDIS_URL": "redis://elsewhere"}),
    Slip("settings.confirm", "fail", "can forge", "CONFIRM=always", {"CONFIRM": "never"}),
    Slip("settings.body_limit", "warn", "MAX_BODY_BYTES=2048", "65536",
         {"MAX_BODY_BYTES": "2048"}),
    Slip("secrets.clean", "fail", "FLW_SECRET_KEY begins or ends with a space", "without",
         {"FLW_SECRET_KEY": f" {SOUND['FLW_SECRET_KEY']}"}),
    Slip("secrets.clean", "fail", "API_TOKENS begins or ends with a line break", "echo -n",
         {"API_TOKENS": f"{MARK}-token-token\n"}),
    Slip("secrets.clean", "fail", "FLW_SECRET_HASH has quotation marks", "without",
         {"FLW_SECRET_HASH": f'"{MARK}-hash-hash-hash"'}),
    Slip("secrets.clean", "fail", "CACHE_URL has quotation marks", "without",
         {"CACHE_URL": f"'redis://:{MARK}@cache'"}),
    Slip("secrets.clean", "fail", "cannot be seen", "type it",
         {"LINK_KEY": f"{MARK}-link\u200b-link-link-link"}),
    Slip("secrets.real", "fail", "FLW_SECRET_HASH is a placeholder", "dashboard",
         {"FLW_SECRET_HASH": "changeme"}),
    Slip("secrets.real", "fail", "API_TOKENS is a placeholder", "openssl",
         {"API_TOKENS": "your-api-token"}),
    Slip("secrets.real", "fail", "sandbox's own", "real one",
         {"FLW_SECRET_HASH": "sandbox-secret-hash"}),
    Slip("secrets.length", "fail", "API_TOKENS has 6 characters", "openssl",
         {"API_TOKENS": "q7Zk2p"}),
    Slip("secrets.length", "warn", "FLW_SECRET_HASH has 10 characters", "openssl",
         {"FLW_SECRET_HASH": "q7Zk2p84Lm"}),
    Slip("secrets.apart", "fail", "API_TOKENS and FLW_SECRET_HASH are one", "its own",
         {"API_TOKENS": SOUND["FLW_SECRET_HASH"]}),
    Slip("secrets.webhook", "fail", "FLW_SECRET_HASH is not set", "dashboard",
         {"FLW_SECRET_HASH": None}),
    Slip("secrets.webhook", "fail", "holds an API key", "secret hash of the dashboard",
         {"FLW_SECRET_HASH": LIVE}),
    Slip("access.tokens", "fail", "HOST is 0.0.0.0", "HOST=127.0.0.1", {"API_TOKENS": None}),
    Slip("access.tokens", "warn", "whoever reaches", "set a token",
         {"API_TOKENS": None, "HOST": None}),
    Slip("access.token_forms", "warn", "operator of every merchant", "shop:default:read=TOKEN",
         {"API_TOKENS": f"{MARK}-token-token-token"}),
    Slip("access.token_forms", "fail", "do everything", "NAME:MERCHANT:read=TOKEN",
         {"API_TOKENS": f"shop:default:write={MARK}-write-write"}),
    Slip("access.token_forms", "fail", "whom nobody knows", "default",
         {"API_TOKENS": f"shop:acme:read={MARK}-read-read-read"}),
    Slip("access.link_key", "warn", "LINK_KEY is not set", "openssl", {"LINK_KEY": None}),
    Slip("flutterwave.v3_address", "fail", "does not end in /v3", "api.flutterwave.com/v3",
         {"FLW_BASE_URL": "https://api.flutterwave.com"}),
    Slip("flutterwave.v3_address", "fail", "address of v4", "api.flutterwave.com/v3",
         {"FLW_BASE_URL": "https://f4bexperience.flutterwave.com"}),
    Slip("flutterwave.v4_address", "fail", "address of v3", "f4bexperience",
         {"FLW_V4_BASE_URL": "https://api.flutterwave.com/v3"}),
    Slip("flutterwave.token_address", "fail", "does not end in /token", "openid-connect/token",
         {"FLW_TOKEN_URL": "https://idp.flutterwave.com"}),
    Slip("flutterwave.https", "fail", "FLW_BASE_URL is http", "use https",
         {"FLW_BASE_URL": "http://api.flutterwave.com/v3"}),
    Slip("flutterwave.present", "fail", "no credentials", "set FLW_SECRET_KEY",
         {"FLW_SECRET_KEY": None, "FLW_CLIENT_ID": None, "FLW_CLIENT_SECRET": None}),
    Slip("flutterwave.pair", "fail", "FLW_CLIENT_SECRET is missing", "set FLW_CLIENT_SECRET too",
         {"FLW_CLIENT_SECRET": None}),
    Slip("flutterwave.key_kind", "fail", "public key", "Secret Key",
         {"FLW_SECRET_KEY": f"FLWPUBK-{MARK}-X"}),
    Slip("flutterwave.key_kind", "fail", "encryption key", "Secret Key",
         {"FLW_SECRET_KEY": f"FLWSECK_TEST{MARK}{MARK}"}),
    Slip("flutterwave.key_kind", "warn", "test key", "live key",
         {"FLW_SECRET_KEY": f"FLWSECK_TEST-{MARK}-X"}),
    Slip("flutterwave.key_kind", "fail", "live key, and FLW_BASE_URL leads to sandbox.test",
         "api.flutterwave.com", {"FLW_BASE_URL": "https://sandbox.test/v3"}),
    Slip("flutterwave.key_kind", "fail", "no key of v3", "Secret Key",
         {"FLW_SECRET_KEY": f"{MARK}-client-secret-of-v4"}),
    Slip("flutterwave.one_world", "fail", "v4 is asked at its sandbox", "f4bexperience",
         {"FLW_V4_BASE_URL": "https://developersandbox-api.flutterwave.com"}),
    Slip("cache.lease", "warn", "PENDING_LEASE_MS=1500", "500", {"PENDING_LEASE_MS": "1500"}),
    Slip("database.connections", "fail", "21 processes of DATABASE_POOL=10", "max_connections",
         {"WEB_PROCESSES": "20"}),
    Slip("cache.lease_of_processes", "fail", "lease of 1000 ms", "same PENDING_LEASE_MS",
         {"PENDING_LEASE_MS": "500"}),
]  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS, ids=lambda s: f"{s.check}-{'-'.join(s.variables)}")
def test_a_slip_in_the_settings_is_found_and_its_mending_said(slip: Slip) -> None:
    """Each is found by its check, and the values are not in what is said."""
    findings = judge(sound(**slip.variables))
    finding = of(findings, slip.check)
    assert (finding.outcome, slip.found in finding.found) == (slip.outcome, True), finding
    assert slip.mend in finding.mend, finding
    said = everything_said(findings)
    assert MARK not in said
    values = [v for v in slip.variables.values() if v and v.startswith("q7Zk2p")]
    assert not any(value in said for value in values)


@dataclass(frozen=True)
class Fact:
    """A mistake that a server would show: the facts as they would be, and who finds them."""

    check: str
    outcome: str
    found: str
    mend: str
    facts: dict[str, Any]
    variables: dict[str, str | None]


def fact(
    check: str, outcome: str, found: str, mend: str, *, variables: Any = None, **facts: Any
) -> Fact:
    return Fact(check, outcome, found, mend, facts, variables or {})


def cache(**info: Any) -> list[ServerFacts]:
    return [replace(CACHE, info={**CACHE.info, **info})]


def queue(**info: Any) -> list[ServerFacts]:
    return [replace(QUEUE, info={**QUEUE.info, **info})]


def postgres(**said: Any) -> DatabaseFacts:
    return replace(DATABASE, postgres=replace(POSTGRES, **said))


def inbox(**said: Any) -> DatabaseFacts:
    return replace(DATABASE, inbox=replace(InboxFacts(), **said))


CLUSTER = {"CACHE_URL": f"redis+cluster://:{MARK}@a:1,b:2,c:3"}
SENTINEL = {"CACHE_URL": f"redis+sentinel://:{MARK}@a:1,b:2/mymaster", "PENDING_LEASE_MS": "1000"}
THREE = {"a:1": 1, "b:2": 1, "c:3": 1}
# What a real server does not show in a test: another version, another host's clock, a slow network.
FACTS = [
    fact("database.primary", "fail", "replica", "primary", database=DatabaseFacts("replica")),
    fact("database.version", "fail", "PostgreSQL 12", "16", database=postgres(version=120003)),
    fact("database.version", "warn", "PostgreSQL 13", "16", database=postgres(version=130003)),
    fact("database.fsync", "fail", "fsync is off", "fsync = on", database=postgres(fsync="off")),
    fact("database.synchronous_commit", "fail", "loses", "RESET",
         database=postgres(synchronous_commit="off")),
    fact("database.connections", "warn", "want 20 connections of 24", "max_connections",
         database=postgres(connections=24)),
    fact("database.clock", "warn", "3.0 s ahead", "NTP", database=replace(DATABASE, ahead_s=3.0)),
    fact("database.one_host", "fail", "2 hosts", "PostgreSQL",
         database=DatabaseFacts(path=Path("/a.db"), inbox=InboxFacts(hosts=frozenset("ab")))),
    fact("cache.version", "fail", "version 5.0.1", "Redis 7",
         cache=cache(redis_version="5.0.1", valkey_version=None)),
    fact("queue.version", "warn", "version 6.2.0", "Redis 7",
         queue=queue(redis_version="6.2.0", valkey_version=None)),
    fact("cache.clock", "warn", "10.0 s behind", "NTP", cache=[replace(CACHE, ahead_s=-10.0)]),
    fact("cache.latency", "warn", "3.5 ms", "zone",
         cache=[replace(CACHE, pings_ms=[0.2] * 9 + [3.5] * 11)]),
    fact("cache.timeout", "warn", "took 300 ms", "raise it",
         cache=[replace(CACHE, pings_ms=[0.2] * 19 + [300.0])]),
    fact("queue.persistence", "fail", "append-only file", "disk",
         queue=queue(aof_last_write_status="err")),
    fact("queue.topology", "fail", "sentinel", "redis+sentinel://",
         queue=queue(redis_mode="sentinel")),
    fact("cache.script", "fail", "forbidden", "+evalsha",
         cache=[replace(CACHE, script="forbidden")]),
    fact("cache.news", "fail", "fails (timeout)", "&flw:*",
         cache=[replace(CACHE, news="timeout")]),
    fact("queue.depth", "warn", "1001 jobs", "more workers", queue_depth=1001),
    fact("cluster.state", "fail", "cluster_state is fail", "CLUSTER NODES", variables=CLUSTER,
         cluster=ClusterFacts(state="fail", slots_served=16384, primaries=THREE)),
    fact("cluster.shape", "warn", "no majority", "three", variables=CLUSTER,
         cluster=ClusterFacts(state="ok", slots_served=16384, primaries={"a:1": 1})),
    fact("cluster.shape", "warn", "no replica: b:2", "add one", variables=CLUSTER,
         cluster=ClusterFacts(state="ok", slots_served=16384, primaries={**THREE, "b:2": 0})),
    fact("sentinels.watch", "warn", "1 of 2 sentinels", "start them", variables=SENTINEL,
         sentinels=SentinelFacts([{"num-other-sentinels": 2, "num-slaves": 1,
                                   "down-after-milliseconds": 5000}, None], ["", "timeout"])),
    fact("flutterwave.v3_answers", "warn", "cooling off", "again later",
         provider={"default": ProviderFacts(v3="cooling_off")}),
    fact("flutterwave.v4_answers", "fail", "refuses the token", "copy",
         provider={"default": ProviderFacts("", "", "credentials")}),
    fact("flutterwave.apis_in_use", "fail", "7 v4 webhooks", "dashboard of v4",
         variables={"FLW_CLIENT_ID": None, "FLW_CLIENT_SECRET": None},
         database=inbox(apis={("default", "v4"): 7})),
    fact("flutterwave.apis_in_use", "warn", "CONFIRM=v3", "CONFIRM=always",
         variables={"CONFIRM": "v3"}, database=inbox(apis={("default", "v3"): 7})),
    fact("web.ready", "fail", "database database_not_migrated", "log",
         web=replace(WEB, ready={"ready": False, "database": "database_not_migrated"})),
    fact("web.ready", "warn", "cache degraded", "cache.reachable",
         web=replace(WEB, ready={**READY, "cache": "degraded"})),
    fact("web.reachable", "fail", "certificate", "proxy", web=WebFacts("https://p", "tls")),
    fact("webhook.refuses", "fail", "redirects (301)", "redirects to",
         web=replace(WEB, refused=301)),
    fact("webhook.refuses", "fail", "flutterwave/acme is not known", "MERCHANTS_FILE",
         web=replace(WEB, others={"acme": 404})),
    fact("webhook.accepts", "fail", "v3 webhooks are refused and v4", "verif-hash",
         web=replace(WEB, accepted={"v3": 401, "v4": 200})),
]  # fmt: skip


@pytest.mark.parametrize("planted", FACTS, ids=lambda f: f"{f.check}-{f.found.split()[0]}")
def test_what_a_server_shows_is_found_and_its_mending_said(planted: Fact) -> None:
    """Facts that no server of a test would show are judged as they would be."""
    case = sound(**planted.variables)
    for name, value in planted.facts.items():
        setattr(case, name, value)
    finding = of(judge(case), planted.check)
    assert (finding.outcome, planted.found in finding.found) == (planted.outcome, True), finding
    assert planted.mend in finding.mend, finding


SAME_OF_BOTH = [
    ("reachable", {"trouble": "password"}, "fail", "user or password"),
    ("version", {"info": {"redis_version": "5.0.1"}}, "fail", "5.0.1"),
    ("role", {"info": {"role": "slave"}}, "fail", "replica"),
    ("topology", {"info": {"redis_mode": "sentinel"}}, "fail", "sentinel"),
    ("idle", {"config": {"timeout": "300"}}, "warn", "300"),
    ("persistence", {"info": {"rdb_last_bgsave_status": "err"}}, "fail", "snapshot"),
    ("clock", {"ahead_s": 3.0}, "warn", "3.0 s ahead"),
    ("latency", {"pings_ms": [3.5] * 20}, "warn", "3.5 ms"),
]


@pytest.mark.parametrize("part", ["cache", "queue"])
@pytest.mark.parametrize(("what", "said", "outcome", "found"), SAME_OF_BOTH)
def test_what_both_servers_must_be_is_asked_of_both(
    part: str, what: str, said: dict[str, Any], outcome: str, found: str
) -> None:
    """Cache and queue are looked at alike, and the finding names the one that is meant."""
    case = sound()
    server = {"cache": CACHE, "queue": QUEUE}[part]
    wrong = {**said, "info": {**server.info, "valkey_version": None, **said.get("info", {})}}
    setattr(case, part, [replace(server, **wrong)])
    findings = judge(case)
    finding = of(findings, f"{part}.{what}")
    assert (finding.outcome, found in finding.found) == (outcome, True), finding
    other = "queue" if part == "cache" else "cache"
    assert of(findings, f"{other}.{what}").outcome == "ok"


def test_a_file_system_of_another_host_is_no_place_for_sqlite(tmp_path: Path) -> None:
    """The longest mount point that holds the file decides."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n", "utf-8")
    options = Options(mounts=mounts)
    case = open_case({"DATABASE_URL": f"sqlite:///{tmp_path / 'a.db'}"}, options)
    case.database = DatabaseFacts(path=tmp_path / "a.db")
    finding = of(judge(case), "database.place")
    assert finding.outcome == "fail"
    assert "nfs4" in finding.found
    assert "PostgreSQL" in finding.mend
    assert file_system(Path("/var/lib/a.db"), mounts.read_text("utf-8")) == "ext4"
    assert not is_remote("ext4")


def test_a_relative_path_of_sqlite_is_warned_of(tmp_path: Path) -> None:
    """Two processes started in two folders would have two databases."""
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\n", "utf-8")
    case = open_case({"DATABASE_URL": "sqlite:///a.db"}, Options(mounts=mounts))
    case.database = DatabaseFacts(path=Path("a.db"))
    finding = of(judge(case), "database.place")
    assert (finding.outcome, "relative" in finding.found) == ("warn", True)
    assert "sqlite:////" in finding.mend


@pytest.mark.parametrize(
    ("free", "outcome"), [(5 << 30, "ok"), (500 << 20, "warn"), (50 << 20, "fail")]
)
def test_a_disk_that_fills_up_is_said_in_time(free: int, outcome: str, tmp_path: Path) -> None:
    """Below a gigabyte is a warning, below 100 MB nothing can be recorded for long."""
    asked: list[str] = []

    def measure(folder: str | Path) -> tuple[int, int]:
        asked.append(str(folder))
        return free, 100 << 30

    environ = {"DATABASE_URL": f"sqlite:///{tmp_path / 'a.db'}", "QUEUE_URL": "redis://localhost"}
    case = open_case(environ, Options(measure=measure))
    case.database, case.queue = DatabaseFacts(path=tmp_path / "a.db"), [QUEUE]
    findings = judge(case)
    assert of(findings, "database.disk").outcome == outcome
    assert of(findings, "queue.disk").outcome == outcome
    assert asked == [str(tmp_path), "/nowhere"]
    elsewhere = of(judge(sound()), "queue.disk")
    assert (elsewhere.outcome, "another host" in elsewhere.found) == ("skipped", True)


def test_a_check_that_breaks_ends_no_other() -> None:
    """It is skipped by the type of its error alone; the text may quote anything."""

    def broken(_case: Case) -> Any:
        raise RuntimeError(f"{MARK} of something")

    findings = judge(sound(), {"a.broken": broken, "b.whole": CHECKS["settings.valid"]})
    assert [(f.check, f.outcome) for f in findings] == [("a.broken", "skipped"), ("b.whole", "ok")]
    assert findings[0].found == "the check itself failed: RuntimeError"


def test_a_secret_that_a_check_lets_slip_is_not_shown() -> None:
    """The last net, below checks that name none."""
    leaking = [SOUND["FLW_SECRET_KEY"], SOUND["API_TOKENS"].partition("=")[2]]
    leaking += [f"{MARK}-database", f"{MARK}-cache"]
    told = " ".join(leaking)
    findings = judge(sound(), {"a.leaking": lambda _case: fail(told, told)})
    assert (findings[0].found, findings[0].mend) == ("*** *** *** ***", "*** *** *** ***")


def test_every_check_is_documented() -> None:
    """``docs/doctor.md`` names each, after the first of a row without its area."""
    text = (ROOT / "docs" / "doctor.md").read_text("utf-8")
    names = [(name, f"`.{name.partition('.')[2]}`") for name in CHECKS]
    assert [name for name, short in names if f"`{name}`" not in text and short not in text] == []


async def test_settings_that_cannot_be_read_are_not_asked_about() -> None:
    """The default that stands in for a broken CACHE_URL is nobody's cache."""
    environ = {"CACHE_URL": "cache:6379", "DATABASE_URL": "mysql://a", "PORT": "x",
               "WORKER_PORT": "x"}  # fmt: skip
    findings = await examine(open_case(environ, Options(timeout_s=5)))
    for check in ("cache.reachable", "queue.reachable", "database.reachable", "web.reachable"):
        finding = of(findings, check)
        assert finding.outcome == "skipped", finding
    assert len([f for f in findings if f.check == "settings.valid"]) == 4


async def test_a_server_that_never_answers_is_given_up() -> None:
    """Its checks are skipped or failed in time, and the others are made all the same."""
    hung: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _r, w: hung.append(w), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    environ = {"CACHE_URL": f"redis://127.0.0.1:{port}", "PORT": str(port),
               "DATABASE_URL": f"postgresql://a:b@127.0.0.1:{port}/a",
               "FLW_SECRET_KEY": f"FLWSECK-{MARK}", "FLW_BASE_URL": f"http://127.0.0.1:{port}/v3",
               "WORKER_PORT": str(port)}  # fmt: skip
    async with server:
        findings = await examine(open_case(environ, Options(timeout_s=2)))
        for writer in hung:
            writer.close()
    for check in ("cache.reachable", "queue.reachable", "database.reachable", "web.reachable",
                  "worker.reachable", "flutterwave.v3_answers"):  # fmt: skip
        assert of(findings, check).outcome != "ok", check
    assert "in time" in of(findings, "cache.reachable").found
    assert of(findings, "settings.valid").outcome == "ok"


def run(*arguments: str, environ: dict[str, str], folder: Path) -> Any:
    """Run ``paystate doctor`` with `environ` only."""
    runner = CliRunner(env=dict.fromkeys(SOUND))
    closed = {"PORT": "1", "WORKER_PORT": "1", "WEBHOOK_URL": ""}
    arguments = ("doctor", "--data-dir", str(folder), "--timeout", "3", *arguments)
    return runner.invoke(cli, arguments, env={**closed, **environ})


QUIET = {"CACHE_URL": "redis://127.0.0.1:1", "FLW_SECRET_KEY": f"FLWSECK_TEST-{MARK}-key-X",
         "FLW_BASE_URL": "http://127.0.0.1:1/v3"}  # fmt: skip


def test_exit_codes_tell_wrong_from_unusable(tmp_path: Path) -> None:
    """1 where something is wrong, 2 where the settings cannot be used or the arguments."""
    wrong = run("--json", environ=QUIET, folder=tmp_path)
    assert wrong.exit_code == 1
    said = json.loads(wrong.stdout)
    assert said["counts"]["fail"] == sum(f["outcome"] == "fail" for f in said["findings"])
    assert {f["check"] for f in said["findings"]} == set(CHECKS)
    assert MARK not in wrong.output
    assert run(environ={**QUIET, "PORT": "eighty"}, folder=tmp_path).exit_code == 2
    assert run("--url", "nowhere", environ=QUIET, folder=tmp_path).exit_code == 2


def test_people_are_shown_what_to_mend_first(tmp_path: Path) -> None:
    """What is well is counted and not listed; what is wrong comes first, each in its order."""
    shown = run(environ={**QUIET, "COLUMNS": "200"}, folder=tmp_path).stdout
    assert "cache.reachable" in shown
    assert "settings.valid" not in shown
    places = [shown.index(check) for check in ("secrets.webhook", "cache.reachable",
                                               "settings.defaults", "access.link_key")]  # fmt: skip
    assert places == sorted(places)
    assert "--all lists them" in shown
    assert MARK not in shown


def test_a_running_dev_is_examined_without_any_setting(tmp_path: Path) -> None:
    """Its servers, secrets and address are in its folder; what it made up is not shown."""
    with lock_data_dir(tmp_path) as data:
        data.running = Running(1, "http://127.0.0.1:1", "http://127.0.0.1:1/webhooks/flutterwave")
        data.ports["valkey"] = 1
        made = [data.secret(name) for name in ("FLW_SECRET_HASH", "API_TOKENS", "LINK_KEY")]
        data.save()
        shown = run("--json", environ={}, folder=tmp_path)
    findings = [Finding(**one) for one in json.loads(shown.stdout)["findings"]]
    assert of(findings, "settings.defaults").outcome == "ok"
    assert of(findings, "secrets.webhook").outcome == "ok"
    assert of(findings, "web.reachable").found == "http://127.0.0.1:1: nobody answers"
    assert not any(secret in shown.output for secret in made)


def test_help_has_examples() -> None:
    """Whoever asks for help finds a line to copy."""
    shown = CliRunner().invoke(cli, ["doctor", "--help"]).output
    assert "paystate doctor --url https://pay.example.com" in shown
    assert "Exit codes" in shown
