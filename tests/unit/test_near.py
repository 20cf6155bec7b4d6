"""The near cache alone: what it keeps, how long, and what it drops."""

from __future__ import annotations

from paystate.changes import Change, Cursor
from paystate.keys import Entity
from paystate.near import NEAR_AGE_S, NearCache
from paystate.status import Status
from paystate.updates import Kind


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def charge(own_id: str) -> Entity:
    """Return a charge of the default merchant."""
    return Entity.payment("default", Kind.CHARGE, own_id)


def change(own_id: str, version: int) -> Change:
    """Return a change of a charge."""
    return Change(
        charge(own_id), own_id, None, Status.SUCCESSFUL, None, True, version, version - 1, 0,
        Cursor(),
    )  # fmt: skip


def near(size: int = 10, clock: Clock | None = None) -> NearCache[str]:
    """Return an empty near cache that hears the news."""
    cache: NearCache[str] = NearCache(size, clock=clock or Clock())
    cache.resubscribed()
    return cache


def keep(cache: NearCache[str], own_id: str, version: int = 2) -> None:
    """Keep an answer that was read at once."""
    cache.put(charge(own_id).row_key, version, f"{own_id} {version}", cache.ticket())


def held(cache: NearCache[str], own_id: str) -> str | None:
    """Return what is held of a charge."""
    return cache.get(charge(own_id).row_key)


def test_keeps_an_answer_as_long_as_it_may() -> None:
    """The age counts from before the read, and ends what is held."""
    clock = Clock()
    cache = near(clock=clock)
    keep(cache, "1")
    clock.now_s += NEAR_AGE_S
    assert held(cache, "1") == "1 2"
    clock.now_s += 0.1
    assert held(cache, "1") is None
    assert len(cache) == 0


def test_is_bounded_and_drops_what_was_read_longest_ago() -> None:
    cache = near(size=2)
    keep(cache, "1")
    keep(cache, "2")
    keep(cache, "1")
    keep(cache, "3")
    assert len(cache) == 2
    assert held(cache, "2") is None
    assert held(cache, "1")


def test_of_size_zero_keeps_nothing() -> None:
    cache = near(size=0)
    keep(cache, "1")
    assert len(cache) == 0


def test_keeps_nothing_before_the_news_is_heard() -> None:
    """Nobody would say what has overtaken it."""
    cache: NearCache[str] = NearCache(10, clock=Clock())
    keep(cache, "1")
    assert len(cache) == 0


def test_drops_what_a_newer_change_overtook_and_nothing_else() -> None:
    cache = near()
    keep(cache, "1", version=2)
    cache.heard(change("1", 2))
    assert held(cache, "1")
    cache.heard(change("1", 3))
    assert held(cache, "1") is None


def test_does_not_keep_a_read_that_was_overtaken() -> None:
    """An answer on its way while a newer change came in is not kept."""
    cache = near()
    ticket = cache.ticket()
    cache.heard(change("1", 3))
    cache.put(charge("1").row_key, 2, "old", ticket)
    assert held(cache, "1") is None
    cache.put(charge("1").row_key, 3, "new", ticket)
    assert held(cache, "1") == "new"


def test_goes_by_versions_that_somebody_else_has_heard_of() -> None:
    """As those of the feed, who tells of each of them."""
    cache, latest = near(), {charge("1").row_key: 3}
    cache.follow(latest)
    keep(cache, "1", version=2)
    assert held(cache, "1") is None
    keep(cache, "1", version=3)
    latest[charge("1").row_key] = 4
    cache.overtaken(charge("1").row_key, 4)
    assert held(cache, "1") is None
    keep(cache, "1", version=3)
    assert held(cache, "1") is None


def test_does_not_keep_a_read_from_before_the_news_was_lost() -> None:
    """Neither what was there, nor what was on its way, nor what comes until it is heard again."""
    cache = near()
    keep(cache, "1")
    ticket = cache.ticket()
    cache.lost()
    cache.put(charge("2").row_key, 2, "late", ticket)
    keep(cache, "3")
    assert len(cache) == 0
    cache.resubscribed()
    cache.put(charge("2").row_key, 2, "late", ticket)
    assert len(cache) == 0


def test_never_goes_back_in_version() -> None:
    """Of two reads that overlap the later version stays."""
    cache = near()
    ticket = cache.ticket()
    keep(cache, "1", version=3)
    cache.put(charge("1").row_key, 2, "old", ticket)
    assert held(cache, "1") == "1 3"


def test_remembers_a_bounded_number_of_changes() -> None:
    """The memory of changes is bounded like the answers."""
    cache = near(size=2)
    for number in range(10):
        cache.heard(change(str(number), 1))
    assert len(cache._heard) == 2
