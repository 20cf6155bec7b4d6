"""The product's own flows over real servers, with a gate before each input and output."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from paystate.cache import statuses
from paystate.cache.documents import DocumentCache
from paystate.cache.scripts import KEEP, together
from paystate.cache.statuses import StatusCache
from paystate.connections import connect
from paystate.expected import Expected
from paystate.keys import DEFAULT_MERCHANT, Entity, Keys
from paystate.merchants import Confirm
from paystate.metrics import Metrics
from paystate.near import NearCache
from paystate.payments.answers import StatusAnswer
from paystate.payments.asking import Asker
from paystate.payments.expecting import Registrar
from paystate.payments.history import History
from paystate.payments.lookup import Lookups
from paystate.payments.recording import Recorder, new_event
from paystate.payments.settling import Provider, Settler
from paystate.state import EntityState
from paystate.status import Status
from paystate.store import Decision, NewEvent, RefusedDecision, Settled, Store
from paystate.store.engine import Database, open_database
from paystate.store.settle import BeforeCommit
from paystate.store.tables import changes, inbox
from paystate.ttl import TtlPolicy
from paystate.updates import Api, Event, Kind, PaymentUpdate
from tests.interleavings.connection import Connection
from tests.interleavings.oracle import Oracle
from tests.interleavings.steps import HANG_S, Crashed, Outcome, Process, Schedule, Step

__all__ = [
    "LEASE_MS",
    "Servers",
    "Site",
    "World",
    "observed",
    "open_servers",
    "take_new",
    "take_pending",
    "webhook",
]

# Far longer than a schedule takes on a busy machine: leases end when the scheduler says so.
LEASE_MS = 60_000

_numbers = itertools.count(1)

_AGE = """
for _, key in ipairs(KEYS) do
  for _, field in ipairs({'proven_at', 'token_at', 'token_until'}) do
    if redis.call('HEXISTS', key, field) == 1 then
      redis.call('HINCRBY', key, field, -tonumber(ARGV[1]))
    end
  end
end
"""


@dataclass
class Servers:
    """What all schedules of a run share: they differ in the payments that they use."""

    redis: Redis
    database: Database
    metrics: Metrics = field(default_factory=Metrics)
    pending: list[tuple[int, list[EntityState]]] = field(default_factory=list)

    async def load_scripts(self) -> None:
        """Give the server the scripts, as it has them after the first lookups."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for script in (statuses.GET, statuses.FILL, statuses.MARK, statuses.PUT, KEEP):
                pipe.script_load(script.text)
                pipe.script_load(together(script).text)
            await pipe.execute()


@asynccontextmanager
async def open_servers(database_url: str, valkey_url: str) -> AsyncIterator[Servers]:
    """Connect to a migrated database and to a Valkey that allows DEBUG.

    The event loop is told to be silent about what dies with its process.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unless_crashed)
    # Longer than a step may hang: a server that never answers ends the run with the steps that led
    # there, and one that a busy machine holds up for ten seconds ends nothing.
    redis = connect(valkey_url, timeout_s=2 * HANG_S)
    database = open_database(database_url, pool=5, timeout_s=2 * HANG_S)
    try:
        yield Servers(redis, database)
    finally:
        await redis.aclose()
        await database.close()


def _unless_crashed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Crashed):
        loop.default_exception_handler(context)


class _Pipeline:
    """A pipeline whose round trip is one step."""

    def __init__(self, process: Process, redis: Redis) -> None:
        self._process = process
        self._pipe = redis.pipeline(transaction=False)
        self._names: list[str] = []

    async def __aenter__(self) -> _Pipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pipe.reset()

    def get(self, key: str) -> None:
        self._names.append("document")
        self._pipe.get(key)

    def hmget(self, key: str, fields: Sequence[str]) -> None:
        self._names.append("read")
        self._pipe.hmget(key, list(fields))

    def evalsha(self, digest: str, keys: int, *arguments: Any) -> None:
        scripts = (statuses.GET, statuses.FILL, statuses.MARK, statuses.PUT, KEEP)
        ran = next(s for s in scripts if digest in (s.digest, together(s).digest))
        self._names.append(ran.name)
        self._pipe.evalsha(digest, keys, *arguments)

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        names = sorted(set(self._names))
        # What is known to be unsettled is read by the script at once: that begins a lookup too.
        begins = names == ["read"] or (names == ["get"] and bool(self._process.begun))
        resource = "documents" if names in (["document"], ["keep"]) else "cache"
        reads = names in (["read"], ["document"])
        step = Step("+".join(names), resource, writes=not reads, begins=begins)
        if self._process.marks_refused and "mark" in names:
            raise RedisConnectionError("the connection broke")  # nothing has come to the server
        async with self._process.gate(step) as outcome:
            if step.begins:
                self._process.begin()
            if outcome is Outcome.REFUSED:
                raise RedisConnectionError("refused")
            result: list[Any] = await self._pipe.execute(raise_on_error=raise_on_error)
            if outcome is Outcome.UNANSWERED:
                raise RedisConnectionError("no answer")
            return result


class GatedRedis:
    """As much of a Redis client as the product's flows use; each call is one step."""

    def __init__(self, process: Process, redis: Redis) -> None:
        self._process = process
        self._redis = redis

    def pipeline(self, *, transaction: bool) -> _Pipeline:
        assert not transaction
        return _Pipeline(self._process, self._redis)

    async def script_load(self, text: str) -> None:
        async with self._process.gate(Step("load", "scripts", writes=False)):
            await self._redis.script_load(text)

    async def delete(self, *keys: str) -> None:
        async with self._process.gate(Step("delete", "cache", writes=True)):
            await self._redis.delete(*keys)

    async def set(self, key: str, value: str, **more: Any) -> Any:
        async with self._process.gate(Step("set asked", "asked", writes=True)):
            return await self._redis.set(key, value, **more)

    async def get(self, key: str) -> Any:
        async with self._process.gate(Step("get asked", "asked", writes=False)):
            return await self._redis.get(key)


