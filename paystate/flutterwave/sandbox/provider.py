"""The sandbox itself: one local Flutterwave, with its truth, its webhooks, tokens and faults."""

from __future__ import annotations

import hmac
import random
import string
import time
from collections.abc import Callable
from decimal import Decimal

from aiohttp import web

from paystate.flutterwave.sandbox.config import SandboxConfig
from paystate.flutterwave.sandbox.families import OTHERS, PAYMENTS, REFUNDS, Family
from paystate.flutterwave.sandbox.faults import (
    TOKEN_LIFETIME_S,
    ApiSettings,
    Fault,
    Faults,
    Limiter,
)
from paystate.flutterwave.sandbox.records import Form, Payment, Refund
from paystate.flutterwave.sandbox.sender import Sender
from paystate.flutterwave.sandbox.teller import AS_IT_COMES, Manner, Teller
from paystate.flutterwave.sandbox.truth import Truth
from paystate.updates import Kind

__all__ = ["SANDBOX", "TOKEN_LIFETIME_S", "Sandbox"]

_LETTERS = string.ascii_letters + string.digits
_SAMPLE_AMOUNT = Decimal("1500.25")


class Sandbox:
    """What the routes, the traffic, the scripts and the tests act on. `clock`: epoch seconds."""

    def __init__(
        self, config: SandboxConfig, sender: Sender, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.config = config
        self.sender = sender
        self.clock = clock
        self.faults = Faults()
        self._tokens: dict[str, float] = {}
        self._begin(config.seed)

    def _begin(self, seed: int) -> None:
        self.seed = seed
        self.truth = Truth(seed)
        self.limiter = Limiter()
        self.api = ApiSettings(token_lifetime_s=self.config.token_lifetime_s)
        self._rng = random.Random(f"{seed}:provider")
        # Of its own: nobody controls how often the APIs are called, which must shift no choice.
        self._weather = random.Random(f"{seed}:weather")
        self._teller = Teller(self.sender, seed, self._now)

    def _now(self) -> float:
        return self.clock()

    def create(
        self,
        *,
        amount: Decimal,
        currency: str,
        form: Form = Form.V3,
        kind: Kind = Kind.CHARGE,
        tx_ref: str | None = None,
        payment_id: str | None = None,
        announce: bool = False,
        manner: Manner = AS_IT_COMES,
    ) -> Payment:
        """Make a pending payment, and send its pending webhook if `announce`.

        Raises TruthRefused as `Truth.create` does.
        """
        payment = self.truth.create(
            at=self.clock(),
            amount=amount,
            currency=currency,
            form=form,
            kind=kind,
            tx_ref=tx_ref,
            payment_id=payment_id,
        )
        if announce:
            self.announce(payment, manner)
        return payment

    def settle(
        self,
        payment: Payment,
        word: str,
        *,
        announce: bool = True,
        manner: Manner = AS_IT_COMES,
    ) -> Payment:
        """Make the status `word` true and send its webhook, unless not to `announce` it.

        The status it has already is announced again. Raises TruthRefused as `Truth.settle` does.
        """
        self.truth.settle(payment, word, at=self.clock())
        if announce:
            self.announce(payment, manner)
        return payment

    def refund(
        self,
        payment: Payment,
        *,
        amount: Decimal | None = None,
        word: str | None = None,
        manner: Manner = AS_IT_COMES,
    ) -> Refund:
        """Refund a charge and send the webhook. Raises TruthRefused as `Truth.refund` does."""
        refund = self.truth.refund(payment, at=self.clock(), amount=amount, word=word)
        self._teller.tell_refund(payment, refund, manner)
        return refund

    def reverse(self, payment: Payment, *, manner: Manner = AS_IT_COMES) -> Payment:
        """Take a transfer back and send the webhook. Raises TruthRefused as `Truth.reverse`."""
        self.truth.reverse(payment, at=self.clock())
        self._teller.tell_reversal(payment, manner)
        return payment

    def announce(self, payment: Payment, manner: Manner = AS_IT_COMES) -> None:
        """Send the webhook that tells of `payment` as it is now."""
        self._teller.tell(payment, manner)

    def send(
        self,
        family: Family,
        *,
        status: str = "successful",
        tx_ref: str | None = None,
        amount: Decimal = _SAMPLE_AMOUNT,
        currency: str = "NGN",
        manner: Manner = AS_IT_COMES,
    ) -> Payment | None:
        """Send one webhook of `family`; return the payment that was made for it, if any.

        A payment comes true with `status` first, a refund and a reversal in full, so that the APIs
        say the same. Raises TruthRefused as `create` and `settle` do.
        """
        if family in OTHERS:
            self._teller.tell_other(family, manner)
            return None
        if family in REFUNDS:
            form, kind, status = REFUNDS[family], Kind.CHARGE, "successful"
        elif family is Family.V4_REVERSAL:
            form, kind, status = Form.V4, Kind.TRANSFER, "successful"
        else:
            form, kind = PAYMENTS[family]
        payment = self.create(amount=amount, currency=currency, form=form, kind=kind, tx_ref=tx_ref)
        self.settle(payment, status, announce=family in PAYMENTS, manner=manner)
        if family in REFUNDS:
            self.refund(payment, manner=manner)
        elif family is Family.V4_REVERSAL:
            self.reverse(payment, manner=manner)
        return payment

    def fault_now(self) -> Fault:
        """Return the fault that the call under way meets, which takes a draw if not all do."""
        fault = self.faults.at(self.clock())
        return fault if fault.share >= 1 or self._weather.random() < fault.share else Fault()

    async def reset(self, seed: int) -> None:
        """Begin anew: no payments, deliveries, tokens or faults, and the choices of `seed`.

        Receiver, rates and secrets stay as they are.
        """
        await self.sender.reset(random.Random(f"{seed}:sender"))
        self.faults.set(Fault())
        self.revoke_tokens()
        self._begin(seed)

    def grant_token(self, client_id: str, client_secret: str) -> str | None:
        """Return an access token for `api.token_lifetime_s` seconds, None for wrong credentials."""
        config = self.config
        if not (_same(client_id, config.client_id) and _same(client_secret, config.client_secret)):
            return None
        now = self.clock()
        self._tokens = {t: until for t, until in self._tokens.items() if until > now}
        token = f"sandbox-token-{''.join(self._rng.choices(_LETTERS, k=24))}"
        self._tokens[token] = now + self.api.token_lifetime_s
        return token

    def revoke_tokens(self) -> None:
        """Make every token handed out so far invalid, as a restart of the real one may."""
        self._tokens.clear()

    def accepts_token(self, token: str) -> bool:
        """Say whether `token` was granted here and has not run out."""
        return self._tokens.get(token, 0.0) > self.clock()

    def accepts_key(self, secret_key: str) -> bool:
        """Say whether `secret_key` is the v3 key of this sandbox."""
        return _same(secret_key, self.config.secret_key)


def _same(given: str, expected: str) -> bool:
    # A header may hold bytes that are no text; they compare as unequal instead of raising.
    return hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode())


SANDBOX: web.AppKey[Sandbox] = web.AppKey("sandbox", Sandbox)
