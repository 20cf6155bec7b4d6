"""The load: webhooks of many payments, and lookups of them, all the while.

Webhooks are delivered as Flutterwave does it: again and again, to any web process, until they get
their 200.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import aiohttp

from bench.drill.deployment import SECRET, Deployment
from bench.drill.lives import Life, Step, draw_life
from bench.drill.looking import Looking
from bench.drill.oracle import Oracle
from bench.drill.recovery import Recovery
from bench.drill.targets import Subject, Targets
from paystate import PaymentReader
from paystate.flutterwave.exact import read_body
from paystate.flutterwave.payloads import parse_event
from paystate.flutterwave.sandbox import bodies
from paystate.flutterwave.sandbox.encoding import JSON_TYPE, encode_json
from paystate.flutterwave.sandbox.records import Change, Form, Payment
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.keys import DEFAULT_MERCHANT, Entity
from paystate.payments.recording import new_event
from paystate.status import Status
from paystate.updates import Api, Kind

__all__ = ["Load"]

WEBHOOKS_PER_S = 220
# What one life delivers on average, duplicates included.
DELIVERIES_A_LIFE = 2.8
# Of the steps of a life, how many somebody watches on a page of their own.
SHARE_WATCHED = 0.2
BULKS_OF_A_WEB_PROCESS = 3
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class _Webhook:
    """The exact bytes of one webhook, and the key under which the inbox must have it."""

    raw: bytes
    headers: dict[str, str]
    event_key: str
    claim: Status


@dataclass
class Load:
    """Drives a deployment until told to stop. `event_keys` are those that were acknowledged."""

    run: Deployment
    session: aiohttp.ClientSession
    reader: PaymentReader
    oracle: Oracle
    recovery: Recovery
    rng: random.Random
    event_keys: set[str] = field(default_factory=set)
    subjects: list[Subject] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _lives: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._targets = Targets(self.rng)
        self.looking = Looking(
            self.run, self.session, self.reader, self.oracle, self.recovery, self._targets,
            self.rng, self.refused,
        )  # fmt: skip

    # --- the course of it ---

    def start(self) -> None:
        """Begin."""
        self._spawn(self._bear())
        for number in range(len(self.run.web) * BULKS_OF_A_WEB_PROCESS):
            self._spawn(self.looking.many(number))
        self._spawn(self.looking.by_reader())

    async def stop_births(self, within_s: float) -> None:
        """Let no payment begin any more, and those that have begun come to their end."""
        self._stopping.set()
        if self._lives:
            await asyncio.wait(self._lives, timeout=within_s)

    async def close(self) -> None:
        """End everything."""
        for task in (*self._tasks, *self._lives):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._lives, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._lives.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.refused[f"fault of the drill: {error!r}"] += 1

    async def _bear(self) -> None:
        begin, born = self._now(), 0
        while not self._stopping.is_set():
            born += 1
            life = asyncio.create_task(self._live(draw_life(self.rng)))
            self._lives.add(life)
            life.add_done_callback(self._ended)
            due = begin + born * DELIVERIES_A_LIFE / WEBHOOKS_PER_S
            await asyncio.sleep(max(0.0, due - self._now()))

    async def _live(self, life: Life) -> None:
        subject = self._begin(life)
        born = self._now()
        async with asyncio.TaskGroup() as group:
            for step in life.steps:
                await asyncio.sleep(max(0.0, born + step.at_s - self._now()))
                for delivery in self._step(subject, step):
                    group.create_task(delivery)
                if self.rng.random() < SHARE_WATCHED:
                    self._spawn(self.looking.page(subject))

    # --- webhooks ---

    def _begin(self, life: Life) -> Subject:
        tx_ref = None
        if life.second_attempt and self._targets.recent:
            tx_ref = self._targets.recent[-1].payment.tx_ref
        payment = self.run.sandbox.sandbox.create(
            amount=Decimal("1500.25"), currency="NGN", tx_ref=tx_ref,
            form=Form.V4 if life.v4 else Form.V3,
        )  # fmt: skip
        subject = Subject(
            payment,
            Entity.payment(DEFAULT_MERCHANT, Kind.CHARGE, str(payment.id)).row_key,
            Entity.reference(DEFAULT_MERCHANT, payment.tx_ref).row_key,
        )
        self.subjects.append(subject)
        return subject

    def _step(self, subject: Subject, step: Step) -> list[Coroutine[Any, Any, None]]:
        if step.truth is not None:
            self.run.sandbox.sandbox.settle(subject.payment, step.truth.value, announce=False)
        webhook = self._webhook(subject.payment, step.claim)
        subject.unanswered += len(step.copies)
        return [self._deliver(subject, webhook, late_s) for late_s in step.copies]

    def _webhook(self, payment: Payment, claim: Status) -> _Webhook:
        at = self.run.sandbox.sandbox.clock()
        told = replace(payment, history=[*payment.history, Change(at, claim)])
        body = bodies.webhook(told, webhook_id=f"wbk_{self.rng.randbytes(10).hex()}", at=at)
        raw = encode_json(body)
        api = Api.V4 if payment.form is Form.V4 else Api.V3
        signature = {V4_HEADER: sign_v4(raw, SECRET)} if api is Api.V4 else {V3_HEADER: SECRET}
        event = parse_event(api, read_body(raw, JSON_TYPE), raw)
        key = new_event(DEFAULT_MERCHANT, event).event_key
        return _Webhook(raw, {"Content-Type": JSON_TYPE, **signature}, key, claim)

    async def _deliver(self, subject: Subject, webhook: _Webhook, late_s: float) -> None:
        """Deliver one copy, until it has its 200."""
        await asyncio.sleep(late_s)
        while True:
            ticket = self._targets.begin(subject)
            began = self._now()
            code = await self._post(webhook)
            now = self._now()
            self._targets.end(ticket, subject, now, acknowledged=code == 200)
            self.recovery.outcome(began, code == 200, now)
            if code == 200:
                break
            self.refused[f"webhook {code}"] += 1
            await asyncio.sleep(RETRY_S * (1 + self.rng.random()))
        self.event_keys.add(webhook.event_key)
        self.oracle.acknowledge((subject.charge, subject.reference), webhook.claim, now)
        subject.unanswered -= 1

    async def _post(self, webhook: _Webhook) -> int:
        url = f"{self.rng.choice(self.run.web).url}/webhooks/flutterwave"
        try:
            async with self.session.post(
                url, data=webhook.raw, headers=webhook.headers
            ) as response:
                if response.status == 503 and b":not_recorded" in await response.read():
                    return 500  # no server was away: it was a fault of ours
                return response.status
        except (OSError, aiohttp.ClientError, TimeoutError):
            return 0

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
