"""`paystate watch`: what is counted as a latency."""

from __future__ import annotations

from typing import Any

from paystate.cli.watch import Latencies


def change(status: str, at: str, *, kind: str = "charge", payment_id: str = "1") -> dict[str, Any]:
    """Return what is read of a change."""
    moment = f"2026-11-23T10:00:{at}Z"
    return {"kind": kind, "payment_id": payment_id, "status": status, "changed_at": moment}


def test_the_clock_runs_from_the_webhooks_record_to_the_news_of_its_settlement() -> None:
    """Not from the settlement's own commit: the customer has waited since the webhook."""
    times = Latencies()
    now = 1795428000.0  # 2026-11-23T10:00:00Z
    assert times.hear(change("processing", "00.000"), now + 0.001) is None
    took = times.hear(change("successful", "00.008"), now + 0.0105)
    assert took is not None
    assert round(took, 2) == 10.5
    assert times.hear(change("failed", "00.009", payment_id="2"), now) is None
    assert times.hear(change("successful", "00.010", kind="reference"), now) is None


def test_percentiles_are_of_what_was_seen() -> None:
    """Nothing seen is no latency."""
    times = Latencies()
    assert times.percentile(0.99) == 0
    times.seen_ms = [float(n) for n in range(100)]
    assert (times.percentile(0.5), times.percentile(0.99)) == (50, 99)
