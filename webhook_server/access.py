"""Who may ask what: bearer tokens, bound to a merchant and to reading or operating.

A browser that has signed in sends a cookie in place of its token; see `webhook_server.sessions`.

Tokens are looked up by their SHA-256, so the time of a refusal says nothing about them. Without any
token configured everything is open, and the settings let the server bind to loopback only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from paystate.keys import DEFAULT_MERCHANT
from webhook_server.problems import Refused
from webhook_server.sessions import COOKIE, Sessions, is_own_page

__all__ = ["Access", "Caller"]

_NARROWED = re.compile(r"([a-z0-9_-]{1,40}):([a-z0-9_-]{1,40}):(read|operate)=(.+)")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token stands for. `merchant` None means every merchant."""

    name: str
    merchant: str | None
    operator: bool


EVERYONE = Caller("everyone", None, operator=True)


def _bare(text: str) -> str:
    """Return the token itself of a form that API_TOKENS takes."""
    narrowed = _NARROWED.fullmatch(text)
    return narrowed[4] if narrowed is not None else text


def _refuse_strangers(request: web.Request) -> None:
    if not is_own_page(request):
        raise Refused(403, "other_site", "a page of another site may not do this")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


_SAFE = frozenset({"GET", "HEAD"})

# Spellings of the Authorization header that are remembered: a few for each token.
REMEMBERED = 1000


class Access:
    """Checks tokens of the forms that API_TOKENS takes."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._callers: dict[bytes, Caller] = {}
        # Headers that have proved good, as they were sent: the same callers come again and again.
        self._seen: dict[str, Caller] = {}
        self.sessions = Sessions(_bare(text) for text in tokens)
        for text in tokens:
            narrowed = _NARROWED.fullmatch(text)
            if narrowed is None:
                self._callers[_digest(text)] = Caller("operator", None, operator=True)
                continue
            name, merchant, right, token = narrowed.groups()
            self._callers[_digest(token)] = Caller(name, merchant, operator=right == "operate")

    def __repr__(self) -> str:
        return f"Access({len(self._callers)} tokens)"

    def caller(self, request: web.Request) -> Caller:
        """Return who asks. Raises Refused (401)."""
        if not self._callers:
            # Whoever can reach this machine may ask; but not a page from elsewhere in its browser.
            if request.method not in _SAFE and "Origin" in request.headers:
                _refuse_strangers(request)
            return EVERYONE
        header = request.headers.get("Authorization", "")
        seen = self._seen.get(header)
        if seen is not None:
            return seen
        if not header and COOKIE in request.cookies:
            return self._signed_in(request)
        scheme, _, token = header.partition(" ")
        found = self.known(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            reason = "token_unknown" if token else "token_missing"
            raise Refused(
                401,
                reason,
                "send one of the tokens of API_TOKENS as `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": 'Bearer realm="paystate"'},
            )
        if len(self._seen) < REMEMBERED:
            self._seen[header] = found
        return found

    def known(self, token: str) -> Caller | None:
        """Return whom a token stands for, if anybody."""
        return self._callers.get(_digest(token))

    def _signed_in(self, request: web.Request) -> Caller:
        token = self.sessions.token(request.cookies[COOKIE])
        found = self.known(token) if token is not None else None
        if found is None:
            raise Refused(401, "session_ended", "sign in again: the session has ended")
        if request.method not in _SAFE:
            _refuse_strangers(request)
        return found

    def merchant(self, request: web.Request, known: Sequence[str]) -> str:
        """Return the merchant that a request is about. Raises Refused (401, 403, 404)."""
        caller = self.caller(request)
        wanted = request.query.get("merchant") if request.query_string else None
        if caller.merchant is not None:
            if wanted not in (None, caller.merchant):
                raise Refused(403, "other_merchant", "this token is bound to another merchant")
            return caller.merchant
        if wanted is None:
            return DEFAULT_MERCHANT
        if wanted not in known:
            raise Refused(404, "unknown_merchant", "no such merchant is configured")
        return wanted
