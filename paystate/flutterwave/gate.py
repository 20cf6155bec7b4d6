"""When Flutterwave may be asked: not while it has had enough of us, and so many times an hour.

Its limit of the verify API is on the whole account, and going over it costs half an hour, so the
processes of one merchant share what they know in Redis. Two things are kept there: until when
nobody asks after a 429 (the *cool-off*), and how many calls this hour has seen. What matters most
may use the whole hour's budget; what can wait stops earlier and so leaves room.

Redis is a convenience here. While it cannot be reached each process counts for itself, from what
it last knew: never without a limit, and never with an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from redis.exceptions import NoScriptError, RedisError

from paystate.connections import CacheClient
from paystate.errors import ProviderUnavailable
from paystate.keys import Keys

__all__ = [
    "FIRST_COOL_OFF_S",
    "MOST_COOL_OFF_S",
    "Gate",
    "LocalGate",
    "Purpose",
    "RedisGate",
    "cool_off_s",
    "share",
]

FIRST_COOL_OFF_S = 2.0
# The provider's own penalty for going over the limit; a longer Retry-After is not believed.
MOST_COOL_OFF_S = 30 * 60.0

_HOUR_S = 3600
# A day, so that an operator can look at the hours behind; the hour in the key makes it safe.
_BUDGET_TTL_S = 24 * _HOUR_S
# 429s count as being in a row for as long as no success came, but not for ever.
_STRIKES_TTL_S = 2 * MOST_COOL_OFF_S
# A gate is asked before every call: a Redis that is slower than this is as good as gone.
_REDIS_TIMEOUT_S = 1.0
_REDIS_DOWN = (RedisError, OSError, TimeoutError)


def _script(name: str) -> tuple[str, str]:
    """Return a script's text and the digest under which a server keeps it."""
    text = Path(__file__).with_name(name).read_text("utf-8")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_SPEND, _STRIKE = _script("gate.lua"), _script("cooloff.lua")


class Purpose(StrEnum):
    """Why the provider is asked, most important first."""

    CONFIRM = "confirm"  # a webhook has come and waits to be settled
    LOOKUP = "lookup"  # somebody wants to know and the database is not enough
    RECONCILE = "reconcile"  # nothing has been heard for a while
    AUDIT = "audit"  # nobody waits: what is settled is compared now and then


# In percent of the hourly budget.
_SHARES = {Purpose.CONFIRM: 100, Purpose.LOOKUP: 80, Purpose.RECONCILE: 60, Purpose.AUDIT: 40}


def share(hourly_budget: int, purpose: Purpose) -> int:
    """Return at how many calls in an hour, for whatever purpose, `purpose` has to stop."""
    return hourly_budget * _SHARES[purpose] // 100


def cool_off_s(strikes: int, retry_after_s: float | None) -> float:
    """Return the seconds to keep away after the `strikes`-th 429 in a row (from 1)."""
    first_s = retry_after_s or FIRST_COOL_OFF_S
    return min(MOST_COOL_OFF_S, first_s * 2.0 ** min(strikes - 1, 30))


class Gate(Protocol):
    """Passed before every call to the provider, and told how the call went."""

    async def enter(self, purpose: Purpose) -> None:
        """Count one call for `purpose`.

        Raises ProviderUnavailable, with `retry_after_s`: `cooling_off` or `budget_spent`.
        """

    async def cool_off(self, retry_after_s: float | None) -> None:
        """Keep everybody away after a 429; `retry_after_s` is what its header asked for.

        The first waits that or 2 s, each further one in a row doubles it, up to half an hour. A
        429 of a call that was under way when the cool-off began is not another one.
        """

    async def succeeded(self) -> None:
        """Note that a call was answered, which ends the row of 429s (not a running cool-off)."""


