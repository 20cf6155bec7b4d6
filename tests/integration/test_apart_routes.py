"""Two merchants with everything the same but what it is worth, through every route there is.

Each route of the application is in `ROUTES`, or the first test fails: whoever adds one says here
what of it is each merchant's own. Both merchants have a Flutterwave of their own, on one PostgreSQL
and one cluster.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bench.topologies import Cluster
from paystate.flutterwave.sandbox import RunningSandbox
from paystate.flutterwave.sandbox.records import Customer
from paystate.store.unsettled import Narrowed
from paystate.updates import Kind
from tests.conftest import Opener
from tests.harness import World, make_payment, open_provider, open_world, provider_settings
from tests.unit import bodies
from webhook_server.app import make_app

HANGS_S = 30
FOUR_DAYS_MS = 4 * 24 * 3_600_000
# The same for both: ids, references, the customer, the webhook, and the key of a registration.
NUMBER, TX_REF, CHARGE, WEBHOOK = 531_904_226, "order-1", "chg_same", "wbk_same"
CUSTOMER, LATE, EXPECTED, KEY = 640_112_005, 531_904_300, "expected-1", "checkout-1"
HELD = {"release": 531_904_227, "reject": 531_904_228, "replay": 531_904_229}


@dataclass
class Side:
    """One merchant: what its payments cost and came to, and what was given to it alone."""

    name: str
    secret: str
    amount: str
    status: str
    person: str
    sandbox: RunningSandbox
    held: dict[str, int] = field(default_factory=dict)
    link: str = ""

    @property
    def path(self) -> str | None:
        """What the address of its webhooks ends with."""
        return None if self.name == "default" else self.name

    @property
    def reader(self) -> str:
        """A token that may read."""
        return f"{self.name}-reader"

    @property
    def operator(self) -> str:
        """A token that may operate."""
        return f"{self.name}-operator"

    def marks(self) -> dict[str, str]:
        """What no answer for the other may have in it."""
        return {
            "name": f'"merchant":"{self.name}"',
            "amount": self.amount,
            "status": f'"status":"{self.status}"',
            "page": f'data-state="{self.status}"',
            "person": self.person,
        }


class By(Enum):
    """Who may ask."""

    READER = "reader"
    OPERATOR = "operator"
    LINK = "link"  # whoever has it
    SIGNED = "signed"  # Flutterwave
    ALL = "all"  # open, and about nobody


@dataclass(frozen=True)
class Route:
    """How a route is asked, and what of `Side.marks` its answer must have.

    In `path`, ``{release}`` and so on are held events, and ``{link}`` a customer's link. `writes`
    leaves it to a test of its own, which sees that the other's answers stay what they were.
    """

    path: str = ""
    own: tuple[str, ...] = ()
    by: By = By.READER
    body: Any = None
    writes: bool = False
    stream: bool = False


P = "/api/payments"
STATUS = ("status",)
ROUTES: dict[str, Route] = {
    f"GET {P}/status": Route(f"{P}/status?tx_ref={TX_REF}", STATUS),
    f"POST {P}/status": Route(
        f"{P}/status", STATUS, body={"ids": [str(NUMBER), CHARGE], "tx_refs": [TX_REF]}
    ),
    f"GET {P}/by-ref/{{tx_ref}}/status": Route(f"{P}/by-ref/{TX_REF}/status", STATUS),
    f"GET {P}/by-ref/{{tx_ref}}": Route(f"{P}/by-ref/{TX_REF}", ("status", "amount")),
    f"GET {P}/{{id}}/status": Route(f"{P}/{NUMBER}/status", STATUS),
    f"GET {P}/{{id}}": Route(f"{P}/{CHARGE}", ("status", "amount")),
    f"GET {P}/by-ref/{{tx_ref}}/events": Route(f"{P}/by-ref/{TX_REF}/events", STATUS, stream=True),
    f"GET {P}/{{id}}/events": Route(f"{P}/{NUMBER}/events", STATUS, stream=True),
    "GET /api/changes": Route("/api/changes?after=0.0", ("name",)),
    f"POST {P}": Route(by=By.OPERATOR, writes=True),
    "GET /api/unsettled": Route("/api/unsettled", ("name", "amount"), By.OPERATOR),
    "GET /api/events": Route("/api/events", ("name", "amount"), By.OPERATOR),
    "POST /api/events/{id}/release": Route(by=By.OPERATOR, writes=True),
    "POST /api/events/{id}/reject": Route(by=By.OPERATOR, writes=True),
    "POST /api/events/{id}/replay": Route(by=By.OPERATOR, writes=True),
    f"GET {P}/{{id}}/explain": Route(f"{P}/{NUMBER}/explain", ("status", "amount"), By.OPERATOR),
    f"GET {P}/by-ref/{{tx_ref}}/explain": Route(
        f"{P}/by-ref/{TX_REF}/explain", STATUS, By.OPERATOR
    ),
    f"POST {P}/link": Route(f"{P}/link", body={"tx_ref": TX_REF}),
    f"* {P}/link": Route(f"{P}/link", by=By.ALL),  # which is not for any other method
    f"POST {P}/by-ref/{{tx_ref}}/link": Route(f"{P}/by-ref/{TX_REF}/link", body={}),
    f"POST {P}/{{id}}/link": Route(f"{P}/{NUMBER}/link", body={}),
    "GET /pay/{token}": Route("{link}", ("page",), By.LINK),
    "GET /pay/{token}/status": Route("{link}/status", STATUS, By.LINK),
    "GET /pay/{token}/events": Route("{link}/events", STATUS, By.LINK, stream=True),
    "GET /api/board": Route("/api/board", ("name",)),
    "GET /api/customers/{id}": Route(f"/api/customers/{CUSTOMER}", ("person",)),
    "GET /api/customers/{id}/payments": Route(
        f"/api/customers/{CUSTOMER}/payments", ("status", "amount")
    ),
    "GET /api/customers/{id}/export": Route(
        f"/api/customers/{CUSTOMER}/export", ("status", "amount", "person"), By.OPERATOR
    ),
    "DELETE /api/customers/{id}": Route(by=By.OPERATOR, writes=True),
    "POST /webhooks/flutterwave": Route(by=By.SIGNED, writes=True),
    "POST /webhooks/flutterwave/{merchant}": Route(by=By.SIGNED, writes=True),
    "GET /": Route("/", by=By.ALL),
    "POST /sign-in": Route("/sign-in", by=By.ALL, body={}),
    "POST /sign-out": Route("/sign-out", by=By.ALL, body={}),
    "GET /pages/{name}": Route("/pages/board.js", by=By.ALL),
    "GET /healthz": Route("/healthz", by=By.ALL),
    "GET /readyz": Route("/readyz", by=By.ALL),
    "GET /metrics": Route("/metrics", by=By.ALL),
    "GET /openapi.json": Route("/openapi.json", by=By.ALL),
    "GET /docs": Route("/docs", by=By.ALL),
}


@dataclass
class Two:
    """Both merchants in one process; `ours` is the one of the variables."""

    world: World
    cluster: Cluster
    ours: Side
    theirs: Side

    def other(self, side: Side) -> Side:
        """Return the one that `side` is not."""
        return self.theirs if side is self.ours else self.ours


@pytest.fixture
async def two(
    postgres_url: str, cluster: Cluster, valkey_url: str, tmp_path: Path
) -> AsyncIterator[Two]:
    """One process for both, each with a Flutterwave of its own; nothing has come in yet."""
    file = tmp_path / "merchants.toml"
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(open_provider(seed=seed)) for seed in (1, 2)
        ]
        ours = Side("default", "current-hash", "100.01", "failed", "ours@example.com", first)
        theirs = Side("shop", "shop-hash", "200.02", "successful", "theirs@example.com", second)
        config = second.sandbox.config
        file.write_text(f"""
