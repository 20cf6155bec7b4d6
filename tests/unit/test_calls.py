"""One question to the provider: asked again where that may help, and not at all where it cannot."""

from __future__ import annotations

import asyncio

import pytest

from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave.breaker import FAILURES, MOST_S, TRIAL_S, Breaker
from paystate.flutterwave.calls import AT_ONCE, Calls
from paystate.flutterwave.gate import LocalGate, Purpose
from paystate.flutterwave.transport import Answer

FOUND = Answer(200, {"status": "success"})


class Provider:
    """What answers: each asking gets the next of `says`, the last one for ever."""

    def __init__(self, *says: Answer | Exception) -> None:
        self.says = list(says)
        self.given_s: list[float] = []
        self.waits: list[float] = []
        self.now = 1000.0
        self.takes_s = 0.0
        self.gate = LocalGate(hourly_budget=1000, clock=lambda: self.now)
        self.calls = Calls(
            self.gate,
            merchant="default",
            timeout_s=8.0,
            clock=lambda: self.now,
            sleep=self._sleep,
            draw=lambda: 0.5,
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def exchange(self, left_s: float) -> Answer:
        self.given_s.append(left_s)
        self.now += self.takes_s
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, Exception):
            raise said
        return said

    async def ask(self, purpose: Purpose = Purpose.CONFIRM) -> str:
        """Ask, and return what came of it in a word."""
        try:
            await self.calls.ask(purpose, self.exchange)
        except (ProviderUnavailable, ProviderRejected) as e:
            return e.reason
        return "answered"


def down(reason: str = "http_5xx", retry_after_s: float | None = None) -> ProviderUnavailable:
    return ProviderUnavailable(reason, retry_after_s=retry_after_s)


# --- asked again ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["http_5xx", "unreachable", "html"])
async def test_a_question_that_nothing_came_of_is_asked_again_after_growing_waits(
    reason: str,
) -> None:
    provider = Provider(down(reason), down(reason), FOUND)
    assert await provider.ask() == "answered"
    assert provider.waits == pytest.approx([0.15, 0.3])
    assert sum(provider.gate.spending.of_hour) == 3  # each asking is paid for


@pytest.mark.parametrize(
    ("purpose", "askings"),
    [(Purpose.CONFIRM, 3), (Purpose.LOOKUP, 2), (Purpose.RECONCILE, 1), (Purpose.AUDIT, 1)],
)
async def test_only_who_is_waited_for_asks_again(purpose: Purpose, askings: int) -> None:
    provider = Provider(down())
    assert await provider.ask(purpose) == "http_5xx"
    assert len(provider.given_s) == askings


@pytest.mark.parametrize(
    "said",
    [
        down("timeout"),
        down("rate_limited"),
        down("http_5xx", retry_after_s=30),
        ProviderRejected("credentials"),
    ],
)
async def test_what_asking_again_does_not_mend_is_not_asked_again(said: Exception) -> None:
    provider = Provider(said)
    await provider.ask()
    assert len(provider.given_s) == 1


async def test_all_askings_together_have_the_time_of_one_question() -> None:
    provider = Provider(down())
    provider.takes_s = 3.6
    await provider.ask()
    assert provider.given_s == pytest.approx([8.0, 4.25])  # a third would have had 0.35 s


# --- the breaker ----------------------------------------------------------------------------------


async def opened(provider: Provider) -> None:
    for _ in range(FAILURES):
        assert await provider.ask(Purpose.AUDIT) == "timeout"


async def test_a_provider_that_answers_nothing_is_left_alone_and_costs_no_budget() -> None:
    provider = Provider(down("timeout"))
    await opened(provider)
    spent = list(provider.gate.spending.of_hour)
    assert [await provider.ask() for _ in range(5)] == ["breaker_open"] * 5
    assert provider.gate.spending.of_hour == spent


async def test_one_question_at_a_time_finds_out_whether_it_is_back() -> None:
    provider = Provider(down("timeout"))
    await opened(provider)
    provider.now += 1
    asked = len(provider.given_s)
    release = asyncio.Event()

    async def slow(_: float) -> Answer:
        await release.wait()
        return FOUND

    trial = asyncio.create_task(provider.calls.ask(Purpose.CONFIRM, slow))
    await asyncio.sleep(0)
    assert await provider.ask() == "breaker_open"
    release.set()
    assert await trial == FOUND
    provider.says = [FOUND]
    assert await provider.ask() == "answered"
    assert len(provider.given_s) == asked + 1


