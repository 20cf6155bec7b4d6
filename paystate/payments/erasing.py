"""What a person may ask for: all that is kept of them, and that it be forgotten.

The database goes first, then the cache: from the first commit on the row says that they were
erased, and nothing that is left anywhere is told to anyone. What dies or fails in the middle is
done again from the beginning, and ends the same.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypedDict

from paystate.cache.documents import Document, DocumentCache, Slip
from paystate.changes import iso_utc
from paystate.errors import CustomerNotFound
from paystate.keys import EntityKind, Keys
from paystate.logs import logger
from paystate.payments.customers import CustomerId, refuse_erased
from paystate.payments.lookup import Lookups
from paystate.shapes import Bounded, Moment
from paystate.status import Status
from paystate.store import Store
from paystate.store.customers import PAGE_SIZE, Dossier
from paystate.store.erasing import MOST_EXPORTED, Kept
from paystate.ttl import TtlPolicy

__all__ = ["ErasedJson", "ExportJson", "PersonalData"]

log = logger()

# Pages of history deleted at once; older ones end by themselves within minutes, and count for
# nothing until then.
MOST_PAGES = 50


class ErasedJson(TypedDict):
    """What has been forgotten."""

    customer_id: str
    merchant: str
    erased: bool
    payments: Annotated[int, "How many belong to nobody now; none the second time."]


class PersonJson(TypedDict):
    """What is kept of a person."""

    name: str | None
    email: str | None
    phone: str | None
    created_at: Annotated[str | None, "When Flutterwave met them."]
    first_seen_at: Moment
    last_active_at: Moment | None


class ExportedEventJson(TypedDict):
    """An event that is kept; what it said is null once it was pruned."""

    event: int
    api: str
    type: str
    state: str
    received_at: Moment
    said: dict[str, Any] | None


class ExportedPaymentJson(TypedDict):
    """A payment of theirs, with all that is kept of it."""

    payment_id: str
    kind: Annotated[str, Bounded(words=EntityKind)]
    tx_ref: str | None
    status: Annotated[str | None, Bounded(words=Status)]
    details: dict[str, Any]
    events: list[ExportedEventJson]


class ExportJson(TypedDict):
    """All that is kept of a customer."""

    customer_id: str
    merchant: str
    exported_at: Moment
    person: PersonJson
    payments: Annotated[list[ExportedPaymentJson], "Oldest first."]
    more_payments: Annotated[bool, "Whether there are more than 10,000."]


class PersonalData:
    """Erases and exports customers, at an operator's word."""

    def __init__(
        self,
        store: Store,
        documents: DocumentCache,
        lookups: Lookups,
        keys: Keys,
        ttl: TtlPolicy,
    ) -> None:
        self._store = store
        self._documents = documents
        self._lookups = lookups
        self._keys = keys
        self._ttl = ttl

    async def erase(self, who: CustomerId, *, operator: str) -> ErasedJson:
        """Forget a customer, in the database and in the cache. Done again it changes nothing more.

        Payments keep their statuses, amounts and references. Raises CustomerNotFound,
        StoreUnavailable, and CacheUnavailable if the cache could not be told: then it is to be done
        again.
        """
        erasing = self._store.erasing
        begun = await erasing.begin(who.key)
        if begun is None:
            raise CustomerNotFound("unknown_customer", "nothing is kept of such a customer")
        # A later answer would have to be newer than this to take its place: an earlier one that is
        # still on its way to the cache is turned away.
        profile = self._keys.profile(who.merchant, who.id)
        slip = Slip("profile", profile, begun.version, begun.profile_ticket)
        await self._documents.replace([Document(slip, {"erased": True}, self._ttl.customer_s)])
        pages = range(1, min(begun.payments // PAGE_SIZE + 2, MOST_PAGES + 1))
        keys = [self._keys.history(who.merchant, who.id, page) for page in pages]
        await self._documents.forget(keys)
        scrubbed = 0
        while payments := await erasing.scrub(who.key):
            documents = [self._keys.details(payment) for payment in payments]
            documents += [self._keys.verification(payment) for payment in payments]
            await self._documents.forget(documents)
            await erasing.cut(payments)
            scrubbed += len(payments)
        log.info("customer_erased", merchant=who.merchant, payments=scrubbed, operator=operator)
        return {
            "customer_id": who.id,
            "merchant": who.merchant,
            "erased": True,
            "payments": scrubbed,
        }

    async def export(self, who: CustomerId) -> ExportJson:
        """Return all that is kept of a customer.

        Raises CustomerNotFound, CustomerErased and StoreUnavailable.
        """
        dossier = await self._store.customers.dossier(who.key)
        if dossier is None:
            raise CustomerNotFound("unknown_customer", "nothing is kept of such a customer")
        refuse_erased(dossier.row)
        payments: list[ExportedPaymentJson] = []
        place, more = 0, False
        while kept := await self._store.erasing.kept(who.key, after=place):
            if len(payments) >= MOST_EXPORTED:
                more = True
                break
            payments += await self._payments(kept)
            place = kept.place
        return {
            "customer_id": who.id,
            "merchant": who.merchant,
            "exported_at": iso_utc(dossier.row.now_ms),
            "person": _person(dossier),
            "payments": payments,
            "more_payments": more,
        }

    async def _payments(self, kept: Kept) -> list[ExportedPaymentJson]:
        statuses = await asyncio.gather(
            *(self._lookups.recorded(entity) for entity, _ in kept.payments)
        )
        return [
            {
                "payment_id": entity.id,
                "kind": entity.kind.value,
                "tx_ref": answer.tx_ref if answer is not None else None,
                "status": answer.status.value if answer is not None else None,
                # Of two statuses the one above is the payment's.
                "details": {n: v for n, v in details.items() if n != "status"},
                "events": [_event(event) for event in kept.events.get(entity, ())],
            }
            for (entity, details), answer in zip(kept.payments, statuses, strict=True)
        ]


def _person(dossier: Dossier) -> PersonJson:
    row = dossier.row
    said = row.person.columns()
    return {
        "name": said["name"],
        "email": said["email"],
        "phone": said["phone"],
        "created_at": said["since"],
        "first_seen_at": iso_utc(row.created_ms),
        "last_active_at": iso_utc(row.active_ms) if row.active_ms else None,
    }


def _event(event: dict[str, Any]) -> ExportedEventJson:
    return {
        "event": event["event"],
        "api": event["api"],
        "type": event["type"],
        "state": event["state"],
        "received_at": iso_utc(event["received_ms"]),
        "said": event["said"],
    }
