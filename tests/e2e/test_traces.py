"""One trace from a webhook through the queue to the news: two processes and a real collector."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from paystate.flutterwave.signatures import V3_HEADER
from paystate.payments.recording import Recorder
from paystate.payments.settling import Settler
from paystate.tracing import open_tracing
from tests.conftest import Opener, settings_for
from tests.harness import (
    SECRET,
    World,
    make_payment,
    new_id,
    open_provider,
    open_world,
    provider_settings,
)
from tests.parts import HANGS_S, ROOT, start_part
from tests.unit import bodies

WHOLE = {"record webhook", "wait for worker", "settle", "ask flutterwave", "publish"}


class Collector:
    """Takes spans as an OpenTelemetry collector does; `status` is what it answers with."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.status = 200
        self.url = ""
        self._more = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        """Take a batch."""
        asked = ExportTraceServiceRequest.FromString(await request.read())
        async with self._more:
            for group in asked.resource_spans:
                values = {one.key: one.value.string_value for one in group.resource.attributes}
                self.services.add(values["service.name"])
                for scope in group.scope_spans:
                    self.spans += scope.spans
            self._more.notify_all()
        return web.Response(status=self.status)

    async def until(self, names: set[str]) -> dict[str, Any]:
        """Wait until spans of these names have come, and return the first of each."""

        def found() -> dict[str, Any]:
            return {span.name: span for span in reversed(self.spans)}

        async with asyncio.timeout(HANGS_S), self._more:
            await self._more.wait_for(lambda: names <= found().keys())
        return found()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector on a free port."""
    taking = Collector()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/traces", taking.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    taking.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield taking
    await runner.cleanup()


def values_of(span: Any) -> dict[str, Any]:
    """Return a span's attributes."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


async def test_an_event_has_one_trace_over_both_processes(
    sqlite_url: str, valkey_url: str, collector: Collector
) -> None:
    """Record, wait, settle, question and publish; then a duplicate, in the same trace."""
    async with open_provider() as sandbox:
        number = new_id()
        payment = make_payment(sandbox, number, "successful")
        settings = {
            "DATABASE_URL": sqlite_url, "CACHE_URL": valkey_url, "FLW_SECRET_HASH": SECRET,
            "API_TOKENS": "t", "PORT": "0", "WORKER_PORT": "0", "STOP_GRACE_S": "5",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **provider_settings(sandbox),
        }  # fmt: skip
        paid = bodies.v3_charge(
            id=number, status="successful", tx_ref=payment.tx_ref, amount=payment.amount
        )
        body = bodies.encode(paid)
        async with (
            start_part("webhook_server", settings) as web_part,
            start_part("worker", settings) as worker_part,
            aiohttp.ClientSession(headers={V3_HEADER: SECRET}) as session,
        ):
            await session.post(f"{web_part.url}/webhooks/flutterwave", data=body)
            spans = await collector.until(WHOLE)
            await session.post(f"{web_part.url}/webhooks/flutterwave", data=body)
            spans = await collector.until({*WHOLE, "record duplicate"})
            assert await web_part.stop() == 0
            assert await worker_part.stop() == 0
    # One line for each request and for each job, and they name the row that the spans name.
    requests = [line for line in web_part.lines if line["event"] == "request_finished"]
    jobs = [line for line in worker_part.lines if line["event"] == "job_finished"]
    assert [line["outcome"] for line in requests] == ["recorded", "duplicate"]
    assert [line["events"] for line in jobs][:1] == [1]
    assert len({span.trace_id for span in collector.spans}) == 1
    first, whole = spans["record webhook"], spans["settle"]
    assert first.parent_span_id == b""
    for name in ("wait for worker", "settle", "record duplicate"):
        assert spans[name].parent_span_id == first.span_id
    for name in ("ask flutterwave", "publish"):
        assert spans[name].parent_span_id == whole.span_id
    assert collector.services == {"paystate"}
    assert values_of(whole)["paystate.ending"] == "applied"
    assert values_of(spans["publish"])["paystate.status"] == "successful"
    rows = {values_of(span).get("paystate.inbox_id") for span in collector.spans} - {None}
    assert rows == {requests[0]["inbox_id"]}
    for span in collector.spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    for span in collector.spans:  # eight or sixteen bytes by chance, one of which may be an @
        for name in ("trace_id", "span_id", "parent_span_id"):
            span.ClearField(name)
    text = str(collector.spans)
    assert spans["settle"].name in text
    assert SECRET not in text
    assert "@" not in text


