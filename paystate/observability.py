"""Logs and metrics: what they are called, and what must never be in them.

Logs are events in the past tense with data in fields: identifiers, counts and durations, never a
body, a header or anything of a customer. One canonical line is written for each request and each
job. Metrics are ``paystate_<thing>_<unit or total>`` with labels of few values.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Container, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

__all__ = ["Metrics", "configure_logging", "log_many", "logger", "place_of"]

# The last net below careful code: a field of such a name is masked whatever it holds.
_FORBIDDEN = frozenset(
    {"authorization", "verif-hash", "flutterwave-signature", "token", "secret", "password", "otp",
     "cookie", "email", "phone", "phone_number", "name", "customertoken", "payload", "body"}
)  # fmt: skip


def _mask_forbidden(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key in event.keys() & _FORBIDDEN:
        event[key] = "***"
    return event


# Their messages have the text of exceptions in them.
_QUOTING = ("arq", "asyncio", "aiohttp", "sqlalchemy")


def _without_messages(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Keep the type and the place of a library's exception, and drop its text.

    A parser quotes what it could not read, a header with a secret in it too; a database quotes what
    it was to store.
    """
    name = getattr(event.get("_record"), "name", "")
    if name.startswith(_QUOTING):
        event["event"] = f"{name} {event.get('level', 'logged')}"
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["where"] = place_of(error)
    return event


def place_of(error: BaseException) -> str:
    """Return the file and line that raised `error`."""
    traceback, place = error.__traceback__, "unknown"
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename.rpartition("/")[2]
        place = f"{name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _to_json(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=str).decode()


# Writes the lines of `log_many` where a process has settled how; see `configure_logging`.
_write_many: Callable[[str, Sequence[dict[str, Any]]], None] | None = None


def log_many(event: str, lines: Sequence[dict[str, Any]]) -> None:
    """Log a line at INFO for each of `lines`, as ``logger().info(event, **fields)`` does.

    In a process that logs JSON they are written at once, and rendered by orjson alone: what ends
    in the same moment a hundred times pays for one write. Nothing of the context is added.
    """
    if _write_many is not None:
        _write_many(event, lines)
        return
    log = logger()
    for fields in lines:
        log.info(event, **fields)


def _json_lines(process: str) -> Callable[[str, Sequence[dict[str, Any]]], None]:
    """Return what writes lines of the shape that structlog's processors give them."""

    def write(event: str, lines: Sequence[dict[str, Any]]) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        last = {"event": event, "level": "info", "timestamp": now}
        rendered = []
        for fields in lines:
            line = {"process": process, **fields, **last}
            if not _FORBIDDEN.isdisjoint(line):
                _mask_forbidden(None, "info", line)
            rendered.append(orjson.dumps(line, default=str))
        rendered.append(b"")
        sys.stderr.write(b"\n".join(rendered).decode())
        sys.stderr.flush()

    return write


def configure_logging(level: str, style: str, process: str, *, for_good: bool = False) -> None:
    """Write logs to standard error: JSON lines, or coloured for people.

    `style` is json, console or auto (console on a terminal). `for_good` makes each line cheaper and
    is for processes: a logger that was used takes no other configuration then. Libraries that log
    through the standard library come out in the same shape, at WARNING and above.
    """
    global _write_many  # noqa: PLW0603 - as structlog's own configuration, one for a process
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    _write_many = None
    if for_good and as_json:
        logged = logging.getLevelNamesMapping()[level.upper()] <= logging.INFO
        _write_many = _json_lines(process) if logged else lambda _event, _lines: None

    def name_process(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        return {"process": process, **event}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask_forbidden,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    )
    tail: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, renderer] if as_json else [renderer]
    )
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=for_good,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _without_messages],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def logger() -> structlog.typing.FilteringBoundLogger:
    """Return a logger; its name is the event."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return log


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
