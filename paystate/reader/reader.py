"""Reads payment statuses and their changes from another service, on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from paystate.batch import Coalescer
from paystate.changes import Cursor
from paystate.connections import connect
from paystate.errors import CacheUnavailable
from paystate.keys import DEFAULT_MERCHANT, Entity, EntityKind, Keys
from paystate.near import NearCache
from paystate.reader.answers import PaymentDetails, PaymentStatus, Question, best
from paystate.reader.api import MOST_AT_ONCE, Api
from paystate.reader.entries import Entries
from paystate.reader.errors import ApiMissing, ApiUnavailable, ReaderUnavailable
from paystate.reader.feed import ChangeFeed
from paystate.reader.news import News
from paystate.reader.waiting import Watch, Watches
from paystate.status import Status

__all__ = ["PaymentReader"]

# Three heartbeats: one may be lost, and one may be late.
SILENCE_S = 6.0
POLL_S = 20.0
# How often a wait asks again while no news can be heard.
ASK_AGAIN_S = 1.0
CANCEL_AGAIN_S = 0.05
# Versions remembered by each iterator over changes; what is forgotten may be handed out once more.
REMEMBERED = 100_000


class PaymentReader:
    """Answers "has my payment gone through?" from near cache, cache and HTTP API, for one merchant.

    An async context manager: entering it starts one background listener, leaving it ends that and
    closes the connections. It never writes to the cache and never takes a token there.

    - `cache_url`: the product's CACHE_URL.
    - `api_url`, `api_token`: the product's web address and a token that may read. Without them an
      answer that the cache cannot prove has ``fresh=False``, and a gap in the changes stays one.
    - `lease_ms`: the product's PENDING_LEASE_MS. 0: only `successful` is taken from the cache.
      Never set it higher than the product does: its webhooks wait for the lease it knows of.
    - `near_size`: successful answers kept in this process; 0 keeps none.
    - `timeout_s`: bounds each call to the cache. Too low, a busy moment sends reads to the API.
    - `api_timeout_s`: bounds each call to the API, which may have to ask Flutterwave.
    - `silence_s`: without a heartbeat for so long the listener's connection is dropped.
    - `poll_s`: how often each iterator over changes, and each wait, looks again in any case.
    - `queue_size`: changes that an iterator may be behind before it lags.
    - `clock`: seconds, rising; measures the age of near answers.
    """

    def __init__(
        self,
        cache_url: str,
        *,
        api_url: str | None = None,
        api_token: str | None = None,
        merchant: str = DEFAULT_MERCHANT,
        lease_ms: int = 0,
        near_size: int = 100_000,
        timeout_s: float = 0.5,
        api_timeout_s: float = 5.0,
        silence_s: float = SILENCE_S,
        poll_s: float = POLL_S,
        queue_size: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        keys = Keys()
        channel = keys.all_changes(merchant)  # refuses what cannot be a merchant
        self._merchant = merchant
        self._charge = Entity(merchant, EntityKind.CHARGE, "").row_key
        self._poll_s = poll_s
        self._queue_size = queue_size
        self._api = (
            Api(api_url, api_token, merchant=merchant, timeout_s=api_timeout_s) if api_url else None
        )
        self._redis = connect(cache_url, timeout_s=timeout_s)
        self._entries = Entries(self._redis, keys, lease_ms=lease_ms)
        self._asked: Coalescer[Question, PaymentStatus] = Coalescer(
            self._ask_api, most=MOST_AT_ONCE, in_flight=4
        )
        self._near_size = near_size
        self._near: NearCache[PaymentStatus] = NearCache(near_size, clock=clock)
        self._watches = Watches()
        self._news = News(self._redis, channel, merchant, silence_s=silence_s)
        self._news.listeners.add(self._near)
        self._news.listeners.add(self._watches)
        self._listening: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        api = "with" if self._api else "without"
        return f"<PaymentReader of {self._merchant!r}, {api} an API>"

    async def __aenter__(self) -> Self:
        """Start to listen. Raises RuntimeError if it was opened before."""
        if self._listening is not None:
            raise RuntimeError("a reader is opened once")
        self._listening = asyncio.create_task(self._news.run(), name="paystate-reader")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening, end every iterator over changes, and close the connections."""
        self._closed = True
        while self._listening is not None and not self._listening.done():
            # More than once: redis-py sends under `asyncio.wait_for`, which before Python 3.12
            # swallows a cancellation that comes as the sending is done.
            self._listening.cancel()
            await asyncio.wait([self._listening], timeout=CANCEL_AGAIN_S)
        for listener in list(self._news.listeners):
            if isinstance(listener, ChangeFeed):
                listener.end()
        await self._redis.aclose()

    @property
    def live(self) -> bool:
        """Whether changes are heard as they happen."""
        return not self._closed and self._news.live

    # --- lookups ---

    async def status(self, payment_id: str | int, *, kind: str | None = None) -> PaymentStatus:
        """Return the status of a payment; without `kind`, of the charge, else of the transfer.

        Where nothing is known of it: `unknown`, version 0, ``fresh=False``. Raises ApiRefused, and
        ReaderUnavailable if neither the cache nor an API could be asked.
        """
        if kind is None:
            near = self.near(payment_id)
            if near is not None:
                return near
        return await self._ask(Question.payment(payment_id, kind))

    def near(self, payment_id: str | int) -> PaymentStatus | None:
        """Return what this process holds of a charge, at once; None if `status` must be asked.

        What it holds is `successful`, at most 30 s old, and dropped by the news of a later change.
        """
        held = self._near.get(f"{self._charge}{payment_id}")
        return held if held is not None and self._news.live else None

    async def reference(self, tx_ref: str) -> PaymentStatus:
        """Return the status of a merchant reference, with answers and errors as for `status`."""
        return await self._ask(Question.reference(tx_ref))

    async def statuses(
        self,
        payment_ids: Iterable[str | int] = (),
        *,
        tx_refs: Iterable[str] = (),
        kind: str | None = None,
    ) -> list[PaymentStatus]:
        """Return many statuses, in the order asked for: payments first, then references."""
        questions = [Question.payment(one, kind) for one in payment_ids]
        questions += [Question.reference(one) for one in tx_refs]
        return await asyncio.gather(*map(self._ask, questions))

    async def payment(
        self,
        payment_id: str | int | None = None,
        *,
        kind: str | None = None,
        tx_ref: str | None = None,
    ) -> PaymentDetails:
        """Return what is known of a payment, or of the payment that decides a reference.

        Raises ApiMissing without an API; PaymentUnknown, ApiUnavailable and ApiRefused with one.
        """
        question = Question.of(payment_id, kind, tx_ref)
        if self._api is None:
            raise ApiMissing("api_missing", "details come from the HTTP API: give an api_url")
        return await asyncio.to_thread(self._api.details, question)

    async def _ask(self, question: Question) -> PaymentStatus:
        self._check_open()
        entity = question.entity(self._merchant)
        near = self._near.get(entity.row_key) if self._near_size and self._news.live else None
        if near is not None:
            return near
        ticket = self._near.ticket()  # before the read: what is heard meanwhile overtakes it
        held: PaymentStatus | None = None
        blind: CacheUnavailable | None = None
        try:
            held = await self._entries(entity)
        except CacheUnavailable as e:
            blind = e
        if held is None or not held.fresh:
            held = await self._ask_further(question, held, blind)
        if self._near_size and held.status is Status.SUCCESSFUL and held.fresh and self._news.live:
            key = Entity(self._merchant, held.kind, held.id).row_key
            kept = held if held.source == "cache" else replace(held, source="cache")
            self._near.put(key, held.version, kept, ticket)
        return held

    async def _ask_further(
        self, question: Question, held: PaymentStatus | None, blind: CacheUnavailable | None
    ) -> PaymentStatus:
        """Ask the API; without it, say what the cache holds for what it is: not proven."""
        entity = question.entity(self._merchant)
        failed: CacheUnavailable | ApiUnavailable | None = blind
        if self._api is not None:
            try:
                return best(await self._asked(question), entity)
            except ApiUnavailable as e:
                failed = e
        if blind is not None and failed is not None:
            raise ReaderUnavailable(failed.reason) from failed
        return best(held, entity)

    async def _ask_api(self, questions: Sequence[Question]) -> dict[Question, PaymentStatus]:
        if self._api is None:
            return {}
        return await asyncio.to_thread(self._api.statuses, questions)

    # --- changes ---

    def changes(self, after: Cursor | str | None = None) -> ChangeFeed:
        """Return an iterator over `Change` and `Gap`, which hears everything from now on.

        ::

            async for item in reader.changes():
                if isinstance(item, Gap):
                    ...  # recovered: what was missed follows; else look again at what matters
                else:
                    ...  # a Change; no entity ever goes back in version

        `after` is the `cursor` of an earlier iterator: what has happened since comes first, if
        there is an API. "From now" is certain once the iterator was entered (``async with``) or the
        first item was waited for.
        """
        self._check_open()
        return ChangeFeed(
            self._news,
            self._api,
            Cursor.parse(after) if isinstance(after, str) else after,
            queue_size=self._queue_size,
            remembered=REMEMBERED,
            poll_s=self._poll_s,
        )

    async def wait_for(
        self,
        payment_id: str | int | None = None,
        *,
        kind: str | None = None,
        tx_ref: str | None = None,
        terminal: bool = True,
        version: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (part of the contract)
    ) -> PaymentStatus:
        """Wait until a payment or reference has come to its end, and return its status.

        With `terminal` False, until it has reached `version` alone; with both, until both hold.
        Raises TimeoutError after `timeout` seconds, and ApiRefused. Without an API an end that was
        not `successful` is seen only if it comes while this waits.
        """
        self._check_open()
        question = Question.of(payment_id, kind, tx_ref)
        entities = [question.entity(self._merchant)]
        if question.kind is None:
            entities.append(Entity(self._merchant, EntityKind.TRANSFER, question.id))
        with self._watches.watch(entities) as watch:
            async with asyncio.timeout(timeout):
                await self._news.tried.wait()  # subscribe first, then read
                while True:
                    answer = await self._look(question, watch)
                    if answer is not None and _enough(answer, terminal, version or 0):
                        return answer
                    await watch.pause(self._poll_s if self._news.live else ASK_AGAIN_S)
                    self._check_open()

    async def _look(self, question: Question, watch: Watch) -> PaymentStatus | None:
        """Return the latest that can be known: a change that ends it, or what is answered now."""
        if watch.change is None or not watch.change.terminal:
            try:
                answer = await self._ask(question)
            except ReaderUnavailable:
                answer = None
        else:
            answer = None
        change = watch.change
        if change is None or (answer is not None and answer.version >= change.version):
            return answer
        return PaymentStatus.from_change(change, fresh=change.terminal)

    def _check_open(self) -> None:
        if self._listening is None or self._closed:
            raise RuntimeError("use a reader inside `async with`")


def _enough(answer: PaymentStatus, terminal: bool, version: int) -> bool:
    """Say whether a wait is over. An end that is not proven is none."""
    ended = answer.terminal and answer.fresh
    return answer.version >= version and (ended or not terminal)
