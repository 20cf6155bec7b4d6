"""One request to Flutterwave, and what can go wrong with it before its answer means anything.

Here every way of not getting an answer becomes one of two errors: `ProviderUnavailable` (nothing
was learnt; ask again) or `ProviderRejected` (asking again changes nothing). Neither carries the
address, a header or a body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from yarl import URL

from paystate.errors import BodyRejected, ProviderRejected, ProviderUnavailable
from paystate.flutterwave import exact

__all__ = ["MAX_ANSWER_BYTES", "Answer", "exchange", "provider_session", "retry_after_s"]

# A charge is 2 kB and a page of a list some 60 kB; what is larger is not an answer.
MAX_ANSWER_BYTES = 1024 * 1024
# A server that is there takes a connection in well under a second.
CONNECT_S = 3.0
# Flutterwave's own penalty; what asks for more is not believed.
LONGEST_WAIT_S = 30 * 60.0
# Connections are kept for the next question: setting one up with TLS costs three round trips.
KEEP_CONNECTION_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer that is Flutterwave's own: its HTTP code and its body, decimals exact."""

    code: int
    body: Any = field(repr=False)

    def require_success(self) -> None:
        """Raise ProviderRejected (`http_4xx`) unless the code is 2xx.

        For an answer whose body says nothing that its code does not.
        """
        if self.code >= 400:
            raise ProviderRejected("http_4xx", f"flutterwave answered {self.code}")


def provider_session() -> aiohttp.ClientSession:
    """Return a session for a process's questions, without cookies. Close it.

    It holds as many connections as there are questions under way, which each merchant's client
    bounds: a pool of its own limit would let one slow merchant keep the others out.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_CONNECTION_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    now: Callable[[], float],
    form: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request and return its JSON answer, whose code is 2xx or a 4xx not named here.

    `timeout_s` bounds all of it, from connecting to the last byte; `now` gives epoch seconds, to
    read a ``Retry-After`` that is a date. Redirects are not followed.

    Raises ProviderUnavailable: `timeout` (408 too), `unreachable`, `rate_limited` (429) and
    `http_5xx`, both with `retry_after_s` where the answer has it, `redirected`, `html`,
    `too_large`, `unreadable`. Raises ProviderRejected: `credentials` (401, 403), `http_4xx` (a 4xx
    without JSON).
    """
    try:
        async with session.request(
            method,
            url,
            headers={"Accept": "application/json", **headers},
            data=form,
            timeout=aiohttp.ClientTimeout(
                total=max(timeout_s, 0.001),  # 0 would be no end at all
                sock_connect=min(CONNECT_S, max(timeout_s, 0.001)),
            ),
            allow_redirects=False,
        ) as response:
            raw = await _read(response)
    except TimeoutError:
        raise ProviderUnavailable("timeout", f"no answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        # Without its cause, whose text may hold the address and with it a reference.
        raise ProviderUnavailable("unreachable", f"no answer: {type(error).__name__}") from None
    _refuse_transient(response, now())
    if raw is None:
        raise ProviderUnavailable("too_large", f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    if "html" in response.content_type or raw.lstrip().startswith(b"<"):
        raise ProviderUnavailable("html", f"a page with code {response.status} in place of JSON")
    if response.status in (401, 403):
        raise ProviderRejected("credentials", f"flutterwave answered {response.status}")
    return Answer(response.status, _parse(raw, response.status))


def retry_after_s(value: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or None if it says nothing.

    It holds whole seconds or an HTTP date, which `now` (epoch seconds) is taken from.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment: datetime = parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError):
        return None


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the body, or None as soon as it is too large."""
    chunks = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        chunks += chunk
        if len(chunks) > MAX_ANSWER_BYTES:
            response.close()
            return None
    return bytes(chunks)


def _refuse_transient(response: aiohttp.ClientResponse, now: float) -> None:
    code = response.status
    wait_s = retry_after_s(response.headers.get("Retry-After"), now)
    if wait_s is not None:
        wait_s = min(wait_s, LONGEST_WAIT_S)
    if code == 429:
        raise ProviderUnavailable("rate_limited", retry_after_s=wait_s)
    if code >= 500:
        raise ProviderUnavailable("http_5xx", f"flutterwave answered {code}", retry_after_s=wait_s)
    if code == 408:
        raise ProviderUnavailable("timeout", "flutterwave answered 408")
    if 300 <= code < 400:
        raise ProviderUnavailable("redirected", f"flutterwave answered {code}")


def _parse(raw: bytes, code: int) -> Any:
    try:
        return exact.loads(raw)
    except BodyRejected as rejected:
        if code >= 400:
            raise ProviderRejected("http_4xx", f"flutterwave answered {code}") from None
        raise ProviderUnavailable("unreadable", f"an answer that is {rejected.reason}") from None
