"""What is known of a payment beside its status: how it was paid, and what the provider confirmed.

Two documents in the cache, `details` and `verification`, which count only while the database says
that nothing has changed since they were read. They hold what may be kept and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, NotRequired, TypedDict

from paystate.cache.documents import Document, DocumentCache, Slip
from paystate.expected import Expected, Verdict
from paystate.keys import Entity, EntityKind, Keys
from paystate.payments.answers import StatusAnswer, StatusAnswerJson
from paystate.payments.lookup import Lookups
from paystate.payments.refunds import RefundsJson, refunds_of
from paystate.shapes import Bounded, Money
from paystate.state import Attempt
from paystate.status import Status
from paystate.store import Store
from paystate.store.known import Stamp
from paystate.ttl import TtlPolicy
from paystate.updates import OverlayJson

__all__ = ["CardJson", "ComparedJson", "DetailsJson", "Informant"]


class CardJson(TypedDict):
    """What may be kept of a card; what is not known is left out."""

    first_6: NotRequired[str]
    last_4: NotRequired[str]
    type: NotRequired[str]
    expiry: NotRequired[str]


class ComparedJson(TypedDict):
    """What was expected, and how what was paid differs from that; null where nothing was."""

    expected_amount: Money | None
    expected_currency: str | None
    mismatch: Annotated[str | None, Bounded(words=Verdict)]


class DetailsJson(StatusAnswerJson, RefundsJson, ComparedJson):
    """A status, and what else is known; null where nothing is. Money is decimal strings."""

    amount: Annotated[Money | None, "In major units of the currency."]
    currency: str | None
    charged_amount: Money | None
    app_fee: Money | None
    payment_type: Annotated[str | None, "Such as `card` or `bank_transfer`."]
    flw_ref: str | None
    processor_code: str | None
    provider_status: Annotated[str | None, "Flutterwave's own word."]
    created_at: Annotated[str | None, "When it was begun, as Flutterwave says it."]
    customer_id: str | None
    card: CardJson | None
    confirmed: Annotated[bool, "Whether Flutterwave's API, or a v4 signature, says so."]
    overlays: list[OverlayJson]


MOST_TRIES = 3

_DETAILS = (
    "amount", "currency", "payment_type", "flw_ref", "created_at", "customer_id", "card",
)  # fmt: skip
# `confirmed`: the provider's API, or a v4 signature, says so; not a v3 body alone.
_VERIFICATION = (
    "charged_amount", "app_fee", "processor_code", "provider_status", "confirmed",
)  # fmt: skip


class Informant:
    """Tells the details of payments, with the status from where it is known to be the latest."""

    def __init__(
        self,
        lookups: Lookups,
        store: Store,
        documents: DocumentCache,
        keys: Keys,
        ttl: TtlPolicy,
    ) -> None:
        self._lookups = lookups
        self._store = store
        self._documents = documents
        self._keys = keys
        self._ttl = ttl

    async def payment(self, answer: StatusAnswer) -> DetailsJson:
        """Return the public form of a payment, whose status is `answer`.

        Raises StoreUnavailable and PaymentNotFound.
        """
        stamp, told = await self._known(answer.entity, answer)
        for _ in range(MOST_TRIES):
            if stamp.version <= answer.version:
                break
            # It has moved on since: status and details shall be of one moment.
            answer = await self._lookups.status(answer.entity, min_version=stamp.version)
            stamp, told = await self._known(answer.entity, answer)
        return _shown(answer, told, await self._compared(answer, answer, told))

    async def reference(self, answer: StatusAnswer) -> DetailsJson:
        """Return the public form of a reference and of the attempt that decides it; likewise."""
        reference = answer.entity
        state = (await self._store.states([reference])).get(reference)
        attempt = Attempt.parse(state.link) if state else None
        if attempt is None:
            told = _told({}, [])
            return _shown(answer, told, await self._compared(answer, None, told))
        payment = Entity(reference.merchant, attempt.kind, attempt.id)
        status = await self._lookups.recorded(payment)
        _, told = await self._known(payment, status or answer)
        return _shown(answer, told, await self._compared(answer, status, told))

    async def _compared(
        self, asked: StatusAnswer, payment: StatusAnswer | None, told: Mapping[str, Any]
    ) -> ComparedJson:
        """Return what was expected, and how what is known to have been paid differs from that."""
        expected = await self._expected(asked)
        if expected is None:
            return {"expected_amount": None, "expected_currency": None, "mismatch": None}
        mismatch = None
        if payment is not None and payment.status is Status.SUCCESSFUL:
            amount = told["amount"]
            paid = Decimal(amount) if amount is not None else None
            mismatch = expected.verdict(paid, told["currency"])
        return {
            "expected_amount": f"{expected.amount:f}",
            "expected_currency": expected.currency,
            "mismatch": mismatch.value if mismatch else None,
        }

    async def _expected(self, answer: StatusAnswer) -> Expected | None:
        """Return what is expected for the reference of a charge, None if nothing is."""
        if answer.tx_ref is None or answer.entity.kind is EntityKind.TRANSFER:
            return None
        reference = Entity.reference(answer.entity.merchant, answer.tx_ref)
        return (await self._store.expectations.of([reference])).get(reference)

    async def _known(self, payment: Entity, status: StatusAnswer) -> tuple[Stamp, dict[str, Any]]:
        stamp = await self._store.stamp(payment)
        held = await self._documents.read(self._slips(payment, stamp))
        if None not in held:
            return stamp, {name: value for part in held if part for name, value in part.items()}
        known = await self._store.details(payment)
        told = _told(known.content, known.overlays)
        # By the payment's own status: the envelope of an answer says nothing of a payment.
        ttl_s = self._ttl.seconds(status.status)
        parts = [{n: v for n, v in told.items() if n not in _VERIFICATION},
                 {n: told[n] for n in _VERIFICATION}]  # fmt: skip
        if known.stamp.version:
            await self._documents.keep([
                Document(slip, part, ttl_s)
                for slip, part in zip(self._slips(payment, known.stamp), parts, strict=True)
            ])  # fmt: skip
        return known.stamp, told

    def _slips(self, payment: Entity, stamp: Stamp) -> Sequence[Slip]:
        details, verification = self._keys.details(payment), self._keys.verification(payment)
        return (
            Slip("details", details, stamp.version, stamp.revision),
            Slip("verification", verification, stamp.version, stamp.revision),
        )


def _told(content: dict[str, Any], overlays: list[OverlayJson]) -> dict[str, Any]:
    known = {name: content.get(name) for name in (*_DETAILS, *_VERIFICATION)}
    return {
        **known,
        "confirmed": bool(known["confirmed"]),
        "overlays": overlays,
        "refunds": refunds_of(content, overlays),
    }


def _shown(answer: StatusAnswer, told: Mapping[str, Any], compared: ComparedJson) -> DetailsJson:
    refunds: RefundsJson = told["refunds"]
    return {
        **answer.to_json(),
        "amount": told["amount"],
        "currency": told["currency"],
        "charged_amount": told["charged_amount"],
        "app_fee": told["app_fee"],
        "payment_type": told["payment_type"],
        "flw_ref": told["flw_ref"],
        "processor_code": told["processor_code"],
        "provider_status": told["provider_status"],
        "created_at": told["created_at"],
        "customer_id": told["customer_id"],
        "card": told["card"],
        "confirmed": told["confirmed"],
        "overlays": told["overlays"],
        **refunds,
        **compared,
    }
