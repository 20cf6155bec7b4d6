"""A rolling restart under load: every process is replaced, everything is answered, nothing is lost.

What stands in front does what a Kubernetes service does: it gives new connections to the web
processes that it names, leaves those that there are alone, and names one no more before that is
told to stop. Each is stopped while webhooks that it has read wait for the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest

from paystate.flutterwave.signatures import V3_HEADER
from tests.parts import HANGS_S, Part, start_part
from tests.unit import bodies

_SECRET, _TOKEN = "rolling-secret-hash", "rolling-token"
_SENDERS, _LOOKERS = 4, 4
# How many answers of each kind there are between two steps.
_PAUSE = 10


@dataclass(eq=False)
class _Connection:
    """One that was given to a web process, and what was last seen on it."""

    web: Part
    asked: bytes = b""
    answered: bool = False


class Service:
    """One address before the web processes that it names."""

    def __init__(self, webs: list[Part]) -> None:
        self.webs = list(webs)
        self.address = ""
        self._open: set[_Connection] = set()
        self._changed = asyncio.Condition()

    async def serve(self, stack: AsyncExitStack) -> None:
        """Listen, until the stack is left."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        stack.callback(server.close)
        self.address = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(min(self.webs, key=self.waiting))
        self._open.add(connection)
        host, port = connection.web.url.removeprefix("http://").split(":")
        there, back = await asyncio.open_connection(host, int(port))

        async def pass_on(
            source: asyncio.StreamReader,
            target: asyncio.StreamWriter,
            note: Callable[[bytes], None],
        ) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
                    note(data)
                    await self._tell()
            target.close()

        def asked(data: bytes) -> None:
            connection.asked, connection.answered = data, False

        def answered(_: bytes) -> None:
            connection.answered = True

        await asyncio.gather(pass_on(reader, back, asked), pass_on(there, writer, answered))
        self._open.discard(connection)
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(HANGS_S), self._changed:
            await self._changed.wait_for(true)

    def waiting(self, web: Part) -> int:
        """Return how many webhooks a process has been sent and has not answered."""
        return sum(
            c.web is web and c.asked.startswith(b"POST") and not c.answered for c in self._open
        )

    def silent(self, web: Part) -> int:
        """Return how many connections to a process have yet to carry their first request."""
        return sum(c.web is web and not c.asked for c in self._open)


@dataclass
class Load:
    """Webhooks and lookups without a pause, and what was wrong with their answers."""

    url: str
    stack: AsyncExitStack
    going: bool = True
    acknowledged: dict[int, str] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=lambda: {"webhook": 0, "lookup": 0})
    wrong: list[Any] = field(default_factory=list)
    _settled: set[int] = field(default_factory=set)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(880_001))
    _answered: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answered(self, more: int) -> None:
        """Wait until so many more lookups and so many more webhooks have been answered."""
        wanted = {name: count + more for name, count in self.answers.items()}
        async with asyncio.timeout(HANGS_S), self._answered:
            await self._answered.wait_for(
                lambda: all(self.answers[name] >= count for name, count in wanted.items())
            )

    async def _count(self, what: str) -> None:
        async with self._answered:
            self.answers[what] += 1
            self._answered.notify_all()

    async def send(self, says_so: bool) -> None:
        """Have one customer after another begin to pay and succeed, one connection a webhook.

        Whoever delivers webhooks keeps no connection for the next one; some say so.
        """
        session = await self.stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        )
        headers = {V3_HEADER: _SECRET, "Content-Type": "application/json",
                   "Connection": "close" if says_so else "keep-alive"}  # fmt: skip
        while self.going:
            number = next(self._numbers)
            for status in ("pending", "successful"):
                said = bodies.v3_charge(id=number, status=status, tx_ref=f"rolling-{number}")
                async with session.post(
                    f"{self.url}/webhooks/flutterwave", data=bodies.encode(said), headers=headers
                ) as answer:
                    if answer.status != 200:
                        self.wrong.append(("webhook", answer.status, await answer.text()))
                self.acknowledged[number] = status
                await self._count("webhook")

    async def look(self) -> None:
        """Ask for what has been acknowledged, over a connection that is kept.

        One that ends before a byte of the answer is asked again on another, as HTTP lets a client
        do with a GET: aiohttp's does, once.
        """
        session = await self.stack.enter_async_context(aiohttp.ClientSession())
        chance = random.Random(7)
        async with self._answered:
            await self._answered.wait_for(lambda: bool(self.acknowledged))
        while self.going:
            number = chance.choice(list(self.acknowledged)[-20:])
            said, settled = self.acknowledged[number], number in self._settled
            status, found = await self.ask(session, number)
            if status != 200:
                self.wrong.append(("lookup", status, found))
            elif said == "successful" and found["status"] not in ("processing", "successful"):
                self.wrong.append(("stale", number, found))
            elif settled and found["status"] != "successful":
                self.wrong.append(("stepped back", number, found))
            if found.get("status") == "successful":
                self._settled.add(number)
            await self._count("lookup")

    async def ask(
        self, session: aiohttp.ClientSession, number: int, **query: int
    ) -> tuple[int, dict[str, Any]]:
        """Return what a lookup is answered."""
        async with session.get(
            f"{self.url}/api/payments/{number}/status", params=query,
            headers={"Authorization": f"Bearer {_TOKEN}"},
        ) as answer:  # fmt: skip
            return answer.status, orjson.loads(await answer.read())


