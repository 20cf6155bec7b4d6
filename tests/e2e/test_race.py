"""The race finds nothing stale of ours, and finds it as soon as the token is taken out."""

from __future__ import annotations

from bench.race import figures
from bench.race.lane import Counts, Lane, run

PAYMENTS = 150


async def _race(database_url: str, *, without: str | None = None, count: int = PAYMENTS) -> Counts:
    lane = Lane(
        database_url, first_id=1, count=count, jitter_ms=0.0, without=without, seed=3, peers=False
    )
    return await run(lane)


async def test_no_lookup_that_races_its_webhook_is_stale(sqlite_url: str) -> None:
    """Readers that are held up until the write is acknowledged and forgotten are among them."""
    counts = await _race(sqlite_url)
    found = figures([counts])
    assert (found["stale"], found["wrong_at_the_end"]) == (0, 0)
    assert found["readers_held_up"] > 0
    assert (
        found["lookups"] == 4 * (PAYMENTS - found["readers_held_up"]) + 2 * found["readers_held_up"]
    )
    assert found["hit_rate"] >= 0.95


async def test_without_the_token_the_race_finds_stale_answers(sqlite_url: str) -> None:
    """The reader that is held up stores, after the acknowledgement, what it read before it."""
    counts = await _race(sqlite_url, without="token", count=10)
    assert counts["paystate"]["held_up"] > 0
    assert counts["paystate"]["stale"] > 0


def test_the_figures_of_lanes_are_summed() -> None:
    ours = {"lookups": 10, "at_risk": 2, "stale": 1, "after_success": 4,
            "after_success_cached": 3, "held_up": 1, "wrong": 0}  # fmt: skip
    peer = {"stale": 5}
    lanes = [{"paystate": ours, "cashews": peer, "aiocache": peer}] * 2
    found = figures(lanes)
    assert (found["lookups"], found["stale"], found["cashews_stale"]) == (20, 2, 10)
    assert found["hit_rate"] == 0.75
