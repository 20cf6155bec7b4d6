"""What must not be kept is kept nowhere: in no table, key, file, log, metric or answer.

Every family of body goes through whole processes with a canary in each field that is not kept on
purpose, and with canaries for secrets; much of it fails on the way. Then everything is searched,
for the canaries as they are, in base64, in hex, in UTF-16, and for their SHA-256.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
import redis
from aiohttp import web
from redis.asyncio import Redis

from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.process import listen
from tests.hostile import wire
from tests.hostile.canaries import (
    MARK,
    MARKED,
    PERSON,
    Finding,
    canary,
    digits,
    families,
    search,
    search_folder,
    search_person,
    tainted,
)
from tests.hostile.wire import Reply, connected, exchange, read_reply
from tests.parts import ROOT, Part, start_part
from tests.servers import OwnValkey, Postgres
from tests.unit import bodies

_HASH, _TOKEN, _KEY = canary("verif-hash"), canary("api-token"), canary("FLWSECK")
_CLIENT, _ACCESS, _LINK = canary("client-secret"), canary("access-token"), canary("link-key")
_CACHE, _DATABASE, _GUESS = canary("cache-password"), canary("database-password"), canary("guess")

_CUSTOMER = 640_112_005  # of every v3 charge of the tests
_GENUINE, _HELD, _REFUSED, _BROKEN, _DENIED = 51_001, 51_002, 51_003, 51_004, 51_005


# --- a Flutterwave that repeats what it was sent ---


async def _verify(asked: web.Request) -> web.Response:
    """Answer truly about one payment; about others complain, and quote the request's secrets."""
    credential = asked.headers.get("Authorization", "")
    number = asked.match_info["id"]
    if number in (str(_GENUINE), str(_HELD)):
        data = tainted(bodies.v3_charge(id=int(number)))["data"]
        data["customer"] = {"id": _CUSTOMER, **PERSON}
        return _json({"status": "success", "message": credential, "data": data})
    codes = {str(_REFUSED): 400, str(_DENIED): 401}
    if number == str(_BROKEN):
        return web.Response(text=f"<h1>{credential}</h1>", status=500, content_type="text/html")
    if number in codes:
        message = f"{credential} {canary('message')}"
        return _json({"status": "error", "message": message, "data": None}, codes[number])
    return _json({"status": "error", "message": "No transaction was found", "data": None})


async def _grant(_asked: web.Request) -> web.Response:
    return _json({"access_token": _ACCESS, "expires_in": 600, "token_type": "Bearer"})


async def _elsewhere(asked: web.Request) -> web.Response:
    return _json({"status": "failed", "error": {"message": asked.headers["Authorization"]}}, 400)


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=bodies.encode(body), status=status, content_type="application/json")


@asynccontextmanager
async def _provider() -> AsyncIterator[dict[str, str]]:
    """Run it, and give the settings that lead there."""
    app = web.Application()
    app.add_routes(
        [
            web.get("/v3/transactions/{id}/verify", _verify),
            web.post("/token", _grant),
            web.get("/{rest:.*}", _elsewhere),
        ]
    )
    runner = await listen(app, "127.0.0.1", 0, grace_s=1)
    url = "http://{}:{}".format(*runner.addresses[0][:2])
    try:
        yield {
            "FLW_BASE_URL": f"{url}/v3",
            "FLW_V4_BASE_URL": f"{url}/v4",
            "FLW_TOKEN_URL": f"{url}/token",
            "FLW_SECRET_KEY": _KEY,
            "FLW_CLIENT_ID": "client",
            "FLW_CLIENT_SECRET": _CLIENT,
        }
    finally:
        await runner.cleanup()


# --- what goes through ---


def _webhook(raw: bytes, *, v4: bool = False, **headers: str) -> bytes:
    signature = (V4_HEADER, sign_v4(raw, _HASH)) if v4 else (V3_HEADER, _HASH)
    pairs = {signature[0]: signature[1], **headers}
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in pairs.items()]
    return wire.request(b"POST", b"/webhooks/flutterwave", encoded, raw)


def _get(path: str, token: str = _TOKEN, **headers: str) -> bytes:
    pairs = {"Authorization": f"Bearer {token}", **headers}
    return wire.request(b"GET", path.encode(), [(n.encode(), v.encode()) for n, v in pairs.items()])


