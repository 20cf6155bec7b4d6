"""News to other services: a reader, an SSE client and a Node program, whatever is killed meanwhile.

The three hold what they have been told and nothing else. At the end each must hold exactly what the
database holds, and none may ever have been told, or have held, an earlier version after a later.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis
from sqlalchemy import select

from bench.ports import free_port
from paystate import PaymentReader
from paystate.changes import Change
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.keys import Entity, EntityKind
from paystate.reader import Gap
from paystate.store import open_store
from paystate.store.inbox import NewEvent, Recorded
from paystate.store.rows import _STATE, state_of
from tests.harness import new_id
from tests.parts import Part, start_part
from tests.servers import OwnValkey
from tests.unit import bodies

SECRET = "news-secret-hash"
TOKEN = "news-token"
# Not a measure of speed: without it a test that waits for what never comes would wait for ever.
HANGS_S = 90
# Where nothing can be waited on, a remote state is looked at again after so long.
LOOK_AGAIN_S = 0.1
# Without a heartbeat, which comes every 2 s, for so long the clients drop their connection.
SILENCE_S = 3.0
POLL_S = 3.0
PAYMENTS = int(os.environ.get("PAYSTATE_CHAOS_PAYMENTS", "300"))
# So many payments for one round of all the troubles.
PAYMENTS_A_ROUND = 500
DRIVERS = 16

_webhooks = itertools.count(1)

Held = dict[str, tuple[str, int]]


# --- the Node program ---


@pytest.fixture(scope="session")
def node_program(node_packages: Path) -> Path:
    """The folder of the Node program, which has its packages."""
    return node_packages.parent


class Client:
    """What a client has been told, and what was wrong with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: Held = {}
        self.gaps: Counter[str] = Counter()
        self.backwards: list[str] = []
        self.news = asyncio.Event()
        self.connected: Callable[[], bool] = lambda: True

    def take(self, key: str, status: str, version: int) -> None:
        """Hold a change; it must be later than what is held."""
        before = self.held.get(key)
        if before is not None and version <= before[1]:
            self.backwards.append(f"{key}: {before}, then {(status, version)}")
        else:
            self.held[key] = (status, version)
        self.news.set()

    def gap(self, reason: str) -> None:
        """Count an announced gap."""
        self.gaps[reason] += 1
        self.news.set()

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until `condition` holds; it is looked at after all that this client is told."""
        try:
            async with asyncio.timeout(HANGS_S):
                while not condition():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            pytest.fail(f"{self.name} never saw {what}")


class NodeClient(Client):
    """The Node program: its lines on stdout, mirrored."""

    def __init__(self) -> None:
        super().__init__("node")
        self.listening = False
        self.lost: Counter[str] = Counter()
        self.last: dict[str, Any] | None = None
        self.errors = ""
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []

    async def start(self, folder: Path, run: Deployment) -> None:
        """Start it and wait until it listens."""
        self._process = await asyncio.create_subprocess_exec(
            "node", "client.mjs", cwd=folder, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            limit=2**24,  # its last line holds everything
            env={"PATH": os.environ["PATH"], "CACHE_URL": run.valkey.url, "API_URL": run.url,
                 "API_TOKEN": TOKEN, "SILENCE_MS": str(int(SILENCE_S * 1000)),
                 "POLL_MS": str(int(POLL_S * 1000))},
        )  # fmt: skip
        self._readers = [asyncio.create_task(self._read()), asyncio.create_task(self._complain())]
        await self.until(lambda: self.listening or self._readers[0].done(), "its subscription")
        assert self.listening, self.errors

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = json.loads(raw)
            if "change" in line:
                self.take(line["change"], line["status"], line["version"])
            elif "gap" in line:
                self.gap(line["gap"])
            elif "lost" in line:
                self.lost[line["lost"]] += 1
            elif "listening" in line:
                self.listening = True
            else:
                self.last = line
            self.news.set()
        self.news.set()

    async def _complain(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            self.errors += raw.decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> dict[str, Any]:
        """End it softly and return its last words."""
        assert self._process is not None
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(HANGS_S):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        assert (code, self.errors) == (0, "")
        assert self.last is not None
        return self.last

    async def close(self) -> None:
        """End it if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)


@asynccontextmanager
async def node_client(folder: Path, run: Deployment) -> AsyncIterator[NodeClient]:
    """Run the Node program."""
    client = NodeClient()
    try:
        await client.start(folder, run)
        yield client
    finally:
        await client.close()


# --- the two others ---


