"""The model does what the code does: the same steps, in the same random order, on both.

The scripts run on a real server, the transactions on a real database. What the model says of a step
is compared with what has happened.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from paystate.cache.scripts import FILL, GET, MARK, PUT, Script, run
from paystate.keys import Entity, EntityKind
from paystate.state import EntityState
from paystate.store import Decision as StoreDecision
from paystate.store import Ending, NewEvent, Recorded, Settled, Store, open_store
from paystate.updates import Kind, PaymentUpdate
from tests.model.hashes import EMPTY, NOTHING, Hash, Paystate, Read
from tests.model.rows import (
    ABSENT,
    CONTRADICTED,
    DEAD,
    ENDED,
    FAILED,
    HELD,
    NOBODY,
    PENDING,
    PROCESSING,
    SUCCESSFUL,
    UNKNOWN,
    VOIDED,
    WORDS,
    Database,
    Decision,
    Event,
    Inbox,
    Rows,
)

KEY = "model:hash"
# A tick of the model is half a lease. Entries are served to the end of their lease and tokens are
# not, so the two are made older by a little less and a little more than half.
LEASE_MS = 2_000_000_000
ENTRY_TICK_MS, TOKEN_TICK_MS = 999_000_000, 1_000_500_000
TTL_MS = 10 * LEASE_MS


class Server:
    """The scripts on a real server, with the model's steps as methods.

    With `others` each call is one of three that are made together, about other keys.
    """

    def __init__(self, redis: Redis, others: bool) -> None:
        self.redis = redis
        self.others = others

    async def _run(self, script: Script, *arguments: object) -> object:
        keys = ("model:before", KEY, "model:after") if self.others else (KEY,)
        replies = await run(self.redis, [(script, key, arguments) for key in keys])
        return replies[len(keys) // 2]

    async def get(self, reader: int) -> tuple[tuple[int, int] | None, bool]:
        reply: Any = await self._run(GET, LEASE_MS, str(reader) if reader else "")
        if reply[0] == 1:
            words = [word.value for word in WORDS]
            return (words.index(reply[1].decode()), int(reply[2])), False
        return None, bool(reply[1])

    async def fill(self, reader: int, read: Read) -> None:
        closed = 0 if read.cacheable else 1
        shown = WORDS[read.shown].value
        await self._run(FILL, LEASE_MS, str(reader), shown, read.version, 1, "", TTL_MS, closed)

    async def mark(self, version: int) -> None:
        await self._run(MARK, version, TTL_MS, TTL_MS)

    async def put(self, version: int, shown: int) -> None:
        await self._run(PUT, WORDS[shown].value, version, 1, "", TTL_MS, "", "a", "b", TTL_MS)

    async def tick(self) -> None:
        ages = {
            "proven_at": ENTRY_TICK_MS,
            "token_at": TOKEN_TICK_MS,
            "token_until": TOKEN_TICK_MS,
        }
        for field, ms in ages.items():
            if await self.redis.hexists(KEY, field):
                await self.redis.hincrby(KEY, field, -ms)

    async def promote(self) -> None:
        for field in ("incarnation", "token_incarnation"):
            if await self.redis.hexists(KEY, field):
                await self.redis.hset(KEY, field, "0" * 40)

    async def stored(self) -> tuple[int, int, int]:
        status, version, floor = await self.redis.hmget(KEY, "status", "version", "floor")
        words = [word.value for word in WORDS]
        shown = words.index(status.decode()) if status else NOTHING
        return shown, int(version or 0), int(floor or 0)


class Both:
    """One hash on the server and in the model."""

    def __init__(self, redis: Redis, others: bool) -> None:
        self.server, self.model = Server(redis, others), Paystate(2)
        self.held: Hash = EMPTY
        self.granted = self.hits = 0

    async def get(self, reader: int, _read: Read) -> None:
        hit, token = self.model.hit(self.held), False
        if hit is None:
            self.held, token = self.model.grant(self.held, reader)
        assert await self.server.get(reader) == (hit, token)
        self.granted += token
        self.hits += hit is not None

    async def fill(self, reader: int, read: Read) -> None:
        await self.server.fill(reader, read)
        if read.cacheable or read.shown == SUCCESSFUL:
            self.held = self.model.fill(self.held, reader, read)

    async def mark(self, _reader: int, read: Read) -> None:
        await self.server.mark(read.version)
        self.held = self.model.mark(self.held, read.version, read.shown)

    async def put(self, _reader: int, read: Read) -> None:
        await self.server.put(read.version, read.shown)
        self.held = self.model.put(self.held, read.version, read.shown)

    async def tick(self, _reader: int, _read: Read) -> None:
        await self.server.tick()
        self.held = self.model.tick(self.held)

    async def promote(self, _reader: int, _read: Read) -> None:
        await self.server.promote()
        self.held = self.model.promoted(self.held)

    async def evict(self, _reader: int, _read: Read) -> None:
        await self.server.redis.delete(KEY)
        self.held = EMPTY


@pytest.mark.parametrize("others", [False, True], ids=["alone", "together"])
async def test_the_scripts_do_what_the_model_says(redis: Redis, others: bool) -> None:
    """Three thousand random steps: every answer, every token and every entry is the model's."""
    draw = random.Random(20)
    both = Both(redis, others)
    often = (both.get, both.get, both.fill, both.fill, both.mark, both.put, both.tick)
    for _ in range(3000):
        step = draw.choice([*often, *often, both.evict, both.promote])
        shown = draw.choice([*(PENDING, PROCESSING, FAILED) * 5, SUCCESSFUL])
        await step(draw.randint(1, 2), Read(shown, draw.randint(1, 2), draw.random() < 0.9))
        assert await both.server.stored() == both.held[:3]
    assert both.granted > 50
    assert both.hits > 50