class _Doing(Enum):
    """What a statement is part of, where that says what it can meet."""

    CLAIMING = "claiming"
    SETTLING = "settling"


# Of each task: one process does several things at once.
_doing: ContextVar[_Doing | None] = ContextVar("doing", default=None)


class GatedDatabase(Database):
    """A database in which reading, beginning and committing are steps.

    Where nothing of the protocol happens between them, beginning and committing are one.
    """

    def __init__(self, process: Process, database: Database) -> None:
        super().__init__(database.engine, database.lanes)
        self._process = process
        self.delays = False

    async def read(self, work: Any) -> Any:
        async with self._process.gate(Step("rows", "database", writes=False)):
            rows = await super().read(work)
        await self._delay()
        return rows

    async def _delay(self) -> None:
        if self.delays:
            async with self._process.gate(Step("rows come", "wire", writes=False)):
                pass

    async def fetch(self, sql: str, *arguments: Any, once: bool = False) -> list[Any]:
        """One statement is one step; one that writes begins, and commits, in it."""
        if sql.lstrip().startswith("SELECT"):
            async with self._process.gate(Step("rows", "database", writes=False)):
                rows = await super().fetch(sql, *arguments, once=once)
            await self._delay()
            return rows
        resource = "inbox" if _doing.get() is _Doing.CLAIMING else "database"
        async with self._process.gate(Step("begin", resource, writes=True)):
            return await super().fetch(sql, *arguments, once=once)

    async def snapshot(self, work: Any) -> Any:
        async with self._process.gate(Step("rows", "database", writes=False)):
            return await super().snapshot(work)

    async def write(self, work: Any) -> Any:
        schedule, doing = self._process.schedule, _doing.get()
        split = doing is _Doing.SETTLING
        resource = "lock" if split else "inbox" if doing is _Doing.CLAIMING else "database"
        await self._process.arrive(Step("begin", resource, writes=True))
        schedule.writer = asyncio.current_task()
        try:
            return await super().write(self._to_commit(work) if split else work)
        finally:
            schedule.writer = None
            schedule.over()

    def _to_commit(self, work: Any) -> Any:
        async def gated(connection: AsyncConnection) -> Any:
            result = await work(connection)
            self._process.schedule.over()
            try:
                await self._process.arrive(Step("commit", "database", writes=True))
            except BaseException:
                self._process.schedule.busy += 1
                raise
            return result

        return gated


