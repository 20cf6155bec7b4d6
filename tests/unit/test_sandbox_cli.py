"""`paystate sandbox` runs one by itself, says where it is, and ends when asked to."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from paystate.cli.commands import cli
from paystate.errors import SettingsInvalid
from paystate.flutterwave.sandbox import SandboxConfig

ENDS_S = 30


@asynccontextmanager
async def running(
    *arguments: str, **environ: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "paystate", "sandbox", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={"COLUMNS": "200", **environ},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_where_it_is_in_json_and_ctrl_c_is_no_failure(
    signum: signal.Signals, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"do": "create", "tx_ref": "by-script"}]))
    arguments = ("--json", "--port", "0", "--seed", "4", "--drop", "0.5", "--script", str(script))
    async with running(*arguments, SANDBOX_CONTRADICT="0.25") as (process, out):
        ready = json.loads(await asyncio.wait_for(out.readline(), ENDS_S))
        assert (ready["event"], ready["seed"]) == ("sandbox_ready", 4)
        assert ready["secret_hash"] == "sandbox-secret-hash"
        async with aiohttp.ClientSession() as session:

            async def get(path: str) -> Any:
                async with session.get(f"{ready['url']}/sandbox/{path}") as response:
                    return await response.json()

            rates = (await get("state"))["webhooks"]["rates"]
            assert (rates["drop"], rates["contradict"]) == (0.5, 0.25)
            assert (await get("truth?refs=by-script"))["references"]["by-script"] is not None
            async with session.get(ready["page"]) as response:
                assert response.content_type == "text/html"
        process.send_signal(signum)
        assert await asyncio.wait_for(process.wait(), ENDS_S) == 0


async def test_a_person_gets_a_table_without_the_secrets_of_the_environment() -> None:
    async with running("--port", "0", FLW_SECRET_HASH="theirs-alone") as (process, out):
        lines = []
        while not (lines and "Ctrl-C" in lines[-1]):
            lines.append((await asyncio.wait_for(out.readline(), ENDS_S)).decode())
        text = "".join(lines)
        assert "/sandbox" in text
        assert "FLWSECK_TEST-sandbox" in text
        assert "as in FLW_SECRET_HASH" in text
        assert "theirs-alone" not in text
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), ENDS_S) == 0


def test_wrong_settings_and_scripts_are_a_usage_error(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"do": "dance"}]')
    runner = CliRunner()
    for arguments, environ, said in (
        (["--drop", "2"], {}, "--drop"),
        (["--script", str(script)], {}, "step 1"),
        (["--port", "0"], {"SANDBOX_RATE": "much"}, "SANDBOX_RATE"),
        (["--port", "0"], {"SANDBOX_ALLOW_REMOTE": "perhaps"}, "SANDBOX_ALLOW_REMOTE"),
    ):
        result = runner.invoke(cli, ["sandbox", *arguments], env=environ)
        assert result.exit_code == 2, result.output
        assert said in result.output


def test_a_port_that_is_taken_is_refused_when_it_was_asked_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["sandbox", "--port", port])
    assert result.exit_code == 2
    assert port in result.output


def test_every_share_can_be_set_by_the_environment() -> None:
    environ = {
        "SANDBOX_OLD_SECRET": "0.5",
        "SANDBOX_WRONG_AMOUNT": "1",
        "SANDBOX_BAD_SIGNATURE": "0.1",
        "SANDBOX_RETRIES": "1",
        "SANDBOX_RETRY_INTERVAL": "0.5",
        "SANDBOX_TOKEN_LIFETIME": "5",
        "SANDBOX_ALLOW_REMOTE": "true",
        "FLW_SECRET_HASH": "new, old",
    }
    config = SandboxConfig.from_env(environ)
    rates = config.rates
    assert (rates.old_secret, rates.wrong_amount, rates.bad_signature) == (0.5, 1.0, 0.1)
    assert (rates.duplicate, rates.contradict) == (0.1, 0.0)
    assert (config.retries, config.retry_interval_s, config.token_lifetime_s) == (1, 0.5, 5)
    assert config.allow_remote
    assert (config.secret_hash, config.previous_secret_hash) == ("new", "old")
    assert "old" not in repr(config).replace("old_secret_rate", "")
    with pytest.raises(SettingsInvalid) as invalid:
        SandboxConfig.from_env(
            {"SANDBOX_RETRIES": "4", "SANDBOX_TOKEN_LIFETIME": "0", "SANDBOX_DELAY": "2"}
        )
    assert len(invalid.value.problems) == 3