ENDINGS = {
    ENDED: None,
    HELD: Ending.HELD,
    DEAD: Ending.DEAD,
    CONTRADICTED: Ending.CONTRADICTED,
}


class Life:
    """One payment, which may belong to either of two references, in the store and in the model."""

    def __init__(self, store: Store, number: int, events: tuple[Event, ...]) -> None:
        self.store = store
        self.events = events
        self.names = {NOBODY: None, 1: f"A{number}", 2: f"B{number}"}
        self.entities = (
            Entity("default", EntityKind.CHARGE, f"10{number}"),
            Entity("default", EntityKind.REFERENCE, f"A{number}"),
            Entity("default", EntityKind.REFERENCE, f"B{number}"),
        )
        self.model = Database(1, events)
        self.rows: Rows = ((UNKNOWN, 0, 0, 0, NOBODY),) * 3
        self.inbox: Inbox = ((ABSENT, (), False),) * len(events)
        self.ids: dict[int, int] = {}

    async def deliver(self, number: int) -> None:
        """Record event `number`, and compare which rows its caller is told of."""
        event, payment = self.events[number], self.entities[0]
        new = NewEvent(
            "default", "verify" if event.ours else "v3", "t", f"{payment.id}-{number}", "payment",
            payment, self.names[event.tx_ref], {},
        )  # fmt: skip
        (recorded,) = await self.store.acknowledge([new])
        assert isinstance(recorded, Recorded)
        if recorded.inbox_id is not None:
            self.ids[number] = recorded.inbox_id
        outcome = self.model.acknowledge(self.rows, self.inbox, number)
        told = {self.entities[e] for e in outcome.touched if e not in outcome.untold}
        assert {state.entity for state in recorded.states} == told
        assert (outcome.inbox != self.inbox) == (not recorded.duplicate)
        self.rows, self.inbox = outcome.rows, outcome.inbox

    async def settle(self, number: int, decision: Decision) -> None:
        """Settle event `number`, and compare which rows were marked."""
        payment, named = self.entities[0], self.names[decision.link]
        update = None
        if decision.seen != NOBODY:
            word = WORDS[decision.seen]
            update = PaymentUpdate(Kind.CHARGE, payment.id, word, word.value, tx_ref=named)
        made = StoreDecision(
            self.ids[number], payment, ENDINGS[decision.ending], update=update,
            proven=decision.proven, moves=decision.moves, link=named,
        )  # fmt: skip
        (settled,) = await self.store.settle([made], nothing)
        assert isinstance(settled, Settled)
        outcome = self.model.settle(self.rows, self.inbox, number, decision)
        if outcome is None:
            assert not settled.states
            return
        assert bool(settled.opened) == outcome.opened
        assert {state.entity for state in settled.states} == {
            self.entities[e] for e in outcome.touched
        }
        self.rows, self.inbox = outcome.rows, outcome.inbox

    async def compare(self) -> None:
        """See that the rows are the model's."""
        states = await self.store.states(self.entities)
        assert tuple(self.row(states.get(entity)) for entity in self.entities) == self.rows

    def row(self, state: EntityState | None) -> tuple[int, int, int, int, int]:
        """Return a row of the store as the model has it."""
        if state is None:
            return UNKNOWN, 0, 0, 0, NOBODY
        link = NOBODY
        if state.link is not None:
            link = 0
            if not state.entity.is_reference:
                link = next(n for n, name in self.names.items() if name == state.link)
        return WORDS.index(state.status), state.version, state.open_events, state.held_events, link


async def nothing(_states: Sequence[EntityState]) -> None:
    """Do nothing before the commit."""


def some_decision(draw: random.Random) -> Decision:
    """Return any decision that can be made."""
    ending = draw.choice([ENDED, ENDED, ENDED, HELD, DEAD, CONTRADICTED])
    seen = draw.choice([PENDING, PENDING, PROCESSING, FAILED, VOIDED, SUCCESSFUL])
    if ending in (HELD, DEAD):
        seen = NOBODY
    link = draw.choice([NOBODY, 1, 2])
    return Decision(seen, ending, draw.random() < 0.7, link, draw.random() < 0.7)


async def test_the_transactions_do_what_the_model_says(sqlite_url: str) -> None:
    """Lives of payments at random: after every transaction all rows are the model's."""
    draw = random.Random(21)
    async with open_store(sqlite_url, pool=1, timeout_s=10) as store:
        for number in range(15):
            events = tuple(
                Event(0, (), draw.choice([NOBODY, 1, 2]), draw.random() < 0.3) for _ in range(3)
            )
            life = Life(store, number, events)
            for _ in range(12):
                one = draw.randrange(3)
                if one not in life.ids or draw.random() < 0.4:
                    await life.deliver(one)
                else:
                    await life.settle(one, some_decision(draw))
                await life.compare()