class GatedStore(Store):
    """A store in which the mark before the commit is a step inside the transaction."""

    def __init__(self, process: Process, database: GatedDatabase, oracle: Oracle) -> None:
        super().__init__(database)
        self._process = process
        self._oracle = oracle

    async def claim(self, holder: str, **more: Any) -> list[int]:
        before = _doing.set(_Doing.CLAIMING)
        try:
            return await super().claim(holder, **more)
        finally:
            _doing.reset(before)

    async def settle(
        self, decisions: Sequence[Decision], before_commit: BeforeCommit, **more: Any
    ) -> list[Settled | Exception]:
        schedule = self._process.schedule

        async def marking(states: Any) -> None:
            if schedule.writer is not asyncio.current_task():  # it settles without locks
                await before_commit(states)
                return
            schedule.over()
            try:
                await before_commit(states)
            finally:
                schedule.busy += 1

        before = _doing.set(_Doing.SETTLING)
        try:
            results = await super().settle(decisions, marking, **more)
        finally:
            _doing.reset(before)
        for result in results:
            if isinstance(result, Settled):
                self._oracle.committed(result.states, self._process)
            elif isinstance(result, RefusedDecision):
                schedule.failures.append(result)
        return results


class NoQueue:
    """No queue: whatever is due is found by sweeping, which is what makes settling certain."""

    async def settle(self, inbox_ids: Sequence[int]) -> None:
        """Do nothing."""


class ScriptedProvider:
    """A Flutterwave whose payments take the statuses of a script, one after the other.

    An answer may lag: `lag` says by how many statuses the next one does.
    """

    def __init__(self, tx_refs: dict[str, str | None]) -> None:
        self.script: dict[str, list[Status]] = {}
        self.at: dict[str, int] = {}
        self.tx_refs = tx_refs
        self.lag: Callable[[], int] = lambda: 0

    def advance(self, payment_id: str) -> None:
        """Let a payment take its next status."""
        self.at[payment_id] = min(self.at[payment_id] + 1, len(self.script[payment_id]) - 1)

    def finish(self) -> None:
        """Let every payment come to its end, and answer without a lag."""
        self.lag = lambda: 0
        for payment_id, script in self.script.items():
            self.at[payment_id] = len(script) - 1

    def answer(self, payment_id: str) -> PaymentUpdate:
        """Return what is said of a payment now."""
        at = max(0, self.at[payment_id] - self.lag())
        return observed(payment_id, self.script[payment_id][at], self.tx_refs.get(payment_id))


@dataclass
class _Client:
    """The client of one process: asking is a step."""

    process: Process
    provider: ScriptedProvider

    def can_verify(self, _kind: Kind, payment_id: str) -> bool:
        return payment_id in self.provider.script

    async def payment(self, _kind: Kind, payment_id: str, *, purpose: Any) -> PaymentUpdate:
        del purpose
        async with self.process.gate(Step("ask", "provider", writes=False)):
            return self.provider.answer(payment_id)

    async def by_reference(self, tx_ref: str, *, purpose: Any) -> PaymentUpdate | None:
        del purpose
        async with self.process.gate(Step("ask", "provider", writes=False)):
            for payment_id, named in self.provider.tx_refs.items():
                if named == tx_ref and payment_id in self.provider.script:
                    return self.provider.answer(payment_id)
            return None


def observed(payment_id: str, status: Status, tx_ref: str | None) -> PaymentUpdate:
    """Return what a webhook or the provider says of a payment."""
    return PaymentUpdate(Kind.CHARGE, payment_id, status, status.value, tx_ref=tx_ref)


def webhook(
    payment_id: str, status: Status, tx_ref: str | None, *, number: int = 0, api: Api = Api.V4
) -> NewEvent:
    """Return an event of the inbox; the same `number` and status is the same event again."""
    update = observed(payment_id, status, tx_ref)
    return new_event(DEFAULT_MERCHANT, Event(api, "charge.completed", f"{number}", update))


