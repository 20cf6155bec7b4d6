"""Lookups by every path, each judged by the oracle: pages, many at once, and a PaymentReader."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from bench.drill.deployment import TOKEN, Deployment
from bench.drill.oracle import Oracle, Question
from bench.drill.recovery import Recovery
from bench.drill.targets import BULK, Subject, Targets
from paystate import PaymentReader
from paystate.errors import PaystateError
from paystate.reader.answers import PaymentStatus
from paystate.status import Status

__all__ = ["Looking"]

LOOKS_OF_A_PAGE = 4
BY_REFERENCE = 0.2
PAUSE_S = 0.01
AFTER_A_FAILURE_S = 0.2
_AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Looking:
    """Asks and judges. `refused` counts what got no answer; `on_single` is told of each lookup
    of one payment alone: its row key, and whether it was answered.
    """

    run: Deployment
    session: aiohttp.ClientSession
    reader: PaymentReader
    oracle: Oracle
    recovery: Recovery
    targets: Targets
    rng: random.Random
    refused: Counter[str]
    on_single: Callable[[str, bool], None] | None = None

    async def page(self, subject: Subject) -> None:
        """Look as a customer's page does: one payment, a few times, by one path."""
        by_reference = self.rng.random() < BY_REFERENCE
        key = subject.reference if by_reference else subject.charge
        payment = subject.payment
        path = f"by-ref/{payment.tx_ref}" if by_reference else str(payment.id)
        for _ in range(LOOKS_OF_A_PAGE):
            question = self.oracle.ask(f"page of {key}", key, self._now())
            code, answer = await self._get(f"/api/payments/{path}/status")
            if code in (200, 404):
                self._judge(question, answer if code == 200 else None)
            else:
                self.refused[f"lookup {code}"] += 1
            normal = code == 404 or (code == 200 and bool(answer["fresh"]))
            self.recovery.outcome(question.began_at, normal, self._now())
            if self.on_single is not None:
                self.on_single(key, normal)
            await asyncio.sleep(PAUSE_S)

    async def many(self, number: int) -> None:
        """Ask one web process for many at once, again and again."""
        web = self.run.web[number % len(self.run.web)]
        observer, url = f"bulk{number}", f"{web.url}/api/payments/status"
        while True:
            await asyncio.sleep(PAUSE_S * (1 + 2 * self.rng.random()))
            began = self._now()
            questions = {
                str(s.payment.id): self.oracle.ask(observer, s.charge, began)
                for s in self.targets.choose(began)
            }
            if not questions:
                continue
            body = await self._post_many(url, list(questions))
            if body is None:
                self.refused["bulk"] += 1
                self.recovery.outcome(began, False, self._now())
                await asyncio.sleep(AFTER_A_FAILURE_S)
                continue
            for answer in body["statuses"]:
                self._judge(questions[answer["payment_id"]], answer)
            for unknown in body["unknown"]["ids"]:
                self._judge(questions[unknown], None)
            fresh = all(answer["fresh"] for answer in body["statuses"])
            self.recovery.outcome(began, fresh, self._now())

    async def by_reader(self) -> None:
        """Ask a PaymentReader, as another service does, again and again."""
        while True:
            await asyncio.sleep(PAUSE_S)
            now = self._now()
            asked = [
                (self.oracle.ask("reader", s.charge, now), self.reader.status(s.payment.id))
                for s in self.targets.choose(now)[: BULK // 2]
            ]
            answers = await asyncio.gather(*(a for _, a in asked), return_exceptions=True)
            for (question, _), answer in zip(asked, answers, strict=True):
                if isinstance(answer, PaymentStatus):
                    status = answer.status if answer.known else None
                    self.oracle.answer(question, status, answer.version, fresh=answer.fresh)
                elif isinstance(answer, PaystateError):
                    self.refused["reader"] += 1
                else:
                    raise answer
                if self.on_single is not None:
                    self.on_single(question.key, isinstance(answer, PaymentStatus))

    def _judge(self, question: Question, answer: Any) -> None:
        if answer is None:
            self.oracle.answer(question, None)
        else:
            self.oracle.answer(
                question, Status(answer["status"]), answer["version"], fresh=answer["fresh"]
            )

    async def _get(self, path: str) -> tuple[int, Any]:
        url = self.rng.choice(self.run.web).url
        try:
            async with self.session.get(url + path, headers=_AUTHORIZED) as response:
                return response.status, orjson.loads(await response.read())
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError):
            return 0, None

    async def _post_many(self, url: str, ids: list[str]) -> Any:
        try:
            async with self.session.post(
                url, data=orjson.dumps({"ids": ids, "kind": "charge"}),
                headers={**_AUTHORIZED, "Content-Type": "application/json"},
            ) as response:  # fmt: skip
                raw = await response.read()
                return orjson.loads(raw) if response.status == 200 else None
        except (OSError, aiohttp.ClientError, TimeoutError):
            return None

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