[shop]
secret_hash = "{theirs.secret}"
secret_key = "{config.secret_key}"
client_id = "{config.client_id}"
client_secret = "{config.client_secret}"
base_url = "{second.base_url}"
v4_base_url = "{second.v4_base_url}"
token_url = "{second.token_url}"
tokens = ["page:read={theirs.reader}", "ops:operate={theirs.operator}"]
""", "utf-8")  # fmt: skip
        world = await stack.enter_async_context(
            open_world(
                Opener(stack, postgres_url, cluster.url),
                **{**provider_settings(first), "CACHE_TIMEOUT_MS": "10000"},
                QUEUE_URL=valkey_url, MERCHANTS_FILE=str(file), RECONCILE_AFTER_S="0",
                LINK_KEY="a-key-for-links-of-this-test",
                API_TOKENS=f"operator-token,page:default:read={ours.reader},"
                f"ops:default:operate={ours.operator}",
            )
        )  # fmt: skip
        listening = asyncio.create_task(world.resources.feed.run())
        async with asyncio.timeout(HANGS_S):
            await world.resources.feed.listening.wait()
        yield Two(world, cluster, ours, theirs)
        listening.cancel()
        await asyncio.wait([listening], timeout=2)


def routes_of(world: World) -> Iterator[str]:
    """Give method and path of each route of the application."""
    for route in make_app(world.resources).router.routes():
        assert route.resource is not None
        if not isinstance(route.resource, web.StaticResource) and route.method != "HEAD":
            yield f"{route.method} {route.resource.canonical}"


async def ask(
    two: Two, method: str, path: str, token: str | None, body: Any = None, **headers: str
) -> tuple[int, str]:
    """Return code and text of an answer; of a stream, up to the end of its first event."""
    world = two.world
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with (
        asyncio.timeout(HANGS_S),
        world.session.request(method, world.url + path, json=body, headers=headers) as answer,
    ):
        if "event-stream" not in answer.headers.get("Content-Type", ""):
            return answer.status, await answer.text()
        lines = []
        async for line in answer.content:
            lines.append(line.decode())
            if line.startswith(b"data: "):
                break
        return answer.status, "".join(lines)


async def told(two: Two, side: Side, name: str) -> tuple[int, str]:
    """Ask a route that writes nothing, as `side` does; return the code and what it is told."""
    route = ROUTES[name]
    token = {By.READER: side.reader, By.OPERATOR: side.operator}.get(route.by)
    path = route.path.format(link=side.link) if route.by is By.LINK else route.path
    method = name.partition(" ")[0]
    return await ask(two, "PUT" if method == "*" else method, path, token, route.body)


def reading() -> list[str]:
    """Return the routes that write nothing and are about a merchant."""
    return [name for name, r in ROUTES.items() if not r.writes and r.by is not By.ALL]


async def fill(two: Two, side: Side) -> None:
    """Have everything happen to `side` that can: paid, transferred, registered, held, silent."""
    world, to = two.world, {"secret": side.secret, "merchant": side.path}
    who = Customer(CUSTOMER, "cus_same", "Same", "Name", side.person, "+2340000000")
    amount = Decimal(side.amount)
    same = {"amount": amount, "currency": "NGN", "tx_ref": TX_REF}
    for number in (NUMBER, CHARGE):
        make_payment(side.sandbox, number, side.status, **same).customer = who
    make_payment(side.sandbox, NUMBER, side.status, **same, kind=Kind.TRANSFER)
    await world.v3(bodies.v3_charge(id=NUMBER, **same, status=side.status), **to)
    transfer = {"id": NUMBER, "reference": TX_REF, "status": side.status.upper()}
    await world.v3(bodies.v3_transfer(**transfer, amount=amount, currency="NGN"), **to)
    word = "succeeded" if side.status == "successful" else side.status
    v4 = bodies.v4_charge(id=CHARGE, reference=TX_REF, status=word, amount=amount, currency="NGN")
    await world.v4({**v4, "webhook_id": WEBHOOK}, **to)
    for number in HELD.values():  # more is expected than is paid
        held = {**same, "tx_ref": f"held-{number}"}
        assert (await register(two, side, held["tx_ref"], "999.99"))[0] == 201
        make_payment(side.sandbox, number, "successful", **held)
        answer = await world.v3(bodies.v3_charge(id=number, **held, customer={"id": 1}), **to)
        assert answer.body["status"] == "recorded"
    await world.settle()
    found = json.loads((await told(two, side, "GET /api/events"))[1])["events"]
    by_id = {event["payment_id"]: event["event"] for event in found}
    side.held = {action: by_id[str(number)] for action, number in HELD.items()}
    assert (await register(two, side, f"late-{LATE}"))[0] == 201
    await world.resources.reconciliation.round(Narrowed(side.name), lists=False)
    await world.age("unsettled", "first_ms", FOUR_DAYS_MS)
    await world.age("unsettled", "due_ms", FOUR_DAYS_MS)
    await world.resources.reconciliation.round(Narrowed(side.name), lists=False)
    made = await told(two, side, f"POST {P}/link")
    side.link = json.loads(made[1])["path"]


async def register(
    two: Two, side: Side, tx_ref: str, amount: str = "", **headers: str
) -> tuple[int, str]:
    """Register an expected payment, of this merchant's amount if nothing is said."""
    body = {"tx_ref": tx_ref, "amount": amount or side.amount, "currency": "NGN"}
    return await ask(two, "POST", P, side.operator, body, **headers)


