"""Who may change a payment's status: whoever can sign a webhook.

Flutterwave's v3 sends the shared secret itself, which proves the sender and nothing about the
body. Its v4 signs the exact body. A request that claims both is held to the stronger: falling back
would let a body with a broken signature in on a secret that any earlier request has shown.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from paystate.errors import SignatureRejected
from paystate.updates import Api

__all__ = ["V3_HEADER", "V4_HEADER", "Headers", "SignatureVerifier", "sign_v4"]

V3_HEADER = "verif-hash"
V4_HEADER = "flutterwave-signature"

# The base64 of 32 bytes, in its one canonical length.
_V4_SHAPE = re.compile(rb"[A-Za-z0-9+/]{43}=")


class Headers(Protocol):
    """The one thing asked of a request's headers; names are matched without regard to case."""

    def getall(self, key: str, default: list[str], /) -> list[str]:
        """Return every value of the header `key`, or `default`."""
        ...


class SignatureVerifier:
    """Verifies webhooks against every secret that is live: the current one, and the last.

    `apis` are those whose signatures are taken. Raises ValueError without a secret, or with a
    blank one: nothing compared with nothing matches.
    """

    __slots__ = ("_apis", "_digests", "_macs")

    def __init__(self, secrets: Sequence[str], apis: Iterable[Api] = tuple(Api)) -> None:
        if isinstance(secrets, str):  # also a Sequence[str]: of one-letter secrets
            raise ValueError("secrets is a sequence of secrets, not one secret")  # noqa: TRY004
        if not secrets or not all(secret.strip() for secret in secrets):
            raise ValueError("at least one secret is needed, and none may be blank")
        self._apis = frozenset(apis)
        keys = [_secret_bytes(secret) for secret in secrets]
        self._digests = [hashlib.sha256(key).digest() for key in keys]
        self._macs = [hmac.new(key, digestmod="sha256") for key in keys]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<{len(self._macs)} secrets>)"

    def verify(self, raw: bytes, headers: Headers) -> Api:
        """Return which API's signature `headers` carry for the exact body `raw`.

        Raises `SignatureRejected`: ``missing``, ``repeated`` (either header more than once),
        ``malformed`` (no value that any secret could give), ``mismatch`` or ``other_api`` (the
        merchant has only the other one).
        """
        v3 = _single(headers, V3_HEADER)
        v4 = _single(headers, V4_HEADER)
        if v4 is not None:
            self._require(Api.V4)
            self._verify_v4(raw, v4)
            return Api.V4
        if v3 is not None:
            self._require(Api.V3)
            self._verify_v3(v3)
            return Api.V3
        raise SignatureRejected("missing")

    def _require(self, api: Api) -> None:
        if api not in self._apis:
            raise SignatureRejected("other_api")

    def _verify_v3(self, value: bytes) -> None:
        if not value:
            raise SignatureRejected("malformed")
        # Digests, because comparing two lengths takes a time that tells the secret's.
        _require_match(hashlib.sha256(value).digest(), self._digests)

    def _verify_v4(self, raw: bytes, value: bytes) -> None:
        if not _V4_SHAPE.fullmatch(value):
            raise SignatureRejected("malformed")
        _require_match(value, (_signature(mac, raw) for mac in self._macs))


def sign_v4(raw: bytes, secret: str) -> str:
    """Return the value of `V4_HEADER` for the exact body `raw`.

    Raises ValueError if `secret` is blank.
    """
    if not secret.strip():
        raise ValueError("the secret is blank")
    return _signature(hmac.new(_secret_bytes(secret), digestmod="sha256"), raw).decode()


def _signature(mac: hmac.HMAC, raw: bytes) -> bytes:
    mac = mac.copy()  # the key is already in it
    mac.update(raw)
    return base64.b64encode(mac.digest())


def _require_match(value: bytes, candidates: Iterable[bytes]) -> None:
    """Raise ``mismatch`` unless `value` is a candidate; all are compared, so time tells nothing."""
    matched = False
    for candidate in candidates:
        matched |= hmac.compare_digest(candidate, value)
    if not matched:
        raise SignatureRejected("mismatch")


def _single(headers: Headers, name: str) -> bytes | None:
    values = headers.getall(name, [])
    if not values:
        return None
    if len(values) > 1:
        raise SignatureRejected("repeated")
    value = _bytes(values[0])
    if value is None:
        raise SignatureRejected("malformed")
    return value


def _secret_bytes(secret: str) -> bytes:
    key = _bytes(secret)
    if key is None:
        raise ValueError("a secret is not valid text")
    return key


def _bytes(text: str) -> bytes | None:
    """Return the bytes that aiohttp, or the environment, decoded into `text`; None if none can be.

    None rather than the codec's exception, which holds the text.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