class LocalGate:
    """A gate for one process: what there is without Redis. `clock` gives epoch seconds.

    `hourly_budget` is calls per clock hour (UTC). Too low starves confirmations: payments show
    `processing` until the next hour. Too high runs into the provider's limit.
    """

    def __init__(self, *, hourly_budget: int, clock: Callable[[], float] = time.time) -> None:
        if hourly_budget < 1:
            raise ValueError("an hourly budget of at least one call is needed")
        self._hourly_budget = hourly_budget
        self._clock = clock
        self._hour = 0
        self.spent = 0
        self.until = 0.0
        self.strikes = 0

    async def enter(self, purpose: Purpose) -> None:
        """See `Gate`."""
        self.refuse_while_cooling()
        self.turn_hour()
        if self.spent >= share(self._hourly_budget, purpose):
            raise _budget_spent(self._clock())
        self.spent += 1

    async def cool_off(self, retry_after_s: float | None) -> None:
        """See `Gate`."""
        now = self._clock()
        if now >= self.until or self.strikes == 0:
            self.strikes += 1
        self.until = max(self.until, now + cool_off_s(self.strikes, retry_after_s))

    async def succeeded(self) -> None:
        """See `Gate`."""
        if self._clock() >= self.until:
            self.strikes = 0

    def refuse_while_cooling(self) -> None:
        """Raise ProviderUnavailable (`cooling_off`) if that is so."""
        left_s = self.until - self._clock()
        if left_s > 0:
            raise ProviderUnavailable("cooling_off", retry_after_s=min(left_s, MOST_COOL_OFF_S))

    def turn_hour(self) -> None:
        """Begin to count anew if the hour is another one."""
        hour = int(self._clock() // _HOUR_S)
        if hour != self._hour:
            self._hour, self.spent = hour, 0


class RedisGate:
    """A gate for all processes of one merchant.

    The client belongs to the caller; each question to it is given one second. `hourly_budget` and
    `clock` are as for `LocalGate`, and the same in every process.
    """

    def __init__(
        self,
        redis: CacheClient,
        keys: Keys,
        merchant: str,
        *,
        hourly_budget: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._merchant = merchant
        self._hourly_budget = hourly_budget
        self._clock = clock
        # What this process knows, from Redis and from its own calls.
        self._local = LocalGate(hourly_budget=hourly_budget, clock=clock)
        self.degraded = False

    async def enter(self, purpose: Purpose) -> None:
        """See `Gate`. While Redis is away, what this process knows decides (`degraded`)."""
        local = self._local
        held = await self._ask(self._redis.hmget(self._cool_off_key, ["until_ms", "strikes"]))
        if held is None:
            await local.enter(purpose)
            return
        self._learn_cool_off(int(held[0] or 0), int(held[1] or 0))
        local.refuse_while_cooling()
        local.turn_hour()
        limit = share(self._hourly_budget, purpose)
        answer = await self._ask(
            self._run(_SPEND, self._hour_key(), limit, _BUDGET_TTL_S, local.spent)
        )
        if answer is None:
            await local.enter(purpose)
            return
        allowed, spent = int(answer[0]), int(answer[1])
        local.spent = max(local.spent, spent)
        if not allowed:
            raise _budget_spent(self._clock())

    async def cool_off(self, retry_after_s: float | None) -> None:
        """See `Gate`."""
        first_ms = round((retry_after_s or FIRST_COOL_OFF_S) * 1000)
        args = [
            round(self._clock() * 1000),
            first_ms,
            round(MOST_COOL_OFF_S * 1000),
            round(_STRIKES_TTL_S * 1000),
        ]
        answer = await self._ask(self._run(_STRIKE, self._cool_off_key, *args))
        if answer is None:
            await self._local.cool_off(retry_after_s)
        else:
            self._learn_cool_off(int(answer[0]), int(answer[1]))

    async def succeeded(self) -> None:
        """See `Gate`. Asks Redis only where there are 429s to forget."""
        if self._local.strikes == 0 or self._clock() < self._local.until:
            return
        await self._local.succeeded()
        await self._ask(self._redis.hdel(self._cool_off_key, "strikes"))

    @property
    def _cool_off_key(self) -> str:
        return self._keys.rate(self._merchant, "cooloff")

    def _hour_key(self) -> str:
        hour = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%d%H")
        return self._keys.rate(self._merchant, hour)

    def _learn_cool_off(self, until_ms: int, strikes: int) -> None:
        # A clock of another host may be ahead, but no cool-off is longer than the longest.
        until = min(until_ms / 1000, self._clock() + MOST_COOL_OFF_S)
        self._local.until = max(self._local.until, until)
        self._local.strikes = strikes

    async def _run(self, script: tuple[str, str], key: str, *args: int) -> Any:
        """Run a script on its one key, so that on a cluster it is at one server."""
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


def _budget_spent(now: float) -> ProviderUnavailable:
    return ProviderUnavailable("budget_spent", retry_after_s=_HOUR_S - now % _HOUR_S)