# What another question at another time may say otherwise, although nothing has changed.
_PASSING = {
    "as_of",
    "source",
    "oldest_s",
    "age_s",
    "due",
    "exported_at",
    "cursor",
    "expires_at",
    "url",
    "path",
    "health",
}


def _kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _kept(v) for k, v in value.items() if k not in _PASSING}
    return [_kept(one) for one in value] if isinstance(value, list) else value


def _foreign(route: Route, other: Side) -> list[str]:
    """Return what must not be in an answer: a status only where it is that of one payment."""
    apart = {"status", "page"} - set(route.own)
    return [mark for name, mark in other.marks().items() if name not in apart]


async def everything(two: Two, side: Side) -> dict[str, Any]:
    """Return all that `side` is told by every route, and see that all of it is its own."""
    found, other = {}, two.other(side)
    for name in reading():
        route = ROUTES[name]
        code, text = await told(two, side, name)
        assert code in (200, 201), (name, text)
        for mark in route.own:
            assert side.marks()[mark] in text, (name, mark, text)
        for mark in _foreign(route, other):
            assert mark not in text, (name, mark, text)
        body = text.rpartition("data: ")[2] if route.stream else text
        found[name] = _kept(json.loads(body)) if body.startswith("{") else None
    return found


async def of_both(two: Two) -> dict[str, Any]:
    """Return `everything` by merchant; both ask at once, which is quicker and a harder question."""
    sides = (two.ours, two.theirs)
    found = await asyncio.gather(*(everything(two, side) for side in sides))
    return {side.name: one for side, one in zip(sides, found, strict=True)}


