"""Delivers the sandbox's webhooks the way the real ones come: signed, and not to be relied on.

Some are sent twice, some late, some after the next one of the same payment, some never. Which ones
is drawn from a seeded source when a webhook is handed in, so the same webhooks in the same order
meet the same fates. Only HTTP 200 acknowledges; anything else is tried again with the same bytes,
as the provider does, though seconds later and not half an hour.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

from paystate.flutterwave.sandbox.truth import Form
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.updates import Kind

__all__ = ["Delivery", "Fate", "Rates", "Sender", "Webhook", "draw_fate"]

# Webhooks under way at once, those waiting for a retry included; beyond it they are lost and
# listed as `overflow`. A receiver that is down for good must not fill the memory.
MAX_OUTSTANDING = 10_000
KEPT_DELIVERIES = 5_000


@dataclass(frozen=True, slots=True)
class Rates:
    """How often deliveries go wrong, each a share of all webhooks from 0 to 1."""

    duplicate: float = 0.0
    delay: float = 0.0
    reorder: float = 0.0
    drop: float = 0.0

    def __post_init__(self) -> None:
        for name, rate in asdict(self).items():
            if not 0 <= rate <= 1:
                raise ValueError(f"the {name} rate is a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one webhook on its way."""

    copies: int = 1  # 0: it is lost
    delay_s: float = 0.0
    held: bool = False  # until the next webhook of the same payment has gone out


def draw_fate(rng: random.Random, rates: Rates, *, max_delay_s: float) -> Fate:
    """Return the fate of the next webhook; always takes five draws, whatever comes of them."""
    dropped, doubled, delayed, held, share = (rng.random() for _ in range(5))
    if dropped < rates.drop:
        return Fate(copies=0)
    return Fate(
        copies=2 if doubled < rates.duplicate else 1,
        delay_s=share * max_delay_s if delayed < rates.delay else 0.0,
        held=held < rates.reorder,
    )


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook as it goes over the wire, and what it is about."""

    form: Form
    kind: Kind
    payment_id: str
    tx_ref: str
    type: str
    status: str
    raw: bytes = field(repr=False)

    def headers(self, secret_hash: str) -> dict[str, str]:
        """Return the headers it is sent with; the signature is over the exact bytes (v4)."""
        if self.form is Form.V4:
            signature = {V4_HEADER: sign_v4(self.raw, secret_hash)}
        else:
            signature = {V3_HEADER: secret_hash}
        return {"Content-Type": "application/json"} | signature


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try to deliver a webhook, as ``GET /sandbox/deliveries`` lists it.

    `outcome` is acknowledged, refused (`code` says how), unreachable, dropped or overflow; `copy`
    is 2 for the second of a doubled webhook, `attempt` counts from 1 and `at` is epoch seconds.
    """

    at: float
    payment_id: str
    kind: str
    tx_ref: str
    api: str
    type: str
    status: str
    copy: int
    attempt: int
    outcome: str
    code: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