@asynccontextmanager
async def _held(postgres_url: str) -> AsyncIterator[None]:
    """Let nothing be recorded meanwhile."""
    connection = await asyncpg.connect(postgres_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE inbox IN SHARE ROW EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def _read_by(web: Part) -> None:
    """Wait until a process has read what it was sent: it takes connections in their order."""
    async with aiohttp.ClientSession() as session, session.get(f"{web.url}/healthz") as answer:
        assert answer.status == 200


async def _replace(service: Service, old: Part, new: Part, postgres_url: str) -> None:
    """Put a web process in another's place while that has webhooks to answer."""
    service.webs.append(new)
    async with _held(postgres_url):
        await service.until(lambda: service.waiting(old) >= 1)
        service.webs.remove(old)
        await service.until(lambda: not service.silent(old))
        await _read_by(old)
        stopping = asyncio.create_task(old.stop())
        await old.event("web_stopping")
    assert await stopping == 0


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opens."""
    async with AsyncExitStack() as opened:
        yield opened


async def test_every_process_is_replaced_under_load_and_everything_is_answered(
    postgres_url: str, valkey_url: str, stack: AsyncExitStack
) -> None:
    settings = {
        "DATABASE_URL": postgres_url, "CACHE_URL": valkey_url, "FLW_SECRET_HASH": _SECRET,
        "API_TOKENS": _TOKEN, "CONFIRM": "never", "PORT": "0", "WORKER_PORT": "0",
    }  # fmt: skip

    async def start() -> list[Part]:
        modules = ("webhook_server", "webhook_server", "worker")
        return await asyncio.gather(
            *(stack.enter_async_context(start_part(module, settings)) for module in modules)
        )

    *webs, worker = await start()
    service = Service(webs)
    await service.serve(stack)
    load = Load(service.address, stack)
    async with asyncio.TaskGroup() as tasks:
        for number in range(_SENDERS):
            tasks.create_task(load.send(says_so=number % 2 == 0))
        for _ in range(_LOOKERS):
            tasks.create_task(load.look())
        *new_webs, _ = await start()
        for old, new in zip(webs, new_webs, strict=True):
            await load.answered(_PAUSE)
            await _replace(service, old, new, postgres_url)
        await load.answered(_PAUSE)
        assert await worker.stop() == 0
        await load.answered(_PAUSE)
        load.going = False
    assert load.wrong == []
    await _all_is_applied(load, postgres_url, stack)


async def _all_is_applied(load: Load, postgres_url: str, stack: AsyncExitStack) -> None:
    """See that every webhook has ended with its effect."""
    session = await stack.enter_async_context(aiohttp.ClientSession())
    for number in load.acknowledged:
        _, found = await load.ask(session, number)
        while found["status"] != "successful":
            _, found = await load.ask(session, number, wait=25, after_version=found["version"])
    connection = await asyncpg.connect(postgres_url)
    try:
        rows = await connection.fetch("SELECT state, count(*) AS count FROM inbox GROUP BY state")
    finally:
        await connection.close()
    ended = {row["state"]: row["count"] for row in rows}
    assert ended.keys() <= {"applied", "superseded"}
    assert sum(ended.values()) == load.answers["webhook"] == 2 * len(load.acknowledged)
