"""The HTTP API, asked with the standard library: bounded in time and size, to one host only.

Everything here blocks; the async reader calls it in a thread. The token goes to the host it was
given for and to no other: a redirect is an error, and no proxy is used.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
)

from paystate.changes import Change, Cursor
from paystate.errors import CursorPruned
from paystate.keys import EntityKind
from paystate.reader.answers import PaymentDetails, PaymentStatus, Question
from paystate.reader.errors import ApiRefused, ApiUnavailable, PaymentUnknown
from paystate.reader.news import parse_change

__all__ = ["MOST_AT_ONCE", "Api", "ChangePage"]

T = TypeVar("T")

# What the API takes in one POST, and far more than its largest answer has.
MOST_AT_ONCE = 200
MOST_BYTES = 4 * 1024 * 1024
_NOBODY_KNOWS = ("unknown_payment", "unknown_and_unverified")
_REASON = re.compile(r"[a-z0-9_]{1,60}")


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some changes, and where to go on from."""

    changes: tuple[Change, ...]
    cursor: Cursor
    more: bool


class Api:
    """Asks one paystate for one merchant. `timeout_s` bounds each whole answer."""

    def __init__(self, url: str, token: str | None, *, merchant: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("api_url looks like https://host")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("api_url has no user, query or fragment")
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise ValueError("api_token is a text of printable ASCII characters")
        self._url = url.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": "paystate-reader"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token.strip()}"
        self._merchant = merchant
        self._timeout_s = timeout_s
        self._opener = OpenerDirector()  # not build_opener: that follows redirects and proxies
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        wire = HTTPSHandler(context=tls) if tls else HTTPHandler()
        for handler in (wire, HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
            self._opener.add_handler(handler)

    def __repr__(self) -> str:
        return "Api()"

    def statuses(self, questions: Iterable[Question]) -> dict[Question, PaymentStatus]:
        """Return the answers; what nobody knows is left out. Raises ApiUnavailable, ApiRefused."""
        found: dict[Question, PaymentStatus] = {}
        for body, kind, count in _requests(questions):
            reply = self._ask("/api/payments/status", body=body)
            answers = _read(_statuses, reply, kind)
            if len(answers) + _read(_unknown, reply) != count:
                raise ApiUnavailable("api_answer_malformed")
            found.update(answers)
        return found

    def details(self, question: Question) -> PaymentDetails:
        """Return what is known of a payment. Raises PaymentUnknown, ApiUnavailable, ApiRefused."""
        name = quote(question.id, safe="")
        if question.kind is EntityKind.REFERENCE:
            return _read(PaymentDetails.from_json, self._ask(f"/api/payments/by-ref/{name}"))
        kind = {"kind": question.kind.value} if question.kind else {}
        return _read(PaymentDetails.from_json, self._ask(f"/api/payments/{name}", kind))

    def changes(self, after: Cursor | None, limit: int = 500) -> ChangePage:
        """Return changes after a cursor; without one, the cursor of now.

        Raises CursorPruned, ApiUnavailable, ApiRefused.
        """
        query = {"limit": str(limit)} | ({"after": str(after)} if after is not None else {})
        return _read(_page, self._ask("/api/changes", query), self._merchant)

    def _ask(self, path: str, query: Mapping[str, str] | None = None, *, body: Any = None) -> Any:
        address = f"{self._url}{path}?{urlencode({'merchant': self._merchant, **(query or {})})}"
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, **({"Content-Type": "application/json"} if data else {})}
        request = Request(address, data, headers)  # noqa: S310 (the scheme was checked)
        until = time.monotonic() + self._timeout_s
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return json.loads(_bounded(response, until))
        except HTTPError as e:
            with e:
                raise _refusal(e, until) from None
        except (OSError, http.client.HTTPException) as e:
            raise ApiUnavailable("api_unreachable") from e
        except (ValueError, RecursionError) as e:
            raise ApiUnavailable("api_answer_malformed") from e


def _bounded(response: Any, until: float) -> bytes:
    """Read a whole answer, unless it is too long or trickles in for too long."""
    parts: list[bytes] = []
    size = 0
    while part := response.read1(65_536):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise ValueError("the answer is too long")
        if time.monotonic() > until:
            raise TimeoutError("the answer takes too long")
    return b"".join(parts)


def _refusal(error: HTTPError, until: float) -> Exception:
    """Return what an answer that is not a success means."""
    reason = f"http_{error.code}"
    try:
        named = json.loads(_bounded(error, until)).get("reason")
        if isinstance(named, str) and _REASON.fullmatch(named):
            reason = named
    except (OSError, http.client.HTTPException, ValueError, AttributeError, RecursionError):
        pass  # the code says enough
    if error.code == http.client.GONE and reason == "cursor_pruned":
        return CursorPruned(reason)
    if error.code == http.client.NOT_FOUND and reason in _NOBODY_KNOWS:
        return PaymentUnknown(reason)
    if error.code >= 500 or error.code in (
        http.client.REQUEST_TIMEOUT, http.client.CONFLICT, http.client.TOO_MANY_REQUESTS,
    ):  # fmt: skip
        after = error.headers.get("Retry-After", "")
        seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else None
        return ApiUnavailable(reason, retry_after_s=seconds)
    return ApiRefused(reason)


def _read(parse: Callable[..., T], *data: Any) -> T:
    """Parse a part of an answer; whatever is not as it should be makes the answer useless."""
    try:
        return parse(*data)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ApiUnavailable("api_answer_malformed") from e


def _requests(
    questions: Iterable[Question],
) -> Iterable[tuple[dict[str, Any], EntityKind | None, int]]:
    """Yield bodies for questions, one kind of payment in each, and how many each one asks for."""
    names: defaultdict[EntityKind | None, list[str]] = defaultdict(list)
    for question in dict.fromkeys(questions):
        names[question.kind].append(question.id)
    for kind, ids in names.items():
        for start in range(0, len(ids), MOST_AT_ONCE):
            part: Sequence[str] = ids[start : start + MOST_AT_ONCE]
            if kind is EntityKind.REFERENCE:
                yield {"tx_refs": part}, kind, len(part)
            else:
                yield {"ids": part, **({"kind": kind.value} if kind else {})}, kind, len(part)


def _statuses(reply: Any, kind: EntityKind | None) -> dict[Question, PaymentStatus]:
    answers = [PaymentStatus.from_json(answer) for answer in reply["statuses"]]
    return {Question(kind, answer.id): answer for answer in answers}


def _unknown(reply: Any) -> int:
    return len(reply["unknown"]["ids"]) + len(reply["unknown"]["tx_refs"])


def _page(reply: Any, merchant: str) -> ChangePage:
    changes = (parse_change(change) for change in reply["changes"])
    return ChangePage(
        tuple(change for change in changes if change.entity.merchant == merchant),
        Cursor.parse(reply["cursor"]),
        reply["more"] is True,
    )
