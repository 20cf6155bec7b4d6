"""Every command in the tutorial and the how-to pages, run as printed, in the order of the page.

The pages speak of a plain host with a file of settings and units of systemd. Here a `systemctl`
stands in that starts and stops the real processes, `make run` runs what it runs with ports and a
folder of its own, and a few addresses are put in place of the page's.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from bench.ports import free_port
from bench.servers import POSTGRES_BIN_PATH
from bench.topologies import Cluster
from paystate.flutterwave.sandbox.config import SandboxConfig
from paystate.flutterwave.sandbox.server import open_sandbox
from paystate.flutterwave.signatures import V3_HEADER
from tests.e2e.guides.page import Block, Note, Shell, steps
from tests.parts import ROOT
from tests.servers import OwnValkey
from tests.unit import bodies

_DOCS = ROOT / "docs"
_MISSING = [tool for tool in ("curl", "openssl") if shutil.which(tool) is None]
_NEEDED = pytest.mark.skipif(
    bool(_MISSING), reason=f"not installed: {_MISSING}; see deploy/debian-packages.txt"
)
_GUIDES = sorted((_DOCS / "how-to").glob("*.md"))


def _script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with `paystate`, PostgreSQL's programs and the `systemctl` that stands in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python = shlex.quote(sys.executable)
    _script(folder, "paystate", f'exec {python} -m paystate "$@"')
    _script(folder, "systemctl", f'exec {python} -m tests.e2e.guides.systemctl "$@"')
    for name in ("pg_dump", "pg_restore"):
        (folder / name).symlink_to(POSTGRES_BIN_PATH / name)
    return folder


def _environ(programs: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(programs),
        "PYTHONWARNINGS": "ignore", "PAYSTATE_ROOT": str(ROOT), **more,
    }  # fmt: skip


class Host:
    """A plain host: the file of settings and the units."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.file = folder / "paystate.env"
        self.file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def settings(self) -> dict[str, str]:
        """Return what the file says now."""
        lines = self.file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture
async def host(
    postgres_url: str, own_valkey: OwnValkey, programs: Path, tmp_path: Path
) -> AsyncIterator[Host]:
    """Web and worker on PostgreSQL and Valkey, with one payment settled and one event held."""
    port = free_port()
    made = Host(tmp_path, {
        "DATABASE_URL": postgres_url, "CACHE_URL": own_valkey.url,
        "FLW_SECRET_HASH": "first-hash-of-the-dashboard", "API_TOKENS": "first-token-of-the-shop",
        "CONFIRM": "never", "HOST": "127.0.0.1", "PORT": str(port),
        "WORKER_PORT": str(free_port()), "LOG_FORMAT": "json",
    })  # fmt: skip
    environ = _environ(programs, PAYSTATE_ENV=str(made.file))
    units = ("paystate-worker", "paystate-web")
    await asyncio.to_thread(_call, environ, "systemctl", "start", *units)
    try:
        given = {**environ, **made.settings()}
        await asyncio.to_thread(_call, given, "paystate", "send", "--id", "7001")
        unreadable = bodies.v3_charge(id=7002, amount="twelve")
        async with aiohttp.ClientSession() as session, session.post(
            f"http://127.0.0.1:{port}/webhooks/flutterwave", data=bodies.encode(unreadable),
            headers={V3_HEADER: given["FLW_SECRET_HASH"], "Content-Type": "application/json"},
        ) as answer:  # fmt: skip
            assert answer.status == 200
        held = ("paystate", "lookup", "7002", "--wait", "1", "--json")
        while '"held": true' not in await asyncio.to_thread(_call, given, *held):
            pass
        await asyncio.to_thread(_call, given, "paystate", "lookup", "7001", "--wait", "25")
        yield made
    finally:
        await asyncio.to_thread(_call, environ, "systemctl", "stop", *units)


