"""A customer's payments, newest first: pages that can be cached, joined with statuses that cannot.

A page holds identities and what does not change about a payment. It counts only under the
customer's own version, which rises with every event of any of their payments, so a new payment
makes all pages worthless at once. The statuses come from where every status comes from, in one
batch, after the page: none is ever kept in one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from paystate.cache.documents import Document, DocumentCache, Slip
from paystate.errors import CustomerNotFound
from paystate.keys import Entity, EntityKind, Keys
from paystate.payments.answers import StatusAnswer
from paystate.payments.customers import CustomerId, refuse_erased
from paystate.payments.lookup import Lookups
from paystate.shapes import Bounded, Money, Version
from paystate.status import Status
from paystate.store import Store
from paystate.store.customers import PAGE_SIZE, HistoryPage
from paystate.ttl import TtlPolicy

__all__ = ["History", "HistoryAnswer", "HistoryJson", "PaidJson"]

_FIXED = ("amount", "currency", "payment_type", "created_at")


class PaidJson(TypedDict):
    """A payment on a page, with its status of now."""

    payment_id: str | None
    tx_ref: str | None
    kind: Annotated[str, Bounded(words=EntityKind)]
    amount: Money | None
    currency: str | None
    payment_type: str | None
    created_at: Annotated[str | None, "When it was begun, as Flutterwave says it."]
    status: Annotated[str, Bounded(words=Status)]
    terminal: bool
    version: Version
    fresh: Annotated[bool, "False where a lookup of the payment would ask Flutterwave."]
    held: bool


class HistoryJson(TypedDict):
    """A customer's payments, newest first, 20 on a page."""

    customer_id: str
    page: Annotated[int | None, "Null where a cursor was given."]
    pages: int
    total: int
    next_cursor: Annotated[str | None, "What comes after, whatever is added before; null: nothing."]
    payments: list[PaidJson]


@dataclass(frozen=True, slots=True)
class HistoryAnswer:
    """One page: its number (None for a cursor's), what is kept of it, payments with statuses."""

    customer_id: str
    number: int | None
    content: dict[str, Any]
    payments: tuple[tuple[dict[str, Any], StatusAnswer], ...]

    def to_json(self) -> HistoryJson:
        """Return the public form."""
        total = self.content["total"]
        return {
            "customer_id": self.customer_id,
            "page": self.number,
            "pages": -(-total // PAGE_SIZE),
            "total": total,
            "next_cursor": self.content["next_cursor"],
            "payments": [_shown(fixed, status) for fixed, status in self.payments],
        }


def _shown(fixed: dict[str, Any], answer: StatusAnswer) -> PaidJson:
    told = answer.to_json()
    return {
        "payment_id": told["payment_id"],
        "tx_ref": told["tx_ref"],
        "kind": told["kind"],
        "amount": fixed["amount"],
        "currency": fixed["currency"],
        "payment_type": fixed["payment_type"],
        "created_at": fixed["created_at"],
        "status": told["status"],
        "terminal": told["terminal"],
        "version": told["version"],
        "fresh": told["fresh"],
        "held": told["held"],
    }


class History:
    """Tells customers' payments."""

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

    async def page(
        self, who: CustomerId, number: int = 1, *, before: int | None = None
    ) -> HistoryAnswer:
        """Return the page of that number (from 1), or the payments that follow the place `before`.

        Raises CustomerNotFound, CustomerErased and StoreUnavailable.
        """
        row = refuse_erased(await self._store.customers.row(who.key))
        if row is None:
            raise CustomerNotFound("unknown_customer", "no payment of such a customer is known")
        held = None
        if before is None:
            held = (await self._documents.read([self._slip(who, number, row.version)]))[0]
        content = held or await self._read(who, number, before)
        statuses = await self._join(who, content["payments"])
        joined = zip(content["payments"], statuses, strict=True)
        payments = tuple((fixed, status) for fixed, status in joined if status is not None)
        return HistoryAnswer(who.id, number if before is None else None, content, payments)

    def _slip(self, who: CustomerId, number: int, version: int) -> Slip:
        return Slip("history", self._keys.history(who.merchant, who.id, number), version)

    async def _read(self, who: CustomerId, number: int, before: int | None) -> dict[str, Any]:
        found = await self._store.customers.history(who.key, page=number, before=before)
        if found is None:
            refuse_erased(await self._store.customers.row(who.key))
            raise CustomerNotFound("unknown_customer", "no payment of such a customer is known")
        content = _page(found)
        if before is None and found.payments:
            slip = self._slip(who, number, found.version)
            await self._documents.keep([Document(slip, content, self._ttl.history_s)])
        return content

    async def _join(
        self, who: CustomerId, payments: list[dict[str, Any]]
    ) -> list[StatusAnswer | None]:
        """Return the statuses of now; those that ask at one moment share their round trips."""
        entities = [Entity(who.merchant, EntityKind(p["kind"]), p["payment_id"]) for p in payments]
        return list(await asyncio.gather(*map(self._lookups.recorded, entities)))


def _page(found: HistoryPage) -> dict[str, Any]:
    return {
        "total": found.total,
        # Where the payments after these begin; they stay there, whatever comes before them.
        "next_cursor": str(found.payments[-1][0]) if found.more else None,
        "payments": [
            {
                "kind": entity.kind.value,
                "payment_id": entity.id,
                **{name: details.get(name) for name in _FIXED},
            }
            for _, entity, details in found.payments
        ],
    }
