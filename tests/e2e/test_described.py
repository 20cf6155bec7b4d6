"""The API is as it describes itself: schemathesis asks what that allows, and what it does not.

What comes back must be described: a status code, a type, headers and a body; there is a refusal of
what is not allowed and an answer to what is, no fault of ours, and nothing without a token. What is
not asked of it, and why, says ``tests/schemathesis.toml``. `make fuzz-api` asks more.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import aiohttp

from paystate.flutterwave.signatures import V3_HEADER
from tests.parts import ROOT, start_part
from tests.unit import bodies

_SECRET, _TOKEN = "described-secret-hash", "described-token"
# Of each operation, beside its examples and the limits of its parameters; the same ones each time,
# so that what is found is of the change that is tested.
_EXAMPLES = int(os.environ.get("FUZZ_API_EXAMPLES", "2"))
_BY_CHANCE = "FUZZ_API_EXAMPLES" in os.environ


async def test_schemathesis_finds_nothing(sqlite_url: str, valkey_url: str, tmp_path: Path) -> None:
    settings = {
        "DATABASE_URL": sqlite_url, "CACHE_URL": valkey_url, "FLW_SECRET_HASH": _SECRET,
        "API_TOKENS": _TOKEN, "LINK_KEY": "described-link-key", "CONFIRM": "never", "PORT": "0",
        "WORKER_PORT": "0",
    }  # fmt: skip
    async with (
        start_part("webhook_server", settings) as web,
        start_part("worker", settings),
        aiohttp.ClientSession() as session,
    ):
        for number, status in ((7001, "successful"), (7002, "pending")):  # those of the examples
            paid = bodies.v3_charge(
                id=number, status=status, tx_ref=f"order-{number}", customer={"id": 9001}
            )
            async with session.post(
                f"{web.url}/webhooks/flutterwave", data=bodies.encode(paid),
                headers={V3_HEADER: _SECRET, "Content-Type": "application/json"},
            ) as answer:  # fmt: skip
                assert answer.status == 200
        asking = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "schemathesis.cli", "--no-color",
            "--config-file", str(ROOT / "tests" / "schemathesis.toml"),
            "run", f"{web.url}/openapi.json", "--max-examples", str(_EXAMPLES), "--no-shrink",
            *([] if _BY_CHANCE else ["--generation-deterministic"]),
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "API_TOKEN": _TOKEN, "SECRET_HASH": _SECRET},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asking.communicate()
    print(said.decode())
    assert asking.returncode == 0