def _sent() -> Iterator[bytes]:
    """Yield every webhook, sound and unsound."""
    for number, body in enumerate(families()):
        raw = bodies.encode(body)
        yield _webhook(raw)
        yield _webhook(bodies.encode_form(body))
        named = {"webhook_id": f"wbk_{number}"} if "webhook_id" in body else {}
        yield _webhook(bodies.encode({**body, **named}), v4=True)
        yield _webhook(raw[:-9])
        yield _webhook(raw, **{V3_HEADER: _GUESS})
        yield _webhook(raw, **{V4_HEADER: base64.b64encode(_GUESS.encode()).decode()})
    for number in (_GENUINE, _REFUSED, _BROKEN, _DENIED):
        yield _webhook(bodies.encode(tainted(bodies.v3_charge(id=number))))
    yield _webhook(bodies.encode(tainted(bodies.v3_charge(id=_HELD, amount=1))))
    yield _webhook(b'{"otp": "%s\xff"}' % canary("otp").encode())
    yield _webhook(b"{}", **{"X-Secret": f"{canary('header')}\x01"})
    yield _webhook(b"{}", **{"Cookie": canary("cookie"), "User-Agent": canary("agent")})
    yield wire.request(b"POST", f"/webhooks/flutterwave/{canary('path')}".encode(), [], b"{}")


def _asked() -> Iterator[bytes]:
    """Yield questions, of those who may ask and of those who may not."""
    hidden = canary("question")
    for path in ("/metrics", "/readyz", "/healthz", "/api/changes?after=0.0&limit=1000",
                 f"/api/payments/{_GENUINE}", f"/api/payments/{_GENUINE}/status",
                 "/api/payments/by-ref/order%2088%2F2041", f"/api/payments/{_REFUSED}/status",
                 f"/api/payments/1/status?access_token={hidden}", f"/{hidden}"):  # fmt: skip
        yield _get(path)
        yield _get(path, token=_GUESS)
        yield _get(path, **{"Last-Event-ID": hidden, "Cookie": hidden, "If-None-Match": hidden})
    yield wire.request(b"GET", b"/api/changes", [(b"Authorization", _GUESS.encode() + b"\x01")])


async def _stream(url: str) -> bytes:
    """Return what a stream of everything tells first."""
    async with connected(url) as (reader, writer):
        writer.write(_get("/api/changes?after=0.0", Accept="text/event-stream"))
        assert (await read_reply(reader)) is not None
        async with asyncio.timeout(30):
            return await reader.readuntil(b"event: change\r\n".replace(b"\r", b""))


