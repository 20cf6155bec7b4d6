"""A process that cannot start says what to do, and does not quote its own code."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator

import pytest
from aiohttp import web

from paystate.process import CannotStart, listen
from tests.parts import ROOT


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("module", "setting", "more"),
    [("webhook_server", "PORT", {}), ("webhook_server", "PORT", {"WEB_PROCESSES": "2"}),
     ("worker", "WORKER_PORT", {})],
)  # fmt: skip
async def test_a_port_that_is_taken_is_named_with_its_setting(
    module: str, setting: str, more: dict[str, str], taken: int, sqlite_url: str
) -> None:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": sqlite_url, "FLW_SECRET_HASH": "x",
             "CACHE_URL": "redis://127.0.0.1:1/0", setting: str(taken), **more},
    )  # fmt: skip
    said = (await started.communicate())[1].decode()
    assert started.returncode == 2, said
    assert f"cannot listen on 127.0.0.1:{taken}: Address already in use" in said
    assert f"or set HOST or {setting}" in said
    assert "Traceback" not in said


async def test_a_host_that_is_not_this_one_is_told_so() -> None:
    with pytest.raises(CannotStart, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        await listen(web.Application(), "192.0.2.1", 0, grace_s=1)
