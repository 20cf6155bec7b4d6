"""The description of the API: it has every route, its examples work, and answers are as it says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from paystate.flutterwave.signatures import V3_HEADER
from paystate.process import listen
from tests.conftest import Opener
from tests.harness import SECRET, TOKEN, World
from webhook_server.app import make_app
from webhook_server.description.document import make_document
from webhook_server.description.operations import Example, Operation
from webhook_server.description.table import OPERATIONS
from webhook_server.front import FrontRunner

HANGS_S = 30
BY_ROUTE = {(one.method, one.path): one for one in OPERATIONS}
EXAMPLES = [(operation, example) for operation in OPERATIONS for example in operation.examples]
# Of the day on which an example was written.
MOVING = {"as_of", "version", "previous_version", "changed_at", "cursor", "at", "age_s", "url",
          "path", "expires_at", "first_seen_at", "last_active_at"}  # fmt: skip


class Heard(dict[str, set[str]]):
    """The names that each handler looked for in the query string, by its route."""

    def middleware(self) -> Any:
        """Return what hands handlers a query string that takes notes."""

        @web.middleware
        async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
            resource = request.match_info.route.resource
            if resource is not None:
                noted = self.setdefault(f"{request.method} {resource.canonical}", set())
                request._cache["query"] = _Noting(request.query, noted)
            return await handler(request)  # type: ignore[no-any-return]

        return middleware


class _Noting:
    def __init__(self, query: Any, noted: set[str]) -> None:
        self._query, self._noted = query, noted

    def get(self, name: str, default: Any = None) -> Any:
        self._noted.add(name)
        return self._query.get(name, default)

    def __getitem__(self, name: str) -> Any:
        self._noted.add(name)
        return self._query[name]

    def __contains__(self, name: object) -> bool:
        self._noted.add(str(name))
        return name in self._query


class Served(World):
    """A world whose handlers are listened to."""

    heard: Heard
    link: str

    def filled(self, example: Example, path: str) -> str:
        """Return the path of an example, with a link of today in place of the page's."""
        for name, value in example.path.items():
            own = self.link if value == "$LINK" else value
            path = path.replace(f"{{{name}}}", quote(own, safe=""))
        return path


@pytest.fixture
async def served(sqlite_url: str, valkey_url: str) -> AsyncIterator[Served]:
    """The payments of the examples, in a process that hears the news."""
    async with AsyncExitStack() as stack:
        resources = await Opener(stack, sqlite_url, valkey_url)(LINK_KEY="k" * 32)
        await resources.feed.catch_up()
        app = make_app(resources)
        heard = Heard()
        app.middlewares.append(heard.middleware())
        runner = await listen(app, "127.0.0.1", 0, grace_s=5, runner_class=FrontRunner)
        stack.push_async_callback(runner.cleanup)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        running = asyncio.create_task(resources.feed.run())
        stack.callback(running.cancel)
        async with asyncio.timeout(HANGS_S):
            await resources.feed.listening.wait()
        host, port = runner.addresses[0][:2]
        world = Served(resources, session, f"http://{host}:{port}")
        world.heard = heard
        for number, status in ((7001, "successful"), (7002, "pending")):
            assert (await world.v3(_charge(number, status))).status == 200
            await world.settle()
        made = await world.post("/api/payments/7001/link", {})
        world.link = made.body["path"].removeprefix("/pay/")
        yield world


def _charge(number: int, status: str) -> dict[str, Any]:
    data = {"id": number, "tx_ref": f"order-{number}", "status": status, "amount": 1500.25,
            "currency": "NGN", "payment_type": "card"}  # fmt: skip
    if number == 7001:
        data["customer"] = {"id": 9001}
    return {"event": "charge.completed", "data": data}


def _strict(document: dict[str, Any]) -> dict[str, Any]:
    """Return the components, so that a field which is not described is an error."""
    components = orjson.loads(orjson.dumps(document["components"]))
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema["unevaluatedProperties"] = False
    return components  # type: ignore[no-any-return]


DOCUMENT = make_document()
STRICT = _strict(DOCUMENT)


