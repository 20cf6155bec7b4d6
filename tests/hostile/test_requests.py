"""Whatever comes over the wire, the answer is no 5xx, and what is refused changes nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio import Redis

from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from tests.conftest import Opener
from tests.harness import SECRET, TOKEN, World, open_world
from tests.hostile.nasty import KNOWN_ID, KNOWN_REF, framed, hostile_bodies, requests
from tests.hostile.profiles import examples
from tests.hostile.wire import Reply, exchange, request
from tests.unit import bodies

_TABLES = ("inbox", "entities", "details", "overlays", "changes")

# An id or a reference is one segment: whatever was in it, no key has another shape.
_KEY = re.compile(rb"flw:v1:(?:tx|transfer|ref):[A-Za-z0-9._~%-]+:(?:hash|asked)")
# What may be kept of the one payment that is known: its details, and that it is asked for.
_WANTED = b"flw:v1:reconcile:wanted"
_OF_KNOWN = {
    _WANTED,
    *(f"flw:v1:tx:{KNOWN_ID}:{document}".encode() for document in ("details", "verification")),
}
_KNOWN = {f"charge:default:{KNOWN_ID}".encode(), f"reference:default:{KNOWN_REF}".encode()}
_JOBS = re.compile(rb"flw:v1:queue|arq:job:settle:[0-9a-f:]+")


class Kept:
    """What the database and Redis hold: rows by table, and names of keys."""

    def __init__(self, world: World, redis: Redis) -> None:
        self._world = world
        self._redis = redis

    async def rows(self) -> tuple[int, ...]:
        """Return how many rows each table has."""

        async def work(connection: Any) -> tuple[int, ...]:
            counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in _TABLES)
            return tuple((await connection.exec_driver_sql(f"SELECT {counts}")).one())

        found: tuple[int, ...] = await self._world.resources.store._database.read(work)
        return found

    async def keys(self) -> set[bytes]:
        """Return the names of all keys."""
        return set(await self._redis.keys("*"))

    async def versions(self) -> list[Any]:
        """Return every entity's key, status and version."""

        async def work(connection: Any) -> list[Any]:
            sql = "SELECT key, status, version, open_events FROM entities ORDER BY key"
            return [tuple(row) for row in await connection.exec_driver_sql(sql)]

        found: list[Any] = await self._world.resources.store._database.read(work)
        return found


@pytest.fixture
async def world(open_process: Opener) -> AsyncIterator[World]:
    """A process that knows one payment, which is pending."""
    async with open_world(open_process) as opened:
        await opened.v3(bodies.v3_charge(id=int(KNOWN_ID), tx_ref=KNOWN_REF, status="pending"))
        await opened.settle()
        yield opened


@pytest.fixture
async def kept(world: World, redis: Redis) -> Kept:
    """What is held on its behalf."""
    return Kept(world, redis)


def _is_refusal(reply: Reply, *, has_body: bool = True) -> bool:
    """Say whether a request was refused, and see that it was told why."""
    assert reply.status < 500, reply
    if reply.status < 400:
        return False
    if reply.headers["content-type"].startswith("application/problem+json"):
        assert not has_body or reply.reason
    else:  # no HTTP that the server's parser takes: it answers before anything of ours is asked
        assert reply.status in (400, 417), reply
        assert b"SECRET" not in reply.body
    return True


async def _expiring(redis: Redis, keys: set[bytes]) -> bool:
    """Say whether each of `keys` is kept for a moment, or is gone by now."""
    most_ms = {key: 15 * 60_000 if key in _OF_KNOWN else 120_000 for key in keys}
    left_ms = {key: await redis.pttl(key) for key in keys}
    return all(left_ms[key] != -1 and left_ms[key] <= most_ms[key] for key in keys)


def _question(target: bytes) -> bytes:
    return request(b"GET", target, [(b"Authorization", f"Bearer {TOKEN}".encode())])


@examples(100)
@given(raw=requests())
@example(raw=_question(b"/api/payments/a%00b/status"))
@example(raw=_question(b"/api/payments/status?tx_ref=%00"))
@example(raw=_question(b"/api/payments/1:hash*{}/status"))
@example(raw=_question(b"/api/changes?after=9223372036854775808.1"))
async def test_no_request_is_answered_with_a_5xx_or_leaves_a_row(
    world: World, kept: Kept, redis: Redis, raw: bytes
) -> None:
    """Of what was asked for and is not known, Redis keeps who may look for it, for a moment."""
    before = await kept.rows(), await kept.versions()
    keys = await kept.keys()
    reply = await exchange(world.url, raw)
    assert reply is not None
    refused = _is_refusal(reply, has_body=not raw.startswith(b"HEAD "))
    assert (await kept.rows(), await kept.versions()) == before
    new = await kept.keys() - keys
    assert all(_KEY.fullmatch(key) for key in new - _OF_KNOWN), new
    assert set(await redis.zrange(_WANTED, 0, -1)) <= _KNOWN
    assert await _expiring(redis, new)
    if refused and reply.status != 404:
        assert new == set()


