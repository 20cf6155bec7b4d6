"""Who may ask what: bearer tokens, bound to a merchant and to reading or operating.

Tokens are looked up by their SHA-256, so the time of a refusal says nothing about them. Without any
token configured everything is open, and the settings let the server bind to loopback only. A
browser that has signed in has a cookie in the place of its token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aiohttp import web

from paystate.keys import DEFAULT_MERCHANT
from paystate.merchants import Merchant
from webhook_server.callers import CALLER, Caller, callers, digest, everyone, tokens_of
from webhook_server.limits import Limits
from webhook_server.problems import Refused
from webhook_server.sessions import COOKIE, Sessions, is_own_page

__all__ = ["Access", "Caller"]

_SAFE = frozenset({"GET", "HEAD"})

# Spellings of the Authorization header that are remembered: a few for each token.
REMEMBERED = 1000


def _refuse_strangers(request: web.Request) -> None:
    if request.method not in _SAFE and not is_own_page(request):
        raise Refused(403, "other_site", "a page of another site may not do this")


class Access:
    """Checks tokens of the forms that API_TOKENS takes, and those that `merchants` have.

    `per_minute` is the limit of calls of a token whose merchant has none of its own; 0 is none.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        merchants: Mapping[str, Merchant] | None = None,
        limits: Limits | None = None,
        *,
        per_minute: int = 0,
    ) -> None:
        self._tokens = tokens
        self._merchants = merchants or {}
        self._limits = limits
        self._per_minute = per_minute
        self._callers: dict[bytes, Caller] = {}
        self._everyone = everyone()
        # Headers that have proved good, as they were sent: the same callers come again and again.
        self._seen: dict[str, Caller] = {}
        self.sessions = Sessions(())
        self.merchants_changed()

    def __repr__(self) -> str:
        return f"Access({len(self._callers)} tokens)"

    def merchants_changed(self) -> None:
        """Take the merchants' tokens and limits as they are now."""
        for caller in (self._everyone, *self._callers.values()):
            caller.left = -math.inf  # whoever has let it in is to ask again
        per_minute = self._per_minute if self._limits is not None else 0
        self._callers = callers(self._tokens, self._merchants, per_minute=per_minute)
        self._everyone = everyone()
        self._seen.clear()
        self.sessions = Sessions(token.text for token in tokens_of(self._tokens, self._merchants))
        if self._limits is not None:
            self._limits.forget()

    async def admit(self, request: web.Request) -> None:
        """Count a call of whoever asks, if it is known who does. Raises Refused (429)."""
        caller = self._find(request)
        if caller is None:
            return  # the handler refuses, or asks for no token
        request[CALLER] = caller
        if caller.left < 1 and self._limits is not None:
            await self._limits.admit(caller)
        else:
            caller.left -= 1

    def _find(self, request: web.Request) -> Caller | None:
        """Return who asks, if that can be told; whether it may is for `caller` to say."""
        if not self._callers:
            return self._everyone
        header = request.headers.get("Authorization", "")
        seen = self._seen.get(header)
        if seen is not None:
            return seen
        if not header and COOKIE in request.cookies:
            session = self.sessions.token(request.cookies[COOKIE])
            return self.known(session) if session is not None else None
        scheme, _, token = header.partition(" ")
        found = self.known(token.strip()) if scheme.lower() == "bearer" else None
        if found is not None and len(self._seen) < REMEMBERED:
            self._seen[header] = found
        return found

    def known(self, token: str) -> Caller | None:
        """Return whom a token stands for, if anybody."""
        return self._callers.get(digest(token))

    def caller(self, request: web.Request) -> Caller:
        """Return who asks. Raises Refused (401, 403)."""
        found = request.get(CALLER) or self._find(request)
        if not self._callers:
            # Whoever can reach this machine may ask; but not a page from elsewhere in its browser.
            if "Origin" in request.headers:
                _refuse_strangers(request)
        elif "Authorization" not in request.headers and COOKIE in request.cookies:
            if found is None:
                raise Refused(401, "session_ended", "sign in again: the session has ended")
            _refuse_strangers(request)
        if found is None:
            has_token = bool(request.headers.get("Authorization", "").partition(" ")[2])
            raise Refused(
                401,
                "token_unknown" if has_token else "token_missing",
                "send one of the tokens of API_TOKENS as `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": 'Bearer realm="paystate"'},
            )
        return found

    def operator(self, request: web.Request) -> Caller:
        """Return the operator who asks. Raises Refused (401, 403)."""
        caller = self.caller(request)
        if not caller.operator:
            raise Refused(403, "operators_only", "this token may read statuses, not operate")
        return caller

    def merchant(self, request: web.Request, known: Sequence[str]) -> str:
        """Return the merchant that a request is about. Raises Refused (401, 403, 404)."""
        caller = self.caller(request)
        wanted = request.query.get("merchant") if request.query_string else None
        if caller.merchant is not None:
            if wanted not in (None, caller.merchant):
                raise Refused(403, "other_merchant", "this token is bound to another merchant")
            wanted = caller.merchant
        if wanted is None:
            return DEFAULT_MERCHANT
        if wanted not in known:
            raise Refused(404, "unknown_merchant", "no such merchant is configured")
        return wanted
