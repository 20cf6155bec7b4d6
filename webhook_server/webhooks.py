"""The webhook endpoint: raw bytes, verify, parse, record, acknowledge.

No provider is called here and nothing is decided: a genuine event is committed to the inbox, the
cache is told, and Flutterwave gets its 200. Everything that could be wrong with a body ends in a
200 or a 4xx; the only 5xx is the 503 of a database that could not record it, so that Flutterwave
sends it again.

Most webhooks do not come this way but by `webhook_server.intake`, which is made of the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Literal, TypedDict

import orjson
from aiohttp import web

from paystate.errors import PaystateError, StoreUnavailable
from paystate.flutterwave.exact import read_body
from paystate.flutterwave.payloads import parse_event
from paystate.flutterwave.signatures import Headers, SignatureVerifier
from paystate.keys import DEFAULT_MERCHANT
from paystate.logs import logger
from paystate.merchants import Merchant
from paystate.metrics import Metrics
from paystate.payments.recording import Recorder, new_event
from paystate.store import Recorded
from paystate.updates import Api, Event, Ignored
from webhook_server.bodies import read_within
from webhook_server.middleware import LOG_FIELDS
from webhook_server.problems import Refused

__all__ = [
    "AcknowledgedJson",
    "Became",
    "WebhookEndpoint",
    "WebhookReader",
    "not_recorded",
    "outcome",
    "said_by",
]

log = logger()


Became = Literal["recorded", "duplicate", "ignored"]


class AcknowledgedJson(TypedDict):
    """What became of a webhook; each of them means that it need not come again."""

    status: Annotated[Became, "`recorded`: committed, and a worker settles it."]
    reason: Annotated[str, "`new`, `seen_before`, or why it is ignored."]


class WebhookReader:
    """Tells genuine webhooks from others, and what they say.

    `merchants` may be others later: their secrets are those of the moment.
    """

    def __init__(self, merchants: Mapping[str, Merchant], *, max_body_bytes: int) -> None:
        self._merchants = merchants
        self._verifiers: dict[str, tuple[Merchant, SignatureVerifier]] = {}
        self.max_body_bytes = max_body_bytes

    def verifier(self, merchant: str) -> SignatureVerifier:
        """Return what verifies the webhooks of `merchant`. Raises Refused (404)."""
        found = self._merchants.get(merchant)
        if found is None:
            raise Refused(404, "unknown_merchant", "no such merchant is configured")
        known, verifier = self._verifiers.get(merchant, (None, None))
        if verifier is None or known is not found:
            verifier = SignatureVerifier(found.secret_hashes, filter(found.api.allows, Api))
            self._verifiers[merchant] = found, verifier
        return verifier

    def read(self, merchant: str, raw: bytes, headers: Headers, content_type: str) -> Event:
        """Return what a webhook says. Raises Refused, SignatureRejected and BodyRejected."""
        api = self.verifier(merchant).verify(raw, headers)
        return parse_event(api, read_body(raw, content_type), raw)


class WebhookEndpoint:
    """Receives the webhooks of all merchants, as a handler of aiohttp's."""

    def __init__(self, reader: WebhookReader, recorder: Recorder, metrics: Metrics) -> None:
        self._reader = reader
        self._recorder = recorder
        self._metrics = metrics

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one webhook."""
        started = time.perf_counter()
        try:
            status, reason = await self._receive(request)
        except PaystateError as e:
            self._metrics.webhooks.labels("refused", e.reason).inc()
            raise
        except web.HTTPRequestEntityTooLarge:
            self._metrics.webhooks.labels("refused", "body_too_large").inc()
            raise
        except TimeoutError:
            self._metrics.webhooks.labels("refused", "slow_body").inc()
            raise
        self._metrics.webhooks.labels(status, reason).inc()
        self._metrics.webhook_seconds.observe(time.perf_counter() - started)
        request[LOG_FIELDS] |= {"outcome": status, "why": reason}
        return web.Response(
            body=orjson.dumps(AcknowledgedJson(status=status, reason=reason)),
            content_type="application/json",
        )

    async def _receive(self, request: web.Request) -> tuple[Became, str]:
        merchant = request.match_info.get("merchant", DEFAULT_MERCHANT)
        self._reader.verifier(merchant)  # before the body is read, and the name is logged
        request[LOG_FIELDS]["merchant"] = merchant
        raw = await read_within(request, self._reader.max_body_bytes)
        event = self._reader.read(merchant, raw, request.headers, request.content_type)
        request[LOG_FIELDS] |= said_by(event)
        if isinstance(event.subject, Ignored) and not event.subject.stored:
            return "ignored", event.subject.reason
        recorded = await self._commit(merchant, event)
        request[LOG_FIELDS]["inbox_id"] = recorded.inbox_id
        return outcome(event, recorded)

    async def _commit(self, merchant: str, event: Event) -> Recorded:
        """Record the event. A caller that hangs up does not undo what is being committed."""
        try:
            return await self._recorder.record(new_event(merchant, event))
        except Exception as e:
            raise not_recorded(event, e) from e


def said_by(event: Event) -> dict[str, object]:
    """Return what is logged of a webhook."""
    fields: dict[str, object] = {"api": event.api.value, "event_type": event.type}
    subject = event.subject
    if not isinstance(subject, Ignored):
        fields["kind"] = subject.kind.value
        fields["payment_id"] = subject.payment_id
        fields["payment_status"] = subject.status.value
    return fields


def outcome(event: Event, recorded: Recorded) -> tuple[Became, str]:
    """Return what became of a webhook that was recorded, and why."""
    if isinstance(event.subject, Ignored):
        return "ignored", event.subject.reason
    return ("duplicate", "seen_before") if recorded.duplicate else ("recorded", "new")


def not_recorded(event: Event, error: BaseException) -> PaystateError:
    """Return the error to answer with where an event could not be recorded."""
    if isinstance(error, PaystateError):
        return error
    # Not the database's absence but its refusal, or a fault of ours: not recorded, so it must come
    # again.
    log.error("webhook_not_recorded", error=type(error).__name__, event_type=event.type)
    return StoreUnavailable("not_recorded", "the event could not be recorded")