def conforms(schema: Any, value: Any) -> None:
    """Fail unless `value` is all that `schema` says, and nothing more."""
    Draft202012Validator(
        {**schema, "components": STRICT}, format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(value)


def content_of(operation: Operation, status: int, media: str) -> dict[str, Any]:
    """Return what the description says of one answer."""
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    assert str(status) in described, f"{operation.name} is not said to answer {status}"
    return described[str(status)]["content"][media]  # type: ignore[no-any-return]


def still(value: Any) -> Any:
    """Return `value` without what differs from day to day."""
    if isinstance(value, dict):
        return {k: still(v) for k, v in value.items() if k not in MOVING}
    return [still(one) for one in value] if isinstance(value, list) else value


async def test_every_example_works_and_its_answer_is_as_described(served: Served) -> None:
    """Each is sent as the page shows it; the answer is that of the page, but for times."""
    for operation, example in EXAMPLES:
        headers = {n: v.replace("$FLW_SECRET_HASH", SECRET) for n, v in example.headers.items()}
        if operation.access in ("read", "operate"):
            headers["Authorization"] = f"Bearer {TOKEN}"
        url = served.url + served.filled(example, operation.path)
        async with served.session.request(
            operation.method, url, params=example.query, headers=headers, json=example.body
        ) as response:  # fmt: skip
            assert response.status == example.status, (operation.name, await response.text())
            content = content_of(operation, response.status, response.content_type)
            if response.content_type.endswith("json"):
                body = orjson.loads(await response.read())
                conforms(content["schema"], body)
                if example.answer is not None:
                    assert still(body) == still(example.answer), operation.name


async def test_every_operation_has_an_example_that_works() -> None:
    missing = {one.name for one in OPERATIONS if not one.examples}
    assert not missing


async def test_the_parameters_are_those_that_the_handlers_look_for(served: Served) -> None:
    """Every operation is asked with each of its parameters; handlers read those and no others."""
    for operation in OPERATIONS:
        if operation.path.endswith("/events") or operation.access in ("open", "signature"):
            continue
        path = re.sub(r"\{(id|tx_ref)\}", "1", operation.path)
        given = {p.name: "1" for p in operation.parameters if p.place == "query"}
        for left_out in (*given, None):
            given_now = {n: v for n, v in given.items() if n != left_out}
            async with served.session.request(
                operation.method, served.url + path, params=given_now,
                headers={"Authorization": f"Bearer {TOKEN}"},
            ):  # fmt: skip
                pass
    for (method, path), operation in BY_ROUTE.items():
        declared = {p.name for p in operation.parameters if p.place == "query"}
        read = served.heard.get(f"{method} {path}", set())
        assert read <= declared, operation.name


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for raw in response.content:
        field, _, value = raw.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, orjson.loads(value)


@pytest.mark.parametrize(
    "path",
    [
        "/api/payments/{id}/events",
        "/api/payments/by-ref/{tx_ref}/events",
        "/api/changes",
        "/pay/{token}/events",
    ],
)
async def test_the_events_of_a_stream_are_as_described(served: Served, path: str) -> None:
    """Its first status, a change of it, and its end when the server stops."""
    operation = BY_ROUTE["GET", path]
    described = content_of(operation, 200, "text/event-stream")["x-events"]
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    link = await served.post("/api/payments/7002/link", {})
    token = link.body["path"].removeprefix("/pay/")
    url = served.url + path.format(id="7002", tx_ref="order-7002", token=token)
    url += "?after=0.0" if path == "/api/changes" else ""
    seen = set()
    async with asyncio.timeout(HANGS_S), served.session.get(url, headers=headers) as response:
        async for name, data in _events(response):
            conforms(described[name], data)
            if not seen:
                await served.v3(_charge(7002, "successful"))
                await served.settle()
            seen.add(name)
            if data.get("status") == "successful" and data.get("tx_ref", "order-7002")[-1] == "2":
                served.resources.feed.close()
    assert seen == set(described) - {"lagged", "expired"}


async def test_an_answer_that_lay_ready_is_as_described(served: Served) -> None:
    """Those bytes are made once and sent past every handler; they hold what the schema says."""
    seen = [await served.get("/api/payments/7001/status") for _ in range(3)]
    near = served.resources.lookups.near("charge:default:7001")
    assert near is not None
    assert near.made is not None
    content = content_of(BY_ROUTE["GET", "/api/payments/{id}/status"], 200, "application/json")
    for answer in seen:
        conforms(content["schema"], answer.body)


async def test_an_explanation_of_all_kinds_of_steps_is_as_described(served: Served) -> None:
    """A held event, its release, and what both changed; and the list that it was in."""
    body = _charge(7003, "successful")
    body["data"]["amount"] = "twelve"
    await served.v3(body)
    await served.settle()
    listed = await served.get("/api/events")
    conforms(content_of(BY_ROUTE["GET", "/api/events"], 200, "application/json")["schema"],
             listed.body)  # fmt: skip
    number = listed.body["events"][0]["event"]
    paths = ("/api/payments/{id}/explain", "/api/events/{id}/release", "/api/events/{id}/replay")
    explain, release, replay = paths
    before = await served.get(explain.format(id=7003))
    ruled = await served.post(release.format(id=number), {"reason": "seen at the bank"})
    again = await served.post(replay.format(id=number), {})
    after = await served.get(explain.format(id=7003))
    for method, path, answer in (
        ("GET", explain, before), ("POST", release, ruled), ("POST", replay, again),
        ("GET", explain, after),
    ):  # fmt: skip
        media = answer.headers["Content-Type"].partition(";")[0]
        conforms(content_of(BY_ROUTE[method, path], answer.status, media)["schema"], answer.body)
    assert {step["what"] for step in after.body["timeline"]} == {
        "received", "ended", "changed", "ruling",
    }  # fmt: skip
    assert before.body["to_rule_on"]


async def test_the_page_is_open_loads_nothing_and_has_every_operation(served: Served) -> None:
    """Its policy lets in one style, which is in the page; there is no script and no address."""
    answer = await served.get("/docs", token=None)
    page = answer.body.decode()
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert not re.search(r"<script|<link|<img|<iframe| style=| src=|url\(|@import", page)
    assert not re.search(r'href="(?!#|openapi\.json")', page)
    assert not re.search(r" on[a-z]+=", page)
    for operation in OPERATIONS:
        assert f'id="{operation.name}"' in page
    targets = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= targets


async def test_the_document_is_open_and_the_same_for_everybody(served: Served) -> None:
    answer = await served.get("/openapi.json", token=None)
    assert answer.status == 200
    assert answer.body == DOCUMENT
    assert answer.headers["Content-Type"].startswith("application/json")
    assert V3_HEADER in str(answer.body["components"]["securitySchemes"])
