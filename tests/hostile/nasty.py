"""What a hostile caller would send: the strategies that the properties are tried with."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.harness import TOKEN
from tests.hostile.wire import request
from tests.unit import bodies

__all__ = ["KNOWN_ID", "KNOWN_REF", "framed", "hostile_bodies", "requests", "values"]

# A payment that is there: what is asked about it goes further than a 404.
KNOWN_ID, KNOWN_REF = "424242", "known-order"

# Values that forge keys, escape from paths, or are more than a parser likes.
_NASTY = [
    "", "0", "-1", "+1", "01", "1e9", "NaN", "²", "٣", "1" * 19, "9" * 200, "9" * 201, "a" * 5000,
    "..", "../..", "%2e%2e", ".", "//", "\\", "*", "{}", "{1}", "1:hash", "x:y{z}", "tx:1:hash",
    "default:1", "charge:default:1", "merchant:acme:tx:1:hash", "\0", "a\0b", "a\nb", "a\r\nX: y",
    "\x7f", "\x1b[31m", "\u2028", "\ufeff1", "\U0001f4a9", "e\u0301", "' OR 1=1--", "${jndi:x}",
    "%s%n", "null", "true", "[]", "{", "charge", "transfer", "reference", "default", "acme",
    "0.0", "1.1", "9999999999999999999.1", "1.9999999999999999999", "1.1.1", "1.", ".1",
    KNOWN_ID, KNOWN_REF,
]  # fmt: skip
_BYTES = [b"%00", b"%ff", b"%", b"%zz", b"%u0041", b"%c0%ae", b"%ed%a0%80", b"%2F", b"%0d%0a", b"+"]

values = st.sampled_from(_NASTY) | st.text(max_size=30)

# A path or query value as it goes over the wire: encoded as it should be, or raw.
_encoded = values.map(
    lambda text: b"".join(b"%%%02X" % b for b in text.encode("utf-8", "surrogatepass"))
)
_wire = (
    _encoded
    | st.sampled_from([*_BYTES, KNOWN_ID.encode(), KNOWN_REF.encode()])
    | st.binary(max_size=12).map(lambda raw: raw.translate(None, b" \r\n\t?#/"))
)

_PATHS = [
    b"/api/payments/%s/status", b"/api/payments/%s", b"/api/payments/%s/events",
    b"/api/payments/by-ref/%s/status", b"/api/payments/by-ref/%s",
    b"/api/payments/by-ref/%s/events",
    b"/api/payments/status", b"/api/changes", b"/healthz", b"/readyz", b"/metrics",
    b"/webhooks/flutterwave", b"/webhooks/flutterwave/%s", b"/%s", b"%s",
]  # fmt: skip
_PARAMETERS = [
    b"tx_ref", b"kind", b"merchant", b"min_version", b"after_version", b"wait", b"after", b"limit",
]  # fmt: skip

# A wait that is accepted would be waited for, which says nothing about hostility.
_query = st.lists(
    st.tuples(st.sampled_from(_PARAMETERS) | _wire, _wire).filter(
        lambda pair: not (pair[0] == b"wait" and pair[1].isdigit() and int(pair[1]))
    ),
    max_size=3,
).map(lambda pairs: b"&".join(b"%s=%s" % pair for pair in pairs))

_plain = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=30)
_header_value = (values | _plain).map(
    lambda text: text.encode("utf-8", "surrogatepass").translate(None, b"\r\n")
)
_AUTHORITY = f"Bearer {TOKEN}".encode()
_authorization = st.tuples(
    st.just(b"Authorization"),
    st.just(_AUTHORITY)
    | st.just(_AUTHORITY)
    | _header_value
    | _header_value.map(b"Bearer ".__add__),
)
_HEADERS = [
    b"Last-Event-ID", b"If-None-Match", b"If-Match", b"Accept", b"Content-Type", b"Range",
    b"Cookie", b"Accept-Encoding", b"Content-Encoding", b"X-Forwarded-For", b"Host", b"verif-hash",
    b"flutterwave-signature", b"Origin", b"If-Modified-Since",
]  # fmt: skip
_headers = st.lists(st.tuples(st.sampled_from(_HEADERS), _header_value), max_size=2)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw the bytes of one request that is complete, of no use, and perhaps no HTTP."""
    method = draw(
        st.sampled_from([b"GET"] * 6 + [b"POST"] * 2 + [b"HEAD", b"PUT", b"OPTIONS", b"get"])
    )
    path = draw(st.sampled_from(_PATHS))
    target = path % draw(_wire) if b"%s" in path else path
    query = draw(_query)
    headers = [draw(_authorization), *draw(_headers)]
    body = draw(st.none() | hostile_bodies()) if method == b"POST" else None
    return request(
        method,
        target + (b"?" + query if query else b""),
        headers,
        b"" if method == b"POST" and body is None else body,
    )


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(values, inner, max_size=4),
    max_leaves=10,
)
_LITERALS = [
    b"1e400", b"-0.0", b"1e-400", b"NaN", b"Infinity", b"9" * 700, b"9" * 5000, b"1e" + b"9" * 30,
    b"0." + b"0" * 400 + b"1", b'"\\ud800"', b'"\\u0000"', b'"\xff"', b"[" * 70 + b"]" * 70,
    b'{"a":' * 200 + b"1" + b"}" * 200, b"[" * 3000, b"true", b'"' + b"x" * 5000 + b'"',
]  # fmt: skip
_WHERE = [
    "id", "tx_ref", "reference", "status", "amount", "currency", "customer", "card", "created_at",
    "flw_ref", "app_fee", "charged_amount", "payment_method", "TransactionId", "transfer",
]  # fmt: skip
_BODIES = [*bodies.PAYMENTS.values(), *bodies.OTHERS.values()]
_MARK = "\N{CHEQUERED FLAG}"


