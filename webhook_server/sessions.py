"""Signed in by a browser: a token is shown once, and a cookie stands for it from then on.

The cookie holds no token. It names one by a part of its digest and says when it was given, signed
with a key made of that token: every web process can check it, nothing is kept anywhere, and it ends
with the token. Scripts cannot read it, and other sites cannot send it along.

What changes something is taken from pages of this server alone, by the word of the browser: a
cookie, or a server on loopback that wants no token, would else do what any page asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web
from itsdangerous import BadData, TimestampSigner

__all__ = ["COOKIE", "SESSION_S", "Sessions", "is_own_page", "set_cookie"]

COOKIE = "paystate_session"
# A working day, and a little more.
SESSION_S = 12 * 3600
_PURPOSE = "paystate.sessions.1"
MOST_CHARACTERS = 400


def _name(token: str) -> str:
    digest = hashlib.sha256(b"session of " + token.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


class Sessions:
    """Makes and checks the cookies of `tokens`."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._signers = {
            _name(token): (
                token,
                TimestampSigner(
                    token.encode("utf-8", "surrogateescape"), salt=_PURPOSE,
                    digest_method=hashlib.sha256, key_derivation="hmac",
                ),
            )
            for token in tokens
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Sessions({len(self._signers)} tokens)"

    def make(self, token: str) -> str:
        """Return the cookie of a token that is known."""
        name = _name(token)
        return self._signers[name][1].sign(name).decode()

    def token(self, cookie: str) -> str | None:
        """Return the token that a cookie stands for; None for one that is no good any more."""
        signer = self._signers.get(cookie.partition(".")[0])
        if signer is None or len(cookie) > MOST_CHARACTERS or not cookie.isascii():
            return None
        try:
            signer[1].unsign(cookie, max_age=SESSION_S)
        except BadData:
            return None
        return signer[0]


def set_cookie(request: web.Request, response: web.StreamResponse, value: str) -> None:
    """Give the browser the cookie, or take it away again (`value` empty)."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=SESSION_S if value else 0,
        httponly=True,
        samesite="Strict",
        # A proxy in front speaks TLS for us, and says so.
        secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
    )


def is_own_page(request: web.Request) -> bool:
    """Say whether a page of this server asks, as the browser tells."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")  # plain HTTP beyond this machine has no Sec-Fetch-Site
    return origin is not None and urlsplit(origin).netloc == request.host
