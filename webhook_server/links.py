"""Links to customers' pages, made for those who may ask for a payment's status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import orjson
from aiohttp import web

from paystate.changes import iso_utc
from paystate.errors import LinkRefused
from paystate.keys import Entity, EntityKind
from paystate.links import Links
from paystate.payments.lookup import Lookups
from paystate.shapes import Bounded, Moment
from webhook_server.access import Access
from webhook_server.bodies import read_within
from webhook_server.parameters import (
    IdNumber,
    IdText,
    id_or_number,
    identifier,
    kind_of,
    whole,
)
from webhook_server.problems import Refused

__all__ = ["LinkEndpoints", "LinkForJson", "LinkJson", "LinkedJson"]

MOST_BYTES = 4096
LEAST_TTL_S, MOST_TTL_S = 60, 7 * 24 * 3600


_Seconds = Annotated[int, Bounded(minimum=LEAST_TTL_S, maximum=MOST_TTL_S)]
_Kind = Annotated[Literal["charge", "transfer"] | None, "What the id is of."]


class LinkJson(TypedDict):
    """How a link is to be."""

    ttl_s: NotRequired[Annotated[_Seconds, "How long it is good. Default: LINK_TTL_S."]]
    kind: NotRequired[_Kind]


class LinkForJson(LinkJson):
    """Which payment a link is to, by id or by reference, and how it is to be."""

    id: NotRequired[IdText | IdNumber]
    tx_ref: NotRequired[IdText]


class LinkedJson(TypedDict):
    """A link that was made."""

    url: Annotated[str, "With PUBLIC_URL, or the address of this request."]
    path: str
    expires_at: Moment
    kind: Annotated[str, Bounded(words=EntityKind)]
    id: Annotated[str, "The payment's id, or the reference."]


class LinkEndpoints:
    """The handlers that make links. `ttl_s` is how long one is good if nothing is said."""

    def __init__(
        self,
        links: Links,
        lookups: Lookups,
        access: Access,
        merchants: Sequence[str],
        *,
        ttl_s: int,
        public_url: str,
    ) -> None:
        self._links = links
        self._lookups = lookups
        self._access = access
        self._merchants = merchants
        self._ttl_s = ttl_s
        self._public_url = public_url

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; the fixed word comes before those with an id in its place."""
        return [
            web.post("/api/payments/link", self.by_body),
            # Or any other method would be taken for a question about a payment of that id.
            web.route("*", "/api/payments/link", _only_post),
            web.post("/api/payments/by-ref/{tx_ref}/link", self.by_reference),
            web.post("/api/payments/{id}/link", self.by_id),
        ]

    async def by_id(self, request: web.Request) -> web.Response:
        """``POST /api/payments/{id}/link``, with ``{"ttl_s": ...}`` if it is to end otherwise."""
        merchant = self._access.merchant(request, self._merchants)
        body = await _body(request)
        kind = request.query.get("kind", body.get("kind"))
        entity = await self._known(merchant, request.match_info["id"], kind)
        return self._made(request, entity, body)

    async def by_reference(self, request: web.Request) -> web.Response:
        """``POST /api/payments/by-ref/{tx_ref}/link``; the payment need not have begun."""
        merchant = self._access.merchant(request, self._merchants)
        tx_ref = identifier(request.match_info["tx_ref"], "tx_ref")
        return self._made(request, Entity.reference(merchant, tx_ref), await _body(request))

    async def by_body(self, request: web.Request) -> web.Response:
        """``POST /api/payments/link`` with ``{"id": ...}`` or ``{"tx_ref": ...}``."""
        merchant = self._access.merchant(request, self._merchants)
        body = await _body(request)
        if ("id" in body) == ("tx_ref" in body):
            raise Refused(400, "id_or_tx_ref", 'name the payment: {"id": ...} or {"tx_ref": ...}')
        if "tx_ref" in body:
            entity = Entity.reference(merchant, identifier(body["tx_ref"], "tx_ref"))
        else:
            entity = await self._known(merchant, body["id"], body.get("kind"))
        return self._made(request, entity, body)

    async def _known(self, merchant: str, payment_id: object, kind: object) -> Entity:
        """Return the payment of that id. Raises PaymentNotFound: a link to a slip helps nobody."""
        text = id_or_number(payment_id, "id")
        answer = await self._lookups.payment(merchant, text, kind_of(kind))
        return answer.entity

    def _made(self, request: web.Request, entity: Entity, body: dict[str, Any]) -> web.Response:
        ttl_s = whole(body.get("ttl_s", self._ttl_s))
        if ttl_s is None or not LEAST_TTL_S <= ttl_s <= MOST_TTL_S:
            raise Refused(
                400, "invalid_ttl_s", f"ttl_s is a number of seconds, {LEAST_TTL_S} to {MOST_TTL_S}"
            )
        try:
            token, link = self._links.make(entity, ttl_s)
        except LinkRefused as e:
            raise Refused(501, e.reason, str(e)) from e
        base = self._public_url or f"{request.scheme}://{request.host}"
        made: LinkedJson = {
            "url": f"{base}/pay/{token}",
            "path": f"/pay/{token}",
            "expires_at": iso_utc(link.expires_s * 1000),
            "kind": entity.kind.value,
            "id": entity.id,
        }
        return web.Response(
            body=orjson.dumps(made),
            status=201,
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )


async def _only_post(request: web.Request) -> web.Response:
    raise web.HTTPMethodNotAllowed(request.method, ["POST"])


async def _body(request: web.Request) -> dict[str, Any]:
    """Return the JSON object that was sent, an empty one if nothing was. Raises Refused (400)."""
    try:
        body = orjson.loads(await read_within(request, MOST_BYTES) or b"{}")
    except orjson.JSONDecodeError:
        raise Refused(400, "not_json", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "not_an_object", 'send an object, as {"ttl_s": 600}')
    kind_of(body.get("kind"))
    return body
