"""The reader for code without an event loop: the same answers, no near cache and no listener."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from redis import BlockingConnectionPool, Redis
from redis.exceptions import NoScriptError, RedisError
from redis.sentinel import Sentinel

from paystate.cache.scripts import GET
from paystate.connections import RedisUrl
from paystate.errors import CacheUnavailable
from paystate.keys import DEFAULT_MERCHANT, Entity, Keys
from paystate.reader.answers import PaymentDetails, PaymentStatus, Question, best
from paystate.reader.api import Api
from paystate.reader.clusters import ClusterEntries
from paystate.reader.entries import FIELDS, NO_TOKEN, from_hash, from_script
from paystate.reader.errors import ApiMissing, ApiUnavailable, ReaderUnavailable

__all__ = ["PaymentReaderSync"]


class PaymentReaderSync:
    """`PaymentReader` for Django, Flask and scripts; its parameters mean what they mean there.

    Many threads may share one. Close it with `close`, or use it in a ``with``.
    """

    def __init__(
        self,
        cache_url: str,
        *,
        api_url: str | None = None,
        api_token: str | None = None,
        merchant: str = DEFAULT_MERCHANT,
        lease_ms: int = 0,
        timeout_s: float = 0.5,
        api_timeout_s: float = 5.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._keys = Keys()
        self._keys.all_changes(merchant)  # refuses what cannot be a merchant
        self._merchant = merchant
        self._lease_ms = lease_ms
        self._api = (
            Api(api_url, api_token, merchant=merchant, timeout_s=api_timeout_s) if api_url else None
        )
        self._sleep = sleep
        self._clusters: ClusterEntries | None = None
        self._redis: Redis | None = None
        if RedisUrl(cache_url).topology == "cluster":
            self._clusters = ClusterEntries(
                cache_url, self._keys, lease_ms=lease_ms, timeout_s=timeout_s
            )
        else:
            self._redis = _connect(cache_url, timeout_s)

    def __repr__(self) -> str:
        api = "with" if self._api else "without"
        return f"<PaymentReaderSync of {self._merchant!r}, {api} an API>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            self._redis.close()
        if self._clusters is not None:
            self._clusters.close()

    def status(self, payment_id: str | int, *, kind: str | None = None) -> PaymentStatus:
        """Return the status of a payment; without `kind`, of the charge, else of the transfer."""
        return self._ask([Question.payment(payment_id, kind)])[0]

    def reference(self, tx_ref: str) -> PaymentStatus:
        """Return the status of a merchant reference."""
        return self._ask([Question.reference(tx_ref)])[0]

    def statuses(
        self,
        payment_ids: Iterable[str | int] = (),
        *,
        tx_refs: Iterable[str] = (),
        kind: str | None = None,
    ) -> list[PaymentStatus]:
        """Return many statuses, in the order asked for: payments first, then references."""
        questions = [Question.payment(one, kind) for one in payment_ids]
        questions += [Question.reference(one) for one in tx_refs]
        return self._ask(questions)

    def payment(
        self,
        payment_id: str | int | None = None,
        *,
        kind: str | None = None,
        tx_ref: str | None = None,
    ) -> PaymentDetails:
        """Return what is known of a payment, or of the payment that decides a reference."""
        question = Question.of(payment_id, kind, tx_ref)
        if self._api is None:
            raise ApiMissing("api_missing", "details come from the HTTP API: give an api_url")
        return self._api.details(question)

    def wait_for(
        self,
        payment_id: str | int | None = None,
        *,
        kind: str | None = None,
        tx_ref: str | None = None,
        terminal: bool = True,
        version: int | None = None,
        timeout: float,
        poll_s: float = 1.0,
    ) -> PaymentStatus:
        """Ask every `poll_s` seconds until a payment has come to its end; return its status.

        With `terminal` False, until it has reached `version` alone; with both, until both hold.
        Raises TimeoutError after `timeout` seconds, and ApiRefused.
        """
        question = Question.of(payment_id, kind, tx_ref)
        until = time.monotonic() + timeout
        while True:
            try:
                answer = self._ask([question])[0]
            except ReaderUnavailable:
                pass  # it may be there the next time
            else:
                ended = answer.terminal and answer.fresh
                if answer.version >= (version or 0) and (ended or not terminal):
                    return answer
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("the payment has not come to its end")
            self._sleep(min(poll_s, left))

    def _ask(self, questions: Sequence[Question]) -> list[PaymentStatus]:
        held: dict[Entity, PaymentStatus] = {}
        failed: CacheUnavailable | ApiUnavailable | None = None
        blind = False
        entities = {question: question.entity(self._merchant) for question in questions}
        try:
            held = self._entries(list(dict.fromkeys(entities.values())))
        except (CacheUnavailable, RedisError, OSError) as e:
            failed, blind = CacheUnavailable("cache_unreachable"), True
            failed.__cause__ = e
        open_ = [q for q, e in entities.items() if e not in held or not held[e].fresh]
        further: dict[Question, PaymentStatus] = {}
        if self._api is not None and open_:
            try:
                further = self._api.statuses(open_)
                failed = None
            except ApiUnavailable as e:
                failed = e
        if blind and failed is not None and open_:
            raise ReaderUnavailable(failed.reason) from failed
        return [further.get(q) or best(held.get(entities[q]), entities[q]) for q in questions]

    def _entries(self, entities: Sequence[Entity]) -> dict[Entity, PaymentStatus]:
        if not entities:
            return {}
        if self._redis is None:
            return self._clusters.read(entities) if self._clusters is not None else {}
        with self._redis.pipeline(transaction=False) as pipe:
            for entity in entities:
                pipe.hmget(self._keys.hash(entity), FIELDS)
            replies = pipe.execute(raise_on_error=False)
        found = {
            entity: answer
            for entity, reply in zip(entities, replies, strict=True)
            if (answer := from_hash(entity, reply)) is not None
        }
        if self._lease_ms:
            for entity in [e for e, answer in found.items() if not answer.fresh]:
                proven = from_script(
                    entity, _prove(self._redis, self._keys.hash(entity), self._lease_ms)
                )
                if proven is not None:
                    found[entity] = proven
        return found


def _prove(redis: Redis, key: str, lease_ms: int) -> Any:
    arguments = (1, key, str(lease_ms), NO_TOKEN)
    try:
        return redis.evalsha(GET.digest, *arguments)
    except NoScriptError:
        return redis.eval(GET.text, *arguments)


def _connect(url: str, timeout_s: float) -> Redis:
    """Return a client for `url`, in the forms that `paystate.connections` takes."""
    target = RedisUrl(url)
    options: dict[str, Any] = {
        "db": target.db,
        "username": target.username,
        "password": target.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
    }
    if target.topology == "sentinel":
        sentinels = Sentinel(  # type: ignore[no-untyped-call]
            target.hosts, sentinel_kwargs=target.sentinel_options(timeout_s)
        )
        client: Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
            target.service or "mymaster", ssl=target.tls, **target.tls_options, **options
        )
        return client
    host, port = target.hosts[0]
    scheme = "rediss" if target.tls else "redis"
    address = f"[{host}]" if ":" in host else host
    pool = BlockingConnectionPool.from_url(
        f"{scheme}://{address}:{port}", timeout=timeout_s, max_connections=32,
        **target.tls_options, **options,
    )  # fmt: skip
    client = Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client