class Site:
    """One process of the product: its recorder, settler and lookups over gated connections."""

    def __init__(
        self, world: World, name: str, *, recheck_s: int = 1_000_000, delays: bool = False
    ) -> None:
        self.process = process = world.schedule.process(name)
        metrics = world.servers.metrics
        redis: Any = GatedRedis(process, world.servers.redis)
        database = GatedDatabase(process, world.servers.database)
        database.delays = delays
        self.store = GatedStore(process, database, world.oracle)
        self.cache = StatusCache(redis, lease_ms=world.lease_ms, ttl=TtlPolicy(), metrics=metrics)
        queue: Any = NoQueue()
        client: Any = _Client(process, world.provider)
        providers = {DEFAULT_MERCHANT: Provider(client, Confirm.ALWAYS, world.confirming)}

        def clock() -> float:
            return world.now_s

        async def wait(seconds: float) -> None:
            until = clock() + seconds
            async with process.gate(Step("wait", "time", writes=True)):
                await world.pass_time(until - clock())

        self.recorder = Recorder(self.store, self.cache, queue, metrics, sleep=wait, clock=clock)
        self.settler = Settler(
            self.store, self.cache, providers, metrics, holder=name, sleep=wait, clock=clock,
            draw=lambda: 0.5,
        )  # fmt: skip
        asker = Asker(
            redis, Keys(), self.store, providers, self.recorder, self.settler, metrics,
            recheck_s=1, not_found_s=1,
        )  # fmt: skip
        # It hears no news at all: what may be held near must be right without any.
        self.near: NearCache[StatusAnswer] = NearCache(100, clock=clock)
        self.near.resubscribed()
        self.registrar = Registrar(self.store, self.cache, self.settler, metrics, sleep=wait)
        self.lookups = Lookups(
            self.store,
            self.cache,
            asker,
            metrics,
            recheck_s=recheck_s,
            near=self.near,
            sleep=wait,
            clock=clock,
        )
        self.history = History(
            self.store, DocumentCache(redis, metrics), self.lookups, Keys(), TtlPolicy()
        )
        self._oracle = world.oracle
        self.connection = Connection(self.lookups, self.store, metrics)
        world.connections.append(self.connection)

    async def record(self, event: NewEvent) -> None:
        """Do what the webhook handler does, to the acknowledgement."""
        self._oracle.acknowledged(await self.recorder.record(event))

    async def register(self, reference: Entity) -> None:
        """Do what the registration of an expected payment does, to its answer."""
        expected = Expected(Decimal("1500.25"), "NGN")
        registered = await self.registrar.register(reference, expected, operator="shop")
        self._oracle.committed(registered.states)

    async def sweep(self, rounds: int) -> None:
        """Do what the worker does, a number of times."""
        for _ in range(rounds):
            await self.settler.sweep(grace_ms=0, most=100)

    async def look(
        self, entity: Entity, times: int, *, later: bool = False, over_http: bool = False
    ) -> None:
        """Look one payment or reference up, a number of times.

        `later`: each time at any time from then on, whether anything is read for it or not.
        `over_http`: on this process's one connection.
        """
        for _ in range(times):
            if later:
                async with self.process.gate(Step("asks", "cache", writes=False, begins=True)):
                    pass
            near = self.near.get(entity.row_key) is not None
            ask = self.connection.ask if over_http else self.lookups.status
            await self._oracle.watch(self.process, entity, ask(entity), near=near)
        await self.lookups.drain()


