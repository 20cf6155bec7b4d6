"""Customers' profiles: read through to the database, and to Flutterwave where that may know more.

A profile in the cache counts only while the database says that nothing has happened since it was
made. One that does not count is made anew, and for that the provider is asked: v4's customers API,
or for v3, which has none, the latest of the customer's transactions. What it says is kept under a
ticket, so that an older answer never takes a newer one's place (`paystate.store.customers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypedDict, cast

from paystate.cache.documents import Document, DocumentCache, Slip
from paystate.changes import iso_utc
from paystate.connections import REDIS_FAILURES, CacheClient
from paystate.errors import CustomerErased, CustomerNotFound, ProviderRejected, ProviderUnavailable
from paystate.flutterwave.gate import Purpose
from paystate.keys import Keys
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.payments.answers import Source
from paystate.payments.asking import ASKING_S, FAILED_S, Outcome
from paystate.payments.settling import Provider
from paystate.shapes import Bounded, Moment, Version
from paystate.store import Store
from paystate.store.customers import Dossier, Row
from paystate.store.ownership import customer_key
from paystate.ttl import TtlPolicy
from paystate.updates import Kind

__all__ = ["CustomerId", "MethodJson", "ProfileJson", "Profiles", "refuse_erased"]

log = logger()


class MethodJson(TypedDict):
    """A means of payment; null is what is not known."""

    type: Annotated[str | None, "Such as `card` or `bank_transfer`."]
    last_four: str | None
    brand: str | None
    expiry: Annotated[str | None, "As in `08/31`."]


class KnownJson(TypedDict):
    """What is kept of a profile in the cache."""

    customer_id: str
    name: str | None
    email: str | None
    phone: str | None
    created_at: Annotated[str | None, "When Flutterwave met them."]
    payment_methods: Annotated[list[MethodJson], "Each once, the one used last first."]
    payments: Annotated[int, "How many are known."]
    first_seen_at: Moment
    last_active_at: Annotated[Moment | None, "When something last happened to a payment of theirs."]
    version: Annotated[Version, "Rises with each event of their payments."]
    as_of: Moment


class ProfileJson(KnownJson):
    """A customer. Name, e-mail and phone are null where Flutterwave could never be asked."""

    source: Annotated[str, Bounded(words=Source)]
    fresh: Annotated[bool, "False if Flutterwave should have been asked and could not be."]


@dataclass(frozen=True, slots=True)
class CustomerId:
    """The provider's id of a customer, and whose customer that is."""

    merchant: str
    id: str

    @property
    def key(self) -> str:
        """Return the database's key."""
        return customer_key(self.merchant, self.id)


