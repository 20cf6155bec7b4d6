"""The doctor beside real servers: a sound system passes, each planted mistake is found by name."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from bench.ports import free_port
from bench.topologies.nodes import Node
from paystate.connections import connect
from paystate.doctor import Finding, Options, Outcome, examine, open_case
from paystate.flutterwave.sandbox.server import RunningSandbox
from paystate.flutterwave.shared_gate import RedisGate
from paystate.health import health_routes
from paystate.keys import Keys
from paystate.process import listen
from paystate.resources import Resources, open_resources
from paystate.settings import Role, load
from paystate.store.engine import open_database
from tests.harness import open_provider, provider_settings
from tests.parts import ROOT
from webhook_server.app import make_app

MARK = "c4n4ry"
SECRETS = {
    "FLW_SECRET_HASH": f"{MARK}-hash-hash-hash-hash,{MARK}-last-last-last-last",
    "API_TOKENS": f"{MARK}-token-token-token,shop:default:read={MARK}-read-read-read",
    "LINK_KEY": f"{MARK}-link-link-link-link-link",
}
_ORDER = (Outcome.FAIL, Outcome.WARN, Outcome.SKIPPED, Outcome.OK)


@dataclass
class Servers:
    """A cache and a queue, set up by the files in ``deploy/``, and a folder for more servers."""

    folder: Path
    cache: Node
    queue: Node

    @property
    def settings(self) -> dict[str, str]:
        return {"CACHE_URL": self.cache.url, "QUEUE_URL": self.queue.url}

    @asynccontextmanager
    async def one_more(self, **options: str) -> AsyncIterator[Node]:
        """Run another server, or a sentinel, with `options`."""
        named = {name.replace("_", "-"): value for name, value in options.items()}
        node = Node(self.folder, f"more{free_port()}", named, watches="sentinel" in named)
        node.start()
        try:
            yield node
        finally:
            node.kill()


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Two servers of this file, started once; who changes one changes it back."""
    folder = Path(tempfile.mkdtemp(prefix="doc"))
    deploy = ROOT / "deploy"
    nodes = [
        Node(folder, part, {"include": str(deploy / f"valkey-{part}.conf")})
        for part in ("cache", "queue")
    ]
    for node in nodes:
        node.start()
    yield Servers(folder, *nodes)
    for node in nodes:
        node.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What is opened in a test and closed after it."""
    async with AsyncExitStack() as opened:
        yield opened


@asynccontextmanager
async def configured(node: Node, **values: str) -> AsyncIterator[None]:
    """Set `values` on a running server, and set them back."""
    named = {name.replace("_", "-"): value for name, value in values.items()}
    before = {name: node.ask("CONFIG", "GET", name)[1] for name in named}
    for name, value in named.items():
        node.ask("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            node.ask("CONFIG", "SET", name, value)


async def examined(environ: dict[str, str], **options: Any) -> list[Finding]:
    """Return the findings for `environ`; with no process running but those that it names."""
    closed = {"PORT": "1", "WORKER_PORT": "1"}
    findings = await examine(open_case({**closed, **SECRETS, **environ}, Options(**options)))
    assert MARK not in json.dumps([f.to_json() for f in findings])
    return findings


def worst(findings: list[Finding], check: str) -> Finding:
    """Return the finding of `check` that is worst."""
    return min((f for f in findings if f.check == check), key=lambda f: _ORDER.index(f.outcome))


def assert_found(
    findings: list[Finding], check: str, outcome: str, found: str, mend: str = ""
) -> None:
    """Assert that `check` ended so, and said these words."""
    finding = worst(findings, check)
    assert finding.outcome == outcome, finding
    assert found in finding.found, finding
    assert mend in finding.mend, finding
    assert (finding.mend != "") == (outcome in ("fail", "warn")), finding


# --- a whole system ---


@dataclass
class System:
    """Web process and worker's health, over real servers and a sandbox."""

    environ: dict[str, str]
    web: str
    worker: str
    sandbox: RunningSandbox
    resources: Resources

    async def examined(self, environ: dict[str, str] | None = None, **more: Any) -> list[Finding]:
        where = {"url": self.web, "worker_url": self.worker, **more}
        return await examined({**self.environ, **(environ or {})}, **where)