@asynccontextmanager
async def traced(
    sqlite_url: str, valkey_url: str, collector: Collector, **more: str
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        opener = Opener(stack, sqlite_url, valkey_url)
        async with open_world(opener, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **more) as world:
            yield world


async def test_what_the_sweeper_found_is_in_the_trace_of_its_webhook(
    sqlite_url: str, valkey_url: str, collector: Collector
) -> None:
    """Nothing is carried by the queue, so nothing is lost with it."""
    async with traced(sqlite_url, valkey_url, collector) as world:
        await world.v3(bodies.v3_charge(id=new_id(), status="successful"))
        await world.settle()
        spans = await collector.until({"record webhook", "settle", "publish"})
    assert spans["settle"].trace_id == spans["record webhook"].trace_id
    waited = next(span for span in collector.spans if span.name == "wait for worker")
    assert values_of(waited)["paystate.found_by"] == "sweep"


async def test_two_events_have_two_traces(
    sqlite_url: str, valkey_url: str, collector: Collector
) -> None:
    """Settled in one batch, they are told apart."""
    async with traced(sqlite_url, valkey_url, collector) as world:
        await asyncio.gather(
            *(world.v3(bodies.v3_charge(id=new_id(), status="successful")) for _ in range(2))
        )
        await world.settle()
        await collector.until({"record webhook", "publish"})
    by_name: dict[str, set[bytes]] = {}
    for span in collector.spans:
        by_name.setdefault(span.name, set()).add(span.trace_id)
    assert len(by_name["record webhook"]) == 2
    assert by_name["settle"] == by_name["publish"] == by_name["record webhook"]


async def test_a_collector_that_fails_harms_nothing(
    sqlite_url: str, valkey_url: str, collector: Collector
) -> None:
    """Webhooks are acknowledged and settled, and the process ends."""
    collector.status = 500
    async with traced(sqlite_url, valkey_url, collector) as world:
        number = new_id()
        assert (await world.v3(bodies.v3_charge(id=number, status="successful"))).status == 200
        await world.settle()
        assert (await world.status(number))["status"] == "successful"


async def test_without_an_endpoint_nothing_is_traced_and_nothing_loaded(
    sqlite_url: str, valkey_url: str
) -> None:
    """The plain recorder and settler do the work; both processes run without OpenTelemetry."""
    async with AsyncExitStack() as stack:
        resources = await Opener(stack, sqlite_url, valkey_url)()
        assert type(resources.recorder) is Recorder
        assert type(resources.settler) is Settler
    code = (
        "import asyncio, sys\n"
        "import webhook_server.__main__, worker.__main__\n"
        "from paystate.settings import load\n"
        "from paystate.resources import open_resources\n"
        "async def main():\n"
        f"    async with open_resources(load({{'DATABASE_URL': {sqlite_url!r}}})): pass\n"
        "asyncio.run(main())\n"
        "loaded = [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "assert not loaded, loaded\n"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], cwd=ROOT, check=True)


async def test_an_endpoint_without_the_extra_is_said_and_harms_nothing(
    tmp_path: Path, valkey_url: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A line of the log says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    settings = settings_for(
        sqlite_url, valkey_url, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1"
    )
    async with open_tracing(settings) as tracing:
        assert tracing is None
    assert "paystate[otel]" in capsys.readouterr().out
