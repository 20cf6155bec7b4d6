"""The sandbox itself: one local Flutterwave, with its truth, its webhooks, tokens and faults."""

from __future__ import annotations

import hmac
import json
import random
import string
import time
from collections.abc import Callable
from decimal import Decimal

from aiohttp import web

from paystate.flutterwave.sandbox import bodies
from paystate.flutterwave.sandbox.config import SandboxConfig
from paystate.flutterwave.sandbox.faults import Faults
from paystate.flutterwave.sandbox.sender import Sender, Webhook
from paystate.flutterwave.sandbox.truth import Form, Payment, Refund, Truth
from paystate.updates import Kind

__all__ = ["SANDBOX", "TOKEN_LIFETIME_S", "Sandbox"]

TOKEN_LIFETIME_S = 600

_LETTERS = string.ascii_letters + string.digits


class Sandbox:
    """What the routes, the traffic and the tests act on. `clock` gives epoch seconds."""

    def __init__(
        self, config: SandboxConfig, sender: Sender, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.config = config
        self.sender = sender
        self.truth = Truth(config.seed)
        self.faults = Faults()
        self.clock = clock
        self._rng = random.Random(f"{config.seed}:provider")
        self._tokens: dict[str, float] = {}

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
            self.announce(payment)
        return payment

    def settle(self, payment: Payment, word: str, *, announce: bool = True) -> Payment:
        """Make the status `word` true and send its webhook, unless not to `announce` it.

        The status it has already is announced again. Raises TruthRefused as `Truth.settle` does.
        """
        self.truth.settle(payment, word, at=self.clock())
        if announce:
            self.announce(payment)
        return payment

    def refund(
        self, payment: Payment, *, amount: Decimal | None = None, word: str | None = None
    ) -> Refund:
        """Refund a charge and send the webhook. Raises TruthRefused as `Truth.refund` does."""
        refund = self.truth.refund(payment, at=self.clock(), amount=amount, word=word)
        body = bodies.refund_webhook(
            payment, refund, webhook_id=self._webhook_id(), at=self.clock()
        )
        self._submit(payment, body, event_type=body.get("type", "refund"), status=refund.status)
        return refund

    def announce(self, payment: Payment) -> None:
        """Send the webhook that tells of `payment` as it is now."""
        body = bodies.webhook(payment, webhook_id=self._webhook_id(), at=self.clock())
        event_type = body.get("type") or body.get("event") or body["event.type"]
        self._submit(payment, body, event_type=event_type, status=bodies.provider_word(payment))

    def grant_token(self, client_id: str, client_secret: str) -> str | None:
        """Return an access token for `TOKEN_LIFETIME_S` seconds, None for wrong credentials."""
        config = self.config
        if not (_same(client_id, config.client_id) and _same(client_secret, config.client_secret)):
            return None
        now = self.clock()
        self._tokens = {t: until for t, until in self._tokens.items() if until > now}
        token = f"sandbox-token-{self._letters(24)}"
        self._tokens[token] = now + TOKEN_LIFETIME_S
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

    def _submit(self, payment: Payment, body: bodies.Body, *, event_type: str, status: str) -> None:
        self.sender.submit(
            Webhook(
                form=payment.form,
                kind=payment.kind,
                payment_id=str(payment.id),
                tx_ref=payment.tx_ref,
                type=event_type,
                status=status,
                raw=json.dumps(body, separators=(",", ":")).encode(),
            )
        )

    def _webhook_id(self) -> str:
        return f"wbk_{self._letters(20)}"

    def _letters(self, count: int) -> str:
        return "".join(self._rng.choices(_LETTERS, k=count))


def _same(given: str, expected: str) -> bool:
    # A header may hold bytes that are no text; they compare as unequal instead of raising.
    return hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode())


SANDBOX: web.AppKey[Sandbox] = web.AppKey("sandbox", Sandbox)
