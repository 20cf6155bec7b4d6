"""The names of everything paystate keeps in Redis, from this one module.

Shape: ``flw:v1:{entity}:{id}:{attribute}``, with ``merchant:{m}:`` before the entity for every
merchant but the default one. Ids come from outside, so whatever could end a segment early or name
a hash slot is percent-escaped: two different identities never share a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

from paystate.updates import Kind

__all__ = [
    "DEFAULT_MERCHANT",
    "MAX_ID_LENGTH",
    "Entity",
    "EntityKind",
    "Keys",
    "hash_and_changes",
    "segment",
]

SERVICE = "flw"
VERSION = "v1"
DEFAULT_MERCHANT = "default"

# Flutterwave's ids have at most 40 characters and its references 100; double that leaves room, and
# a bound keeps a hostile id from becoming a hostile key.
MAX_ID_LENGTH = 200


_PLAIN = re.compile(r"[A-Za-z0-9._~-]+")


class EntityKind(StrEnum):
    """What has a status of its own: a charge, a transfer, or a merchant reference."""

    CHARGE = "charge"
    TRANSFER = "transfer"
    REFERENCE = "reference"

    __hash__ = str.__hash__  # an enum's own is Python

    @staticmethod
    def named(name: str) -> EntityKind:
        """Return the kind of that name, as ``EntityKind(name)`` does, sooner. Raises ValueError."""
        kind = _KINDS_BY_NAME.get(name)
        if kind is None:
            raise ValueError("there is no such kind")
        return kind


_SEGMENTS = {EntityKind.CHARGE: "tx", EntityKind.TRANSFER: "transfer", EntityKind.REFERENCE: "ref"}
_KINDS_BY_NAME = {kind.value: kind for kind in EntityKind}
_KINDS = {word: kind for kind, word in _SEGMENTS.items()}
_DERIVED = {*_KINDS, "customer"}


class Entity(NamedTuple):
    """The identity of something with a status: merchant, kind and id (or tx_ref).

    A tuple, because every batch looks thousands of them up and a tuple hashes itself in C.
    """

    merchant: str
    kind: EntityKind
    id: str

    @classmethod
    def payment(cls, merchant: str, kind: Kind, payment_id: str) -> Entity:
        """Return the identity of a charge or transfer."""
        return cls(merchant, EntityKind.named(kind), payment_id)

    @classmethod
    def reference(cls, merchant: str, tx_ref: str) -> Entity:
        """Return the identity of a merchant reference."""
        return cls(merchant, EntityKind.REFERENCE, tx_ref)

    @property
    def row_key(self) -> str:
        """Return the database's key of this entity; no two share one (merchants have no colon)."""
        return f"{self.kind}:{self.merchant}:{self.id}"

    @classmethod
    def from_row_key(cls, key: str) -> Entity:
        """Return the entity whose `row_key` is `key`."""
        kind, merchant, own_id = key.split(":", 2)
        return cls(merchant, _KINDS_BY_NAME[kind], own_id)

    @property
    def is_reference(self) -> bool:
        """Say whether this is a merchant reference rather than a payment."""
        return self.kind is EntityKind.REFERENCE


