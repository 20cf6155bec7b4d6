"""The public way to an answer: the web process's HTTP API, or the same code in this process."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from paystate.audit.verdicts import Shown
from paystate.errors import PaymentNotFound, PaystateError
from paystate.keys import Entity
from paystate.payments.lookup import Lookups
from paystate.status import Status

__all__ = ["HttpLookups", "LookupPath", "OwnLookups", "Unanswered"]

# Longer than a lookup takes that has to ask Flutterwave (8 s).
TIMEOUT_S = 10.0
_NOT_FOUND = frozenset({"unknown_payment", "unknown_and_unverified"})


class Unanswered(Exception):
    """A lookup gave an error: `reason` is a few words, `status` HTTP's code where there is one."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class LookupPath(Protocol):
    """Where the audit asks."""

    name: str

    async def ask(self, entity: Entity) -> Shown:
        """Return what a customer would be told. Raises Unanswered."""


class OwnLookups:
    """Asks as the web process does, in this process: cache, database, provider."""

    name = "lookups of this process"

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    async def ask(self, entity: Entity) -> Shown:
        """See `LookupPath`."""
        try:
            answer = await self._lookups.status(entity)
        except PaymentNotFound:
            return Shown(None, 0)
        except PaystateError as e:
            raise Unanswered(e.reason) from e
        return Shown(answer.status, answer.version, answer.fresh)


class HttpLookups:
    """Asks a web process at `url`, as customers do. `session` belongs to the caller."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        self.name = url
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def ask(self, entity: Entity) -> Shown:
        """See `LookupPath`."""
        try:
            async with self._session.get(
                _address(self.name, entity),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                body = await response.json(content_type=None)
                return _shown(response.status, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            raise Unanswered("unreachable") from e
        except (ValueError, KeyError, TypeError) as e:
            raise Unanswered("unreadable") from e


def _address(base: str, entity: Entity) -> URL:
    query = {"merchant": entity.merchant}
    if entity.is_reference:
        path, query["tx_ref"] = "/api/payments/status", entity.id
    else:
        path = f"/api/payments/{quote(entity.id, safe='')}/status"
        query["kind"] = entity.kind.value
    # As it is: an id may be `..` or hold a slash.
    return URL(f"{base}{path}?{urlencode(query)}", encoded=True)


def _shown(status: int, body: object) -> Shown:
    found = body if isinstance(body, dict) else {}
    if status == 404 and found.get("reason") in _NOT_FOUND:
        return Shown(None, 0)
    if status != 200:
        raise Unanswered(str(found.get("reason") or f"http_{status}"), status)
    return Shown(Status(found["status"]), int(found["version"]), found["fresh"] is True)