def _call(environ: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@_NEEDED
@pytest.mark.parametrize("page", _GUIDES, ids=lambda page: page.stem)
async def test_the_commands_of_a_guide_do_what_it_says(
    page: Path, host: Host, programs: Path, cluster: Cluster, tmp_path: Path
) -> None:
    places = {
        "/etc/paystate": str(tmp_path),
        "--reason unverifiable": "--reason flawed_amount",
        "cache-1:6379,cache-2:6379,cache-3:6379": cluster.url.partition("://")[2],
    }
    before = host.settings()
    environ = _environ(programs, PAYSTATE_ENV=str(host.file))
    async with Shell(tmp_path, environ) as shell:
        for step in steps(page, places):
            assert isinstance(step, Block)
            await shell.run(step)
        _EXPECTED[page.stem](before, host.settings(), shell.said)


def _rotated(before: dict[str, str], after: dict[str, str], said: str) -> None:
    for name in ("FLW_SECRET_HASH", "API_TOKENS"):
        assert after[name] != before[name]
        assert "," not in after[name]
    assert len(after["LINK_KEY"]) == 64
    assert "\n200\n" in said


def _moved(before: dict[str, str], after: dict[str, str], said: str) -> None:
    assert after["CACHE_URL"].startswith("redis+cluster://")
    assert (after["QUEUE_URL"], after["PENDING_LEASE_MS"]) == (before["CACHE_URL"], "0")


def _replayed(_before: dict[str, str], _after: dict[str, str], said: str) -> None:
    assert "flawed_amount" in said


def _restored(_before: dict[str, str], _after: dict[str, str], said: str) -> None:
    assert "Epoch 1" in said


def _added(_before: dict[str, str], after: dict[str, str], said: str) -> None:
    merchants = tomllib.loads(Path(after["MERCHANTS_FILE"]).read_text())
    assert len(merchants["shop"]["secret_hash"]) == 64
    assert "\n200\n" in said.partition("HTTP 200")[2]


_EXPECTED: dict[str, Callable[[dict[str, str], dict[str, str], str], None]] = {
    "add-a-merchant": _added,
    "rotate-secrets": _rotated,
    "move-to-a-cluster": _moved,
    "replay-a-day": _replayed,
    "restore-a-backup": _restored,
}


async def test_the_commands_of_the_tutorial_do_what_it_says(programs: Path, tmp_path: Path) -> None:
    """Its second part talks to a Flutterwave as it would to the real one."""
    port = free_port()
    python = shlex.quote(sys.executable)
    _script(programs, "paystate", f'exec {python} -m paystate "$@"')
    _script(programs, "make", 'shift; read -ra given <<< "${1#ARGS=}"; '
            f'exec {python} -m paystate dev --port {port} "${{given[@]}}"')  # fmt: skip
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(open_sandbox(SandboxConfig(
            secret_key="FLWSECK_TEST-your-key",
            secret_hash="the long random text of the dashboard",
            receiver_url=f"http://127.0.0.1:{port}/webhooks/flutterwave",
        )))  # fmt: skip
        places = {"https://api.flutterwave.com/v3": sandbox.base_url}
        shell = await stack.enter_async_context(Shell(tmp_path, _environ(programs)))
        runs_on = False
        for step in steps(_DOCS / "tutorial.md", places):
            match step:
                case Note("runs until Ctrl-C"):
                    runs_on = True
                case Note("Ctrl-C"):
                    await shell.interrupt()
                case Note("a customer pays"):
                    made = sandbox.sandbox.create(
                        payment_id="285959875", amount=Decimal(2500), currency="NGN"
                    )
                    sandbox.sandbox.settle(made, "successful")
                case Block() if runs_on:
                    await shell.run_on(step, "Ctrl-C ends it all")
                    runs_on = False
                case Block():
                    await shell.run(step)
                case Note(text):
                    raise AssertionError(f"the page has a note that nobody understands: {text}")
        said = shell.said
    first, _, second = said.partition("285959875")
    assert "pending" in first
    assert first.count("successful") >= 2
    assert "successful" in second
