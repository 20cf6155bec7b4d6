"""The way of one question to one API of one merchant: a place, the breaker, the budget, the wire.

A question that nothing came of (no connection, a 5xx) is asked again, after a short wait that
chance makes longer or shorter, if there is time left; each asking takes from the budget. A timeout
is not: it has used that time up, and the flows ask again later. All are GETs, so that asking twice
changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from paystate.backoff import delay_s
from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.breaker import Breaker
from paystate.flutterwave.budget import Purpose
from paystate.flutterwave.gate import Gate
from paystate.flutterwave.transport import Answer
from paystate.logs import logger

__all__ = ["Calls"]

log = logger()

# Questions of one merchant under way at once in a process. A slow merchant's pile up behind its
# own, and leave the connections to the others.
AT_ONCE = {Purpose.CONFIRM: 16, Purpose.LOOKUP: 16, Purpose.RECONCILE: 4, Purpose.AUDIT: 1}
# Further askings. Whoever waits gets them; for the rest there is a next round.
AGAIN = {Purpose.CONFIRM: 2, Purpose.LOOKUP: 1, Purpose.RECONCILE: 0, Purpose.AUDIT: 0}
# No answer came, and asking again may bring one.
_PASSING = frozenset({"unreachable", "http_5xx", "html"})
# No answer came, so the provider may be down.
_DOWN = _PASSING | {"timeout", "redirected", "too_large", "unreadable"}
FIRST_WAIT_S, MOST_WAIT_S = 0.2, 1.0
# An asking that has less time than this is not begun.
LEAST_S = 1.0


class Calls:
    """Asks for `merchant` through `gate`. `timeout_s` bounds a question, all its askings together.

    `clock` is monotonic seconds, `draw` gives numbers in [0, 1).
    """

    def __init__(
        self,
        gate: Gate,
        *,
        merchant: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._gate = gate
        self._merchant = merchant
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
        self._draw = draw
        self.breaker = Breaker(clock=clock, draw=draw)
        self._places = {purpose: asyncio.Semaphore(most) for purpose, most in AT_ONCE.items()}

    async def ask(self, purpose: Purpose, exchange: Callable[[float], Awaitable[Answer]]) -> Answer:
        """Return the answer of `exchange`, which is given the seconds that are left to it.

        Raises what `exchange` and `Gate.enter` raise, and ProviderUnavailable: `breaker_open`, or
        `busy` where too many others wait for the same provider.
        """
        deadline = self._clock() + self._timeout_s
        async with self._place(purpose):
            again = 0 if self.breaker.is_open else AGAIN[purpose]
            self.breaker.enter()
            try:
                answer = await self._asked(purpose, exchange, deadline, again)
            except ProviderRejected:
                self.breaker.succeeded()
                raise
            except ProviderUnavailable as error:
                self._heed(error)
                raise
            except BaseException:
                self.breaker.released()
                raise
            self.breaker.succeeded()
            return answer

    async def _asked(
        self,
        purpose: Purpose,
        exchange: Callable[[float], Awaitable[Answer]],
        deadline: float,
        again: int,
    ) -> Answer:
        asking = 1
        while True:
            try:
                return await self._once(purpose, exchange, deadline - self._clock())
            except ProviderUnavailable as error:
                wait_s = delay_s(
                    asking, first_s=FIRST_WAIT_S, most_s=MOST_WAIT_S, draw=self._draw()
                )
                passing = error.reason in _PASSING and error.retry_after_s is None
                left_s = deadline - self._clock()
                if asking > again or not passing or left_s < wait_s + LEAST_S:
                    raise
            await self._sleep(wait_s)
            asking += 1

    def _heed(self, error: ProviderUnavailable) -> None:
        """Tell the breaker of a question without an answer."""
        if error.reason in _DOWN:
            if self.breaker.failed():
                log.warning("provider_breaker_opened", merchant=self._merchant, reason=error.reason)
        elif error.reason == "rate_limited":
            self.breaker.succeeded()  # it is there, and says so
        else:
            self.breaker.released()

    @asynccontextmanager
    async def _place(self, purpose: Purpose) -> AsyncIterator[None]:
        places = self._places[purpose]
        try:
            async with asyncio.timeout(self._timeout_s):
                await places.acquire()
        except TimeoutError:
            raise ProviderUnavailable("busy", retry_after_s=1.0) from None
        try:
            yield
        finally:
            places.release()

    async def _once(
        self, purpose: Purpose, exchange: Callable[[float], Awaitable[Answer]], left_s: float
    ) -> Answer:
        await self._gate.enter(purpose)
        try:
            answer = await exchange(left_s)
        except ProviderUnavailable as error:
            if error.reason == "rate_limited":
                await self._gate.cool_off(error.retry_after_s)
            raise
        await self._gate.succeeded()
        return answer
