"""The gate that all processes of one merchant share, in Redis.

Flutterwave's limit is on the whole account, and going over it costs half an hour, so what one
process learns all of them must know: until when nobody asks, and how many calls were made.

While Redis cannot be reached each process counts for itself, from what it last knew, and takes a
quarter of the budget at most: there are rarely more than four that ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from paystate.connections import CacheClient
from paystate.errors import ProviderUnavailable
from paystate.flutterwave.budget import (
    HOUR_S,
    PURPOSES,
    WINDOW_S,
    Budget,
    Purpose,
    Spending,
    ceiling,
    reserves,
)
from paystate.flutterwave.gate import (
    FIRST_COOL_OFF_S,
    MOST_COOL_OFF_S,
    TRIAL_S,
    LocalGate,
    cooling_off,
)
from paystate.keys import Keys

__all__ = ["RedisGate"]

# A day, so that an operator can look at the hours behind; the hour in the key makes it safe.
_BUDGET_TTL_S = 24 * HOUR_S
# 429s count as being in a row for as long as no success came, but not for ever.
_STRIKES_TTL_S = 2 * MOST_COOL_OFF_S
# A gate is asked before every call: a Redis that is slower than this is as good as gone.
_REDIS_TIMEOUT_S = 1.0
# The part of the budget that is one process's while it cannot tell the others.
ALONE = 4
_REDIS_DOWN = (RedisError, OSError, TimeoutError)


def _script(name: str) -> tuple[str, str]:
    """Return a script's text and the digest under which a server keeps it."""
    text = Path(__file__).with_name(name).read_text("utf-8")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_SPEND, _COOLING, _STRIKE = map(_script, ("gate.lua", "cooling.lua", "cooloff.lua"))


class RedisGate:
    """A gate for all processes of one merchant.

    The client belongs to the caller; each question to it is given one second. The budget and
    `clock` are as for `LocalGate`, and the same in every process.
    """

    def __init__(
        self,
        redis: CacheClient,
        keys: Keys,
        merchant: str,
        *,
        hourly_budget: int,
        per_minute: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._merchant = merchant
        self._clock = clock
        # What this process knows, from Redis and from its own calls.
        self._local = LocalGate(hourly_budget=hourly_budget, per_minute=per_minute, clock=clock)
        budget = self._local.spending.budget
        self._alone = Spending(
            Budget(max(1, budget.per_hour // ALONE), max(1, budget.per_minute // ALONE))
        )
        self.degraded = False

    async def enter(self, purpose: Purpose) -> None:
        """See `Gate`. While Redis is away, what this process knows decides (`degraded`)."""
        local = self._local
        local.refuse_while_cooling()
        now_ms = round(self._clock() * 1000)
        held = await self._run(_COOLING, self._cool_off_key, now_ms, round(TRIAL_S * 1000))
        if held is None:
            self._take_alone(purpose)
            await local.enter(purpose)
            return
        wait_ms, until_ms, strikes = map(int, held)
        self._learn_cool_off(until_ms, strikes)
        local.refuse_while_cooling()
        if wait_ms:
            raise cooling_off(wait_ms / 1000)
        reason = await self._spend(purpose)
        if reason is None:
            return
        if strikes:  # let somebody else find out
            await self._ask(self._redis.hdel(self._cool_off_key, "trial_ms"))
        raise local.spent(reason)

    async def _spend(self, purpose: Purpose) -> str | None:
        """Count one call; return why there must be none, or None."""
        spending, now = self._local.spending, self._clock()
        spending.turn(now)
        budget = spending.budget
        answer = await self._run(
            _SPEND,
            self._hour_key(now),
            PURPOSES.index(purpose) + 1,
            _BUDGET_TTL_S,
            int(now // WINDOW_S),
            budget.per_hour,
            ceiling(budget.per_hour, purpose),
            budget.per_window,
            ceiling(budget.per_window, purpose),
            _listed(reserves(budget.per_hour)),
            _listed(reserves(budget.per_window)),
            _listed(spending.of_hour),
        )
        if answer is None:
            self._take_alone(purpose)
            reason = spending.refusal(purpose)
            if reason is None:
                spending.spend(purpose)
            return reason
        verdict, window, *counts = map(int, answer)
        spending.learn(int(now // HOUR_S), counts[:4], window, counts[4:])
        return {1: None, 0: "budget_spent"}.get(verdict, "pace_spent")

    def _take_alone(self, purpose: Purpose) -> None:
        """Count one call that no other process knows of. Raises as `enter` does."""
        now = self._clock()
        self._alone.turn(now)
        reason = self._alone.refusal(purpose)
        if reason is not None:
            raise ProviderUnavailable(reason, retry_after_s=self._alone.wait_s(reason, now))
        self._alone.spend(purpose)

    async def cool_off(self, retry_after_s: float | None) -> None:
        """See `Gate`."""
        args = [
            round(self._clock() * 1000),
            round((retry_after_s or FIRST_COOL_OFF_S) * 1000),
            round(MOST_COOL_OFF_S * 1000),
            round(_STRIKES_TTL_S * 1000),
        ]
        answer = await self._run(_STRIKE, self._cool_off_key, *args)
        if answer is None:
            await self._local.cool_off(retry_after_s)
        else:
            self._learn_cool_off(int(answer[0]), int(answer[1]))

    async def succeeded(self) -> None:
        """See `Gate`. Asks Redis only where there are 429s to forget."""
        if self._local.strikes == 0 or self._clock() < self._local.until:
            return
        await self._local.succeeded()
        await self._ask(self._redis.hdel(self._cool_off_key, "strikes", "trial_ms"))

    @property
    def _cool_off_key(self) -> str:
        return self._keys.rate(self._merchant, "cooloff")

    def _hour_key(self, now: float) -> str:
        hour = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d%H")
        return self._keys.rate(self._merchant, hour)

    def _learn_cool_off(self, until_ms: int, strikes: int) -> None:
        # A clock of another host may be ahead, but no cool-off is longer than the longest.
        until = min(until_ms / 1000, self._clock() + MOST_COOL_OFF_S)
        self._local.until = max(self._local.until, until)
        self._local.strikes = strikes

    async def _run(self, script: tuple[str, str], key: str, *args: int | str) -> Any:
        """Run a script on its one key, so that on a cluster it is at one server.

        Return what it says, None if Redis says nothing in time.
        """
        return await self._ask(self._evaluated(script, key, *args))

    async def _evaluated(self, script: tuple[str, str], key: str, *args: int | str) -> Any:
        text, digest = script
        try:
            return await self._redis.evalsha(digest, 1, key, *args)
        except NoScriptError:
            return await self._redis.eval(text, 1, key, *args)

    async def _ask(self, question: Any) -> Any:
        """Return what Redis says to a command, None if it says nothing in time."""
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT_S):
                answer = await question  # untyped: redis-py types commands for both clients
        except _REDIS_DOWN:
            self.degraded = True
            return None
        self.degraded = False
        return answer


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