async def test_every_route_is_in_the_table(two: Two) -> None:
    assert set(routes_of(two.world)) == set(ROUTES)


async def test_what_is_open_to_all_is_about_nobody(two: Two) -> None:
    for side in (two.ours, two.theirs):
        await fill(two, side)
    for name in (name for name, route in ROUTES.items() if route.by is By.ALL):
        _, text = await told(two, two.ours, name)
        for side in (two.ours, two.theirs):
            for mark in (side.amount, side.person, str(NUMBER)):
                assert mark not in text, (name, mark)


def dumps(cluster: Cluster) -> dict[str, Any]:
    """Return every key in the cache and what it holds, the time that it has left apart."""
    found: dict[str, Any] = {}
    for node in cluster.nodes:
        if node.ask("ROLE")[0] != "master":
            continue
        for key in node.ask("KEYS", "*"):
            kind = node.ask("TYPE", key)
            read = {"hash": ("HGETALL", key), "zset": ("ZRANGE", key, "0", "-1")}
            found[key] = node.ask(*read.get(kind, ("GET", key)))
    return found


# Of all merchants together: what is asked for, by row keys that have the merchant in them; and what
# processes say of themselves.
SHARED = ("flw:v1:reconcile:wanted", "flw:v1:heartbeat", "flw:v1:reports", "flw:v1:process:")


async def test_each_is_told_its_own_by_every_route_and_no_key_is_both_s(two: Two) -> None:
    """Before the other has anything, and while the other has all that it can have."""
    ours, theirs = two.ours, two.theirs
    await fill(two, ours)
    before = await everything(two, ours)
    for name in reading():
        if ROUTES[name].by is By.LINK:
            continue  # whoever has one may open it
        _, text = await told(two, theirs, name)
        for mark in ours.marks().values():
            assert mark not in text, (name, mark, text)
    await two.world.resources.interest.drain()
    keys = {k: v for k, v in dumps(two.cluster).items() if not k.startswith(SHARED)}
    assert {key.split(":")[2] for key in keys} >= {"tx", "transfer", "ref", "customer", "rate"}
    foreign = [key for key in keys if "merchant:shop" in key]
    assert all(key.endswith(":asked") for key in foreign), foreign  # they asked, of nothing

    await fill(two, theirs)
    assert (await of_both(two))[ours.name] == before
    after = {k: v for k, v in dumps(two.cluster).items() if not k.startswith(SHARED)}
    mine = [k for k in keys if k.startswith("flw:v1:") and not k.startswith("flw:v1:rate:")]
    assert {k: after.get(k) for k in mine if k not in foreign} == {
        k: keys[k] for k in mine if k not in foreign
    }
    rates = {key.split(":")[3] for key in after if key.startswith("flw:v1:rate:")}
    assert rates == {ours.name, theirs.name}
    for key, value in after.items():
        side = theirs if key.startswith(("flw:v1:merchant:shop:", "flw:v1:rate:shop:")) else ours
        assert side is theirs or key in keys, key
        for mark in (two.other(side).amount, two.other(side).person):
            assert mark not in str(value), (key, value)