@examples(100)
@given(raw=framed())
async def test_what_is_no_http_is_refused_and_leaves_nothing(
    world: World, kept: Kept, raw: bytes
) -> None:
    before = await kept.rows(), await kept.versions(), await kept.keys()
    reply = await exchange(world.url, raw, hang_up=True)
    if reply is not None:
        _is_refusal(reply)
    assert (await kept.rows(), await kept.versions(), await kept.keys()) == before
    alive = await exchange(world.url, request(b"GET", b"/healthz", []))
    assert alive is not None
    assert alive.status == 200


_SIGNATURES = st.sampled_from(
    [
        [],
        [(V3_HEADER, "guess")],
        [(V3_HEADER, "")],
        [(V3_HEADER, SECRET), (V3_HEADER, SECRET)],
        [(V3_HEADER, SECRET), (V4_HEADER, "A" * 43 + "=")],
        [(V4_HEADER, sign_v4(b"{}", SECRET))],
        [(V4_HEADER, "\xff" * 44)],
        [("authorization", SECRET)],
    ]
)


@examples(40)
@given(raw=hostile_bodies().filter(lambda raw: raw != b"{}"), signature=_SIGNATURES)
async def test_a_body_without_a_valid_signature_leaves_nothing_whatever_it_says(
    world: World, kept: Kept, raw: bytes, signature: list[tuple[str, str]]
) -> None:
    before = await kept.rows(), await kept.versions(), await kept.keys()
    headers = [(name.encode(), value.encode("latin-1")) for name, value in signature]
    reply = await exchange(world.url, request(b"POST", b"/webhooks/flutterwave", headers, raw))
    assert reply is not None
    assert reply.status == 401
    assert reply.reason in ("missing", "malformed", "repeated", "mismatch")
    assert (await kept.rows(), await kept.versions(), await kept.keys()) == before


_TYPES = st.sampled_from(
    [b"application/json", b"application/x-www-form-urlencoded", b"text/plain; charset=utf-16",
     b"\xff", b";", b"multipart/form-data", b"application/json; charset=\xff"]
)  # fmt: skip


@examples(100)
@given(raw=hostile_bodies(), v4=st.booleans(), content_type=_TYPES)
async def test_a_valid_signature_over_garbage_is_acknowledged_or_refused_and_can_be_settled(
    world: World, kept: Kept, raw: bytes, v4: bool, content_type: bytes
) -> None:
    """At most one event is recorded, about what the keys can name and the database can hold."""
    signature = (V4_HEADER, sign_v4(raw, SECRET)) if v4 else (V3_HEADER, SECRET)
    headers = [(signature[0].encode(), signature[1].encode()), (b"Content-Type", content_type)]
    rows, versions = await kept.rows(), await kept.versions()
    reply = await exchange(world.url, request(b"POST", b"/webhooks/flutterwave", headers, raw))
    assert reply is not None
    assert reply.status in (200, 400), reply
    inbox, entities, *_ = await kept.rows()
    if _is_refusal(reply):
        assert (await kept.rows(), await kept.versions()) == (rows, versions)
    elif b'"ignored"' in reply.body:
        assert inbox - rows[0] in (0, 1)
        assert await kept.versions() == versions
    else:
        assert (inbox - rows[0] in (0, 1), entities - rows[1] in (0, 1, 2)) == (True, True)
        await world.settle()
        assert all(open_events == 0 for *_, open_events in await kept.versions())
    assert await _reasons(world) & {"undecidable", "refused_by_database"} == set()
    assert all(_KEY.fullmatch(key) or _JOBS.fullmatch(key) for key in await kept.keys())


_REFUSED = {
    "too_deep": b'{"event":"charge.completed","data":{"id":1,"meta":%s}}' % (b"[" * 63 + b"]" * 63),
    "not_json": b'{"event":"charge.completed","data":{"id":1,"amount":NaN}}',
    "not_utf8": b'{"event":"charge.completed","data":{"id":1,"tx_ref":"\xff"}}',
    "not_an_object": b'[{"event":"charge.completed","data":{"id":1}}]',
    "empty": b" \r\n",
}


@pytest.mark.parametrize("reason", _REFUSED)
async def test_what_is_too_much_for_the_reader_is_refused_by_its_name(
    sqlite_url: str, valkey_url: str, reason: str
) -> None:
    async with (
        AsyncExitStack() as stack,
        open_world(Opener(stack, sqlite_url, valkey_url)) as world,
    ):
        raw = _REFUSED[reason]
        for headers in ({V3_HEADER: SECRET}, {V4_HEADER: sign_v4(raw, SECRET)}):
            answer = await world.send(raw, headers)
            assert (answer.status, answer.reason) == (400, reason)
        assert (await world.get("/api/payments/1/status")).status == 404


async def _reasons(world: World) -> set[str]:
    async def work(connection: Any) -> set[str]:
        found = await connection.exec_driver_sql("SELECT DISTINCT reason FROM inbox")
        return {row[0] for row in found}

    reasons: set[str] = await world.resources.store._database.read(work)
    return reasons