async def test_a_trial_is_one_asking() -> None:
    provider = Provider(down("timeout"))
    await opened(provider)
    provider.says = [down("http_5xx")]
    provider.now += 1
    asked = len(provider.given_s)
    assert await provider.ask() == "http_5xx"
    assert len(provider.given_s) == asked + 1


async def test_a_trial_that_is_given_up_leaves_room_for_another() -> None:
    provider = Provider(down("timeout"))
    await opened(provider)
    provider.now += 1
    trial = asyncio.create_task(provider.calls.ask(Purpose.CONFIRM, lambda _: asyncio.Future()))
    await asyncio.sleep(0)
    trial.cancel()
    await asyncio.wait([trial])
    provider.says = [FOUND]
    assert await provider.ask() == "answered"


async def test_a_trial_without_budget_leaves_room_for_another() -> None:
    provider = Provider(down("timeout"))
    await opened(provider)
    provider.now += 1
    provider.gate.spending.turn(provider.now)
    provider.gate.spending.of_hour = [0, 900, 0, 0]
    assert await provider.ask(Purpose.RECONCILE) == "timeout"  # of its reserve
    provider.now += 5
    provider.gate.spending.of_hour = [0, 800, 60, 0]
    assert await provider.ask(Purpose.RECONCILE) == "budget_spent"
    provider.says = [FOUND]
    assert await provider.ask() == "answered"


@pytest.mark.parametrize("said", [FOUND, ProviderRejected("credentials"), down("rate_limited")])
async def test_any_answer_says_that_the_provider_is_there(said: Answer | Exception) -> None:
    provider = Provider(*[down("timeout")] * (FAILURES - 1), said, down("timeout"))
    for _ in range(2 * FAILURES - 1):
        provider.now += 3600  # past any cool-off
        await provider.ask()
    assert not provider.calls.breaker.is_open


def test_a_breaker_never_stays_open_for_long() -> None:
    """What was acknowledged settles within 30 s of the provider's return."""
    now = 0.0
    breaker = Breaker(clock=lambda: now, draw=lambda: 0.0)
    waits = []
    for _ in range(40):
        breaker.failed()
        try:
            breaker.enter()
        except ProviderUnavailable as e:
            waits.append(e.retry_after_s or 0.0)
            now += waits[-1]
            breaker.enter()
    assert waits[:4] == [1, 2, 4, MOST_S]
    assert max(waits) == MOST_S


def test_those_under_way_when_it_opened_do_not_keep_it_open() -> None:
    now = 0.0
    breaker = Breaker(clock=lambda: now, draw=lambda: 0.0)
    assert [breaker.failed() for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    assert not any(breaker.failed() for _ in range(16))
    now = 1.0
    breaker.enter()


def test_a_trial_that_is_never_heard_of_again_is_followed_by_another() -> None:
    now = 0.0
    breaker = Breaker(clock=lambda: now, draw=lambda: 0.0)
    for _ in range(FAILURES):
        breaker.failed()
    now = 1.0
    breaker.enter()
    now += TRIAL_S - 0.5
    with pytest.raises(ProviderUnavailable):
        breaker.enter()
    now += 0.5
    breaker.enter()


# --- places ---------------------------------------------------------------------------------------


async def test_a_slow_merchants_questions_wait_behind_its_own() -> None:
    """So many at once, by purpose; a merchant's lookups do not keep its confirmations waiting."""
    provider = Provider(FOUND)
    release = asyncio.Event()
    under_way = 0

    async def slow(_: float) -> Answer:
        nonlocal under_way
        under_way += 1
        await release.wait()
        return FOUND

    asking = [
        asyncio.create_task(provider.calls.ask(Purpose.LOOKUP, slow))
        for _ in range(AT_ONCE[Purpose.LOOKUP] + 5)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert under_way == AT_ONCE[Purpose.LOOKUP]
    assert await provider.ask(Purpose.CONFIRM) == "answered"
    release.set()
    assert await asyncio.gather(*asking) == [FOUND] * len(asking)


async def test_who_finds_no_place_in_time_is_told_when_to_come_back() -> None:
    calls = Calls(LocalGate(hourly_budget=100), merchant="default", timeout_s=0.05)
    hanging = [
        asyncio.create_task(calls.ask(Purpose.AUDIT, lambda _: asyncio.Future()))
        for _ in range(AT_ONCE[Purpose.AUDIT])
    ]
    await asyncio.sleep(0)
    with pytest.raises(ProviderUnavailable) as busy:
        await calls.ask(Purpose.AUDIT, lambda _: asyncio.Future())
    assert (busy.value.reason, busy.value.retry_after_s) == ("busy", 1.0)
    for task in hanging:
        task.cancel()
    await asyncio.wait(hanging)
