"""Traces of events, from a webhook's record to the news of what it changed; off unless asked for.

Which trace an event belongs to is not carried along, it is known: trace and first span are named by
the event's own key, a SHA-256 that the inbox has anyway. So web and worker agree without a word
between them, what the sweeper found is in the trace of its webhook, and a duplicate in that of its
first delivery.

Spans are made when what they are about is over, with the times that were noted. Without the extra
``otel`` or without OTEL_EXPORTER_OTLP_ENDPOINT nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from paystate.logs import logger
from paystate.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind

__all__ = ["EventTrace", "Moments", "Tracing", "open_tracing"]

log = logger()

# A collector that is away must hold up neither a stop nor, by a full memory, anything else.
CLOSE_S = 3.0
EXPORT_TIMEOUT_S = 5.0
MOST_QUEUED = 4096

Values = Mapping[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class EventTrace:
    """The trace of one event, and its first span."""

    trace_id: int
    span_id: int

    @classmethod
    def of(cls, event_key: str) -> EventTrace:
        """Return the trace of the event with this key, 64 hexadecimal digits."""
        return cls(int(event_key[:32], 16), int(event_key[32:48], 16))

    @property
    def name(self) -> str:
        """Return the trace's id as it is written."""
        return f"{self.trace_id:032x}"


@dataclass(frozen=True, slots=True)
class Moments:
    """When something began and ended, in nanoseconds since the epoch."""

    began_ns: int
    ended_ns: int


class EventNames(Protocol):
    """Names the next span after an event, where one is given."""

    event: EventTrace | None


def _event_names() -> Any:
    """Return what names traces and spans: as events do where one is given, else at random."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415

    class Names(RandomIdGenerator):
        """Names one span after `event`, and the next ones at random."""

        event: EventTrace | None = None

        def generate_trace_id(self) -> int:
            """Return the id of the trace that is begun."""
            return self.event.trace_id if self.event else super().generate_trace_id()

        def generate_span_id(self) -> int:
            """Return the id of the span that is begun."""
            event, self.event = self.event, None
            return event.span_id if event else super().generate_span_id()

    return Names()


class Tracing:
    """Makes spans of events with `provider`; one for each process."""

    def __init__(self, provider: TracerProvider, names: EventNames) -> None:
        self._provider = provider
        self._names = names
        self._tracer = provider.get_tracer("paystate")

    def first(self, event: EventTrace, name: str, moments: Moments, values: Values) -> None:
        """Make the first span of an event's trace."""
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        self._names.event = event
        span = self._tracer.start_span(
            name, Context(), SpanKind.SERVER, dict(values), start_time=moments.began_ns
        )
        self._names.event = None  # a span that is not sampled takes no name
        span.end(moments.ended_ns)

    def later(self, event: EventTrace, name: str, moments: Moments, values: Values) -> Span:
        """Make a span below the first of an event's trace, whichever process made that."""
        from opentelemetry.sdk.trace.sampling import Decision  # noqa: PLC0415
        from opentelemetry.trace import (  # noqa: PLC0415
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            TraceFlags,
        )

        # As it was decided for the first span: by the trace's id, which both processes know.
        decided = self._provider.sampler.should_sample(None, event.trace_id, name)
        sampled = decided.decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        parent = NonRecordingSpan(SpanContext(event.trace_id, event.span_id, True, flags))
        return self._below(parent, name, SpanKind.CONSUMER, moments, values)

    def part(self, whole: Span, name: str, moments: Moments, values: Values) -> Span:
        """Make a span below `whole`: what another server was asked, or told."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        return self._below(whole, name, SpanKind.CLIENT, moments, values)

    def _below(
        self, parent: Span, name: str, kind: SpanKind, moments: Moments, values: Values
    ) -> Span:
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        span = self._tracer.start_span(
            name, set_span_in_context(parent, Context()), kind, dict(values),
            start_time=moments.began_ns,
        )  # fmt: skip
        span.end(moments.ended_ns)
        return span


@asynccontextmanager
async def open_tracing(settings: Settings) -> AsyncIterator[Tracing | None]:
    """Yield what makes spans, or None where nobody wants any; on leaving, send what is left.

    Spans are sent from a thread, in batches. What a collector does not take is lost and harms
    nothing else.
    """
    made = _provider(settings)
    if made is None:
        yield None
        return
    provider, names = made
    try:
        yield Tracing(provider, names)
    finally:
        # In a thread that nobody joins: it may wait for a collector longer than we do.
        closing = threading.Thread(target=provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_S)


def _provider(settings: Settings) -> tuple[TracerProvider, EventNames] | None:
    if not settings.otlp_endpoint or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("tracing_unavailable", install='pip install "paystate[otel]"')
        return None
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "paystate"}))
    names = _event_names()
    provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=names)
    exporter = OTLPSpanExporter(
        endpoint=f"{settings.otlp_endpoint}/v1/traces", timeout=EXPORT_TIMEOUT_S
    )
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=MOST_QUEUED, schedule_delay_millis=1000)
    )
    return provider, names
