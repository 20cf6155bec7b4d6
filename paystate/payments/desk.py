"""What answers about customers, put together from what a process holds open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from paystate.cache.documents import DocumentCache
from paystate.connections import CacheClient
from paystate.keys import Keys
from paystate.metrics import Metrics
from paystate.payments.customers import Profiles
from paystate.payments.details import Informant
from paystate.payments.erasing import PersonalData
from paystate.payments.history import History
from paystate.payments.lookup import Lookups
from paystate.payments.settling import Provider
from paystate.settings import Settings
from paystate.store import Store

__all__ = ["Desk", "open_desk"]


class _Open(Protocol):
    """As much of a process's resources as it takes."""

    @property
    def settings(self) -> Settings: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def redis(self) -> CacheClient: ...
    @property
    def store(self) -> Store: ...
    @property
    def lookups(self) -> Lookups: ...
    @property
    def providers(self) -> Mapping[str, Provider]: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """Details of payments, and the profile, the payments and the rights of customers."""

    informant: Informant
    profiles: Profiles
    history: History
    personal: PersonalData


def open_desk(held: _Open) -> Desk:
    """Return a desk over `held`, which outlives it."""
    store, keys, ttl = held.store, held.keys, held.settings.ttl
    documents = DocumentCache(held.redis, held.metrics)
    return Desk(
        Informant(held.lookups, store, documents, keys, ttl),
        Profiles(
            store, documents, held.redis, keys, held.providers, held.metrics, ttl,
            not_found_s=held.settings.not_found_s,
        ),
        History(store, documents, held.lookups, keys, ttl),
        PersonalData(store, documents, held.lookups, keys, ttl),
    )  # fmt: skip