class Run:
    """Processes with secrets, over servers with passwords, and everything that they have said."""

    def __init__(self, settings: dict[str, str], web: Part, worker: Part) -> None:
        self.settings = settings
        self.web = web
        self.worker = worker
        self.said: list[tuple[str, bytes]] = []
        self.about_persons: set[bytes] = set()

    async def exchange(self, raw: bytes, url: str | None = None) -> Reply:
        """Send, and keep the answer: ours, not that of aiohttp's parser, which quotes what it
        cannot read to whoever has sent it.
        """
        reply = await exchange(url or self.web.url, raw)
        assert reply is not None
        if reply.status != 400 or reply.headers["content-type"] != "text/plain; charset=utf-8":
            self.said.append(("answer", repr(reply.headers).encode() + reply.body))
        return reply

    async def command(self, *arguments: str, **more: str) -> int:
        """Run a process to its end and keep what it writes."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], **self.settings, **more},
        )  # fmt: skip
        written, _ = await process.communicate()
        self.said.append((" ".join(arguments), written))
        assert process.returncode is not None
        return process.returncode


@asynccontextmanager
async def _deployed(database_url: str, valkey: OwnValkey) -> AsyncIterator[Run]:
    async with AsyncExitStack() as stack:
        settings = {
            **await stack.enter_async_context(_provider()),
            "DATABASE_URL": database_url,
            "CACHE_URL": _with_password(valkey),
            "FLW_SECRET_HASH": _HASH,
            "API_TOKENS": _TOKEN,
            "LINK_KEY": _LINK,
            "PORT": "0",
            "WORKER_PORT": "0",
            "LOG_LEVEL": "DEBUG",
        }
        web_part = await stack.enter_async_context(start_part("webhook_server", settings))
        worker = await stack.enter_async_context(start_part("worker", settings))
        yield Run(settings, web_part, worker)


def _with_password(valkey: OwnValkey) -> str:
    return valkey.url.replace("redis://", f"redis://:{_CACHE}@")


@pytest.fixture
def guarded_valkey() -> Iterator[OwnValkey]:
    """A Valkey that writes everything down, and wants a password."""
    server = OwnValkey()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", _CACHE)
    yield server
    server.close()


async def _let_everything_through(run: Run) -> None:
    codes = {reply.status for reply in await asyncio.gather(*map(run.exchange, _sent()))}
    assert {200, 400, 401, 404} <= codes
    assert max(codes) < 500
    await run.worker.wait_for(
        lambda: any("successful" in line.get("changes", {}) for line in run.worker.lines)
    )
    for reason in ("provider_http_4xx", "provider_http_5xx", "provider_credentials"):
        await run.worker.event("events_put_off", reason=reason)
    await run.worker.event("event_given_up", ending="held")
    await asyncio.gather(*map(run.exchange, _asked()))
    for path in ("/metrics", "/readyz"):
        await run.exchange(_get(path), run.worker.url)
    details = await run.exchange(_get(f"/api/payments/{_GENUINE}"))
    assert orjson.loads(details.body)["status"] == "successful"
    run.said.append(("stream", await _stream(run.web.url)))
    for path in ("", "/payments", "/export", "?merchant=nobody"):
        told = await run.exchange(_get(f"/api/customers/{_CUSTOMER}{path}"))
        assert (PERSON["email"].encode() in told.body) is (path in ("", "/export"))
        run.about_persons.add(told.body)


async def _commands(run: Run) -> None:
    port = run.web.url.rpartition(":")[2]
    broken = {"DATABASE_URL": f"mysql://{_DATABASE}", "FLW_SECRET_HASH": f"{_HASH}, {_HASH}"}
    away = {"DATABASE_URL": f"postgresql://user:{_DATABASE}@127.0.0.1:1/name"}
    codes = await asyncio.gather(
        run.command("paystate", "config"),
        run.command("paystate", "lookup", str(_GENUINE), PORT=port),
        run.command("paystate", "migrate", **away),
        run.command("webhook_server", **broken),
    )
    assert codes[:2] == [0, 0]
    assert min(codes[2:]) > 0


async def _keys_and_values(url: str) -> list[tuple[str, bytes]]:
    readers = {b"hash": "HGETALL", b"string": "GET", b"zset": "ZRANGE", b"list": "LRANGE"}
    async with Redis.from_url(url) as client:
        found = []
        for key in await client.keys("*"):
            kind = await client.type(key)
            if kind == b"none":
                found.append((f"key {key!r}", ""))  # it has run out since
                continue
            reader = readers[kind]
            more = ("0", "-1") if reader.endswith("RANGE") else ()
            found.append((f"key {key!r}", repr(await client.execute_command(reader, key, *more))))
        found.append(("slow log", repr(await client.slowlog_get(1000))))
        assert found
        return [(place, text.encode()) for place, text in found]


def _found_in(run: Run, kept: list[tuple[str, bytes]]) -> list[Finding]:
    logs = [("web's log", run.web.log.encode()), ("worker's log", run.worker.log.encode())]
    everything = [*run.said, *kept, *logs]
    assert len(everything) > 150
    told = [text for _, text in run.said if not any(body in text for body in run.about_persons)]
    persons = [f for text in told for f in search_person("answer", text)]
    persons += [f for place, text in [*kept, *logs] for f in search_person(place, text)]
    assert {finding.place for finding in persons} == {
        "table customers", f"key b'flw:v1:customer:{_CUSTOMER}:profile'",
    }  # fmt: skip
    return [finding for place, text in everything for finding in search(place, text)]


def _table_of(line: str) -> str:
    """Return the place that a line of a dump is of."""
    found = re.match(r'INSERT INTO "?([a-z_]+)', line)
    return f"table {found[1]}" if found else "dump"


async def test_nothing_forbidden_is_kept_with_sqlite(
    sqlite_url: str, guarded_valkey: OwnValkey, tmp_path: Path
) -> None:
    async with _deployed(sqlite_url, guarded_valkey) as run:
        await _let_everything_through(run)
        await _commands(run)
        kept = await _keys_and_values(_with_password(guarded_valkey))
        path = sqlite_url.removeprefix("sqlite:///")
        # From here on nothing can be recorded, and whoever says so has the content at hand.
        sqlite3.connect(path).executescript(
            "ALTER TABLE details RENAME TO away;"
            "CREATE TRIGGER refuse BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'refused'); END"
        ).connection.close()
        refused = await run.exchange(_webhook(bodies.encode(tainted(bodies.v3_charge(id=9)))))
        assert refused.status == 503
        guarded_valkey.kill()
        await run.exchange(_get("/readyz"))
        await run.worker.kill()
        await run.web.kill()
        dump = "\n".join(sqlite3.connect(path).iterdump())
        assert "order 88/2041" in dump
        log = guarded_valkey.data / "appendonlydir"
        assert any(b"flw:v1:tx:" in file.read_bytes() for file in log.iterdir())
        # A name has no line break, so each row is a line.
        rows = [(_table_of(line), line.encode()) for line in dump.splitlines()]
        assert _found_in(run, [*kept, *rows]) == []
        assert search_folder(Path(path).parent) + search_folder(log) == []


async def test_nothing_forbidden_is_kept_with_postgresql(
    postgres_url: str, guarded_valkey: OwnValkey, request: pytest.FixtureRequest
) -> None:
    server: Postgres = request.getfixturevalue("_postgres")
    url = postgres_url.replace("postgres@", f"postgres:{_DATABASE}@")
    async with _deployed(url, guarded_valkey) as run:
        await _let_everything_through(run)
        kept = await _keys_and_values(_with_password(guarded_valkey))
        connection = await asyncpg.connect(postgres_url)
        try:
            kept += await _rows(connection)
            # Its refusal quotes the row.
            await connection.execute("ALTER TABLE inbox ADD CHECK (state = 'none') NOT VALID")
            refused = await run.exchange(_webhook(bodies.encode(tainted(bodies.v3_charge(id=9)))))
            assert refused.status == 503
            await connection.execute("CHECKPOINT")
            oid = await connection.fetchval(
                "SELECT oid FROM pg_database WHERE datname = current_database()"
            )
        finally:
            await connection.close()
        await run.worker.kill()
        await run.web.kill()
        assert _found_in(run, kept) == []
        assert search_folder(Path(server._folder, "base", str(oid))) == []


async def _rows(connection: Any) -> list[tuple[str, bytes]]:
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found = []
    for (table,) in tables:
        rows = await connection.fetch(f"SELECT t::text FROM {table} t")
        found.append((f"table {table}", "\n".join(row[0] for row in rows).encode()))
    assert any(b"order 88/2041" in text for _, text in found)
    return found


# --- the search itself ---


@pytest.mark.parametrize(
    ("disguise", "form"),
    [
        (lambda text: text.encode(), "plain"),
        (lambda text: text.encode().hex().encode(), "hex"),
        (lambda text: base64.b64encode(text.encode()), "base64"),
        (lambda text: base64.urlsafe_b64encode(b"x" + text.encode()), "base64"),
        (lambda text: base64.b64encode(b"xy" + text.encode()), "base64"),
        (lambda text: text.encode("utf-16"), "utf-16"),
        (lambda text: hashlib.sha256(text.encode()).hexdigest().encode(), "sha256"),
        (lambda text: hashlib.sha256(text.encode()).digest(), "sha256"),
    ],
)
@pytest.mark.parametrize("value", [canary("sample"), digits("99")])
def test_the_search_finds_a_canary_in_every_form(
    disguise: Any, form: str, value: str, tmp_path: Path
) -> None:
    hidden = b"before " + disguise(value) + b" after"
    assert [finding.form for finding in search("here", hidden)] == [form]
    (tmp_path / "file").write_bytes(hidden)
    assert bool(search_folder(tmp_path)) is (form != "sha256")


def test_every_body_that_is_sent_is_full_of_canaries() -> None:
    for body in families():
        text = bodies.encode(body).decode()
        assert text.count(MARK) > 15
        assert text.count(MARKED) > 5
