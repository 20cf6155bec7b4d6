"""A whole paystate in one process, over real servers: web application, settler, sandbox.

Tests drive it as the outside world does, with signed webhooks and HTTP, and decide when the worker
works (`settle`), so that nothing has to be waited for.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import aiohttp

from paystate.flutterwave.sandbox.config import SandboxConfig
from paystate.flutterwave.sandbox.server import RunningSandbox, open_sandbox
from paystate.flutterwave.sandbox.truth import Form, Payment
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.process import listen
from paystate.resources import Resources
from paystate.updates import Kind
from tests.conftest import Opener
from tests.unit.bodies import encode
from webhook_server.app import make_app
from webhook_server.front import FrontRunner

__all__ = [
    "SECRET",
    "TOKEN",
    "Answer",
    "World",
    "make_payment",
    "new_id",
    "open_provider",
    "open_world",
    "provider_settings",
]

SECRET = "current-hash"
TOKEN = "operator-token"

_ids = itertools.count(700_001)


def new_id() -> int:
    """Return a v3 id that no other test uses."""
    return next(_ids)


@dataclass
class Answer:
    """A response, read."""

    status: int
    body: Any
    headers: Any

    @property
    def reason(self) -> str:
        """The reason of a problem document."""
        assert self.headers["Content-Type"].startswith("application/problem+json")
        reason: str = self.body["reason"]
        return reason


def provider_settings(sandbox: RunningSandbox) -> dict[str, str]:
    """Return the variables that point a process at `sandbox`, with its credentials."""
    config = sandbox.sandbox.config
    return {
        "FLW_BASE_URL": sandbox.base_url,
        "FLW_V4_BASE_URL": sandbox.v4_base_url,
        "FLW_TOKEN_URL": sandbox.token_url,
        "FLW_SECRET_KEY": config.secret_key,
        "FLW_CLIENT_ID": config.client_id,
        "FLW_CLIENT_SECRET": config.client_secret,
        # What a test asks in one second is no flood, unless the test is about that.
        "PROVIDER_CALLS_PER_MINUTE": "100000",
    }


class World:
    """One process and its callers."""

    def __init__(self, resources: Resources, session: aiohttp.ClientSession, url: str) -> None:
        self.resources = resources
        self.session = session
        self.url = url

    async def send(
        self,
        body: bytes,
        headers: dict[str, str],
        *,
        merchant: str | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """POST `body` to the webhook endpoint."""
        path = "/webhooks/flutterwave" + (f"/{merchant}" if merchant else "")
        async with self.session.post(
            self.url + path, data=body, headers={"Content-Type": content_type, **headers}
        ) as response:
            return await _read(response)

    async def v3(self, body: Any, *, secret: str = SECRET, merchant: str | None = None) -> Answer:
        """Send a body as v3 does."""
        return await self.send(encode(body), {V3_HEADER: secret}, merchant=merchant)

    async def v4(self, body: Any, *, secret: str = SECRET, merchant: str | None = None) -> Answer:
        """Send a body as v4 does."""
        raw = encode(body)
        return await self.send(raw, {V4_HEADER: sign_v4(raw, secret)}, merchant=merchant)

    async def get(self, path: str, *, token: str | None = TOKEN, **headers: str) -> Answer:
        """GET a path of the API."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.session.get(self.url + path, headers=headers) as response:
            return await _read(response)

    async def post(self, path: str, body: Any) -> Answer:
        """POST JSON to a path of the API."""
        async with self.session.post(
            self.url + path, json=body, headers={"Authorization": f"Bearer {TOKEN}"}
        ) as response:
            return await _read(response)

    async def status(self, payment_id: object, query: str = "") -> dict[str, Any]:
        """Return the status answer of a payment that is known."""
        answer = await self.get(f"/api/payments/{payment_id}/status{query}")
        assert answer.status == 200, answer.body
        body: dict[str, Any] = answer.body
        return body

    async def reference(self, tx_ref: str) -> dict[str, Any]:
        """Return the status answer of a reference that is known."""
        answer = await self.get(f"/api/payments/by-ref/{tx_ref}/status")
        assert answer.status == 200, answer.body
        body: dict[str, Any] = answer.body
        return body

    async def settle(self) -> int:
        """Do what the worker does with everything that is due; return how many rows ended."""
        ended = 0
        while True:
            taken, done = await self.resources.settler.sweep(grace_ms=0, most=100)
            ended += done
            if not taken:
                return ended

    async def make_due(self) -> None:
        """Let the time of every row that was put off come."""
        database = self.resources.store._database

        async def work(connection: Any) -> None:
            await connection.exec_driver_sql(
                "UPDATE inbox SET due_ms = 0, claimed_until_ms = 0 WHERE state = 'open'"
            )

        await database.write(work)

    async def age(self, table: str, column: str, ms: int) -> None:
        """Move every time in a column into the past, as if `ms` had gone by."""
        database = self.resources.store._database

        async def work(connection: Any) -> None:
            await connection.exec_driver_sql(f"UPDATE {table} SET {column} = {column} - {ms}")

        await database.write(work)


async def _read(response: aiohttp.ClientResponse) -> Answer:
    body: Any = await response.read()
    if "json" in response.headers.get("Content-Type", ""):
        body = await response.json(content_type=None)
    return Answer(response.status, body, response.headers)


@asynccontextmanager
async def open_world(open_process: Opener, **settings: str) -> AsyncIterator[World]:
    """Serve one process with `settings`."""
    async with AsyncExitStack() as stack:
        resources = await open_process(**settings)
        runner = await listen(
            make_app(resources), "127.0.0.1", 0, grace_s=5, runner_class=FrontRunner
        )
        stack.push_async_callback(runner.cleanup)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        host, port = runner.addresses[0][:2]
        yield World(resources, session, f"http://{host}:{port}")


@asynccontextmanager
async def open_provider(**settings: Any) -> AsyncIterator[RunningSandbox]:
    """Run a quiet Flutterwave that sends no webhooks."""
    async with open_sandbox(SandboxConfig(**settings)) as sandbox:
        yield sandbox


def make_payment(
    sandbox: RunningSandbox, payment_id: int | str, status: str, **more: Any
) -> Payment:
    """Make a payment at the provider, with a status and whatever `Truth.create` takes."""
    truth = sandbox.sandbox.truth
    values = {
        "form": Form.V3 if str(payment_id).isdigit() else Form.V4,
        "kind": Kind.CHARGE,
        "amount": Decimal("1500.25"),
        "currency": "NGN",
        **more,
    }
    payment = truth.create(payment_id=str(payment_id), at=0.0, **values)
    if status != "pending":
        truth.settle(payment, status, at=1.0)
    return payment
