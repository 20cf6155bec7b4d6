"""Asks Flutterwave's own APIs what is so: one payment by its id, or by the merchant's reference.

Two questions are kept apart. Whether an answer came at all is `transport`'s; what it says is
decided here, on the body and never on the envelope's ``status`` or the HTTP code alone. "Not
found" is an answer (None): it means unknown *yet*, and is never taken for a failure. Every call
goes by `Calls`, so there is no way around the budget.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import aiohttp
from yarl import URL

from paystate.errors import ProviderRejected, ProviderUnavailable
from paystate.flutterwave import fields
from paystate.flutterwave.calls import Calls
from paystate.flutterwave.envelopes import data_items, parsed, total_pages, v3_data, v4_data
from paystate.flutterwave.gate import Gate, Purpose
from paystate.flutterwave.listing import ListPage, Lists, list_page, list_path
from paystate.flutterwave.oauth import TokenSource
from paystate.flutterwave.objects import parse_refund
from paystate.flutterwave.payloads import (
    parse_v3_transaction,
    parse_v3_transfer,
    parse_v4_charge,
    parse_v4_transfer,
)
from paystate.flutterwave.persons import parse_v3_customer, parse_v4_customer
from paystate.flutterwave.transport import Answer, exchange
from paystate.keys import DEFAULT_MERCHANT
from paystate.status import Status, of_reference
from paystate.updates import Api, Kind, Overlay, PaymentUpdate, Person

__all__ = ["Credentials", "FlutterwaveClient", "Purpose"]

# A token that could not be had is asked for again after this, in seconds.
TOKEN_AGAIN_S = 1.0
# A reference has a handful of attempts; ten a page, this is fifty.
MAX_PAGES = 5
# One API says nothing at once, and nothing of the other.
_CLOSED = frozenset({"credentials", "breaker_open"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one merchant has at Flutterwave; a part that is empty or None is not there.

    v3 needs `secret_key`, v4 both `client_id` and `client_secret`. `base_url` and `v4_base_url`
    are without a slash at the end.
    """

    secret_key: str | None = field(default=None, repr=False)
    client_id: str | None = field(default=None, repr=False)
    client_secret: str | None = field(default=None, repr=False)
    base_url: str = "https://api.flutterwave.com/v3"
    v4_base_url: str = "https://f4bexperience.flutterwave.com"
    token_url: str = "https://idp.flutterwave.com/realms/flutterwave/protocol/openid-connect/token"  # noqa: S105

    @property
    def has_v3(self) -> bool:
        """Say whether the v3 API can be asked."""
        return bool(self.secret_key)

    @property
    def has_v4(self) -> bool:
        """Say whether the v4 API can be asked."""
        return bool(self.client_id and self.client_secret)


