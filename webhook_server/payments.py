"""Lookups over HTTP: statuses by id, by reference and many at once, and details."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
from aiohttp import web

from paystate.errors import PaymentNotFound
from paystate.feed import Feed
from paystate.keys import Entity, EntityKind
from paystate.metrics import Metrics
from paystate.payments.answers import StatusAnswer, StatusAnswerJson
from paystate.payments.details import Informant
from paystate.payments.lookup import Lookups
from webhook_server.access import Access
from webhook_server.answers import MOST_AT_ONCE, DetailsJson, ManyJson, UnknownJson
from webhook_server.bodies import read_within
from webhook_server.parameters import id_or_number, identifier, kind_of, whole_number
from webhook_server.prepared import NO_TAGS, Made, Prepared, takes_prepared
from webhook_server.problems import Refused
from webhook_server.streams import wait_for_change

__all__ = ["PaymentEndpoints"]

MOST_BYTES = 256 * 1024
LONGEST_WAIT_S = 60


class PaymentEndpoints:
    """The handlers of ``/api/payments``."""

    def __init__(
        self,
        lookups: Lookups,
        informant: Informant,
        feed: Feed,
        access: Access,
        merchants: Sequence[str],
        metrics: Metrics,
    ) -> None:
        # By whether a reference was asked for, and whether the caller had the answer.
        self._counts = {
            (is_reference, same): metrics.requests.labels(path, 304 if same else 200)
            for is_reference, path in enumerate(
                ("/api/payments/{id}/status", "/api/payments/by-ref/{tx_ref}/status")
            )
            for same in (False, True)
        }
        self._feed = feed
        self._lookups = lookups
        self._informant = informant
        self._access = access
        self._merchants = merchants

    # --- what `webhook_server.front` asks for ---

    def held(
        self, merchant: str, own_id: str, tags: frozenset[str], *, is_reference: bool
    ) -> bytes | None:
        """Return the whole answer that lies ready in this process, and count it; or None."""
        kind = EntityKind.REFERENCE if is_reference else EntityKind.CHARGE
        near = self._lookups.near(f"{kind}:{merchant}:{own_id}")  # `Entity.row_key`
        return self._sent(_made(near), tags, is_reference) if near is not None else None

    async def find(
        self, merchant: str, own_id: str, tags: frozenset[str], *, is_reference: bool
    ) -> bytes:
        """Return the whole answer, and count it. Raises PaymentNotFound and StoreUnavailable."""
        if is_reference:
            answer = await self._lookups.status(Entity.reference(merchant, own_id))
        else:
            answer = await self._lookups.payment(merchant, own_id, None)
        return self._sent(_made(answer), tags, is_reference)

    def _sent(self, made: Made, tags: frozenset[str], is_reference: bool) -> bytes:
        same = made.is_among(tags) if tags else False
        self._counts[is_reference, same].inc()
        return made.unchanged() if same else made.wire()

    # --- what aiohttp routes here ---

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; those with a fixed word come before those with an id in its place."""
        return [
            web.get("/api/payments/status", self.status_by_query),
            web.post("/api/payments/status", self.many),
            web.get("/api/payments/by-ref/{tx_ref}/status", self.status_by_reference),
            web.get("/api/payments/by-ref/{tx_ref}", self.details_by_reference),
            web.get("/api/payments/{id}/status", self.status_by_id),
            web.get("/api/payments/{id}", self.details_by_id),
        ]

    async def status_by_id(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/payments/{id}/status``."""
        merchant = self._access.merchant(request, self._merchants)
        payment_id = identifier(request.match_info["id"], "id")
        if not request.query_string:
            near = self._lookups.near(f"charge:{merchant}:{payment_id}")
            return _respond(
                request, near or await self._lookups.payment(merchant, payment_id, None)
            )
        answer = await self._lookups.payment(
            merchant,
            payment_id,
            kind_of(request.query.get("kind")),
            min_version=_min_version(request),
        )
        return _respond(request, await self._waited(request, answer), _min_version(request))

    async def status_by_reference(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/payments/by-ref/{tx_ref}/status``."""
        return await self._reference(request, request.match_info["tx_ref"])

    async def status_by_query(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/payments/status?tx_ref=``, for references with slashes."""
        if "tx_ref" not in request.query:
            raise Refused(400, "tx_ref_missing", "name the reference: ?tx_ref=...")
        return await self._reference(request, request.query["tx_ref"])

    async def _reference(self, request: web.Request, tx_ref: str) -> web.StreamResponse:
        merchant = self._access.merchant(request, self._merchants)
        entity = Entity.reference(merchant, identifier(tx_ref, "tx_ref"))
        if not request.query_string:
            return _respond(request, await self._lookups.status(entity))
        answer = await self._lookups.status(entity, min_version=_min_version(request))
        return _respond(request, await self._waited(request, answer), _min_version(request))

    async def _waited(self, request: web.Request, answer: StatusAnswer) -> StatusAnswer:
        """Return `answer`, or with ``?wait=`` the one that comes after it, within that time.

        ``?after_version=`` says what the caller has; without it, what it would be given now.
        """
        wait_s = whole_number(request.query.get("wait"), "wait")
        after = whole_number(request.query.get("after_version"), "after_version")
        if wait_s is None:
            return answer
        wanted = answer.version if after is None else after
        if answer.version > wanted:
            return answer
        return await wait_for_change(
            self._feed, self._lookups, answer.entity,
            wait_s=min(wait_s, LONGEST_WAIT_S), after_version=wanted,
        )  # fmt: skip

    async def many(self, request: web.Request) -> web.Response:
        """``POST /api/payments/status`` with ``{"ids": [...], "tx_refs": [...], "kind": ...}``."""
        merchant = self._access.merchant(request, self._merchants)
        ids, tx_refs, kind = await _wanted(request)
        answers = await asyncio.gather(
            *(self._lookups.payment(merchant, one, kind) for one in ids),
            *(self._lookups.status(Entity.reference(merchant, one)) for one in tx_refs),
            return_exceptions=True,
        )
        found: list[StatusAnswerJson] = []
        unknown: UnknownJson = {"ids": [], "tx_refs": []}
        waits = [getattr(answer, "retry_after_s", None) for answer in answers]
        asked = [(unknown["ids"], one) for one in ids]
        asked += [(unknown["tx_refs"], one) for one in tx_refs]
        for (missing, one), answer in zip(asked, answers, strict=True):
            if isinstance(answer, PaymentNotFound):
                missing.append(one)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.append(answer.to_json())
        return _json(
            ManyJson(statuses=found, unknown=unknown), max(filter(None, waits), default=None)
        )

    async def details_by_id(self, request: web.Request) -> web.Response:
        """``GET /api/payments/{id}``."""
        merchant = self._access.merchant(request, self._merchants)
        payment_id = identifier(request.match_info["id"], "id")
        answer = await self._lookups.payment(
            merchant, payment_id, kind_of(request.query.get("kind"))
        )
        return _details(await self._informant.payment(answer), answer)

    async def details_by_reference(self, request: web.Request) -> web.Response:
        """``GET /api/payments/by-ref/{tx_ref}``: the reference, and the attempt that decides it."""
        merchant = self._access.merchant(request, self._merchants)
        reference = Entity.reference(merchant, identifier(request.match_info["tx_ref"], "tx_ref"))
        answer = await self._lookups.status(reference)
        return _details(await self._informant.reference(answer), answer)


def _min_version(request: web.Request) -> int:
    return whole_number(request.query.get("min_version"), "min_version") or 0


_FIELDS = ("ids", "tx_refs", "kind")


async def _wanted(request: web.Request) -> tuple[list[str], list[str], EntityKind | None]:
    try:
        body = orjson.loads(await read_within(request, MOST_BYTES))
    except orjson.JSONDecodeError:
        raise Refused(400, "not_json", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "not_an_object", 'send {"ids": [...], "tx_refs": [...]}')
    if body.keys() - _FIELDS:
        raise Refused(400, "unknown_field", f"a body has just the fields {', '.join(_FIELDS)}")
    lists = []
    for name, read in (("ids", id_or_number), ("tx_refs", identifier)):
        values = body.get(name, [])
        if not isinstance(values, list):
            raise Refused(400, f"invalid_{name}", f"{name} is a list")
        texts = [read(value, name[:-1]) for value in values]
        lists.append(list(dict.fromkeys(texts)))
    ids, tx_refs = lists
    if not 0 < len(ids) + len(tx_refs) <= MOST_AT_ONCE:
        raise Refused(400, "wrong_number", f"name 1 to {MOST_AT_ONCE} ids and references in all")
    return ids, tx_refs, kind_of(body.get("kind"))


# Private, because it is one customer's; no-cache, because a stored copy must be checked each time.
_CACHING = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}


def _details(body: DetailsJson, answer: StatusAnswer) -> web.Response:
    return _json(body, None if body["fresh"] else answer.retry_after_s)


def _json(body: DetailsJson | ManyJson, retry_after_s: float | None) -> web.Response:
    headers = {**_CACHING, **_retry(retry_after_s)}
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers=headers)


def _retry(after_s: float | None) -> dict[str, str]:
    return {"Retry-After": str(max(1, round(after_s)))} if after_s is not None else {}


def _respond(
    request: web.Request, answer: StatusAnswer, min_version: int = 0
) -> web.StreamResponse:
    """Return the answer, or 304 if the caller has it, or 409 if it needs a later one."""
    if answer.version < min_version:
        raise Refused(
            409,
            "version_not_reached",
            f"the latest version is {answer.version}",
            {"Retry-After": "1"},
        )
    tags = NO_TAGS
    if "If-None-Match" in request.headers:
        tags = frozenset(tag.value for tag in request.if_none_match or ())
    made = _made(answer)
    if takes_prepared(request):
        return Prepared(made, answer.entity.merchant, tags)
    headers = _headers(answer)
    if made.is_among(tags):
        return web.Response(status=304, headers=headers)
    return web.Response(body=answer.rendered()[0], content_type="application/json", headers=headers)


def _made(answer: StatusAnswer) -> Made:
    """Return the whole answer as bytes, made once for all who are given it."""
    made: Made | None = answer.made
    if made is None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in _headers(answer).items())
        body, tag = answer.rendered()
        made = answer.keep_made(Made(lines, body, tag[3:-1]))  # without W/ and the quotes
    return made


def _headers(answer: StatusAnswer) -> dict[str, str]:
    return {**_CACHING, "ETag": answer.rendered()[1], **_retry(answer.retry_after_s)}