class Profiles:
    """Tells customers' profiles; `not_found_s`: for so long "not found" is believed."""

    def __init__(
        self,
        store: Store,
        documents: DocumentCache,
        redis: CacheClient,
        keys: Keys,
        providers: Mapping[str, Provider],
        metrics: Metrics,
        ttl: TtlPolicy,
        *,
        not_found_s: int,
    ) -> None:
        self._store = store
        self._documents = documents
        self._redis = redis
        self._keys = keys
        self._providers = providers
        self._metrics = metrics
        self._ttl = ttl
        self._not_found_s = not_found_s
        self._asking: dict[CustomerId, asyncio.Task[Outcome]] = {}

    async def profile(self, who: CustomerId) -> ProfileJson:
        """Return the public form of a profile.

        Raises CustomerNotFound, CustomerErased and StoreUnavailable.
        """
        row = refuse_erased(await self._store.customers.row(who.key))
        slip = self._slip(who, row)
        held = (await self._documents.read([slip]))[0]
        if held is not None:
            if row is None:
                raise _not_found(Outcome.NOT_FOUND)
            # What was kept under these numbers was made below.
            return {**cast(KnownJson, held), "source": Source.CACHE.value, "fresh": True}
        outcome = await self._ask(who, row)
        dossier = await self._store.customers.dossier(who.key)
        if dossier is None:
            if outcome is Outcome.NOT_FOUND:
                await self._documents.keep([Document(slip, {"unknown": True}, self._not_found_s)])
            raise _not_found(outcome)
        refuse_erased(dossier.row)
        content = _profile(who, dossier)
        fresh = outcome in (Outcome.ANSWERED, Outcome.NOT_FOUND, Outcome.IMPOSSIBLE)
        if fresh:
            idle_s = (dossier.row.now_ms - dossier.row.active_ms) / 1000
            ttl_s = self._ttl.customer_seconds(idle_s)
            kept = Document(self._slip(who, dossier.row), dict(content), ttl_s)
            await self._documents.keep([kept])
        source = Source.PROVIDER if outcome is Outcome.ANSWERED else Source.DATABASE
        return {**content, "source": source.value, "fresh": fresh}

    def _slip(self, who: CustomerId, row: Row | None) -> Slip:
        key = self._keys.profile(who.merchant, who.id)
        return Slip("profile", key, *((row.version, row.profile_ticket) if row else (0, 0)))

    # --- the provider ---

    async def _ask(self, who: CustomerId, row: Row | None) -> Outcome:
        """Have the provider asked, once, whoever asks; what it says is in the database then."""
        provider = self._providers.get(who.merchant)
        if provider is None or not provider.client.can_verify(Kind.CHARGE, who.id):
            return Outcome.IMPOSSIBLE
        if who.id.isdigit() and row is None:
            return Outcome.IMPOSSIBLE  # v3 knows customers by their transactions alone
        task = self._asking.get(who)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._once(who, provider))
            self._asking[who] = task
            task.add_done_callback(lambda _: self._asking.pop(who, None))
        return await asyncio.shield(task)

    async def _once(self, who: CustomerId, provider: Provider) -> Outcome:
        key = self._keys.profile_asked(who.merchant, who.id)
        try:
            if not await self._redis.set(key, Outcome.ASKING, nx=True, ex=ASKING_S):
                return Outcome.ASKING
        except REDIS_FAILURES:
            # Nobody can be kept from asking beside us, so nobody asks: the budget is for all.
            return Outcome.FAILED
        outcome = await self._call(who, provider)
        try:
            if outcome is Outcome.FAILED:
                await self._redis.set(key, outcome, ex=FAILED_S)
            else:
                await self._redis.delete(key)
        except REDIS_FAILURES:
            log.info("asked_not_remembered", outcome=outcome.value)
        return outcome

    async def _call(self, who: CustomerId, provider: Provider) -> Outcome:
        customers = self._store.customers
        # Before the question: what happens while it is under way is not in its answer.
        ticket = await customers.ticket(who.key)
        charge = await customers.latest_charge(who.key) if who.id.isdigit() else None
        if who.id.isdigit() and charge is None:
            return Outcome.IMPOSSIBLE
        try:
            person = await provider.client.customer(who.id, charge, purpose=Purpose.LOOKUP)
        except (ProviderUnavailable, ProviderRejected) as e:
            self._metrics.provider_calls.labels(Purpose.LOOKUP, e.reason).inc()
            log.warning("provider_not_asked", reason=e.reason, kind="customer")
            return Outcome.FAILED
        self._metrics.provider_calls.labels(
            Purpose.LOOKUP, "found" if person is not None else "not_found"
        ).inc()
        if ticket is not None:
            await customers.learn(who.key, ticket, person)
        elif person is not None:
            await customers.meet(who.key, person)
        return Outcome.ANSWERED if person is not None else Outcome.NOT_FOUND


def refuse_erased(row: Row | None) -> Row | None:
    """Return `row`. Raises CustomerErased."""
    if row is not None and row.erased:
        raise CustomerErased(
            "customer_erased", "this customer was erased; nothing of them is kept here"
        )
    return row


def _not_found(outcome: Outcome) -> CustomerNotFound:
    if outcome in (Outcome.ASKING, Outcome.FAILED):
        return CustomerNotFound(
            "unknown_and_unverified",
            "nothing is known of them here, and Flutterwave could not be asked yet; ask again",
            retry_after_s=1.0,
        )
    return CustomerNotFound("unknown_customer", "no payment of such a customer is known")


def _profile(who: CustomerId, dossier: Dossier) -> KnownJson:
    row, person = dossier.row, dossier.row.person
    return {
        "customer_id": who.id,
        "name": person.name,
        "email": person.email,
        "phone": person.phone,
        "created_at": person.since,
        "payment_methods": _methods(dossier),
        "payments": dossier.payments,
        "first_seen_at": iso_utc(row.created_ms),
        "last_active_at": iso_utc(row.active_ms) if row.active_ms else None,
        "version": row.version,
        "as_of": iso_utc(row.now_ms),
    }


def _methods(dossier: Dossier) -> list[MethodJson]:
    """Return the means of payment, each once, the one used last first."""
    found: dict[tuple[str | None, str | None, str | None, str | None], None] = {}
    for content in dossier.latest:
        card = content.get("card") or {}
        kind = content.get("payment_type") or ("card" if card else None)
        if kind is not None:
            found[kind, card.get("last_4"), card.get("type"), card.get("expiry")] = None
    return [
        {"type": kind, "last_four": last_4, "brand": brand, "expiry": expiry}
        for kind, last_4, brand, expiry in found
    ]
