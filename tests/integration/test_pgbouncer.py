"""PostgreSQL behind PgBouncer in transaction mode: two statements may meet two servers.

PgBouncer is a Debian package (deploy/debian-packages.txt); where it is missing this is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bench.ports import free_port
from bench.servers import before_exec
from paystate.errors import SettingsInvalid, StoreUnavailable
from paystate.settings import Role, load
from paystate.store import open_store
from paystate.store.migrate import upgrade_async
from tests.conftest import Opener
from tests.harness import new_id, open_world
from tests.servers import Postgres
from tests.unit import bodies

_PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

pytestmark = pytest.mark.skipif(
    _PROGRAM is None, reason="pgbouncer is not installed: see deploy/debian-packages.txt"
)


@pytest.fixture
def pooled_url(postgres_url: str, request: pytest.FixtureRequest, scratch: Path) -> Iterator[str]:
    """The URL of a migrated, empty database behind a pooler with fewer servers than clients."""
    server: Postgres = request.getfixturevalue("_postgres")
    target = make_url(postgres_url)
    port = free_port()
    config = scratch / "pgbouncer.ini"
    config.write_text(
        f"""
[databases]
{target.database} = host={target.query["host"]} user=postgres dbname={target.database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
logfile = {scratch / "pgbouncer.log"}
"""
    )
    owner = psutil.Process(server.pid).uids().real
    os.chown(scratch, owner, pwd.getpwuid(owner).pw_gid)
    assert _PROGRAM is not None
    process = subprocess.Popen(
        [_PROGRAM, str(config)], stderr=subprocess.DEVNULL,
        preexec_fn=before_exec(owner if os.getuid() == 0 else None),  # noqa: PLW1509
    )  # fmt: skip
    try:
        _wait_for(port, process)
        yield f"postgresql://postgres@127.0.0.1:{port}/{target.database}?pooler=transaction"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
    raise AssertionError("pgbouncer does not start")


def _v3(number: int, status: str) -> Any:
    return bodies.v3_charge(id=number, status=status, tx_ref=f"pooled-{number}")


async def test_everything_works_behind_a_pooler_with_fewer_servers_than_clients(
    pooled_url: str, valkey_url: str
) -> None:
    """Webhooks, settling and lookups at once: no statement meets a server that does not know it."""
    async with (
        AsyncExitStack() as stack,
        open_world(Opener(stack, pooled_url, valkey_url), CONFIRM="never") as world,
    ):
        numbers = [new_id() for _ in range(30)]
        start = await world.resources.store.latest_cursor()

        async def pay(number: int) -> None:
            for status in ("pending", "successful"):
                assert (await world.v3(_v3(number, status))).status == 200
                await world.status(number)

        async with asyncio.TaskGroup() as tasks:
            for number in numbers:
                tasks.create_task(pay(number))
            for _ in range(4):
                tasks.create_task(world.settle())
        await world.make_due()
        await world.settle()
        for number in numbers:
            assert (await world.status(number))["status"] == "successful"
        page = await world.resources.store.changes_after(start)
        settled = {c.entity.id for c in page.changes if c.status.value == "successful"}
        assert {str(number) for number in numbers} <= settled


async def test_migrations_run_through_a_pooler(pooled_url: str) -> None:
    await upgrade_async(pooled_url)


async def test_without_being_told_it_says_that_the_database_is_unavailable(
    pooled_url: str,
) -> None:
    """The pooler refuses settings that it cannot carry: nothing is asked with half of them."""
    async with open_store(pooled_url.partition("?")[0], pool=2, timeout_s=10) as store:
        with pytest.raises(StoreUnavailable):
            await store.ping()


async def test_a_role_that_commits_late_is_refused(pooled_url: str, postgres_url: str) -> None:
    """The 200 of a webhook would promise what the database may lose."""
    async with open_store(postgres_url, pool=1, timeout_s=10) as direct:
        name = make_url(postgres_url).database

        async def set_off(connection: AsyncConnection) -> None:
            await connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))

        await direct._database.write(set_off)
    async with open_store(pooled_url, pool=2, timeout_s=10) as store:
        with pytest.raises(StoreUnavailable, match="synchronous_commit is off"):
            await store.ping()


def test_another_mode_is_refused_by_its_name() -> None:
    with pytest.raises(SettingsInvalid, match=r"\?pooler="):
        load({"DATABASE_URL": "postgresql://db/name?pooler=statement"}, role=Role.TOOL)