class FlutterwaveClient:
    """The verify APIs of one merchant.

    `session` belongs to the caller and should keep no cookies. `timeout_s` bounds each question
    from waiting for a place to the last byte, a token apart; Flutterwave itself gives up after
    28 s. Too low turns slow answers into retries that cost budget, too high lets one dead
    connection hold a job until the job's own timeout. `merchant` is for the log.
    """

    def __init__(
        self,
        credentials: Credentials,
        session: aiohttp.ClientSession,
        gate: Gate,
        *,
        merchant: str = DEFAULT_MERCHANT,
        timeout_s: float = 8.0,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._credentials = credentials
        self._session = session
        self._now = now
        # What is wrong with one of the two APIs is not wrong with the other.
        self._v3, self._v4 = (
            Calls(gate, merchant=merchant, timeout_s=timeout_s, clock=clock, sleep=sleep)
            for _ in range(2)
        )
        self._tokens = TokenSource(
            session,
            token_url=credentials.token_url,
            client_id=credentials.client_id or "",
            client_secret=credentials.client_secret or "",
            timeout_s=timeout_s,
            clock=clock,
            now=now,
        )

    def can_verify(self, kind: Kind, payment_id: str) -> bool:
        """Say whether the API that `payment_id` belongs to can be asked for it.

        Digits are an id of v3, anything else (``chg_...``) of v4; what can be no id at all (a
        slash, ``..``) belongs to none. `kind` makes no difference so far: both APIs have both.
        """
        del kind
        if fields.identifier(payment_id) is None:
            return False
        return self._credentials.has_v3 if payment_id.isdigit() else self._credentials.has_v4

    async def payment(
        self, kind: Kind, payment_id: str, *, purpose: Purpose
    ) -> PaymentUpdate | None:
        """Return what Flutterwave says of a payment, None if it knows none of that id (yet).

        Raises ProviderUnavailable: any reason of `exchange` and of `Calls.ask`, `no_data` (an
        answer that says nothing) or `wrong_payment` (it is about another one). Raises
        ProviderRejected: `credentials`, `http_4xx`, or `unverifiable` where `can_verify` is false.
        """
        if not self.can_verify(kind, payment_id):
            raise ProviderRejected("unverifiable", "there are no credentials for such an id")
        quoted = quote(payment_id, safe="")
        if payment_id.isdigit():
            path = (
                f"/transactions/{quoted}/verify" if kind is Kind.CHARGE else f"/transfers/{quoted}"
            )
            data = v3_data(await self._get_v3(path, purpose))
            parse = parse_v3_transaction if kind is Kind.CHARGE else parse_v3_transfer
        else:
            path = f"/charges/{quoted}" if kind is Kind.CHARGE else f"/transfers/{quoted}"
            data = v4_data(await self._get_v4(path, purpose))
            parse = parse_v4_charge if kind is Kind.CHARGE else parse_v4_transfer
        if data is None:
            return None
        update = parsed(parse, data)
        if update.payment_id != payment_id:
            raise ProviderUnavailable("wrong_payment", "an answer about another payment")
        return update

    async def refund(self, refund_id: str, *, purpose: Purpose) -> Overlay | None:
        """Return what Flutterwave says of a refund, None if it knows none of that id (yet).

        Raises as `payment` does.
        """
        if not self.can_verify(Kind.CHARGE, refund_id):
            raise ProviderRejected("unverifiable", "there are no credentials for such an id")
        path = f"/refunds/{quote(refund_id, safe='')}"
        if refund_id.isdigit():
            data = v3_data(await self._get_v3(path, purpose))
        else:
            data = v4_data(await self._get_v4(path, purpose))
        if data is None:
            return None
        overlay = parsed(parse_refund, data)
        if overlay.overlay_id != refund_id:
            raise ProviderUnavailable("wrong_payment", "an answer about another refund")
        return overlay

    async def customer(
        self, customer_id: str, charge_id: str | None, *, purpose: Purpose
    ) -> Person | None:
        """Return what Flutterwave says of a customer, None if it does not know them (yet).

        v4 has an API for it. v3, whose customers' ids are digits, shows its customers in their
        transactions alone: `charge_id` is one of theirs.

        Raises as `payment` does.
        """
        by_v3 = customer_id.isdigit()
        asked_id = charge_id if by_v3 else customer_id
        if asked_id is None or not self.can_verify(Kind.CHARGE, asked_id):
            raise ProviderRejected("unverifiable", "there are no credentials for such an id")
        quoted = quote(asked_id, safe="")
        if by_v3:
            data = v3_data(await self._get_v3(f"/transactions/{quoted}/verify", purpose))
        else:
            data = v4_data(await self._get_v4(f"/customers/{quoted}", purpose))
        if data is None:
            return None
        found_id, person = parsed(parse_v3_customer if by_v3 else parse_v4_customer, data)
        if found_id != customer_id:
            raise ProviderUnavailable("wrong_customer", "an answer about another customer")
        return person

    async def by_reference(self, tx_ref: str, *, purpose: Purpose) -> PaymentUpdate | None:
        """Return what Flutterwave says of the charges of a reference, None if it knows none.

        v3 is asked first and v4 if that knows none, refuses our key, or is taken for down, each
        where there are credentials. Of several attempts the one that decides the reference's status
        is returned: a successful one, else one that is under way. v3 itself shows one attempt only,
        and does not say which.

        Raises as `payment` does.
        """
        if fields.reference(tx_ref) is None:
            raise ProviderRejected("unverifiable", "that can be no reference")
        if not (self._credentials.has_v3 or self._credentials.has_v4):
            raise ProviderRejected("unverifiable", "there are no credentials")
        update, refused = None, None
        if self._credentials.has_v3:
            try:
                update = await self._v3_by_reference(tx_ref, purpose)
            except (ProviderUnavailable, ProviderRejected) as error:
                if error.reason not in _CLOSED or not self._credentials.has_v4:
                    raise
                refused = error
        if update is None and self._credentials.has_v4:
            update = await self._v4_by_reference(tx_ref, purpose)
        if update is None and refused is not None:
            raise refused  # v3 may know it
        return update

    async def _v3_by_reference(self, tx_ref: str, purpose: Purpose) -> PaymentUpdate | None:
        path = f"/transactions/verify_by_reference?tx_ref={quote(tx_ref, safe='')}"
        data = v3_data(await self._get_v3(path, purpose))
        if data is None:
            return None
        update = parsed(parse_v3_transaction, data)
        if update.tx_ref != tx_ref:
            raise ProviderUnavailable("wrong_payment", "an answer about another reference")
        return update

    async def _v4_by_reference(self, tx_ref: str, purpose: Purpose) -> PaymentUpdate | None:
        query = f"/charges?reference={quote(tx_ref, safe='')}"
        attempts: list[PaymentUpdate] = []
        for page in range(1, MAX_PAGES + 1):
            path = query if page == 1 else f"{query}&page={page}"
            answer = await self._get_v4(path, purpose)
            data = v4_data(answer)
            if data is None:
                break
            found = [parsed(parse_v4_charge, item) for item in data_items(data)]
            if any(update.tx_ref != tx_ref for update in found):
                raise ProviderUnavailable("wrong_payment", "a list of other references")
            attempts += found
            if any(u.status is Status.SUCCESSFUL for u in found) or page >= total_pages(answer):
                break
        if not attempts:
            return None
        status = of_reference(update.status for update in attempts)
        return next(update for update in attempts if update.status is status)

    @property
    def apis(self) -> tuple[Api, ...]:
        """Return the APIs that there are credentials for: those whose lists can be asked for."""
        has = {Api.V3: self._credentials.has_v3, Api.V4: self._credentials.has_v4}
        return tuple(api for api, there in has.items() if there)

    async def listed(
        self, api: Api, which: Lists, since_ms: int, until_ms: int, page: int, *, purpose: Purpose
    ) -> ListPage:
        """Return a page (from 1) of what was made from `since_ms` to `until_ms`, and around.

        Times are ms since the epoch. Raises as `payment` does.
        """
        if api not in self.apis:
            raise ProviderRejected("unverifiable", "there are no credentials")
        path = list_path(api, which, since_ms, until_ms, page)
        get = self._get_v3 if api is Api.V3 else self._get_v4
        return list_page(api, which, await get(path, purpose))

    async def _get_v3(self, path: str, purpose: Purpose) -> Answer:
        url = URL(self._credentials.base_url + path, encoded=True)
        secret_key = self._credentials.secret_key or ""
        return await self._v3.ask(purpose, lambda left_s: self._get(url, secret_key, left_s))

    async def _get_v4(self, path: str, purpose: Purpose) -> Answer:
        url = URL(self._credentials.v4_base_url + path, encoded=True)
        token = ""

        async def with_token(left_s: float) -> Answer:
            nonlocal token
            token = await self._token()
            return await self._get(url, token, left_s)

        try:
            return await self._v4.ask(purpose, with_token)
        except ProviderRejected as rejected:
            if rejected.reason != "credentials" or not token:
                raise
        # Revoked before its time: once more with a new one, which counts as a call of its own.
        self._tokens.discard(token)
        return await self._v4.ask(purpose, with_token)

    async def _token(self) -> str:
        try:
            return await self._tokens.token()
        except ProviderUnavailable as unavailable:
            # Another service has failed than the one that is asked: the next question tries again.
            if unavailable.retry_after_s is None:
                unavailable.retry_after_s = TOKEN_AGAIN_S
            raise

    async def _get(self, url: URL, bearer: str, timeout_s: float) -> Answer:
        return await exchange(
            self._session,
            "GET",
            url,
            headers={"Authorization": f"Bearer {bearer}"},
            timeout_s=timeout_s,
            now=self._now,
        )
