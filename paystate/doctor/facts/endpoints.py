"""The running processes, asked as strangers ask them: health, and webhooks that must be refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4
from paystate.values import mask_url

__all__ = ["FILLER_BYTES", "WebFacts", "WorkerFacts", "read_web", "read_worker"]

# Well above Flutterwave's bodies (below 10 KiB) and below every sensible limit.
FILLER_BYTES = 64 * 1024

# A type that paystate records as ignored: no payment comes of it.
_SAMPLE = {"event": "paystate.doctor", "data": {"about": "a check of the webhook address"}}


@dataclass(frozen=True, slots=True)
class WebFacts:
    """A web process. `trouble` says in one word why it was not reached; then nothing else counts.

    `ready` is the answer of /readyz, None if that is not paystate's. `refused` and `large` are the
    HTTP codes that a badly signed webhook got, small and of `FILLER_BYTES`; `others` those of the
    further merchants' addresses. `accepted` has the code and outcome of each signed sample, by
    which header and which of the secrets; None where none was to be sent.
    """

    url: str
    trouble: str = ""
    ready: Mapping[str, Any] | None = None
    refused: int = 0
    large: int = 0
    others: Mapping[str, int] = field(default_factory=dict)
    accepted: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker; `trouble` and `ready` as of `WebFacts`."""

    url: str
    trouble: str = ""
    ready: Mapping[str, Any] | None = None


def _trouble(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientSSLError):
        return "tls"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "name"
    return "unreachable"


async def _ready(session: aiohttp.ClientSession, url: str) -> Mapping[str, Any] | None:
    async with session.get(f"{url}/readyz", allow_redirects=False) as response:
        raw = await response.content.read(64 * 1024)
    try:
        said = json.loads(raw)
    except ValueError:
        return None
    return said if isinstance(said, dict) and "ready" in said else None


async def read_worker(session: aiohttp.ClientSession, url: str) -> WorkerFacts:
    """Ask a worker how it is; never raises for one that is away."""
    try:
        return WorkerFacts(mask_url(url), ready=await _ready(session, url))
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        return WorkerFacts(mask_url(url), trouble=_trouble(e))


async def read_web(
    session: aiohttp.ClientSession,
    url: str,
    webhook: str,
    *,
    merchants: Sequence[str] = (),
    secrets: Sequence[str] = (),
) -> WebFacts:
    """Ask a web process how it is, and send `webhook` what it must refuse.

    With `secrets` a signed sample too, by either header with each of them.
    """
    try:
        return WebFacts(
            mask_url(url),
            ready=await _ready(session, url),
            refused=await _post(session, webhook, _body(), _forged()),
            large=await _post(session, webhook, _body("x" * FILLER_BYTES), _forged()),
            others={m: await _post(session, f"{webhook}/{m}", _body(), _forged())
                    for m in merchants},
            accepted=await _samples(session, webhook, secrets) if secrets else None,
        )  # fmt: skip
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        return WebFacts(mask_url(url), trouble=_trouble(e))


def _body(filler: str = "") -> bytes:
    return json.dumps({**_SAMPLE, "filler": filler} if filler else _SAMPLE).encode()


def _forged() -> dict[str, str]:
    return {V3_HEADER: "paystate doctor does not know the secret"}


async def _samples(
    session: aiohttp.ClientSession, webhook: str, secrets: Sequence[str]
) -> dict[str, int]:
    codes = {}
    raw = _body()
    for number, secret in enumerate(secrets, 1):
        which = f" with secret {number} of {len(secrets)}" if len(secrets) > 1 else ""
        codes[f"v3{which}"] = await _post(session, webhook, raw, {V3_HEADER: secret})
        codes[f"v4{which}"] = await _post(session, webhook, raw, {V4_HEADER: sign_v4(raw, secret)})
    return codes


async def _post(
    session: aiohttp.ClientSession, url: str, raw: bytes, headers: Mapping[str, str]
) -> int:
    """Return the HTTP code of the answer; 0 for a secret that no header can carry."""
    sent = {"Content-Type": "application/json", **headers}
    try:
        async with session.post(url, data=raw, headers=sent, allow_redirects=False) as response:
            return response.status
    except ValueError:
        return 0