class World:
    """One run: a schedule, an oracle, a provider, and payments that no other run uses."""

    def __init__(
        self, servers: Servers, number: int, *, lease_ms: int = 0, confirming: bool = False
    ) -> None:
        self.servers = servers
        self.schedule = Schedule()
        self.oracle = Oracle(self.schedule)
        self.lease_ms = lease_ms
        self.confirming = confirming
        self.now_s = 1000.0
        self.keys = Keys()
        self.ids = [f"{number}1", f"{number}2"]
        self.refs = [f"r{number}-1", f"r{number}-2"]
        self.provider = ScriptedProvider({})
        self.entities = [Entity.payment(DEFAULT_MERCHANT, Kind.CHARGE, i) for i in self.ids]
        self.entities += [Entity.reference(DEFAULT_MERCHANT, r) for r in self.refs]
        self.connections: list[Connection] = []
        self.web: Site | None = None  # one that was there before
        self._snapshot: dict[str, tuple[bytes | None, float]] = {}

    @property
    def _hashes(self) -> list[str]:
        return [self.keys.hash(entity) for entity in self.entities]

    # --- what happens around the processes ---

    async def pass_time(self, seconds: float) -> None:
        """Let time go by, for the clocks of the processes and for the server's leases."""
        if seconds <= 0:
            return
        self.now_s += seconds
        hashes = self._hashes
        await self.servers.redis.eval(_AGE, len(hashes), *hashes, int(seconds * 1000))

    async def evict(self, draw: random.Random | None = None) -> None:
        """Let the server forget one entry, or all of them."""
        hashes = self._hashes if draw is None else [draw.choice(self._hashes)]
        await self.servers.redis.delete(*hashes)

    async def flush(self) -> None:
        """Let the server forget everything, its scripts too."""
        await self.servers.redis.flushall()
        await self.servers.redis.script_flush()

    async def snapshot(self) -> None:
        """Keep what the server has now, as a replica that lags would have it."""
        self._snapshot = {
            key: (await self.servers.redis.dump(key), self.now_s) for key in self._hashes
        }

    async def fail_over(self) -> None:
        """Promote that replica: what came after the snapshot is gone, and the run is a new one."""
        redis = self.servers.redis
        self.oracle.set_back()
        await redis.delete(*self._hashes)
        for key, (value, _) in self._snapshot.items():
            if value is not None:
                await redis.restore(key, 0, value, replace=True)
        if self._snapshot:
            taken = next(iter(self._snapshot.values()))[1]
            later_ms = int((self.now_s - taken) * 1000)
            await redis.eval(_AGE, len(self._hashes), *self._hashes, later_ms)
        await redis.execute_command("DEBUG", "CHANGE-REPL-ID")
        await redis.script_flush()

    async def let_go(self) -> None:
        """Let claims run out, and the time come for what was put off."""
        await self._sql("UPDATE inbox SET due_ms = 0, claimed_until_ms = 0 WHERE state = 'open'")

    async def _sql(self, statement: str) -> None:
        async def work(connection: Any) -> None:
            await connection.exec_driver_sql(statement)

        await self.servers.database.write(work)

    # --- the end of a run ---

    async def abandon(self) -> None:
        """End a run that is not to be judged, and leave nothing for the next one to find."""
        for process in self.schedule.processes:
            process.crash()
        self.schedule.free = True
        await self.schedule.settle()
        await self._hang_up()
        await self._sql("DELETE FROM inbox WHERE state = 'open'")

    async def quiesce(self) -> None:
        """Let everything come to rest: everybody runs on, and a worker sweeps until all has ended.

        Then see that it has, and that cache, database and history agree.
        """
        await self.schedule.finish()
        self.provider.finish()
        site = Site(self, "sweeper")
        for round_ in range(12):
            if not await self._open_rows():
                break
            await self.let_go()
            if round_ == 6:  # what the provider goes on denying has been denied for long enough
                await self._sql(
                    "UPDATE inbox SET received_ms = received_ms - 1000000 WHERE state = 'open'"
                )
            await site.settler.sweep(grace_ms=0, most=200)
        reader = Site(self, "last reader")
        known = [entity for entity in self.entities if self.oracle.knows(entity)]
        await asyncio.gather(*(reader.look(entity, 1) for entity in known))
        await self._hang_up()
        await self._check_rows()

    async def _hang_up(self) -> None:
        for connection in self.connections:
            await connection.close()

    async def _open_rows(self) -> int:
        async def work(connection: Any) -> int:
            found = await connection.execute(
                select(func.count()).select_from(inbox).where(inbox.c.state == "open")
            )
            return int(found.scalar_one())

        return await self.servers.database.read(work)

    async def _check_rows(self) -> None:
        async def work(connection: Any) -> tuple[list[Any], list[Any]]:
            names = [entity.row_key for entity in self.entities]
            rows = await connection.execute(
                select(inbox.c.id, inbox.c.state).where(inbox.c.entity_key.in_(names))
            )
            log = await connection.execute(
                select(
                    changes.c.entity_key, changes.c.version, changes.c.status, changes.c.terminal
                )
                .where(changes.c.entity_key.in_(names))
                .order_by(changes.c.id)
            )
            return list(rows), list(log)

        rows, log = await self.servers.database.read(work)
        states = await Store(self.servers.database).states(self.entities)
        self.oracle.at_rest(rows, log, states)


async def take_new(servers: Servers) -> tuple[int, list[EntityState]]:
    """Return the number of payments that nobody knows yet."""
    del servers
    return next(_numbers), []


async def take_pending(servers: Servers) -> tuple[int, list[EntityState]]:
    """Return the number of payments of which the first, and its reference, is known as pending.

    They are made by the hundred, through the same flows with their gates open.
    """
    if not servers.pending:
        numbers = [next(_numbers) for _ in range(100)]
        maker = Site(World(servers, 0), "maker")
        await asyncio.gather(*(
            maker.recorder.record(webhook(f"{n}1", Status.PENDING, f"r{n}-1")) for n in numbers
        ))  # fmt: skip
        await maker.settler.sweep(grace_ms=0, most=len(numbers))
        await servers.redis.flushdb()
        worlds = {n: World(servers, n).entities for n in numbers}
        states = await maker.store.states([e for entities in worlds.values() for e in entities])
        servers.pending = [
            (n, [states[e] for e in entities if e in states]) for n, entities in worlds.items()
        ]
    return servers.pending.pop()
