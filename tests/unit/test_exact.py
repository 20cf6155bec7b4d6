"""A body keeps every digit, and no body does worse than be refused."""

from __future__ import annotations

import contextlib
import json
import sys
from decimal import Decimal, InvalidOperation
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paystate.errors import BodyRejected
from paystate.flutterwave.exact import (
    MAX_DEPTH,
    MAX_FORM_FIELDS,
    loads,
    loads_form,
    read_body,
)
from tests.unit.bodies import encode, encode_form, v3_charge

FORM = "application/x-www-form-urlencoded"


def refusal(read: Any, *args: Any) -> str:
    with pytest.raises(BodyRejected) as caught:
        read(*args)
    return caught.value.reason


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", Decimal("0.1")),
        ("1500.250", Decimal("1500.250")),
        ("12345678901234567.123456789", Decimal("12345678901234567.123456789")),
        ("123456789012345678901", 123456789012345678901),
        ("1e400", Decimal("1e400")),
        ("-0.0", Decimal("-0.0")),
        ("7" * 600, int("7" * 600)),
    ],
)
def test_numbers_keep_every_digit(text: str, value: object) -> None:
    read = loads(f'{{"n": {text}}}'.encode())["n"]
    assert repr(read) == repr(value)


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 1_000_000, "-" + "9" * 5000])
def test_an_integer_of_absurd_length_is_a_decimal_in_an_otherwise_good_body(digits: str) -> None:
    body = loads(f'{{"amount": {digits}, "id": 5}}'.encode())
    assert body["id"] == 5
    assert isinstance(body["amount"], Decimal)
    assert body["amount"].adjusted() == len(digits.lstrip("-")) - 1


@pytest.mark.parametrize("number", ["1e" + "9" * 30, "1e-" + "9" * 30, "1" * 9 + "e" + "9" * 5000])
def test_a_number_beyond_decimal_is_not_a_number(number: str) -> None:
    assert loads(f"[{number}, 1]".encode())[0].is_nan()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b'{"a":1}x', "not_json"),
        (b"{'a':1}", "not_json"),
        (b'{"a":NaN}', "not_json"),
        (b'{"a":Infinity}', "not_json"),
        (b'{"a":-Infinity}', "not_json"),
        (b'{"a":01}', "not_json"),
        (b'{"a":"\xff"}', "not_utf8"),
        ('{"a":1}'.encode("utf-16"), "not_utf8"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "too_deep"),
    ],
)
def test_what_is_not_json_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    assert refusal(loads, raw) == reason


def test_a_body_may_be_as_deep_as_allowed_and_as_wide_as_it_likes() -> None:
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert len(loads(b"[" + b"{}," * 500 + b"{}]")) == 501


def test_brackets_inside_strings_are_not_depth() -> None:
    text = r"[[[{{{\"\\" * 100
    assert loads(f'{{"a": "{text}"}}'.encode())["a"].count("[") == 300


@pytest.mark.parametrize("raw", [b'"\\"' * 200_000 + b"[" * 99, b'"' + b"\\" * 300_001 + b"[" * 99])
def test_unclosed_quotes_are_read_in_linear_time(raw: bytes) -> None:
    assert refusal(loads, raw) in {"not_json", "too_deep"}


@pytest.mark.parametrize("raw", [b'{"otp": "731904", ', b'{"otp": "731904\xff"}', b"otp=%FF"])
def test_a_refusal_does_not_carry_the_body_along(raw: bytes) -> None:
    with pytest.raises(BodyRejected) as caught:
        read_body(raw, "")
    assert caught.value.__context__ is None


def test_a_byte_order_mark_is_skipped() -> None:
    assert loads(b'\xef\xbb\xbf{"a":1}') == {"a": 1}
    assert read_body(b'\xef\xbb\xbf\r\n{"a":1}', "") == {"a": 1}
    assert read_body(b"\xef\xbb\xbfa=1", FORM) == {"a": "1"}


def test_a_form_nests_by_brackets_and_not_by_dots() -> None:
    raw = b"event.type=Transfer&data[id]=1&data[customer][id]=2&data%5Bcard%5D%5Btype%5D=VISA+X&e="
    assert loads_form(raw) == {
        "event.type": "Transfer",
        "data": {"id": "1", "customer": {"id": "2"}, "card": {"type": "VISA X"}},
        "e": "",
    }


def test_a_form_field_that_stands_for_an_object_is_read_as_json() -> None:
    raw = b'event=charge.completed&data={"id":1,"amount":0.10}&note={"id":1}&card=x&entity={broken'
    assert loads_form(raw) == {
        "event": "charge.completed",
        "data": {"id": 1, "amount": Decimal("0.10")},
        "note": '{"id":1}',
        "card": "x",
        "entity": "{broken",
    }


@pytest.mark.parametrize(
    ("raw", "tree"),
    [
        (b"a=1&a=2", {"a": "2"}),
        (b"data=1&data[id]=2", {"data": {"id": "2"}}),
        (b"data[id]=2&data=1", {"data": {"id": "2"}}),
        (b"data[id]=2&data[id][x]=3", {"data": {"id": {"x": "3"}}}),
        (b"[x]=1&a[b=2&a]=3&a[b]c=4", {"[x]": "1", "a[b": "2", "a]": "3", "a[b]c": "4"}),
        (b"a[]=1&a[]=2", {"a": {"": "2"}}),
        (b"tx_ref=a%2Fb%20c%C3%A9", {"tx_ref": "a/b cé"}),
    ],
)
def test_odd_forms_have_one_reading(raw: bytes, tree: dict[str, Any]) -> None:
    assert loads_form(raw) == tree


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not_form"),
        (b"hello", "not_form"),
        (b"a=\xff", "not_utf8"),
        (b"a=%FF", "not_utf8"),
        (b"a=1&" * MAX_FORM_FIELDS + b"b=1", "too_many_fields"),
        (b"a" + b"[x]" * 100_000 + b"=1", "too_deep"),
    ],
)
def test_what_is_not_a_form_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    assert refusal(loads_form, raw) == reason


