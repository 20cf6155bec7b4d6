"""Reading a body without losing a digit of it.

An amount that passes through a float is another amount, and a 21-digit id is another id, so
numbers keep every digit they came with. Bodies come from outside: whatever is in them, reading
takes time and memory in proportion to their length (times the most digits of an integer), and
raises `BodyRejected` or nothing.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import msgspec

from paystate.errors import BodyRejected

__all__ = ["MAX_DEPTH", "MAX_FORM_FIELDS", "loads", "loads_form", "read_body"]

# Real bodies nest five deep; the rest is room for a merchant's own `meta`. Without a bound the
# parser recurses until the interpreter stops it, at a depth that depends on who called.
MAX_DEPTH = 64

# A v3 charge flattens to some forty fields.
MAX_FORM_FIELDS = 500
_MAX_FORM_DEPTH = 8

# Digits become an int in quadratic time, so more of them are kept as Decimal, which is linear. By
# default Python refuses more than this many too; it can be told to refuse more than 640 already.
_MAX_INT_DIGITS = 4300

_BOM = b"\xef\xbb\xbf"
_FORM_TYPE = "application/x-www-form-urlencoded"
_FORM_SHAPE = re.compile(rb"[\w.%+*\[\]-]+=")

# Where a form carries an object as one field, the field's text is JSON.
_OBJECT_FIELDS = frozenset({"data", "transfer", "customer", "entity", "card"})

# Strings are matched whole so that a bracket inside one does not count. The closing quote is
# optional and nothing is given back (`*+`): otherwise a body of unclosed quotes is quadratic.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def loads(raw: bytes) -> Any:
    """Return the JSON value in `raw`, floats as Decimal and integers exact.

    An integer that Python refuses, of more than 4300 digits unless it was told otherwise, is a
    Decimal too, and a number beyond what Decimal can hold is ``Decimal("NaN")``: one silly number
    is a fault of its field, not of the whole body. A byte order mark is skipped.

    Raises `BodyRejected`: ``not_utf8``, ``too_deep`` (more than `MAX_DEPTH` levels) or
    ``not_json`` (``NaN`` and ``Infinity`` are not).
    """
    raw = raw.removeprefix(_BOM)
    if _is_too_deep(raw):
        raise BodyRejected("too_deep")
    try:
        return _FAST.decode(raw)
    except (ValueError, RecursionError):
        pass  # why, and what may pass all the same, is said below
    try:
        return _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        reason = "not_utf8"
    except ValueError:
        reason = "not_json"
    except RecursionError:
        reason = "too_deep"
    # Raised out here because the decoders' exceptions hold the whole body.
    raise BodyRejected(reason)


def loads_form(raw: bytes) -> dict[str, Any]:
    """Return the fields of an ``application/x-www-form-urlencoded`` body; values are strings.

    ``data[customer][id]=2`` nests, a dot does not (``event.type`` is one name), and a field that
    stands for an object (``data={"id":1}``) is read as JSON if it is some. Of a repeated name the
    last one counts, as in JSON; an object is not replaced by a plain value.

    Raises `BodyRejected`: ``not_utf8``, ``not_form`` (no ``=`` anywhere), ``too_many_fields`` or
    ``too_deep``.
    """
    pairs = _pairs(raw.removeprefix(_BOM).strip())
    tree: dict[str, Any] = {}
    for name, value in pairs:
        path = _path(name)
        if len(path) > _MAX_FORM_DEPTH:
            raise BodyRejected("too_deep")
        _plant(tree, path, value)
    return tree


def read_body(raw: bytes, content_type: str) -> dict[str, Any]:
    """Return the one object that a webhook's body holds, whether JSON or a form.

    What the body looks like comes before what `content_type` says: accounts are known to send
    JSON under a form's name, and the other way round.

    Raises `BodyRejected`: ``empty``, ``not_an_object`` (JSON, but an array or a plain value), or
    any reason of `loads` and `loads_form`.
    """
    raw = raw.removeprefix(_BOM).strip()
    if not raw:
        raise BodyRejected("empty")
    says_form = content_type.partition(";")[0].strip().lower() == _FORM_TYPE
    if raw[:1] not in (b"{", b"[", b'"') and (says_form or _FORM_SHAPE.match(raw)):
        return loads_form(raw)
    value = loads(raw)
    if not isinstance(value, dict):
        raise BodyRejected("not_an_object")
    return value


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    if b"=" not in raw:
        raise BodyRejected("not_form")
    try:
        return parse_qsl(
            raw.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_FORM_FIELDS,
        )
    except UnicodeDecodeError:
        reason = "not_utf8"
    except ValueError:
        reason = "too_many_fields"
    raise BodyRejected(reason)


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of more than 18 digits
        return Decimal("NaN")


def _integer(text: str) -> int | Decimal:
    try:
        return int(text) if len(text.lstrip("-")) <= _MAX_INT_DIGITS else _number(text)
    except ValueError:
        return _number(text)


def _constant(_name: str) -> NoReturn:
    raise BodyRejected("not_json")


# Reads nearly every body there is, in a third of the time. What it refuses and Python's own takes
# are halves of surrogate pairs, which JavaScript writes for a text that was cut off, and numbers of
# absurd length.
_FAST = msgspec.json.Decoder(float_hook=_number)
_DECODER = json.JSONDecoder(parse_float=_number, parse_int=_integer, parse_constant=_constant)


def _is_too_deep(raw: bytes) -> bool:
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:  # nearly every body there is
        return False
    depth = 0
    for token in _TOKEN.finditer(raw):
        first = raw[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def _path(name: str) -> list[str]:
    """Split ``a[b][c]`` into its parts; a name of any other form is one part."""
    head, *rest = name.split("[")
    if not head or not all(part.endswith("]") for part in rest):
        return [name]
    return [head, *(part[:-1] for part in rest)]


def _plant(tree: dict[str, Any], path: list[str], text: str) -> None:
    *parents, last = path
    for key in parents:
        child = tree.get(key)
        if not isinstance(child, dict):
            child = tree[key] = {}
        tree = child
    value = _object(text) if last in _OBJECT_FIELDS else text
    if isinstance(value, dict) or not isinstance(tree.get(last), dict):
        tree[last] = value


def _object(text: str) -> dict[str, Any] | str:
    if not text.startswith("{"):
        return text
    try:
        value = loads(text.encode())
    except BodyRejected:
        return text
    return value if isinstance(value, dict) else text