class Sender:
    """Sends webhooks to one receiver, at most `concurrency` requests at a time.

    `retries` more tries follow a failed one, `retry_interval_s` apart; a held webhook goes out
    after `hold_s` seconds if nothing overtakes it. Without a `receiver_url` everything is dropped.
    The session belongs to the caller; `close` ends what is under way.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        receiver_url: str | None,
        secret_hash: str,
        rng: random.Random,
        rates: Rates | None = None,
        retries: int = 3,
        retry_interval_s: float = 2.0,
        max_delay_s: float = 5.0,
        hold_s: float = 10.0,
        timeout_s: float = 10.0,
        concurrency: int = 32,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.rates = rates or Rates()
        self.deliveries: deque[Delivery] = deque(maxlen=KEPT_DELIVERIES)
        self._session = session
        self._receiver_url = receiver_url
        self._secret_hash = secret_hash
        self._rng = rng
        self._retries = retries
        self._retry_interval_s = retry_interval_s
        self._max_delay_s = max_delay_s
        self._hold_s = hold_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._slots = asyncio.Semaphore(concurrency)
        self._clock = clock
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self._overtaken: dict[tuple[Kind, str], asyncio.Event] = {}

    def submit(self, webhook: Webhook) -> None:
        """Draw the fate of `webhook` and send it accordingly, in the background."""
        fate = draw_fate(self._rng, self.rates, max_delay_s=self._max_delay_s)
        if fate.copies == 0 or self._receiver_url is None:
            self._note(webhook, outcome="dropped")
        elif len(self._tasks) + fate.copies > MAX_OUTSTANDING:
            self._note(webhook, outcome="overflow")
        else:
            self._start(webhook, fate)

    async def idle(self) -> None:
        """Return once everything handed in so far has been acknowledged or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """End what is under way; nothing is sent afterwards."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, webhook: Webhook, fate: Fate) -> None:
        key = (webhook.kind, webhook.payment_id)
        waited_for = self._overtaken.pop(key, None)
        if waited_for is None and fate.held:
            overtaken = self._overtaken[key] = asyncio.Event()
            self._spawn(self._deliver_held(webhook, fate, overtaken))
            return
        self._spawn(self._deliver(webhook, delay_s=fate.delay_s, first_done=waited_for))
        self._spawn_copies(webhook, fate)

    def _spawn_copies(self, webhook: Webhook, fate: Fate) -> None:
        for copy in range(2, fate.copies + 1):
            self._spawn(self._deliver(webhook, delay_s=fate.delay_s, copy=copy))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver_held(self, webhook: Webhook, fate: Fate, overtaken: asyncio.Event) -> None:
        key = (webhook.kind, webhook.payment_id)
        try:
            await asyncio.wait_for(overtaken.wait(), self._hold_s)
        except TimeoutError:
            if self._overtaken.get(key) is overtaken:
                del self._overtaken[key]
        self._spawn_copies(webhook, fate)
        await self._deliver(webhook, delay_s=fate.delay_s)

    async def _deliver(
        self,
        webhook: Webhook,
        *,
        delay_s: float,
        copy: int = 1,
        first_done: asyncio.Event | None = None,
    ) -> None:
        if delay_s:
            await self._sleep(delay_s)
        for attempt in range(1, self._retries + 2):
            acknowledged = await self._post(webhook, copy=copy, attempt=attempt)
            if first_done is not None:
                first_done.set()
            if acknowledged or attempt > self._retries:
                return
            await self._sleep(self._retry_interval_s)

    async def _post(self, webhook: Webhook, *, copy: int, attempt: int) -> bool:
        assert self._receiver_url is not None  # noqa: S101 - `submit` saw to it
        async with self._slots:
            try:
                async with self._session.post(
                    self._receiver_url,
                    data=webhook.raw,
                    headers=webhook.headers(self._secret_hash),
                    timeout=self._timeout,
                    allow_redirects=False,
                ) as response:
                    code = response.status
            except (TimeoutError, aiohttp.ClientError, OSError):
                self._note(webhook, copy=copy, attempt=attempt, outcome="unreachable")
                return False
        outcome = "acknowledged" if code == 200 else "refused"
        self._note(webhook, copy=copy, attempt=attempt, outcome=outcome, code=code)
        return code == 200

    def _note(
        self,
        webhook: Webhook,
        *,
        outcome: str,
        copy: int = 1,
        attempt: int = 1,
        code: int | None = None,
    ) -> None:
        self.deliveries.append(
            Delivery(
                at=self._clock(),
                payment_id=webhook.payment_id,
                kind=webhook.kind.value,
                tx_ref=webhook.tx_ref,
                api=webhook.form.value,
                type=webhook.type,
                status=webhook.status,
                copy=copy,
                attempt=attempt,
                outcome=outcome,
                code=code,
            )
        )
