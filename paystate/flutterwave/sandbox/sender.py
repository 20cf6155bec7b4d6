"""Delivers the sandbox's webhooks the way the real ones come: signed, and not to be relied on.

Some are sent twice, some late, some after the next one of the same payment, some never; some lie,
some are signed with a secret that is no longer valid, or never was. Which ones is drawn from a
seeded source when a webhook is made, so the same webhooks in the same order meet the same fates.
Only HTTP 200 acknowledges; anything else is tried again with the same bytes, as the provider does,
though seconds later and not half an hour.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp

from paystate.flutterwave.sandbox.deliveries import Delivery, Webhook
from paystate.flutterwave.sandbox.fates import LIES, Fate, Mishap, Rates, draw_fate
from paystate.flutterwave.sandbox.policy import Policy, Receiver
from paystate.flutterwave.sandbox.schedule import Freely, Schedule, Scheduled, Sleep
from paystate.updates import Kind

__all__ = ["Delivery", "Fate", "Policy", "Rates", "Receiver", "Sender", "Webhook", "draw_fate"]

# Webhooks under way at once, those waiting for a retry included; beyond it they are lost and
# listed as `overflow`. A receiver that is down for good must not fill the memory.
MAX_OUTSTANDING = 10_000
KEPT_DELIVERIES = 5_000


@dataclass(frozen=True, slots=True)
class _Held:
    """A webhook that waits to be overtaken, and what ends its waiting."""

    webhook: Webhook
    fate: Fate
    schedule: Schedule
    timer: Scheduled


class Sender:
    """Sends webhooks to one receiver, at most `concurrency` requests at a time.

    `receiver` and `policy` may be replaced at any time. The session belongs to the caller; `close`
    ends what is under way.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        receiver_url: str | None,
        secret_hash: str,
        rng: random.Random,
        previous_secret_hash: str = "sandbox-previous-hash",  # noqa: S107 - made up, and no longer valid
        rates: Rates | None = None,
        retries: int = 3,
        retry_interval_s: float = 2.0,
        max_delay_s: float = 5.0,
        hold_s: float = 10.0,
        timeout_s: float = 10.0,
        concurrency: int = 32,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.receiver = Receiver(receiver_url, secret_hash, previous_secret_hash)
        self.policy = Policy(rates or Rates(), retries, retry_interval_s, max_delay_s, hold_s)
        self.deliveries: deque[Delivery] = deque(maxlen=KEPT_DELIVERIES)
        self.sleep = sleep
        self._session = session
        self._rng = rng
        self._foretold: deque[Fate] = deque()
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._slots = asyncio.Semaphore(concurrency)
        self._clock = clock
        self._freely = Freely(sleep)
        self._schedule: Schedule = self._freely
        self._held: dict[tuple[Kind, str], _Held] = {}
        self._noted = 0

    def draw(self) -> Fate:
        """Return the fate of the next webhook: the one foretold, else one by the rates."""
        drawn = draw_fate(self._rng, self.policy.rates, max_delay_s=self.policy.max_delay_s)
        return self._foretold.popleft() if self._foretold else drawn

    def foretell(self, fate: Fate, *, count: int = 1) -> None:
        """Let the next `count` webhooks that are drawn for meet `fate`."""
        self._foretold.extend([fate] * count)

    def submit(self, webhook: Webhook, fate: Fate | None = None) -> None:
        """Send `webhook` as its fate has it, drawn here if not given, in the background."""
        fate = self.draw() if fate is None else fate
        if fate.copies == 0 or self.receiver.url is None:
            self._note(webhook, fate, outcome="dropped")
        elif self._schedule.size + fate.copies > MAX_OUTSTANDING:
            self._note(webhook, fate, outcome="overflow")
        else:
            self._start(webhook, fate)

    @contextmanager
    def on(self, schedule: Schedule) -> Iterator[None]:
        """Let what is submitted within happen on `schedule`; what it holds at the end is lost."""
        before, self._schedule = self._schedule, schedule
        try:
            yield
        finally:
            self._schedule = before
            self._held = {k: h for k, h in self._held.items() if h.schedule is not schedule}

    async def idle(self) -> None:
        """Return once everything handed in so far has been acknowledged or given up."""
        while self._freely.size or self._schedule is not self._freely:
            await self._schedule.idle()
            await self._freely.idle()
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End what is under way; nothing is sent afterwards."""
        self._held.clear()
        await self._freely.close()

    async def reset(self, rng: random.Random) -> None:
        """End what is under way, forget all deliveries and draw from `rng` from now on."""
        await self.close()
        self._rng = rng
        self._foretold.clear()
        self.deliveries.clear()
        self._noted = 0

    def _start(self, webhook: Webhook, fate: Fate) -> None:
        key = (webhook.kind, webhook.payment_id)
        overtaken = self._held.pop(key, None)
        if overtaken is not None:
            overtaken.timer.cancel()
        elif fate.held and webhook.payment_id:
            timer = self._schedule.after(self.policy.hold_s, partial(self._release, key))
            self._held[key] = _Held(webhook, fate, self._schedule, timer)
            return
        self._send(webhook, fate, self._schedule, overtaken)

    def _send(
        self, webhook: Webhook, fate: Fate, schedule: Schedule, overtaken: _Held | None = None
    ) -> None:
        for copy in range(1, fate.copies + 1):
            last = overtaken if copy == 1 else None
            work = partial(self._try, webhook, fate, schedule, copy, 1, last)
            schedule.after(fate.delay_s, work)

    async def _release(self, key: tuple[Kind, str]) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._send(held.webhook, held.fate, held.schedule)

    async def _try(
        self,
        webhook: Webhook,
        fate: Fate,
        schedule: Schedule,
        copy: int,
        attempt: int,
        overtaken: _Held | None,
    ) -> None:
        outcome, code = await self._post(webhook, fate)
        self._note(webhook, fate, copy=copy, attempt=attempt, outcome=outcome, code=code)
        if overtaken is not None:
            self._send(overtaken.webhook, overtaken.fate, overtaken.schedule)
        if outcome in ("refused", "unreachable") and attempt <= self.policy.retries:
            again = partial(self._try, webhook, fate, schedule, copy, attempt + 1, None)
            schedule.after(self.policy.retry_interval_s, again)

    async def _post(self, webhook: Webhook, fate: Fate) -> tuple[str, int | None]:
        """Return the outcome of one request, and the code of its answer."""
        async with self._slots:
            receiver = self.receiver
            if receiver.url is None:
                return "dropped", None
            try:
                async with self._session.post(
                    receiver.url,
                    data=webhook.raw,
                    headers=webhook.headers(receiver.secret_for(fate)),
                    timeout=self._timeout,
                    allow_redirects=False,
                ) as response:
                    code = response.status
            except (TimeoutError, aiohttp.ClientError, OSError):
                return "unreachable", None
        return ("acknowledged" if code == 200 else "refused"), code

    def _note(
        self,
        webhook: Webhook,
        fate: Fate,
        *,
        outcome: str,
        copy: int = 1,
        attempt: int = 1,
        code: int | None = None,
    ) -> None:
        self._noted += 1
        on_the_way = [m.value for m in Mishap if m in fate.mishaps and m not in LIES]
        self.deliveries.append(
            Delivery(
                number=self._noted,
                at=self._clock(),
                payment_id=webhook.payment_id,
                kind=webhook.kind.value,
                tx_ref=webhook.tx_ref,
                api=webhook.form.value,
                family=webhook.family,
                type=webhook.type,
                status=webhook.status,
                copy=copy,
                attempt=attempt,
                outcome=outcome,
                code=code,
                faults=(*on_the_way, *webhook.lies),
                form_encoded="form" in webhook.content_type,
            )
        )