@st.composite
def _spoilt(draw: st.DrawFn) -> bytes:
    """Draw a genuine body with one field replaced by something else, JSON or not."""
    body = draw(st.sampled_from(_BODIES))()
    parts = [body, *(part for part in body.values() if isinstance(part, dict))]
    part, name = draw(st.sampled_from(parts)), draw(st.sampled_from(_WHERE))
    if draw(st.booleans()):
        part[name] = _MARK
        raw = bodies.encode(body).replace(
            json.dumps(_MARK).encode(), draw(st.sampled_from(_LITERALS))
        )
    else:
        part[name] = draw(_JSON)
        raw = bodies.encode(body)
    return raw


@st.composite
def _cut(draw: st.DrawFn) -> bytes:
    """Draw a genuine body with bytes of it replaced or missing."""
    raw = bodies.encode(draw(st.sampled_from(_BODIES))())
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 9)) :]


def hostile_bodies() -> st.SearchStrategy[bytes]:
    """Return what a body can be: nearly right, JSON of another form, a form, or nothing at all."""
    wanted = st.fixed_dictionaries({}, optional={"ids": _JSON, "tx_refs": _JSON, "kind": _JSON})
    forms = st.builds(
        lambda pairs: b"&".join(b"%s=%s" % pair for pair in pairs),
        st.lists(st.tuples(_wire | st.sampled_from([b"data[id]", b"txRef", b"data[a][b"]), _wire)),
    )
    return (
        _spoilt()
        | _cut()
        | (wanted | _JSON).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
        | forms
        | st.sampled_from([*_LITERALS, b"", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"{}" * 9])
        | st.binary(max_size=60)
    )


_FRAMING = [
    [b"Content-Length: 2"], [b"Content-Length: 0"], [b"Content-Length: 99999"], [],
    [b"Content-Length: -2"], [b"Content-Length: 2", b"Content-Length: 3"], [b"Content-Length: 0x2"],
    [b"Content-Length: 99999999999999999999"], [b"Content-Length: 2\t"], [b"Content-Length : 2"],
    [b"Transfer-Encoding: chunked"], [b"Transfer-Encoding: chunked", b"Content-Length: 2"],
    [b"Transfer-Encoding: gzip, chunked"], [b"Transfer-Encoding: chunked, chunked"],
    [b"Transfer-Encoding: xchunked"], [b"Expect: 100-continue", b"Content-Length: 2"],
    [b"Expect: more", b"Content-Length: 2"], [b"Connection: close", b"Content-Length: 2"],
]  # fmt: skip
_CHUNKS = [
    b"{}", b"2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}", b"ZZ\r\n{}", b"-1\r\n", b"ffffffffffffffff1\r\n{}",
    b"2;x=" + b"y" * 99 + b"\r\n{}\r\n0\r\nA: b\r\n\r\n", b"1\r\n{}\r\n0\r\n\r\n",
    b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
]  # fmt: skip
_STARTS = [
    b"POST /webhooks/flutterwave HTTP/1.1", b"POST /webhooks/flutterwave HTTP/1.0",
    b"POST /webhooks/flutterwave HTTP/9.9", b"POST  /webhooks/flutterwave  HTTP/1.1",
    b"\x16\x03\x01",
    b"POST http://[::1/webhooks HTTP/1.1", b"POST * HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"", b"GET",
    b"PO\x00ST / HTTP/1.1", b"PRI * HTTP/2.0", b"GET /" + b"a" * 9000 + b" HTTP/1.1",
    b"POST /api/payments/status HTTP/1.1", b"POST /api/payments HTTP/1.1",
]  # fmt: skip
_LINES = [
    b"Host: x", b"X: " + b"a" * 9000, b"X", b": x", b"X: a\x00b", b" folded: x", b"X: \x80\xff",
    b"Upgrade: websocket", b"verif-hash: TOP\x01SECRET",
]  # fmt: skip


@st.composite
def framed(draw: st.DrawFn) -> bytes:
    """Draw bytes that only look like a request: wrong lines, lengths and chunks."""
    start = draw(st.sampled_from(_STARTS) | st.binary(max_size=20))
    lines = draw(st.lists(st.sampled_from(_LINES), max_size=2)) + draw(st.sampled_from(_FRAMING))
    ending = draw(st.sampled_from([b"\r\n\r\n"] * 4 + [b"\n\n", b"\r\r", b""]))
    return b"\r\n".join([start, *lines]) + ending + draw(st.sampled_from(_CHUNKS) | st.binary())