def segment(value: str) -> str:
    """Return `value` as one segment of a key: letters, digits, ``-._~`` and ``%XX`` only.

    Raises ValueError if it is empty, longer than `MAX_ID_LENGTH` characters, or not valid Unicode.
    """
    if not 0 < len(value) <= MAX_ID_LENGTH:
        raise ValueError(f"an id has 1 to {MAX_ID_LENGTH} characters, this one {len(value)}")
    if _PLAIN.fullmatch(value):  # nearly every id there is
        return value
    return quote(value, safe="")


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds the keys and channels of one service and version prefix."""

    prefix: str = f"{SERVICE}:{VERSION}"

    def _entity(self, entity: Entity, attribute: str) -> str:
        return f"{_start(self, entity)}:{attribute}"

    def hash(self, entity: Entity) -> str:
        """Return the key of the one hash that holds an entity's status."""
        merchant, kind, own_id = entity
        # Nearly all there are, without a call for each part: one of these is made for each read.
        plain = own_id.isalnum() and own_id.isascii() and len(own_id) <= MAX_ID_LENGTH
        if plain and merchant == DEFAULT_MERCHANT:
            return f"{self.prefix}:{_SEGMENTS[kind]}:{own_id}:hash"
        return self._entity(entity, "hash")

    @property
    def all_hashes(self) -> str:
        """Return the pattern that every key of `hash` matches; `entity_of` says what is one."""
        return f"{self.prefix}:*:hash"

    def entity_of(self, key: str) -> Entity | None:
        """Return the entity whose `hash` is `key`, or None if there is none."""
        parts = key.removeprefix(f"{self.prefix}:").split(":")
        merchant = DEFAULT_MERCHANT
        if len(parts) == 5 and parts[0] == "merchant":
            merchant, parts = unquote(parts[1]), parts[2:]
        if len(parts) != 3 or parts[0] not in _KINDS:
            return None
        entity = Entity(merchant, _KINDS[parts[0]], unquote(parts[1]))
        try:
            return entity if self.hash(entity) == key else None
        except ValueError:
            return None

    @property
    def everything(self) -> str:
        """Return the pattern of all keys of ours; `is_derived` says which may be thrown away."""
        return f"{self.prefix}:*"

    def is_derived(self, key: str) -> bool:
        """Say whether what `key` holds can be had again from the database or the provider.

        Not so the queue, and what is counted against the provider's limits.
        """
        parts = key.removeprefix(f"{self.prefix}:").split(":")
        if parts[0] == "merchant":
            parts = parts[2:]
        return len(parts) > 1 and parts[0] in _DERIVED

    def asked(self, entity: Entity) -> str:
        """Return the key that marks an entity as asked of the provider a moment ago."""
        return self._entity(entity, "asked")

    def details(self, entity: Entity) -> str:
        """Return the key of what is known of a payment beside its status."""
        return self._entity(entity, "details")

    def verification(self, entity: Entity) -> str:
        """Return the key of what the provider has confirmed of a payment."""
        return self._entity(entity, "verification")

    def _customer(self, merchant: str, customer_id: str, attribute: str) -> str:
        return f"{_scope(self.prefix, merchant)}:customer:{segment(customer_id)}:{attribute}"

    def profile(self, merchant: str, customer_id: str) -> str:
        """Return the key of a customer's profile."""
        return self._customer(merchant, customer_id, "profile")

    def profile_asked(self, merchant: str, customer_id: str) -> str:
        """Return the key that marks a customer as asked of the provider a moment ago."""
        return self._customer(merchant, customer_id, "asked")

    def history(self, merchant: str, customer_id: str, page: int) -> str:
        """Return the key of one page of a customer's payments; pages count from 1."""
        return self._customer(merchant, customer_id, f"transactions:page:{page:d}")

    def changes(self, entity: Entity) -> str:
        """Return the channel on which an entity's changes are published."""
        return self._entity(entity, "changes")

    def all_changes(self, merchant: str) -> str:
        """Return the channel on which every change of a merchant is published."""
        return f"{_scope(self.prefix, merchant)}:changes"

    def rate(self, merchant: str, window: str) -> str:
        """Return the key of the provider budget of a merchant in `window` (an hour, a cool-off)."""
        return f"{self.prefix}:rate:{segment(merchant)}:{segment(window)}"

    def calls(self, caller: str, merchant: str, minute: int) -> str:
        """Return the key that counts a caller's calls of the API; `minute` since the epoch."""
        return f"{_scope(self.prefix, merchant)}:calls:{segment(caller)}:{minute}"

    @property
    def wake(self) -> str:
        """Return the channel that wakes idle workers when a job has been queued."""
        return f"{self.prefix}:wake"

    @property
    def wanted(self) -> str:
        """Return the key of what is unsettled and somebody asks for."""
        return f"{self.prefix}:reconcile:wanted"

    @property
    def beating(self) -> str:
        """Return the key that says that a process has just published the heartbeat."""
        return f"{self.prefix}:heartbeat"

    @property
    def reports(self) -> str:
        """Return the key of what each process says of itself."""
        return f"{self.prefix}:reports"

    def reporting(self, process: str) -> str:
        """Return the key that says that a process has just been reported for."""
        return f"{self.prefix}:process:{segment(process)}:reporting"

    @property
    def queue(self) -> str:
        """Return the name of the arq queue."""
        return f"{self.prefix}:queue"


def hash_and_changes(keys: Keys, entity: Entity) -> tuple[str, str]:
    """Return `Keys.hash` and `Keys.changes` of an entity, in the time of one."""
    start = _start(keys, entity)
    return f"{start}:hash", f"{start}:changes"


def _start(keys: Keys, entity: Entity) -> str:
    """Return what all keys of an entity begin with."""
    merchant, kind, own_id = entity
    return f"{_scope(keys.prefix, merchant)}:{_SEGMENTS[kind]}:{segment(own_id)}"


def _scope(prefix: str, merchant: str) -> str:
    """Return what all keys of a merchant begin with."""
    return prefix if merchant == DEFAULT_MERCHANT else f"{prefix}:merchant:{segment(merchant)}"