@asynccontextmanager
async def reader_client(run: Deployment) -> AsyncIterator[Client]:
    """Follow everything with a PaymentReader."""
    client = Client("reader")

    async def follow() -> None:
        async for item in feed:
            if isinstance(item, Gap):
                client.gap(item.reason.value)
            else:
                client.take(item.entity.row_key, item.status.value, item.version)

    async with PaymentReader(
        run.valkey.url, api_url=run.url, api_token=TOKEN, silence_s=SILENCE_S, poll_s=POLL_S
    ) as reader:
        client.connected = lambda: reader._news.subscribed
        feed = reader.changes()
        async with feed, _background(follow()):
            yield client


class SseClient(Client):
    """Follows ``GET /api/changes`` as a browser does: it comes back with the last id it has seen.

    What a new stream repeats is left out here, as every client must; within one stream no version
    may come twice.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        super().__init__("sse")
        self._session = session
        self._url = f"{url}/api/changes"
        self._last_id = ""
        self.resumed: list[str] = []
        self.ends: Counter[str] = Counter()

    async def begin(self) -> None:
        """Take the cursor of now."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self._session.get(self._url, headers=headers) as response:
            self._last_id = (await response.json())["cursor"]

    async def follow(self) -> None:
        """Read one stream after another."""
        while True:
            try:
                await self._stream()
            except (OSError, aiohttp.ClientError, TimeoutError):
                self.ends["broken"] += 1
            await asyncio.sleep(LOOK_AGAIN_S)  # the server's `retry:` asks for as much and more

    async def _stream(self) -> None:
        headers = {
            "Accept": "text/event-stream",
            "Authorization": f"Bearer {TOKEN}",
            "Last-Event-ID": self._last_id,
        }
        patience = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=40)
        async with self._session.get(self._url, headers=headers, timeout=patience) as response:
            if response.status != 200:
                self.ends[str(response.status)] += 1
                return
            self.resumed.append(self._last_id)
            told: dict[str, int] = {}
            event: dict[str, str] = {}
            async for raw in response.content:
                name, _, value = raw.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = value
                    continue
                if event.get("event") == "change":
                    self._change(json.loads(event["data"]), told)
                    self._last_id = event["id"]
                elif "event" in event:
                    self.ends[event["event"]] += 1
                event = {}

    def _change(self, data: dict[str, Any], told: dict[str, int]) -> None:
        change = Change.from_json(data)
        key = change.entity.row_key
        if change.version <= told.get(key, 0):
            self.backwards.append(f"{key}: {told[key]}, then {change.version} in one stream")
        told[key] = change.version
        if change.version > self.held.get(key, ("", 0))[1]:
            self.take(key, change.status.value, change.version)


@asynccontextmanager
async def sse_client(run: Deployment) -> AsyncIterator[SseClient]:
    """Follow everything by server-sent events."""
    client = SseClient(run.session, run.url)
    await client.begin()
    async with _background(client.follow()):
        yield client


