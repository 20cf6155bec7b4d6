"""Every metric: ``paystate_<thing>_<unit or total>``, with labels of few values."""

from __future__ import annotations

import os
from collections.abc import Container

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Every metric of both processes, in a registry of its own.

    Each process has one; tests make their own, so that no test sees another's counts.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.webhooks = Counter(
            "paystate_webhooks_total", "Webhooks by outcome.", ["outcome", "reason"], registry=r
        )
        self.webhook_seconds = Histogram(
            "paystate_webhook_seconds",
            "From the webhook's arrival to its acknowledgement.",
            buckets=_SECONDS,
            registry=r,
        )
        self.requests = Counter(
            "paystate_http_requests_total", "Requests by route and status.", ["route", "status"],
            registry=r,
        )  # fmt: skip
        self.lookups = Counter(
            "paystate_lookups_total",
            "Statuses answered, by source and freshness.",
            ["source", "fresh"],
            registry=r,
        )
        self.cache_reads = Counter(
            "paystate_cache_reads_total", "Cache reads by result.", ["result"], registry=r
        )
        self.cache_fills = Counter(
            "paystate_cache_fills_total", "Cache fills by result.", ["result"], registry=r
        )
        self.cache_errors = Counter(
            "paystate_cache_errors_total", "Failed cache calls.", ["operation"], registry=r
        )
        self.documents = Counter(
            "paystate_documents_total",
            "Documents read from the cache, by kind and by what became of it.",
            ["kind", "result"],
            registry=r,
        )
        self.database_reads = Counter(
            "paystate_database_reads_total", "Coalesced status queries sent.", registry=r
        )
        self.events = Counter(
            "paystate_events_ended_total", "Inbox rows by ending.", ["ending", "reason"], registry=r
        )
        self.event_retries = Counter(
            "paystate_event_retries_total", "Inbox rows put off, by reason.", ["reason"], registry=r
        )
        self.expected = Counter(
            "paystate_expected_payments_total",
            "Registrations of expected payments, by outcome or why they were refused.",
            ["outcome"],
            registry=r,
        )
        self.event_seconds = Histogram(
            "paystate_event_seconds",
            "From a webhook's arrival to its payment's new status.",
            buckets=_SECONDS,
            registry=r,
        )
        self.changes = Counter(
            "paystate_changes_total", "Changes of status, by new status.", ["status"], registry=r
        )
        self.provider_calls = Counter(
            "paystate_provider_calls_total",
            "Calls to Flutterwave by purpose and outcome.",
            ["purpose", "outcome"],
            registry=r,
        )
        self.reconciled = Counter(
            "paystate_reconciled_total",
            "Unsettled payments and references that the reconciler looked at, by outcome.",
            ["outcome"],
            registry=r,
        )
        self.reconcile_found = Counter(
            "paystate_reconcile_found_total",
            "Settled payments of which no webhook had told, found by a question or in a list.",
            ["by"],
            registry=r,
        )
        self.merchants_reloads = Counter(
            "paystate_merchants_reloads_total",
            "Times the merchants file has changed, by what became of it: taken or refused.",
            ["outcome"],
            registry=r,
        )
        self.merchants_refused = Gauge(
            "paystate_merchants_file_refused",
            "1 while the merchants file cannot be used, and what it said before is in force.",
            multiprocess_mode="livemax",
            registry=r,
        )
        self.queue_errors = Counter(
            "paystate_queue_errors_total", "Failed queue calls.", ["operation"], registry=r
        )
        self.swept = Counter(
            "paystate_swept_events_total", "Events the sweeper had to take.", registry=r
        )
        self.subscribers = Gauge(
            "paystate_subscribers",
            "Streams and waiting lookups open now.",
            multiprocess_mode="livesum",
            registry=r,
        )
        self.feed_gaps = Counter(
            "paystate_feed_gaps_total",
            "Times the feed had to read the change log, by reason.",
            ["reason"],
            registry=r,
        )
        # The worker's, which is one process; in a web process they are nought.
        self.inbox_open = Gauge(
            "paystate_inbox_open", "Open inbox rows.", multiprocess_mode="livemax", registry=r
        )
        self.inbox_oldest = Gauge(
            "paystate_inbox_oldest_seconds",
            "Age of the oldest open inbox row.",
            multiprocess_mode="livemax",
            registry=r,
        )
        self.unsettled = Gauge(
            "paystate_unsettled",
            "Unsettled payments and references that the reconciler watches; those that are due; "
            "those flagged for a person.",
            ["which"],
            multiprocess_mode="livemax",
            registry=r,
        )
        self.unsettled_oldest = Gauge(
            "paystate_unsettled_oldest_seconds",
            "Age of the oldest that the reconciler watches.",
            multiprocess_mode="livemax",
            registry=r,
        )
        self.inbox_stuck = Gauge(
            "paystate_inbox_stuck",
            "Held and dead inbox rows, by ending.",
            ["ending"],
            multiprocess_mode="livemax",
            registry=r,
        )

    def samples(self, names: Container[str]) -> list[tuple[str, dict[str, str], float]]:
        """Return (name, labels, value) of each sample of `names`.

        As `exposition`: of all web processes of one supervisor where there are more.
        """
        return [
            (sample.name, sample.labels, sample.value)
            for metric in self._whole().collect()
            for sample in metric.samples
            if sample.name in names
        ]

    def exposition(self) -> bytes:
        """Return everything in the format of Prometheus; of all web processes where there are more.

        prometheus_client counts in shared files if PROMETHEUS_MULTIPROC_DIR was set at its import.
        """
        return generate_latest(self._whole())

    def _whole(self) -> CollectorRegistry:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
