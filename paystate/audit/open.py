"""An audit over what a process holds open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from paystate.audit.asking import HttpLookups, LookupPath, OwnLookups
from paystate.audit.checking import Checker
from paystate.audit.entries import Entries
from paystate.audit.following import Follower
from paystate.audit.invariants import Rows
from paystate.audit.ledger import Ledger
from paystate.audit.provider import ProviderCheck
from paystate.resources import Resources

__all__ = ["Audit", "open_audit"]


@dataclass(frozen=True, slots=True)
class Audit:
    """The parts of an audit, which share one ledger. `path` says where lookups are made."""

    ledger: Ledger
    path: LookupPath
    checker: Checker
    entries: Entries
    rows: Rows
    provider: ProviderCheck
    follower: Follower


@asynccontextmanager
async def open_audit(
    resources: Resources, *, url: str | None = None, token: str | None = None
) -> AsyncIterator[Audit]:
    """Open an audit that asks at `url` (default: AUDIT_URL; empty: in this process)."""
    settings, store, keys = resources.settings, resources.store, resources.keys
    url = url if url is not None else settings.audit_url
    ledger = Ledger(resources.metrics.registry)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        path: LookupPath = OwnLookups(resources.lookups)
        if url:
            path = HttpLookups(session, url, token or settings.audit_token)
        checker = Checker(
            store,
            path,
            ledger,
            lease_ms=settings.lease_ms,
            recheck_s=settings.pending_recheck_s,
        )
        sampling = store.sampling
        follower = Follower(
            resources.redis, keys, resources.roster.merchants, sampling, checker, ledger,
            per_s=settings.audit_changes_per_s,
        )  # fmt: skip
        provider = ProviderCheck(
            resources.providers, store, resources.recorder, resources.settler, checker, ledger,
            resources.metrics, per_hour=settings.audit_provider_calls_per_hour,
        )  # fmt: skip
        entries = Entries(resources.redis, keys, store, checker, ledger, lease_ms=settings.lease_ms)
        try:
            yield Audit(
                ledger, path, checker, entries, Rows(sampling, checker, ledger), provider, follower
            )
        finally:
            await follower.end()
