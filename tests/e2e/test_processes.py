"""Whole processes on real servers: the flow, and what kill -9 and a lost cache do to it."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from paystate.flutterwave.sandbox.bodies import SECRET_MARK
from paystate.flutterwave.sandbox.faults import Fault, FaultMode
from paystate.flutterwave.sandbox.server import RunningSandbox
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.keys import Entity
from paystate.store import open_store
from paystate.store.migrate import upgrade_async
from tests.harness import make_payment, new_id, open_provider, provider_settings
from tests.parts import Part, start_part
from tests.servers import OwnValkey
from tests.unit import bodies

SECRET = "e2e-secret-hash"
TOKEN = "e2e-token"
_webhooks = itertools.count(1)
# Not a measure of speed: without it a test that waits for what never comes would wait for ever.
HANGS_S = 90


@dataclass
class Outside:
    """Flutterwave and a backend team, as seen by the processes."""

    session: aiohttp.ClientSession
    url: str

    async def webhook(self, body: Any, *, v4: bool = False) -> int:
        """Send a webhook and return the status code."""
        if v4:
            body = {**body, "webhook_id": f"wbk_e2e{next(_webhooks)}"}
        raw = bodies.encode(body)
        headers = {V4_HEADER: sign_v4(raw, SECRET)} if v4 else {V3_HEADER: SECRET}
        async with self.session.post(
            f"{self.url}/webhooks/flutterwave", data=raw, headers=headers
        ) as response:
            return response.status

    async def look(self, payment_id: object) -> dict[str, Any]:
        """Return the status answer, or a problem document."""
        async with self.session.get(
            f"{self.url}/api/payments/{payment_id}/status",
            headers={"Authorization": f"Bearer {TOKEN}"},
        ) as response:
            body: dict[str, Any] = orjson.loads(await response.read())
            return body


@dataclass
class Deployment:
    """A web process and a worker over their servers."""

    web: Part
    worker: Part
    outside: Outside
    valkey: OwnValkey
    settings: dict[str, str]
    news: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    async def told(self, payment_id: object, status: str) -> dict[str, Any]:
        """Wait until the change of a payment to `status` has been published."""
        while True:
            async with asyncio.timeout(HANGS_S):
                change = await self.news.get()
            if (change["payment_id"], change["status"]) == (str(payment_id), status):
                return change


@asynccontextmanager
async def deploy(database_url: str, valkey: OwnValkey, **more: str) -> AsyncIterator[Deployment]:
    """Start web and worker with settings by environment variables only."""
    settings = {
        "DATABASE_URL": database_url,
        "CACHE_URL": valkey.url,
        "FLW_SECRET_HASH": SECRET,
        "API_TOKENS": TOKEN,
        "PORT": "0",
        "WORKER_PORT": "0",
        **more,
    }
    async with AsyncExitStack() as stack:
        web = await stack.enter_async_context(start_part("webhook_server", settings))
        worker = await stack.enter_async_context(start_part("worker", settings))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        deployment = Deployment(web, worker, Outside(session, web.url), valkey, settings)
        listening = asyncio.Event()
        listener = asyncio.create_task(_listen(valkey.url, deployment.news, listening))
        stack.callback(listener.cancel)
        await listening.wait()
        yield deployment


async def _listen(url: str, news: asyncio.Queue[dict[str, Any]], listening: asyncio.Event) -> None:
    while True:
        try:
            async with Redis.from_url(url) as client, client.pubsub() as pubsub:
                await pubsub.subscribe("flw:v1:changes")
                async for message in pubsub.listen():
                    listening.set()
                    if message["type"] == "message":
                        said = orjson.loads(message["data"])
                        if "version" in said:  # the rest is the heartbeat
                            news.put_nowait(said)
        except (OSError, RedisError):
            await asyncio.sleep(0.05)  # the server is away: there is nothing to wait on but time


@pytest.mark.parametrize("lease_ms", ["1000", "0"])
@pytest.mark.parametrize("credentials", [True, False], ids=["confirmed", "unconfirmed"])
async def test_the_flow_end_to_end(
    database_url: str, own_valkey: OwnValkey, lease_ms: str, *, credentials: bool
) -> None:
    """pending, processing, successful; a duplicate counts once; what is late changes nothing."""
    async with open_provider() as sandbox:
        more = provider_settings(sandbox) if credentials else {}
        async with deploy(database_url, own_valkey, PENDING_LEASE_MS=lease_ms, **more) as run:
            for v4 in (False, True):
                await _one_payment(run, sandbox, v4=v4)


async def _one_payment(run: Deployment, sandbox: RunningSandbox, *, v4: bool) -> None:
    outside = run.outside
    number: Any = f"chg_{new_id()}" if v4 else new_id()
    reference = f"e2e-{number}"
    payment = make_payment(sandbox, number, "pending", tx_ref=reference)
    make = bodies.v4_charge if v4 else bodies.v3_charge
    named = {"id": number, "amount": payment.amount, "currency": "NGN",
             ("reference" if v4 else "tx_ref"): reference}  # fmt: skip
    success = "succeeded" if v4 else "successful"

    assert await outside.webhook(make(status="pending", **named), v4=v4) == 200
    await run.told(number, "pending")
    shown = await outside.look(number)
    assert (shown["status"], shown["fresh"]) == ("pending", True)

    sandbox.sandbox.truth.settle(payment, "successful", at=5.0)
    body = {**make(status=success, **named)}
    assert await outside.webhook(body, v4=v4) == 200
    assert (await outside.look(number))["status"] in ("processing", "successful")
    change = await run.told(number, "successful")
    shown = await outside.look(number)
    assert (shown["status"], shown["source"], shown["tx_ref"]) == ("successful", "cache", reference)
    assert shown["version"] == change["version"] == 4

    for late in (success, "failed", "pending"):
        assert await outside.webhook(make(status=late, **named), v4=v4) == 200
    await run.worker.wait_for(
        lambda: (
            sum(line.get("endings", {}).get("superseded", 0) for line in run.worker.lines)
            >= (4 if v4 else 1)  # a v3 body that came before is a duplicate
        )
    )
    assert await outside.look(number) == shown


async def test_a_worker_killed_in_the_middle_of_a_job_settles_after_its_restart(
    postgres_url: str, own_valkey: OwnValkey
) -> None:
    async with (
        open_provider() as sandbox,
        deploy(postgres_url, own_valkey, **provider_settings(sandbox)) as run,
    ):
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref="killed")
        sandbox.sandbox.faults.set(Fault(FaultMode.SLOW, delay_s=600))
        in_hand = asyncio.Event()
        wait = sandbox.sandbox.faults.wait

        async def tell(delay_s: float) -> None:
            in_hand.set()
            await wait(delay_s)

        sandbox.sandbox.faults.wait = tell  # type: ignore[method-assign]
        assert await run.outside.webhook(bodies.v3_charge(id=number, tx_ref="killed")) == 200
        await in_hand.wait()
        await run.worker.kill()
        sandbox.sandbox.faults.set(Fault(FaultMode.NONE))
        await run.worker.start()
        await run.told(number, "successful")
        assert (await run.outside.look(number))["status"] == "successful"


async def test_jobs_under_way_are_finished_before_a_soft_stop(
    sqlite_url: str, own_valkey: OwnValkey
) -> None:
    async with deploy(sqlite_url, own_valkey) as run:
        numbers = [new_id() for _ in range(50)]
        codes = await asyncio.gather(
            *(run.outside.webhook(bodies.v3_charge(id=n, tx_ref=str(n))) for n in numbers)
        )
        assert set(codes) == {200}
        assert await run.worker.stop() == 0
        await run.worker.start()
        waiting = set(map(str, numbers))
        while waiting:
            shown = [await run.outside.look(n) for n in waiting]
            waiting -= {s["payment_id"] for s in shown if s["status"] == "successful"}
        assert await run.web.stop() == 0


async def test_valkey_restarted_empty_under_load_makes_nothing_stale_and_loses_nothing(
    database_url: str, own_valkey: OwnValkey
) -> None:
    """Lookups never show a pending from before an acknowledgement, nor anything after a success."""
    async with deploy(database_url, own_valkey) as run:
        oracle = _Oracle(run.outside, random.Random(11))
        numbers = [new_id() for _ in range(120)]
        for batch in (numbers[0:40], numbers[40:80], numbers[80:120]):
            oracle.loaded.clear()
            driving = asyncio.gather(*(oracle.drive(n) for n in batch))
            await oracle.loaded.wait()  # some are acknowledged and the rest are on their way
            await asyncio.to_thread(own_valkey.restart, empty=True)
            await driving
        while unsettled := [n for n in numbers if not await oracle.is_settled(n)]:
            assert unsettled
        assert oracle.lookups > 240
        assert oracle.violations == []


async def test_the_log_never_quotes_a_request_that_cannot_be_read(
    sqlite_url: str, own_valkey: OwnValkey
) -> None:
    async with deploy(sqlite_url, own_valkey) as run:
        host, port = run.web.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /webhooks/flutterwave HTTP/1.1\r\nHost: x\r\nverif-hash: TOP\x01SECRET\r\n"
            b"Content-Length: 2\r\n\r\n{}"
        )
        await writer.drain()
        assert b" 400 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        await run.web.wait_for(lambda: any("error" in line for line in run.web.lines))
        await run.web.stop()
        assert "TOP" not in run.web.log
        assert "SECRET" not in run.web.log


class _Oracle:
    """Knows what was acknowledged, and compares every answer with it."""

    def __init__(self, outside: Outside, rng: random.Random) -> None:
        self._outside = outside
        self._rng = rng
        self._acknowledged: dict[int, str] = {}
        self._settled: set[int] = set()
        self.violations: list[str] = []
        self.lookups = 0
        self.loaded = asyncio.Event()

    async def drive(self, number: int) -> None:
        """Make one payment pending, then successful, looking all the while."""
        for word in ("pending", "successful"):
            body = bodies.v3_charge(id=number, status=word, tx_ref=f"load-{number}")
            looking = asyncio.create_task(self._look_often(number))
            assert await self._outside.webhook(body) == 200
            self._acknowledged[number] = word
            self.loaded.set()
            await looking
            for _ in range(self._rng.randrange(1, 4)):
                await self.look(number)

    async def _look_often(self, number: int) -> None:
        for _ in range(3):
            await self.look(number)

    async def look(self, number: int) -> dict[str, Any]:
        """Look once and judge the answer by what was true when it was asked for."""
        acknowledged, settled = self._acknowledged.get(number), number in self._settled
        answer = await self._outside.look(number)
        self.lookups += 1
        status = answer["status"]
        if status == 404 and acknowledged is None:
            return answer
        if acknowledged == "successful" and status in ("pending", "unknown", 404):
            self.violations.append(f"{number}: {answer} after its success was acknowledged")
        if settled and status != "successful":
            self.violations.append(f"{number}: {answer} after it was shown as successful")
        if status == "successful":
            self._settled.add(number)
        return answer

    async def is_settled(self, number: int) -> bool:
        """Look, and say whether it has settled."""
        return bool((await self.look(number))["status"] == "successful")


async def test_nothing_forbidden_reaches_the_database_valkey_or_the_logs(
    sqlite_url: str, own_valkey: OwnValkey
) -> None:
    """Every family with its secrets and personal data goes through; then everything is searched."""
    async with (
        open_provider() as sandbox,
        deploy(sqlite_url, own_valkey, **provider_settings(sandbox)) as run,
    ):
        for make in {**bodies.PAYMENTS, **bodies.OTHERS}.values():
            for v4 in (False, True):
                assert await run.outside.webhook(make(), v4=v4) == 200
        number = new_id()
        make_payment(sandbox, number, "successful", tx_ref="scanned")
        assert await run.outside.webhook(bodies.v3_charge(id=number, tx_ref="scanned")) == 200
        await run.told(number, "successful")
        await run.outside.look(number)
        await run.outside.look(new_id())
        async with Redis.from_url(own_valkey.url) as client:
            stored = [await _value(client, key) for key in await client.keys("*")]
        await run.worker.stop()
        await run.web.stop()
        found = "\n".join([*stored, run.web.log, run.worker.log, _dump(sqlite_url)])
        assert "scanned" in found  # the scan reads what was stored
        leaked = [canary for canary in (*_CANARIES, SECRET_MARK) if canary in found]
        assert leaked == []


_CANARIES = (
    SECRET, TOKEN, "e2e-token", "flw-t1nf", "Adaeze", "Ngozi", "adaeze@example.com", "08030000001",
    "Kofi", "KOFI", "kofi@example.com", "200000001", "203.0.113.77", "198.51.100.9", "9f0c2d4417",
    "77ac31", "seat", "14C", "Harbour", "One lamp", "b-17", "shop.example.com", "Welcome back",
    "FLWSECK", "sandbox-client-secret",
)  # fmt: skip


async def _value(client: Redis, key: bytes) -> str:
    kind = await client.type(key)
    if kind == b"none":
        return repr(key)  # a job that has ended since, or a token that has run out
    reader = {
        b"hash": client.hgetall, b"string": client.get, b"zset": lambda k: client.zrange(k, 0, -1),
    }[kind]  # fmt: skip
    return f"{key!r} {await reader(key)!r}"


def _dump(url: str) -> str:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


async def test_a_worker_finds_a_payment_of_which_no_webhook_came(
    sqlite_url: str, valkey_url: str
) -> None:
    async with open_provider() as sandbox:
        number = new_id()
        lost = sandbox.sandbox.create(
            amount=Decimal("1500.25"), currency="NGN", payment_id=str(number), tx_ref="order-lost"
        )
        sandbox.sandbox.settle(lost, "successful", announce=False)
        settings = {
            **provider_settings(sandbox), "DATABASE_URL": sqlite_url, "CACHE_URL": valkey_url,
            "WORKER_PORT": "0", "RECONCILE_EVERY_S": "1", "RECONCILE_AFTER_S": "0",
        }  # fmt: skip
        async with start_part("worker", settings) as worker:
            await worker.event("reconcile_finished", found_in_lists=1)
        async with open_store(sqlite_url, pool=1, timeout_s=10) as store:
            reference = Entity.reference("default", "order-lost")
            assert (await store.states([reference]))[reference].status == "successful"


async def test_processes_that_were_started_too_soon_say_what_to_run_and_work_after_it(
    tmp_path: Path, own_valkey: OwnValkey
) -> None:
    """Without the tables nobody is told that all is well, and nothing ends or breaks."""
    database = f"sqlite:///{tmp_path / 'paystate.db'}"
    async with deploy(database, own_valkey, CONFIRM="never") as deployment:
        for part in (deployment.web, deployment.worker):
            line = await part.event("database_not_ready", reason="database_not_migrated")
            assert "run `paystate migrate`" in line["detail"]
        outside, number = deployment.outside, new_id()
        ready = f"{outside.url}/readyz"
        async with outside.session.get(ready) as answer:
            assert answer.status == 503
        assert await outside.webhook(bodies.v3_charge(id=number)) == 503
        await upgrade_async(database)
        async with outside.session.get(ready) as answer:
            assert answer.status == 200
        assert await outside.webhook(bodies.v3_charge(id=number)) == 200
        await deployment.told(number, "successful")
        assert "Traceback" not in deployment.web.log + deployment.worker.log
