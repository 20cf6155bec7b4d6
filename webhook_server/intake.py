"""Webhooks that come whole: taken off the connection, before aiohttp.

A webhook is one POST of a kilobyte that comes in one piece, and a parser, a router, a stack of
middleware, two tasks and a response object are far more work than reading and recording it. What
is one plain request of that kind, head and body, is read here and answered with bytes.

Plain means: one of the webhook paths, each header once and in printable ASCII, a length that is
that of the body, JSON, a connection that stays open. Whatever is not plain goes to aiohttp as it
came, and so does whatever is refused: no signature, no JSON, too large. Nothing has been recorded
of it by then, so it is only read a second time, and there is one place that says why.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from paystate.keys import DEFAULT_MERCHANT
from paystate.logs import log_many
from paystate.metrics import Metrics
from paystate.payments.recording import Recorder, new_event
from paystate.store import Recorded
from paystate.updates import Event, Ignored
from webhook_server.prepared import Made
from webhook_server.webhooks import (
    AcknowledgedJson,
    Became,
    WebhookReader,
    not_recorded,
    outcome,
    said_by,
)

__all__ = ["Intake"]

# Longer heads are for aiohttp, which has limits of its own.
_MOST_HEAD_BYTES = 8000

_HEAD = re.compile(
    rb"POST /webhooks/flutterwave(?:/([a-z0-9_-]{1,40}))? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n"
)
_JSON = re.compile(r"application/json *(?:;.*)?", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,9}")

# What changes how a request is framed or answered.
_NOT_PLAIN = frozenset({"transfer-encoding", "expect", "upgrade", "trailer", "te"})

_ROUTES = ("/webhooks/flutterwave", "/webhooks/flutterwave/{merchant}")


class _Headers(dict[str, str]):
    """The headers of a plain request, by their names in lower case."""

    def getall(self, key: str, default: list[str], /) -> list[str]:
        value = self.get(key)
        return default if value is None else [value]


@dataclass(slots=True)
class _Taken:
    """A webhook that is being recorded; `tell` is called once it has been, or could not be."""

    intake: Intake
    merchant: str
    route: str
    event: Event
    started_s: float
    data: bytes = field(repr=False)  # its headers hold a secret
    tell: Callable[[_Taken], None]
    recorded: Recorded | None = None
    error: BaseException | None = None

    @property
    def fields(self) -> dict[str, object]:
        return {"merchant": self.merchant, **said_by(self.event)}

    def answer(self) -> Made:
        return self.intake.answer(self)

    def done(self) -> bool:
        return False  # a caller that hangs up does not undo what is being committed

    def set_result(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.tell(self)

    def set_exception(self, error: BaseException) -> None:
        self.error = error
        self.tell(self)


class Intake:
    """Takes plain webhooks of all merchants."""

    def __init__(self, reader: WebhookReader, recorder: Recorder, metrics: Metrics) -> None:
        self._reader = reader
        self._recorder = recorder
        self._metrics = metrics
        self._requests = {route: metrics.requests.labels(route, 200) for route in _ROUTES}
        self._answers: dict[tuple[Became, str], Made] = {}
        # What has been answered in this turn of the event loop, and is still to be told of.
        self._told: list[tuple[str, tuple[Became, str], dict[str, Any]]] = []

    def take(self, data: bytes, tell: Callable[[_Taken], None]) -> _Taken | None:
        """Begin to record the webhook that `data` is; None if `data` is no plain one to record.

        `tell` is called with what this returns, later, once there is an `answer` to it.
        """
        started_s = time.perf_counter()
        head = _HEAD.match(data, 0, _MOST_HEAD_BYTES)
        if head is None:
            return None
        headers = _plain(head[2].decode("ascii"))
        raw = data[head.end() :]
        if headers is None or int(headers["content-length"]) != len(raw):
            return None
        if len(raw) > self._reader.max_body_bytes:
            return None
        merchant = DEFAULT_MERCHANT if head[1] is None else head[1].decode("ascii")
        try:
            event = self._reader.read(merchant, raw, headers, "application/json")
            if isinstance(event.subject, Ignored) and not event.subject.stored:
                return None
            row = new_event(merchant, event)
        except Exception:
            return None  # aiohttp reads it again, and says why
        route = _ROUTES[head[1] is not None]
        taken = _Taken(self, merchant, route, event, started_s, data, tell)
        self._recorder.submit(row, taken)
        return taken

    def answer(self, taken: _Taken) -> Made:
        """Return the answer to a webhook that has been recorded, and tell of it.

        Raises PaystateError if it has not been recorded.
        """
        recorded, error = taken.recorded, taken.error
        if recorded is None:
            refusal = not_recorded(taken.event, error or RuntimeError("it is being recorded"))
            self._metrics.webhooks.labels("refused", refusal.reason).inc()
            raise refusal from error
        became = outcome(taken.event, recorded)
        seconds = time.perf_counter() - taken.started_s
        self._metrics.webhook_seconds.observe(seconds)
        if not self._told:
            asyncio.get_running_loop().call_soon(self._tell)
        self._told.append((taken.route, became, {
            "method": "POST", "route": taken.route, "status": 200,
            "duration_ms": round(seconds * 1000, 2), **taken.fields,
            "inbox_id": recorded.inbox_id, "outcome": became[0], "why": became[1],
        }))  # fmt: skip
        made = self._answers.get(became)
        if made is None:
            body = orjson.dumps(AcknowledgedJson(status=became[0], reason=became[1]))
            made = self._answers[became] = Made("", body)
        return made

    def _tell(self) -> None:
        """Count and log what has been answered; those of a batch are answered in one turn."""
        told, self._told = self._told, []
        for route, count in Counter(route for route, _, _ in told).items():
            self._requests[route].inc(count)
        for became, count in Counter(became for _, became, _ in told).items():
            self._metrics.webhooks.labels(*became).inc(count)
        log_many("request_finished", [fields for _, _, fields in told])


def _plain(lines: str) -> _Headers | None:
    """Return the headers in `lines`, each ended as on the wire; None if they are not plain."""
    headers = _Headers()
    count = 0
    for line in lines[:-2].split("\r\n"):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" ")
        count += 1
    if len(headers) != count or not _NOT_PLAIN.isdisjoint(headers):
        return None  # one that comes twice too
    if headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    if not _JSON.fullmatch(headers.get("content-type", "")):
        return None
    return headers if _LENGTH.fullmatch(headers.get("content-length", "")) else None
