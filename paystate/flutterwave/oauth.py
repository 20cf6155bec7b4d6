"""The access token of the v4 API: fetched once for everyone who waits for it, renewed early.

A token lives ten minutes. Many questions may find it missing at the same moment; one of them
fetches it and the others get what came of that, be it a token or the error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal

import aiohttp
from yarl import URL

from paystate.errors import PaystateError, ProviderRejected, ProviderUnavailable
from paystate.flutterwave.transport import exchange

__all__ = ["RENEW_EARLY_S", "TokenSource"]

# A request that starts with a token must also be answered under it, clocks being what they are.
RENEW_EARLY_S = 60.0
# A token that could not be renewed is used until so long before its end, in seconds: longer than a
# question takes. Until then it is renewed again after so many seconds.
LAST_USE_S = 15.0
RENEW_AGAIN_S = 5.0
# What the provider's documentation says, for an answer that does not.
DEFAULT_LIFETIME_S = 600.0


class TokenSource:
    """Gives the token for one pair of client credentials.

    `clock` is monotonic seconds, `now` epoch seconds; the session belongs to the caller.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        token_url: str,
        client_id: str,
        client_secret: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._url = URL(token_url)
        self._form = {
            "client_id": client_id,
            "client_secret": client_secret,
            "grant_type": "client_credentials",
        }
        self._timeout_s = timeout_s
        self._clock = clock
        self._now = now
        self._lock = asyncio.Lock()
        self._token: str | None = None
        self._renew_at = 0.0
        self._good_until = 0.0
        self._flights = 0
        self._failure: tuple[type[PaystateError], str, float | None] | None = None

    async def token(self) -> str:
        """Return a token that is good for longer than a question may take.

        Whoever finds it due renews it; the others go on with the one there is, for as long as that
        is good, and so does everybody if it cannot be renewed. Raises ProviderUnavailable as
        `exchange` does, or ProviderRejected (`credentials`) where the provider does not know them.
        """
        held = self._token_until(self._renew_at)
        if held is None and self._lock.locked():
            held = self._token_until(self._good_until)
        if held is not None:
            return held
        flight = self._flights
        async with self._lock:
            held = self._token_until(self._renew_at)
            if held is not None:
                return held
            if self._flights != flight:  # the one we waited for came back without a token
                self._raise_failure()
            try:
                return self._keep(*await self._fetch())
            except ProviderUnavailable as error:
                self._failure = type(error), error.reason, error.retry_after_s
                held = self._token_until(self._good_until)
                if held is None:
                    raise
                self._renew_at = self._clock() + RENEW_AGAIN_S
                return held
            except ProviderRejected as error:
                self._failure = type(error), error.reason, None
                raise
            finally:
                self._flights += 1

    def _keep(self, token: str, lifetime_s: float) -> str:
        now = self._clock()
        self._failure = None
        self._token = token
        self._renew_at = now + lifetime_s - RENEW_EARLY_S
        self._good_until = now + lifetime_s - LAST_USE_S
        return token

    def discard(self, token: str) -> None:
        """Forget `token`, which the API has refused, unless another has taken its place."""
        if self._token == token:
            self._token = None

    def _token_until(self, moment: float) -> str | None:
        return self._token if self._clock() < moment else None

    def _raise_failure(self) -> None:
        if self._failure is None:  # its token was so short-lived that it is due again
            return
        error, reason, wait_s = self._failure
        if error is ProviderUnavailable:
            raise ProviderUnavailable(reason, retry_after_s=wait_s)
        raise ProviderRejected(reason)

    async def _fetch(self) -> tuple[str, float]:
        answer = await exchange(
            self._session,
            "POST",
            self._url,
            headers={},
            form=self._form,
            timeout_s=self._timeout_s,
            now=self._now,
        )
        if answer.code >= 400:  # an unknown client is a 400 or a 401, depending on its setup
            raise ProviderRejected("credentials", f"no token was granted: {answer.code}")
        body = answer.body if isinstance(answer.body, dict) else {}
        token, lifetime_s = body.get("access_token"), body.get("expires_in")
        if not isinstance(token, str) or not token.isprintable() or not token.isascii():
            raise ProviderUnavailable("unreadable", "an answer without an access token")
        if isinstance(lifetime_s, bool) or not isinstance(lifetime_s, int | Decimal):
            return token, DEFAULT_LIFETIME_S
        return token, min(float(lifetime_s), DEFAULT_LIFETIME_S)