async def test_no_token_opens_a_route_to_the_other(two: Two) -> None:
    for side in (two.ours, two.theirs):
        await fill(two, side)
    for side in (two.ours, two.theirs):
        other = two.other(side)
        for name in reading():
            route = ROUTES[name]
            if route.by is By.LINK:
                continue
            path = route.path + ("&" if "?" in route.path else "?") + f"merchant={other.name}"
            token = side.reader if route.by is By.READER else side.operator
            code, text = await ask(two, name.partition(" ")[0], path, token, route.body)
            assert (code, json.loads(text)["reason"]) == (403, "other_merchant"), name


async def test_what_stands_in_both_lists_is_brought_in_for_each(two: Two) -> None:
    """Of one id, reference, amount and status; what tells them apart is whose list it was."""
    made = {"amount": Decimal(7), "currency": "NGN", "tx_ref": "listed-1"}
    for side in (two.ours, two.theirs):
        sandbox = side.sandbox.sandbox
        payment = sandbox.create(payment_id=str(LATE), **made)
        sandbox.settle(payment, "successful", announce=False)
        sandbox.truth.charge_back(payment, at=sandbox.clock(), word="lost")
        payment.chargebacks[0].id = 41
    await two.world.resources.reconciliation.round()
    for side in (two.ours, two.theirs):
        code, text = await ask(two, "GET", f"{P}/{LATE}", side.reader)
        shown = json.loads(text)
        assert (code, shown["status"], shown["chargeback"]) == (200, "successful", "completed")


async def test_whatever_one_does_the_other_is_told_as_before(two: Two) -> None:
    """Registering with the same key, ruling on events, erasing the customer, further webhooks."""
    await fill(two, two.ours)
    await fill(two, two.theirs)
    before = await of_both(two)
    for side in (two.theirs, two.ours):
        for act in ("register", *HELD, "webhook"):
            await do(two, side, act)
        after = await of_both(two)
        other = two.other(side)
        assert after[other.name] == before[other.name]
        assert after[side.name] != before[side.name]
        before = after
    code, text = await ask(two, "DELETE", f"/api/customers/{CUSTOMER}", two.theirs.operator)
    assert code == 200, text
    assert (await told(two, two.theirs, "GET /api/customers/{id}"))[0] == 410
    assert await everything(two, two.ours) == before[two.ours.name]


async def do(two: Two, side: Side, act: str) -> None:
    """Do something as `side`; and see that the same is not done to what is the other's."""
    world, other = two.world, two.other(side)
    if act == "register":
        code, text = await register(two, side, EXPECTED, **{"Idempotency-Key": KEY})
        # Neither the other's amount, nor its key, has anything to do with ours.
        assert (code, json.loads(text)["amount"]) == (201, side.amount)
    elif act in HELD:
        path, body = "/api/events/{}/" + act, {"reason": "seen"}
        code, text = await ask(two, "POST", path.format(other.held[act]), side.operator, body)
        assert (code, json.loads(text)["reason"]) == (404, "unknown_event")
        code, text = await ask(two, "POST", path.format(side.held[act]), side.operator, body)
        assert code == 200, text
    else:
        late = {"tx_ref": f"late-{LATE}", "amount": Decimal(side.amount)}
        make_payment(side.sandbox, LATE, "successful", **late)
        to = side.path
        body = bodies.v3_charge(id=LATE, **late, customer={"id": 1})
        assert (await world.v3(body, secret=other.secret, merchant=to)).status == 401
        again = await world.v3(body, secret=side.secret, merchant=to)
        assert again.body["status"] == "recorded"
        await world.settle()