@asynccontextmanager
async def _background(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` beside the block; what it raises fails the test."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# --- the deployment ---


@dataclass
class Deployment:
    """A web process and a worker, at addresses that outlive them."""

    web: Part
    worker: Part
    valkey: OwnValkey
    session: aiohttp.ClientSession
    url: str
    database_url: str
    retries: int = 0
    codes: Counter[int] = field(default_factory=Counter)

    async def deliver(self, raw: bytes, headers: dict[str, str]) -> None:
        """Send a webhook until it has got its 200, as Flutterwave does."""
        while True:
            try:
                async with self.session.post(
                    f"{self.url}/webhooks/flutterwave", data=raw, headers=headers
                ) as response:
                    self.codes[response.status] += 1
                    if response.status == 200:
                        return
            except (OSError, aiohttp.ClientError, TimeoutError):
                pass
            self.retries += 1
            await asyncio.sleep(LOOK_AGAIN_S)  # the server is away: nothing to wait on but time

    async def webhook(self, number: int, word: str, tx_ref: str) -> None:
        """Deliver one webhook of a payment: v3 for even numbers, v4 for odd ones."""
        if number % 2 == 0:
            body = bodies.v3_charge(id=number, status=word, tx_ref=tx_ref)
            await self.deliver(bodies.encode(body), {V3_HEADER: SECRET})
            return
        word = "succeeded" if word == "successful" else word
        body = bodies.v4_charge(id=f"chg_news{number}", status=word, reference=tx_ref)
        raw = bodies.encode({**body, "webhook_id": f"wbk_news{next(_webhooks)}"})
        await self.deliver(raw, {V4_HEADER: sign_v4(raw, SECRET)})

    async def settled(self, payments: int) -> Held:
        """Wait until the database has settled every payment; return what it holds and shows."""
        async with open_store(self.database_url, pool=1, timeout_s=30) as store:

            async def read(connection: Any) -> list[Any]:
                return list(await connection.execute(select(*_STATE)))

            async with asyncio.timeout(HANGS_S):
                while True:
                    states = [state_of(row) for row in await store._database.read(read)]
                    done = [s for s in states if not s.entity.is_reference and s.terminal]
                    if len(done) == payments and not any(s.open_events for s in states):
                        return {s.entity.row_key: (s.shown.value, s.version) for s in states}
                    await asyncio.sleep(LOOK_AGAIN_S)  # a database tells nobody: it is asked


@asynccontextmanager
async def deploy(database_url: str, valkey: OwnValkey) -> AsyncIterator[Deployment]:
    """Start web and worker, the web process on a port that it can be started on again."""
    port = free_port()
    settings = {
        "DATABASE_URL": database_url,
        "CACHE_URL": valkey.url,
        "FLW_SECRET_HASH": SECRET,
        "API_TOKENS": TOKEN,
        "PORT": str(port),
        "WORKER_PORT": "0",
    }
    async with AsyncExitStack() as stack:
        web = await stack.enter_async_context(start_part("webhook_server", settings))
        worker = await stack.enter_async_context(start_part("worker", settings))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        )
        url = f"http://127.0.0.1:{port}"
        yield Deployment(web, worker, valkey, session, url, database_url)


async def agree(client: Client, truth: Held) -> None:
    """Wait until a client holds exactly what the database holds."""
    try:
        await client.until(lambda: client.held == truth, "the end")
    except pytest.fail.Exception:
        wrong = {
            key: {"database": truth.get(key), client.name: client.held.get(key)}
            for key in truth.keys() | client.held.keys()
            if truth.get(key) != client.held.get(key)
        }
        some = dict(itertools.islice(sorted(wrong.items()), 5))
        pytest.fail(f"{client.name} differs from the database in {len(wrong)} places: {some}")


# --- the tests ---


async def test_a_node_program_hears_of_a_payment(
    sqlite_url: str, own_valkey: OwnValkey, node_program: Path
) -> None:
    async with deploy(sqlite_url, own_valkey) as run, node_client(node_program, run) as node:
        await run.webhook(new_id(), "successful", "node-1")
        truth = await run.settled(1)
        assert len(truth) == 2  # the payment and its reference
        await agree(node, truth)
        last = await node.stop()
        assert {key: (it["status"], it["version"]) for key, it in last["held"].items()} == truth
        assert (last["gaps"], last["backwards"], node.backwards) == (0, 0, [])


Trouble = Callable[[Deployment, Client, NodeClient], Awaitable[None]]


async def _kill_the_worker(run: Deployment, _reader: Client, _node: NodeClient) -> None:
    await run.worker.kill()
    await run.worker.start()


async def _kill_the_web_process(run: Deployment, _reader: Client, _node: NodeClient) -> None:
    await run.web.kill()
    await run.web.start()


async def _empty_valkey(run: Deployment, reader: Client, node: NodeClient) -> None:
    with _gap_expected(reader, node) as announced:
        await asyncio.to_thread(run.valkey.restart, empty=True)
        await announced()


async def _freeze_valkey(run: Deployment, reader: Client, node: NodeClient) -> None:
    """Freeze it until the heartbeat is missed, on a connection that never says that it is gone."""
    silences = node.lost["silence"]
    with _gap_expected(reader, node) as announced:
        run.valkey.freeze()
        try:
            await node.until(lambda: node.lost["silence"] > silences, "the silence")
            while reader.connected():  # noqa: ASYNC110 (nothing sets an event)
                await asyncio.sleep(LOOK_AGAIN_S)  # it tells nobody before it is back
        finally:
            run.valkey.thaw()
        await announced()


async def _cut_the_connections(run: Deployment, reader: Client, node: NodeClient) -> None:
    with _gap_expected(reader, node) as announced:
        await cut(run.valkey)
        await announced()


async def cut(valkey: OwnValkey) -> None:
    """Close every connection that is subscribed to anything."""
    async with Redis.from_url(valkey.url) as client:
        await client.client_kill_filter(_type="pubsub")


@contextmanager
def _gap_expected(*clients: Client) -> Iterator[Callable[[], Awaitable[None]]]:
    """Yield a wait for one more gap to be announced to each client."""
    before = [client.gaps["resubscribed"] for client in clients]

    def more(client: Client, count: int) -> bool:
        return client.gaps["resubscribed"] > count

    async def announced() -> None:
        for client, count in zip(clients, before, strict=True):
            await client.until(partial(more, client, count), "the gap")

    yield announced


TROUBLES: tuple[Trouble, ...] = (
    _kill_the_worker, _kill_the_web_process, _empty_valkey, _freeze_valkey, _cut_the_connections,
)  # fmt: skip


async def _drive(run: Deployment, numbers: list[int], half: asyncio.Event) -> None:
    """Take payments from pending to their end, some at a time; tell when half of them are there."""
    left = iter(numbers)
    ended = itertools.count(1)

    async def driver() -> None:
        for number in left:
            # Every fifth payment is a second attempt at the reference of the one before it.
            tx_ref = f"news-{number - 1 if number % 5 == 0 else number}"
            await run.webhook(number, "pending", tx_ref)
            await run.webhook(number, "failed" if number % 3 == 0 else "successful", tx_ref)
            if next(ended) * 2 >= len(numbers):
                half.set()

    await asyncio.gather(*(driver() for _ in range(DRIVERS)))


async def test_all_clients_hold_what_the_database_holds_whatever_is_killed(
    database_url: str, own_valkey: OwnValkey, node_program: Path
) -> None:
    async with AsyncExitStack() as stack:
        run = await stack.enter_async_context(deploy(database_url, own_valkey))
        reader = await stack.enter_async_context(reader_client(run))
        sse = await stack.enter_async_context(sse_client(run))
        node = await stack.enter_async_context(node_client(node_program, run))

        troubles = TROUBLES * max(1, PAYMENTS // PAYMENTS_A_ROUND)
        numbers = [new_id() for _ in range(PAYMENTS)]
        size = -(-PAYMENTS // len(troubles))
        for turn, trouble in enumerate(troubles):
            half = asyncio.Event()
            batch = numbers[turn * size : (turn + 1) * size]
            async with asyncio.timeout(HANGS_S), asyncio.TaskGroup() as group:
                group.create_task(_drive(run, batch, half))
                await half.wait()
                await trouble(run, reader, node)

        truth = await run.settled(PAYMENTS)
        for client in (reader, sse, node):
            await agree(client, truth)
            assert client.backwards == []
        last = await node.stop()
        assert {key: (it["status"], it["version"]) for key, it in last["held"].items()} == truth
        assert last["backwards"] == 0
        assert last["gaps"] == node.gaps.total()
        print(f"{PAYMENTS} payments, {len(truth)} entities; webhooks {dict(run.codes)}, "
              f"{run.retries} retries; gaps: reader {dict(reader.gaps)}, node {dict(node.gaps)}; "
              f"{len(sse.resumed)} streams, ended {dict(sse.ends)}")  # fmt: skip


async def test_a_node_program_whose_cursor_is_pruned_reads_the_statuses_anew(
    sqlite_url: str, own_valkey: OwnValkey, node_program: Path
) -> None:
    """It sleeps while its payment settles, its connection is cut and the change log pruned."""
    async with deploy(sqlite_url, own_valkey) as run, node_client(node_program, run) as node:
        number = new_id()
        await run.webhook(number, "pending", "pruned")
        await node.until(lambda: len(node.held) == 2, "the payment")
        node.signal(signal.SIGSTOP)
        try:
            await cut(own_valkey)
            await run.webhook(number, "successful", "pruned")
            truth = await run.settled(1)
            _prune_everything(sqlite_url)
        finally:
            node.signal(signal.SIGCONT)
        await agree(node, truth)
        assert node.gaps["cursor_pruned"] == 1
        assert (await node.stop())["backwards"] == 0


async def test_a_stream_that_comes_back_is_told_what_was_never_published(
    sqlite_url: str, own_valkey: OwnValkey
) -> None:
    """A process dies between commit and publish; what is heard later must not hide what it wrote.

    The client comes back, to another web process, with the id of the later change.
    """
    async with deploy(sqlite_url, own_valkey) as run, sse_client(run) as sse:
        await run.worker.kill()  # nothing else may tell of the first payment
        silent, heard, last = (Entity("default", EntityKind.CHARGE, str(n)) for n in (2, 4, 6))
        async with open_store(sqlite_url, pool=1, timeout_s=30) as store:
            event = NewEvent(
                "default", "v3", "charge.completed", "silent", "payment", silent, "silent",
                {"status": "pending"},
            )  # fmt: skip
            assert isinstance((await store.acknowledge([event]))[0], Recorded)
        await run.webhook(int(heard.id), "pending", "heard")
        await sse.until(lambda: heard.row_key in sse.held, "what was published")
        await run.web.kill()
        await run.web.start()
        await run.webhook(int(last.id), "pending", "last")
        await sse.until(lambda: last.row_key in sse.held, "what came last")
        assert silent.row_key in sse.held


def _prune_everything(url: str) -> None:
    """Remove the whole change log and write down how far, as the worker does after its weeks."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
    try:
        with connection:
            reached = connection.execute("SELECT max(id) FROM changes").fetchone()[0]
            connection.execute("DELETE FROM changes")
            connection.execute("DELETE FROM watermarks WHERE name = 'changes_pruned_to'")
            connection.execute(
                "INSERT INTO watermarks (name, value) VALUES ('changes_pruned_to', ?)",
                (f"0.{reached}",),
            )
    finally:
        connection.close()