@pytest.mark.parametrize("content_type", ["application/json", FORM, "text/plain", "", ";;;"])
def test_json_is_read_as_json_under_any_content_type(content_type: str) -> None:
    assert read_body(b'\n {"a": "b=c&d"}\n', content_type) == {"a": "b=c&d"}


@pytest.mark.parametrize("content_type", ["application/json", FORM + "; charset=utf-8", ""])
def test_a_form_is_read_as_a_form_under_any_content_type(content_type: str) -> None:
    assert read_body(b"txRef=a&status=b\n", content_type) == {"txRef": "a", "status": "b"}


@pytest.mark.parametrize(
    ("raw", "content_type", "reason"),
    [
        (b"", "application/json", "empty"),
        (b" \r\n", FORM, "empty"),
        (b"\xef\xbb\xbf", "", "empty"),
        (b"[1]", "application/json", "not_an_object"),
        (b'["a=b"]', FORM, "not_an_object"),
        (b'"a=b"', FORM, "not_an_object"),
        (b"12", "application/json", "not_an_object"),
        (b"null", "application/json", "not_an_object"),
        (b"<html a=b>", "text/html", "not_json"),
        (b"hello", FORM, "not_form"),
        (b'{"a":', FORM, "not_json"),
    ],
)
def test_a_body_that_holds_no_object_is_refused_with_its_reason(
    raw: bytes, content_type: str, reason: str
) -> None:
    assert refusal(read_body, raw, content_type) == reason


def test_json_and_form_of_one_webhook_differ_only_in_what_a_form_cannot_say() -> None:
    body = v3_charge()
    form = read_body(encode_form(body), FORM)
    assert form["data"]["amount"] == "1500.25"
    assert read_body(encode(body), "")["data"]["amount"] == Decimal("1500.25")
    assert form["event.type"] == body["event.type"]
    assert form["data"]["customer"]["id"] == str(body["data"]["customer"]["id"])


_PIECES = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"=", b"&", b"%", b"1e999", b"NaN", b"data"]
)
_BYTES = st.binary(max_size=80) | st.lists(_PIECES, max_size=40).map(b"".join)


@settings(deadline=None)
@given(raw=_BYTES, content_type=st.text(max_size=20) | st.just(FORM))
def test_arbitrary_bytes_are_an_object_or_refused_and_nothing_else(
    raw: bytes, content_type: str
) -> None:
    with contextlib.suppress(BodyRejected):
        assert isinstance(read_body(raw, content_type), dict)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None)
@given(value=_JSON)
def test_all_other_json_is_read_as_ever(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value


def _by_the_standard_library(raw: bytes) -> Any:
    """Return what Python's own parser reads, or None: nothing in these tests is ``null``."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    def number(text: str) -> Decimal:
        try:
            return Decimal(text)
        except InvalidOperation:  # of more than it can hold, which `loads` says is NaN
            return Decimal("NaN")

    try:
        return json.loads(raw.decode(), parse_float=number, parse_constant=refuse)
    except ValueError:
        return None


_TEXTS = (
    *'{}[]:,"', "\\", "\\u", "\\n", "d83d", "\\ud83d", "\\ude00", "\t", "\0", " ", "\n", "é", "😀",
    "true", "false", "nul", "NaN", "-", "-Infinity", "+", ".", "e", "E+", "0", "00", "17", "-0",
    "1.50", "4500.5", "-0.0", "1e400", "18446744073709551616", "-9223372036854775809",
    '"a":', '{"a":1,', '"a":2}', "/", "'",
)  # fmt: skip
_NOT_TEXTS = (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf0\x9f\x98")
_LEXEMES = st.sampled_from([*map(str.encode, _TEXTS), *_NOT_TEXTS])
_NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
)


_RAW = st.lists(_LEXEMES, max_size=12).map(b"".join) | st.lists(_NUMBERS).map(
    lambda numbers: ",".join(numbers).encode()
)


@settings(deadline=None, max_examples=400)
@given(raw=_RAW)
@example(raw=rb'{"a": "\ud83d", "b": "\ud83d\ud83d\ude00", "\ude00\ude00": "\ud83dabcdef"}')
@example(raw=b'{"a": 1, "a": 2, "b": -0, "c": 1.10, "d": 1E5}')
@example(raw=b"0e18446744073709551616")
@example(raw=b"-1.5E+18446744073709551616")
def test_every_body_is_read_as_the_standard_library_does(raw: bytes) -> None:
    """Texts, numbers to the last digit, names that come twice, and what is not JSON."""
    for around in (b"%b", b"[%b]", b'"%b"', b'{"a":"%b"}'):
        body = around % raw
        expected = _by_the_standard_library(body)
        if expected is None:
            assert refusal(loads, body) in {"not_json", "not_utf8"}
        else:
            assert repr(loads(body)) == repr(expected)


@pytest.mark.parametrize("limit", [640, 4300, 0])
@pytest.mark.parametrize("digits", [640, 641, 4300, 4301])
def test_what_python_refuses_as_an_integer_is_a_decimal(limit: int, digits: int) -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(limit)
    try:
        read = loads(b"[-%b]" % (b"7" * digits))[0]
    finally:
        sys.set_int_max_str_digits(before)
    is_integer = digits <= (limit or 4300)
    assert type(read) is (int if is_integer else Decimal)
    assert read == -7 * (10**digits - 1) // 9
