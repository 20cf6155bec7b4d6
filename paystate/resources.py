"""Everything a process holds open, opened in the order of dependence and closed in reverse.

Web, worker and tests use this one context, so that none can leak what another would have closed.
Nothing here talks to the network: a process starts while its cache or database is away, says so at
``/readyz``, and works when they are back.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp

from paystate.cache.statuses import StatusCache
from paystate.connections import CacheClient, connect
from paystate.feed import Feed
from paystate.flutterwave.accounts import credentials_of, open_client, open_gate
from paystate.flutterwave.transport import provider_session
from paystate.keys import Keys
from paystate.metrics import Metrics
from paystate.near import NearCache
from paystate.payments.answers import StatusAnswer
from paystate.payments.asking import Asker
from paystate.payments.checks import Checker
from paystate.payments.interest import Interest
from paystate.payments.listing import Lister
from paystate.payments.lookup import Lookups
from paystate.payments.reconciliation import Reconciliation
from paystate.payments.reconciling import Reconciler
from paystate.payments.recording import Recorder
from paystate.payments.settling import Provider, Settler
from paystate.queue import Queue, open_queue
from paystate.roster import Changed, Roster
from paystate.settings import Settings
from paystate.store import Store, open_store
from paystate.tracing import Tracing, open_tracing

__all__ = ["Resources", "open_resources"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What the flows of one process stand on."""

    settings: Settings
    metrics: Metrics
    keys: Keys
    redis: CacheClient
    store: Store
    cache: StatusCache
    queue: Queue
    recorder: Recorder
    settler: Settler
    lookups: Lookups
    feed: Feed
    providers: Mapping[str, Provider]
    interest: Interest
    reconciliation: Reconciliation
    roster: Roster


class _Providers(dict[str, Provider]):
    """Each merchant's provider; those whose merchants change are made anew."""

    def __init__(
        self,
        roster: Roster,
        settings: Settings,
        session: aiohttp.ClientSession,
        redis: CacheClient,
        keys: Keys,
    ) -> None:
        super().__init__()
        self._roster = roster
        self._settings = settings
        self._session = session
        self._redis = redis
        self._keys = keys
        for name in roster.merchants:
            self._make(name)
        roster.follow(self._renew)

    def _renew(self, changed: Changed) -> None:
        for name in changed.removed:
            del self[name]
        for name in changed.added | changed.changed:
            self._make(name)

    def _make(self, name: str) -> None:
        merchant, settings = self._roster.merchants[name], self._settings
        gate = open_gate(merchant, settings, self._redis, self._keys)
        timeout_s = float(settings.provider_timeout_s)
        client = open_client(merchant, settings, self._session, gate, timeout_s=timeout_s)
        credentials = credentials_of(merchant, settings)
        can_ask = credentials.has_v3 or credentials.has_v4
        self[name] = Provider(client, merchant.confirm, can_ask)


def _flows(
    store: Store,
    cache: StatusCache,
    queue: Queue,
    providers: Mapping[str, Provider],
    metrics: Metrics,
    tracing: Tracing | None,
) -> tuple[Recorder, Settler]:
    """Return what records and what settles; the plain ones where nobody wants traces."""
    holder = _holder()
    if tracing is None:
        recorder = Recorder(store, cache, queue, metrics)
        return recorder, Settler(store, cache, providers, metrics, holder=holder)
    from paystate.payments.traced import TracedRecorder, TracedSettler  # noqa: PLC0415

    return (
        TracedRecorder(store, cache, queue, metrics, tracing=tracing),
        TracedSettler(store, cache, providers, metrics, holder=holder, tracing=tracing),
    )


def _holder() -> str:
    """Return a name for this process in claims: where it runs, and which run it is."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task], timeout=2)


@asynccontextmanager
async def open_resources(
    settings: Settings, metrics: Metrics | None = None
) -> AsyncIterator[Resources]:
    """Open everything; on leaving, let work under way finish and close in reverse order."""
    metrics = metrics or Metrics()
    keys = Keys()
    timeout_s = settings.cache_timeout_ms / 1000
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(
                settings.database_url,
                pool=settings.database_pool,
                timeout_s=settings.database_timeout_s,
            )
        )
        redis = connect(settings.cache_url, timeout_s=timeout_s)
        stack.push_async_callback(redis.aclose)
        queue = await stack.enter_async_context(
            open_queue(settings.queue, keys, timeout_s=timeout_s)
        )
        session = await stack.enter_async_context(provider_session())
        cache = StatusCache(
            redis, lease_ms=settings.lease_ms, ttl=settings.ttl, metrics=metrics, keys=keys
        )
        roster = Roster(settings, metrics)
        providers = _Providers(roster, settings, session, redis, keys)
        tracing = await stack.enter_async_context(open_tracing(settings))
        recorder, settler = _flows(store, cache, queue, providers, metrics, tracing)
        stack.push_async_callback(recorder.drain)
        asker = Asker(
            redis,
            keys,
            store,
            providers,
            recorder,
            settler,
            metrics,
            recheck_s=settings.pending_recheck_s,
            not_found_s=settings.not_found_s,
        )
        near: NearCache[StatusAnswer] = NearCache(settings.near_size, clock=time.monotonic)
        interest = Interest(redis, keys)
        stack.push_async_callback(interest.drain)
        reconciliation = Reconciliation(
            store,
            Reconciler(
                store,
                Checker(
                    store,
                    providers,
                    recorder,
                    settler,
                    metrics,
                    silence_s=settings.reconcile_silence_s,
                ),
                interest,
                metrics,
                after_s=settings.reconcile_after_s,
            ),
            Lister(
                store,
                providers,
                recorder,
                settler,
                metrics,
                every_s=settings.reconcile_list_every_s,
                back_s=settings.reconcile_list_back_s,
                after_s=settings.reconcile_after_s,
            ),
            metrics,
        )
        lookups = Lookups(
            store,
            cache,
            asker,
            metrics,
            recheck_s=settings.pending_recheck_s,
            near=near,
            pace_s=settings.database_pace_ms / 1000,
            interest=interest,
        )
        stack.push_async_callback(lookups.drain)
        stack.push_async_callback(_end, asyncio.create_task(roster.run()))
        feed = Feed(redis, store, keys, roster.merchants, metrics, near=near)
        roster.follow(lambda _: feed.merchants_changed())
        yield Resources(
            settings,
            metrics,
            keys,
            redis,
            store,
            cache,
            queue,
            recorder,
            settler,
            lookups,
            feed,
            providers,
            interest,
            reconciliation,
            roster,
        )
