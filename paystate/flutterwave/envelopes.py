"""What an answer says, out of the two envelopes that Flutterwave puts it in.

The envelope's own ``status`` is about the request and never about a payment. "Not found" comes
with HTTP codes that differ from account to account, so it is read from the body.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from paystate.errors import ProviderUnavailable
from paystate.flutterwave.transport import Answer

__all__ = ["data_items", "parsed", "total_pages", "v3_data", "v4_data"]

T = TypeVar("T")

_V3_NOT_FOUND = re.compile(r"\b(?:no|not)\b.*\b(?:found|exist)", re.IGNORECASE)


def v3_data(answer: Answer) -> Any:
    """Return the ``data`` of a v3 answer, None if it says that there is no such payment.

    Raises ProviderRejected (`http_4xx`) for a refusal, ProviderUnavailable (`no_data`,
    `unreadable`) for an answer that says neither.
    """
    body = _object(answer)
    if isinstance(body.get("data"), dict) and answer.code < 400:
        return body["data"]
    message = body.get("message")
    says_missing = isinstance(message, str) and _V3_NOT_FOUND.search(message)
    if body.get("status") == "error" and body.get("data") is None and says_missing:
        return None
    answer.require_success()
    raise ProviderUnavailable("no_data", "an answer without data")


def v4_data(answer: Answer) -> Any:
    """Return the ``data`` of a v4 answer, None if it says that there is no such payment.

    Raises as `v3_data` does.
    """
    body = _object(answer)
    if isinstance(body.get("data"), dict | list) and answer.code < 400:
        return body["data"]
    error = body.get("error")
    if isinstance(error, dict) and (
        str(error.get("type")).endswith("_NOT_FOUND") or str(error.get("code")).endswith("404")
    ):
        return None
    answer.require_success()
    raise ProviderUnavailable("no_data", "an answer without data")


def parsed(parse: Callable[[Any], T | None], data: Any) -> T:
    """Return what `parse` reads in `data`; raise ProviderUnavailable (`unreadable`) for nothing."""
    update = parse(data) if isinstance(data, dict) else None
    if update is None:
        raise ProviderUnavailable("unreadable", "an answer that names no payment")
    return update


def data_items(data: Any) -> list[Any]:
    """Return the objects of a list, or the one object that stands in its place."""
    return data if isinstance(data, list) else [data]


def total_pages(answer: Answer) -> int:
    """Return how many pages a v4 list says it has, 1 if it does not say."""
    value = answer.body
    for name in ("meta", "page_info", "total_pages"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int) else 1


def _object(answer: Answer) -> dict[str, Any]:
    if isinstance(answer.body, dict):
        return answer.body
    answer.require_success()
    raise ProviderUnavailable("unreadable", "an answer that is no object")
