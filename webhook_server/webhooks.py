"""The webhook endpoint: raw bytes, verify, parse, record, acknowledge.

No provider is called here and nothing is decided: a genuine event is committed to the inbox, the
cache is told, and Flutterwave gets its 200. Everything that could be wrong with a body ends in a
200 or a 4xx; the only 5xx is the 503 of a database that could not record it, so that Flutterwave
sends it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import orjson
from aiohttp import web

from paystate.errors import PaystateError, StoreUnavailable
from paystate.flutterwave.exact import read_body
from paystate.flutterwave.payloads import parse_event
from paystate.flutterwave.signatures import SignatureVerifier
from paystate.keys import DEFAULT_MERCHANT
from paystate.observability import Metrics, logger
from paystate.payments.recording import Recorder, new_event
from paystate.store import Recorded
from paystate.updates import Event, Ignored
from webhook_server.bodies import read_within
from webhook_server.middleware import LOG_FIELDS
from webhook_server.problems import Refused

__all__ = ["WebhookEndpoint"]

log = logger()


class WebhookEndpoint:
    """Receives the webhooks of all merchants."""

    def __init__(
        self,
        secrets: Mapping[str, tuple[str, ...]],
        recorder: Recorder,
        metrics: Metrics,
        *,
        max_body_bytes: int,
    ) -> None:
        self._verifiers = {name: SignatureVerifier(hashes) for name, hashes in secrets.items()}
        self._recorder = recorder
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one webhook."""
        started = time.perf_counter()
        try:
            outcome, reason = await self._receive(request)
        except PaystateError as e:
            self._metrics.webhooks.labels("refused", e.reason).inc()
            raise
        except web.HTTPRequestEntityTooLarge:
            self._metrics.webhooks.labels("refused", "body_too_large").inc()
            raise
        except TimeoutError:
            self._metrics.webhooks.labels("refused", "slow_body").inc()
            raise
        self._metrics.webhooks.labels(outcome, reason).inc()
        self._metrics.webhook_seconds.observe(time.perf_counter() - started)
        request[LOG_FIELDS] |= {"outcome": outcome, "why": reason}
        return web.Response(
            body=orjson.dumps({"status": outcome, "reason": reason}),
            content_type="application/json",
        )

    async def _receive(self, request: web.Request) -> tuple[str, str]:
        merchant = request.match_info.get("merchant", DEFAULT_MERCHANT)
        verifier = self._verifiers.get(merchant)
        if verifier is None:
            raise Refused(404, "unknown_merchant", "no such merchant is configured")
        request[LOG_FIELDS]["merchant"] = merchant
        raw = await read_within(request, self._max_body_bytes)
        api = verifier.verify(raw, request.headers)
        event = parse_event(api, read_body(raw, request.content_type), raw)
        request[LOG_FIELDS] |= {"api": api.value, "event_type": event.type}
        return await self._record(merchant, event, request)

    async def _record(self, merchant: str, event: Event, request: web.Request) -> tuple[str, str]:
        subject = event.subject
        if isinstance(subject, Ignored):
            if not subject.stored:
                return "ignored", subject.reason
        else:
            request[LOG_FIELDS] |= {"kind": subject.kind.value, "payment_id": subject.payment_id,
                               "payment_status": subject.status.value}  # fmt: skip
        recorded = await self._commit(merchant, event)
        request[LOG_FIELDS]["inbox_id"] = recorded.inbox_id
        if isinstance(subject, Ignored):
            return "ignored", subject.reason
        return ("duplicate", "seen_before") if recorded.duplicate else ("recorded", "new")

    async def _commit(self, merchant: str, event: Event) -> Recorded:
        """Record the event. A caller that hangs up does not undo what is being committed."""
        try:
            return await self._recorder.record(new_event(merchant, event))
        except PaystateError:
            raise
        except Exception as e:
            # Not the database's absence but its refusal, or a fault of ours: not recorded, so it
            # must come again.
            log.error("webhook_not_recorded", error=type(e).__name__, event_type=event.type)
            raise StoreUnavailable("not_recorded", "the event could not be recorded") from e