async def serve(stack: AsyncExitStack, app: web.Application) -> str:
    """Serve `app` and return its address."""
    runner = await listen(app, "127.0.0.1", 0, grace_s=1)
    stack.push_async_callback(runner.cleanup)
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


@asynccontextmanager
async def open_system(servers: Servers, database: str, **more: str) -> AsyncIterator[System]:
    """Run a system with `more` settings for its processes alone."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(open_provider())
        environ = {
            "DATABASE_URL": database,
            **servers.settings,
            **SECRETS,
            **provider_settings(sandbox),
        }
        settings = load({**environ, **more}, role=Role.WEB)
        resources = await stack.enter_async_context(open_resources(settings))
        worker = web.Application()
        worker.add_routes(health_routes(resources))
        yield System(
            environ,
            await serve(stack, make_app(resources)),
            await serve(stack, worker),
            sandbox,
            resources,
        )


async def test_a_sound_system_has_nothing_wrong(servers: Servers, postgres_url: str) -> None:
    """Servers of deploy/, PostgreSQL, sandbox, web and worker: no check fails, few are skipped."""
    async with open_system(servers, postgres_url) as system:
        findings = await system.examined(send=True)
        assert [f for f in findings if f.outcome is Outcome.FAIL] == []
        # A busy machine may be slow; nothing else is to be looked at.
        slow = {"cache.latency", "queue.latency", "cache.timeout"}
        assert {f.check for f in findings if f.outcome is Outcome.WARN} <= slow
        skipped = {f.check for f in findings if f.outcome is Outcome.SKIPPED}
        assert skipped <= {
            "cache.lease_of_processes", "cluster.state", "cluster.coverage", "cluster.shape",
            "sentinels.watch", "database.place", "database.one_host", "database.disk",
        }  # fmt: skip
        assert_found(findings, "cache.script", "ok", "works")
        assert_found(findings, "cache.news", "ok", "works")
        assert_found(findings, "webhook.accepts", "ok", "v3 and v4")
        assert_found(findings, "webhook.refuses", "ok", "401")
        assert_found(findings, "flutterwave.v3_answers", "ok", "accepts")
        assert_found(findings, "flutterwave.v4_answers", "ok", "accepts")


async def test_the_doctor_leaves_no_key_and_no_payment(servers: Servers, postgres_url: str) -> None:
    """Its own key is deleted; even its signed samples make no payment, and unasked none is sent."""
    async with open_system(servers, postgres_url) as system:

        async def count(table: str) -> int:
            async def work(connection: Any) -> int:
                found = await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")
                return int(found.scalar_one())

            return await system.resources.store._database.read(work)

        await system.examined()
        assert await count("inbox") == 0
        await system.examined(send=True)
        assert await count("inbox") > 0
        assert await count("entities") == 0
        left = [key for key in servers.cache.ask("KEYS", "*") if "doctor" in key]
        assert left == []


async def test_webhook_mistakes_are_found(servers: Servers, sqlite_url: str) -> None:
    """Another secret at the web process, a small limit, a wrong address, a wrong server."""
    other = {"FLW_SECRET_HASH": "quite-another-secret-than-here", "MAX_BODY_BYTES": "20000"}
    async with open_system(servers, sqlite_url, **other) as system:
        findings = await system.examined(send=True)
        assert_found(findings, "webhook.accepts", "fail", "v3", "FLW_SECRET_HASH")
        assert_found(findings, "webhook.size", "fail", "64 KiB", "proxy's limit")
        wrong = {"url": system.sandbox.url, "worker_url": "http://127.0.0.1:1"}
        findings = await system.examined(**wrong)
        assert_found(findings, "web.ready", "fail", "not paystate's", "--url")
        assert_found(findings, "webhook.refuses", "fail", "not known there (404)", "--url")
        assert_found(findings, "worker.reachable", "fail", "nobody answers", "python -m worker")
        findings = await system.examined(
            url=f"http://proxy:{MARK}-word@localhost.invalid/webhooks/flutterwave"
        )
        assert_found(findings, "webhook.https", "fail", "http", "TLS")
        assert_found(findings, "web.reachable", "fail", "localhost.invalid", "check the address")


async def test_a_server_that_accepts_everything_is_found(
    servers: Servers, stack: AsyncExitStack
) -> None:
    """A proxy that answers 200 by itself would lose every webhook."""

    async def anything(_request: web.Request) -> web.Response:
        return web.json_response({"ready": True, "database": "ok", "cache": "ok", "queue": "ok"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", anything)
    findings = await examined(servers.settings, url=await serve(stack, app))
    assert_found(findings, "webhook.refuses", "fail", "answers 200 to a webhook", "proxy")


async def test_provider_mistakes_are_found(servers: Servers) -> None:
    """Wrong credentials, wrong addresses, and nobody there."""
    async with open_provider() as sandbox:
        right = {**servers.settings, **provider_settings(sandbox)}
        findings = await examined(
            {**right, "FLW_SECRET_KEY": f"FLWSECK_TEST-{MARK}-X",
             "FLW_CLIENT_SECRET": f"{MARK}-client-secret"}
        )  # fmt: skip
        assert_found(findings, "flutterwave.v3_answers", "fail", "refuses FLW_SECRET_KEY", "copy")
        assert_found(findings, "flutterwave.token_granted", "fail", "refuses", "copy")
        assert_found(findings, "flutterwave.v4_answers", "skipped", "token_granted")
        findings = await examined(
            {**right, "FLW_BASE_URL": sandbox.url, "FLW_TOKEN_URL": f"{sandbox.url}/tokens"}
        )
        assert_found(findings, "flutterwave.v3_answers", "fail", "FLW_BASE_URL", "path")
        assert_found(findings, "flutterwave.token_granted", "fail", "", "FLW_TOKEN_URL")
    findings = await examined(right)
    assert_found(findings, "flutterwave.v3_answers", "fail", "nobody answers", "firewall")


async def test_a_provider_that_has_had_enough_is_not_asked(servers: Servers) -> None:
    """The cool-off of all processes is the doctor's as well."""
    redis = connect(servers.cache.url, timeout_s=5)
    async with open_provider() as sandbox:
        await RedisGate(redis, Keys(), "default", hourly_budget=10).cool_off(60)
        # Whoever asked all the same would be told that this key is wrong.
        wrong = {"FLW_SECRET_KEY": f"FLWSECK_TEST-{MARK}-X", "FLW_CLIENT_ID": "",
                 "FLW_CLIENT_SECRET": ""}  # fmt: skip
        settings = {**servers.settings, **provider_settings(sandbox), **wrong}
        try:
            findings = await examined(settings)
        finally:
            servers.cache.ask("FLUSHALL")
            await redis.aclose()
    assert_found(findings, "flutterwave.v3_answers", "warn", "cooling off", "again later")


