"""The readers of what comes from outside, each as a function of bytes that must not raise.

A target raises for a fault of ours: any exception but the documented refusals, or a promise of the
reader that does not hold. The first bytes of an input choose what there is to choose.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import unquote

import orjson
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from paystate.changes import Change, Cursor
from paystate.connections import RedisUrl
from paystate.errors import BodyRejected, SettingsInvalid, SignatureRejected
from paystate.flutterwave.exact import MAX_DEPTH, read_body
from paystate.flutterwave.payloads import parse_event
from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, SignatureVerifier, sign_v4
from paystate.keys import MAX_ID_LENGTH, Entity, Keys
from paystate.payments.recording import new_event
from paystate.settings import Role, describe, load
from paystate.updates import Api, Ignored, Overlay, PaymentUpdate
from paystate.values import mask_url
from tests.unit import bodies
from webhook_server.access import Access
from webhook_server.parameters import identifier, kind_of, whole_number
from webhook_server.problems import Refused, from_error
from webhook_server.streams import _cursor

__all__ = ["TARGETS", "seeds"]

SECRET = "fuzzed-secret-hash"
_TYPES = ("application/json", "application/x-www-form-urlencoded", "", "a/b; c=\udcff")
_VERIFIER = SignatureVerifier([SECRET, "another"])
_ACCESS = Access(["operator-token", "shop:acme:read=reader-token"])


def _text(data: bytes) -> str:
    """Return `data` as aiohttp and the environment would decode it."""
    return data.decode("utf-8", "surrogateescape")


def body(data: bytes) -> None:
    """A body is one object, not too deep, or refused for a reason, without what was in it."""
    try:
        found = read_body(data[1:], _TYPES[data[0] % 4] if data else "")
    except BodyRejected as e:
        assert e.__context__ is None  # noqa: PT017 - no test, a target
        return
    assert isinstance(found, dict)
    assert _depth(found) <= MAX_DEPTH + 1


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth


def event(data: bytes) -> None:
    """What a body says can be stored, found again by its own key, and read back as it was."""
    api = Api.V4 if data[:1] > b"\x7f" else Api.V3
    try:
        found = read_body(data[1:], "")
    except BodyRejected:
        return
    said = parse_event(api, found, data[1:])
    row = new_event("default", said)
    assert len(row.event_key) == 64
    assert row.type.isascii()
    if isinstance(said.subject, Ignored):
        assert row.content is None
        assert row.entity is None
        return
    stored = orjson.dumps(row.content)
    assert b"\\u0000" not in stored  # which PostgreSQL does not take
    form = PaymentUpdate if isinstance(said.subject, PaymentUpdate) else Overlay
    assert form.from_json(orjson.loads(stored)) == said.subject
    assert row.entity is not None
    _nameable(row.entity)
    if row.tx_ref is not None:
        _nameable(Entity.reference("default", row.tx_ref))


def _nameable(entity: Entity) -> None:
    key = Keys().hash(entity)
    assert key.count(":") == 4
    assert unquote(key.split(":")[3]) == entity.id
    assert not set(key) & set(" \r\n\0*{}[]?")
    assert Entity.from_row_key(entity.row_key) == entity
    assert 0 < len(entity.id) <= MAX_ID_LENGTH


def signature(data: bytes) -> None:
    """Only what is signed with a secret is let in."""
    lines = data.split(b"\n", 3)
    raw, values = lines[-1], [_text(line) for line in lines[:-1]]
    names = [V3_HEADER, V4_HEADER, V3_HEADER.upper()]
    headers = CIMultiDictProxy(CIMultiDict(zip(names, values, strict=False)))
    try:
        api = _VERIFIER.verify(raw, headers)
    except SignatureRejected:
        return
    secrets = (SECRET, "another")
    genuine = [*secrets] if api is Api.V3 else [sign_v4(raw, secret) for secret in secrets]
    assert set(genuine) & set(values)


def parameters(data: bytes) -> None:
    """A question is understood, or refused with a problem document."""
    target, _, rest = data.partition(b"\n")
    credential, _, last_id = rest.partition(b"\n")
    headers = {"Authorization": _text(credential), "Last-Event-ID": _text(last_id)}
    try:
        url = URL.build(path="/x", query_string=_text(target), encoded=True)
        request = make_mocked_request("GET", str(url), headers=headers)
    except ValueError:  # aiohttp answers that by itself
        return
    query = request.query
    checks: list[Callable[[], object]] = [
        lambda: identifier(query.get("tx_ref"), "tx_ref"),
        lambda: identifier(unquote(_text(target)), "id"),
        lambda: kind_of(query.get("kind")),
        lambda: whole_number(query.get("wait"), "wait"),
        lambda: _cursor(request),
        lambda: _ACCESS.merchant(request, ("default", "acme")),
    ]
    for check in checks:
        try:
            found = check()
        except Refused as e:
            _told(e)
            continue
        if isinstance(found, str):
            found.encode()
        if isinstance(found, Cursor):
            assert max(found.xid, found.id) < 2**63


def _told(refusal: Refused) -> None:
    assert 400 <= refusal.status < 500
    answer = from_error(refusal).body
    assert isinstance(answer, bytes)
    assert json.loads(answer)["reason"] == refusal.reason


def change(data: bytes) -> None:
    """News is a change that can be told on, or it is none."""
    try:
        heard = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    try:
        found = Change.from_json(heard)
        hash(found)
    except (ValueError, KeyError):
        return
    assert Change.from_json(orjson.loads(orjson.dumps(found.to_json()))) == found


def settings(data: bytes) -> None:
    """Settings are usable, or refused without being quoted; usable ones can be used."""
    names = [name for name, _, _ in describe(load({}))]
    lines = data.split(b"\n")[:4]
    environ = {
        names[line[0] % len(names)]: _text(line[1:]).replace("\0", "") for line in lines if line
    }
    environ.pop("MERCHANTS_FILE", None)
    try:
        found = load(environ, role=Role.WEB)
    except SettingsInvalid as e:
        assert e.problems  # noqa: PT017 - no test, a target
        return
    repr(found)
    RedisUrl(found.cache_url)
    RedisUrl(found.queue)


def redis_url(data: bytes) -> None:
    """A URL that the settings take can be taken apart, and its password is shown to nobody."""
    password = "hidden-Pa55"
    text = _text(data).replace("\0", "").replace("PASSWORD", password)
    try:
        load({"CACHE_URL": text})
    except SettingsInvalid as e:
        assert password not in str(e)  # noqa: PT017 - no test, a target
        return
    if text:
        found = RedisUrl(text)
        assert found.hosts
        if found.password == password and text.count(password) == 1:  # a user may be called so too
            assert password not in mask_url(text)


def everything(data: bytes) -> None:
    """Let the first byte choose among the others."""
    if data:
        chosen = list(TARGETS)[data[0] % (len(TARGETS) - 1)]
        TARGETS[chosen](data[1:])


TARGETS: dict[str, Callable[[bytes], None]] = {
    "body": body,
    "event": event,
    "signature": signature,
    "parameters": parameters,
    "change": change,
    "settings": settings,
    "redis_url": redis_url,
    "everything": everything,
}

_CHANGE = {
    "payment_id": "1", "tx_ref": "a", "kind": "charge", "merchant": "default", "status": "pending",
    "previous_status": None, "terminal": False, "version": 2, "previous_version": 1,
    "changed_at": "2026-03-04T10:20:30.000Z", "cursor": "1.2",
}  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Return inputs of a target to start from: sound ones, and some at the limits."""
    made = [make() for make in (*bodies.PAYMENTS.values(), *bodies.OTHERS.values())]
    raws = [*map(bodies.encode, made), *map(bodies.encode_form, made)]
    signed = bodies.encode(bodies.v4_charge())
    all_seeds = {
        "body": [
            *(bytes([n % 4]) + raw for n, raw in enumerate(raws)),
            b"\0" + b'{"a":' * 70 + b"1" + b"}" * 70,
            b"\1a[b][c]=%7B%22d%22%3A1%7D&a[b]=1",
        ],
        "event": [bytes([n * 128 % 256]) + raw for n, raw in enumerate(raws)],
        "signature": [
            SECRET.encode() + b"\n" + signed,
            b"x\n" + sign_v4(signed, SECRET).encode() + b"\n" + signed,
        ],
        "parameters": [
            b"tx_ref=a%20b&kind=charge&wait=5&after=1.2&merchant=acme\nBearer operator-token\n1.2",
            b"kind=transfer&wait=x&merchant=other\nBearer reader-token\n9999999999999999999.1",
        ],
        "change": [
            orjson.dumps(_CHANGE),
            orjson.dumps({**_CHANGE, "kind": "reference", "previous_status": "unknown"}),
            orjson.dumps({**_CHANGE, "kind": "reference", "tx_ref": {}}),
            b'{"heartbeat":true,"at":"x"}',
        ],
        "settings": [
            bytes([n]) + value.encode()
            for n, (_, value, _) in enumerate(describe(load({})))
            if value
        ],
        "redis_url": [
            b"redis://user:PASSWORD@host:6379/0",
            b"rediss+sentinel://:PASSWORD@a:1,b:2/name/3",
            b"redis+cluster://a:1,[::1]:2",
        ],
    }
    if name != "everything":
        return all_seeds[name]
    return [bytes([n]) + seed for n, own in enumerate(all_seeds.values()) for seed in own]
