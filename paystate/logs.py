"""Logs: what a line is, and what must never be in one.

Logs are events in the past tense with data in fields: identifiers, counts and durations, never a
body, a header or anything of a customer. One canonical line is written for each request and each
job.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

__all__ = ["configure_logging", "log_many", "logger", "place_of"]

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