async def test_an_examination_ends_in_time_however_much_there_is_to_ask(
    servers: Servers, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """Fifty merchants' addresses that each take a tenth of a second are not all waited for."""

    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.1)
        return web.json_response({}, status=401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", slow)
    file = tmp_path / "merchants.toml"
    file.write_text("".join(f'[m{i}]\nsecret_hash = "{MARK}-{i}-of-many"\n' for i in range(50)))
    findings = await examined(
        {**servers.settings, "MERCHANTS_FILE": str(file)},
        url=await serve(stack, app),
        timeout_s=1.5,
    )
    assert_found(findings, "web.reachable", "skipped", "no answer within 1.5 s")


async def test_clocks_that_differ_are_found(servers: Servers, postgres_url: str) -> None:
    """Seen from a host whose clock is ten seconds slow."""
    import time

    findings = await examined(
        {**servers.settings, "DATABASE_URL": postgres_url}, now=lambda: time.time() - 10
    )
    for check in ("database.clock", "cache.clock", "queue.clock"):
        assert_found(findings, check, "warn", "s ahead", "NTP")


# --- Valkey ---


@dataclass(frozen=True)
class Setting:
    """One line of a server's configuration that is wrong, and who finds it."""

    part: str
    values: dict[str, str]
    check: str
    outcome: str
    found: str
    mend: str


SETTINGS = [
    Setting("queue", {"appendonly": "no"}, "queue.appendonly", "warn", "off", "appendonly yes"),
    Setting("queue", {"appendfsync": "no"}, "queue.appendfsync", "warn", "no", "everysec"),
    Setting("queue", {"maxmemory_policy": "allkeys-lru", "maxmemory": "100mb"},
            "queue.eviction", "fail", "allkeys-lru", "noeviction"),
    Setting("queue", {"maxmemory_policy": "volatile-ttl", "maxmemory": "0"},
            "queue.eviction", "warn", "as soon as maxmemory", "noeviction"),
    Setting("queue", {"timeout": "300"}, "queue.idle", "warn", "300", "timeout 0"),
    Setting("cache", {"maxmemory_policy": "noeviction"},
            "cache.eviction", "warn", "noeviction", "allkeys-lru"),
    Setting("cache", {"maxmemory": "0"}, "cache.memory", "warn", "not set", "maxmemory"),
    Setting("cache", {"requirepass": f"{MARK}-password"},
            "cache.reachable", "fail", "user or password of CACHE_URL", "%XX"),
]  # fmt: skip


@pytest.mark.parametrize("planted", SETTINGS, ids=lambda p: f"{p.check}-{'-'.join(p.values)}")
async def test_a_wrong_line_of_a_server_is_found(servers: Servers, planted: Setting) -> None:
    """Everything else is as in deploy/."""
    node: Node = getattr(servers, planted.part)
    password = planted.values.get("requirepass")
    if password:
        node.ask("CONFIG", "SET", "requirepass", password)
        try:
            findings = await examined(servers.settings)
        finally:
            _forget_password(node, password)
    else:
        async with configured(node, **planted.values):
            findings = await examined(servers.settings)
    assert_found(findings, planted.check, planted.outcome, planted.found, planted.mend)


def _forget_password(node: Node, password: str) -> None:
    import redis

    with redis.Redis(port=node.port, password=password) as client:
        client.config_set("requirepass", "")


async def test_cache_and_queue_in_one_server_that_evicts_are_found(servers: Servers) -> None:
    """Through two names and two databases it is one server still."""
    one = {"CACHE_URL": servers.cache.url, "QUEUE_URL": f"redis://localhost:{servers.cache.port}/1"}
    findings = await examined(one)
    assert_found(findings, "cache.shared", "fail", "allkeys-lru", "server of its own")


async def test_addresses_of_servers_that_do_not_fit_are_found(servers: Servers) -> None:
    """Nobody there, a password nobody asked for, a replica, no cluster, no such database."""
    findings = await examined({**servers.settings, "CACHE_URL": "redis://127.0.0.1:1"})
    assert_found(findings, "cache.reachable", "fail", "nobody answers", "CACHE_URL")
    assert_found(findings, "cache.version", "skipped", "not reached")
    url = f"redis://:{MARK}-password@127.0.0.1:{servers.queue.port}"
    findings = await examined({**servers.settings, "QUEUE_URL": url})
    assert_found(findings, "queue.reachable", "fail", "password of QUEUE_URL", "%XX")
    url = f"redis+cluster://127.0.0.1:{servers.cache.port}"
    findings = await examined({**servers.settings, "CACHE_URL": url})
    assert_found(findings, "cluster.state", "fail", "is none", "redis://host:port")
    findings = await examined({**servers.settings, "CACHE_URL": f"{servers.cache.url[:-1]}99"})
    assert_found(findings, "cache.reachable", "fail", "database of that number", "/0")
    async with servers.one_more(replicaof="127.0.0.1 1") as replica:
        findings = await examined({**servers.settings, "CACHE_URL": replica.url})
    assert_found(findings, "cache.role", "fail", "replica", "primary")


async def test_what_a_user_may_not_do_is_found_or_said(servers: Servers) -> None:
    """Without rights the doctor says what it could not see; what paystate needs it must have."""
    rights = f"on >{MARK}-password ~* +@all"
    for name, refused in (("limited", "&* -config"), ("silent", "resetchannels"),
                          ("unscripted", "&* -@scripting")):  # fmt: skip
        servers.queue.ask("ACL", "SETUSER", name, *rights.split(), *refused.split())
    host = f"{MARK}-password@127.0.0.1:{servers.queue.port}"
    findings = await examined({"CACHE_URL": f"redis://limited:{host}"})
    assert_found(findings, "queue.appendfsync", "skipped", "CONFIG GET is forbidden")
    assert_found(findings, "queue.appendonly", "ok", "on")
    findings = await examined({"CACHE_URL": f"redis://silent:{host}"})
    assert_found(findings, "cache.news", "fail", "forbidden", "&flw:*")
    findings = await examined({"CACHE_URL": f"redis://unscripted:{host}"})
    assert_found(findings, "cache.script", "fail", "forbidden", "+evalsha")


async def test_mistakes_of_a_cluster_are_found(servers: Servers) -> None:
    """Half of its slots unserved, full coverage required, a lease as long as its node timeout."""
    cluster = {"cluster_enabled": "yes", "cluster_node_timeout": "1000", "save": '""',
               "cluster_port": str(free_port()),
               "cluster_require_full_coverage": "yes"}  # fmt: skip
    async with servers.one_more(**cluster) as node:
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        url = f"redis+cluster://{node.address}"
        findings = await examined(
            {**servers.settings, "CACHE_URL": url, "PENDING_LEASE_MS": "1000"}
        )
        assert_found(findings, "cluster.state", "fail", "cluster_state is fail", "start")
        assert "8192 slots are not served" in [
            f.found.partition(":")[0] for f in findings if f.check == "cluster.state"
        ]
        assert_found(findings, "cluster.coverage", "fail", "is yes", "set it to no")
        assert_found(findings, "cluster.shape", "warn", "majority", "three")
        assert_found(findings, "cache.lease", "fail", "cluster-node-timeout 1000", "250 or less")
        findings = await examined({**servers.settings, "CACHE_URL": node.url})
        assert_found(findings, "cache.topology", "fail", "belongs to a cluster", "+cluster")
        findings = await examined({"CACHE_URL": servers.cache.url, "QUEUE_URL": node.url})
        assert_found(findings, "queue.topology", "fail", "cannot hold the queue", "QUEUE_URL")


async def test_mistakes_of_sentinels_are_found(servers: Servers) -> None:
    """A service that they do not know, and a lease longer than their patience."""
    monitor = f"monitor main 127.0.0.1 {servers.cache.port} 1\n"
    monitor += "sentinel down-after-milliseconds main 800"
    async with servers.one_more(sentinel=monitor) as node:
        settings = {**servers.settings, "PENDING_LEASE_MS": "1000"}
        url = f"redis+sentinel://{node.address}"
        findings = await examined({**settings, "CACHE_URL": f"{url}/main"})
        assert_found(findings, "cache.reachable", "ok", "answers")
        assert_found(findings, "sentinels.watch", "warn", "", "three or more")
        assert_found(findings, "cache.lease", "fail", "down-after-milliseconds 800", "200 or less")
        findings = await examined({**settings, "CACHE_URL": f"{url}/other"})
        assert_found(findings, "cache.reachable", "fail", "do not know", "sentinel monitor")
        assert_found(findings, "sentinels.watch", "fail", "do not know", "sentinel monitor")


# --- the database ---


async def run_sql(url: str, *statements: str) -> None:
    """Run statements on the database of `url`."""
    database = open_database(url, pool=1, timeout_s=10)

    async def work(connection: Any) -> None:
        for statement in statements:
            await connection.exec_driver_sql(statement)

    try:
        await database.write(work)
    finally:
        await database.close()


async def test_mistakes_of_postgresql_are_found(servers: Servers, postgres_url: str) -> None:
    """Not migrated, behind, ahead, commits that are not waited for, too few connections."""
    settings = {**servers.settings, "DATABASE_URL": postgres_url}
    name = postgres_url.partition("@/")[2].partition("?")[0]
    other = postgres_url.replace(f"/{name}?", "/{}?")

    await run_sql(postgres_url, f"ALTER DATABASE {name} SET synchronous_commit = off",
                  "UPDATE alembic_version SET version_num = '0001'")  # fmt: skip
    findings = await examined(settings, processes=500)
    assert_found(findings, "database.synchronous_commit", "warn", "off by the database", "RESET")
    assert_found(findings, "database.migrated", "fail", "behind", "paystate migrate")
    assert_found(findings, "database.connections", "fail", "5000", "max_connections")

    await run_sql(postgres_url, "UPDATE alembic_version SET version_num = '9999'")
    assert_found(await examined(settings), "database.migrated", "fail", "later release", "release")

    plain = await asyncpg.connect(postgres_url)  # such a statement takes no transaction
    await plain.execute(
        f"CREATE DATABASE {name}_ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' "
        "TEMPLATE template0"
    )
    await plain.close()
    findings = await examined({**settings, "DATABASE_URL": other.format(f"{name}_ascii")})
    assert_found(findings, "database.encoding", "fail", "SQL_ASCII", "ENCODING 'UTF8'")
    assert_found(findings, "database.migrated", "fail", "no tables", "paystate migrate")
    assert_found(findings, "inbox.dead", "skipped", "cannot be read")


# As a pooler says it: an error of class 08P01.
_REFUSED = b"SFATAL\0C08P01\0Munsupported startup parameter: synchronous_commit\0\0"
_REFUSAL = b"E" + (len(_REFUSED) + 4).to_bytes(4, "big") + _REFUSED


async def _stub(stack: AsyncExitStack, reply: bytes) -> int:
    """Listen for one who asks, answer `reply` to his first words, and return the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    await stack.enter_async_context(server)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def test_databases_that_cannot_be_reached_are_told_apart(
    servers: Servers, postgres_url: str, tmp_path: Path, stack: AsyncExitStack
) -> None:
    """No such database, no such role, a parameter of other drivers, no file, nobody there."""
    host = postgres_url.partition("?")[2]
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"no database at all" * 100)
    plain, pooler = await _stub(stack, b"N"), await _stub(stack, _REFUSAL)
    for url, found, mend in (
        (f"postgresql://a:b@127.0.0.1:{plain}/a?ssl=require", "TLS", "?sslmode="),
        (f"postgresql://a:b@127.0.0.1:{plain}/a?sslmode=require", "TLS", "?sslmode="),
        (f"postgresql://a:b@127.0.0.1:{pooler}/a?ssl=disable", "pooler", "?pooler="),
        (f"postgresql://postgres@/nowhere?{host}", "no such database", "create it"),
        (f"postgresql://nobody:{MARK}-word@/postgres?{host}", "user or password", "pg_hba"),
        ("postgresql://a:b@127.0.0.1:1/a", "nobody answers", "DATABASE_URL"),
        (f"sqlite:///{tmp_path / 'none.db'}", "no such SQLite file", "paystate migrate"),
        (f"sqlite:///{junk}", "no SQLite database", "another file"),
    ):
        findings = await examined({**servers.settings, "DATABASE_URL": url})
        assert_found(findings, "database.reachable", "fail", found, mend)
    assert not (tmp_path / "none.db").exists()


async def test_events_that_nobody_settles_are_found(servers: Servers, database_url: str) -> None:
    """Overdue, held and given up; and v3's webhooks without a key of v3."""
    row = (
        "INSERT INTO inbox (event_key, merchant, api, type, subject, state, attempts, "
        "received_ms, due_ms, claimed_until_ms) VALUES "
        "('{0}', 'default', 'v3', 'charge.completed', 'payment', '{1}', 0, {2}, {2}, 0)"
    )
    import time

    now_ms = int(time.time() * 1000)
    await run_sql(database_url, row.format("a", "open", now_ms - 60_000),
                  row.format("b", "held", now_ms), row.format("c", "dead", now_ms),
                  row.format("d", "open", now_ms))  # fmt: skip
    findings = await examined({**servers.settings, "DATABASE_URL": database_url})
    assert_found(findings, "worker.sweeping", "fail", "1 events", "python -m worker")
    assert_found(findings, "inbox.held", "warn", "1 events are held", "explain")
    assert_found(findings, "inbox.dead", "warn", "1 events", "dead-letters")
    assert_found(findings, "flutterwave.apis_in_use", "fail", "4 v3 webhooks", "set it")
