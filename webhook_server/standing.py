"""The public form of how everything stands: what the operators' board is told."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from paystate.keys import EntityKind
from paystate.shapes import Bounded, Moment, Version
from paystate.status import Status

__all__ = [
    "BoardJson",
    "FiguresJson",
    "FleetJson",
    "FreshnessJson",
    "HealthJson",
    "InboxJson",
    "LatestJson",
    "VisibleJson",
    "YouJson",
]

_Count = Annotated[int, Bounded(minimum=0)]
_Ms = Annotated[float | None, "Milliseconds from a webhook's arrival to what it changed."]


class YouJson(TypedDict):
    """Who asks."""

    name: str
    merchant: Annotated[str | None, "Null: every one."]
    operator: bool
    merchants: list[str]
    session: Annotated[bool, "Whether by the cookie of the board."]


class HealthJson(TypedDict):
    """`ok`, or what is wrong, of each part."""

    database: str
    cache: str
    queue: str
    news: str
    worker: str
    provider: str


class InboxJson(TypedDict):
    """Events that have not ended, or wait for a person."""

    open: _Count
    oldest_s: float
    held: _Count
    dead: _Count


class VisibleJson(TypedDict):
    """How soon the latest events were visible."""

    events: _Count
    p50_ms: _Ms
    p95_ms: _Ms
    p99_ms: _Ms


class LatestJson(TypedDict):
    """A payment as it changed last."""

    payment_id: str | None
    tx_ref: str | None
    kind: Annotated[str, Bounded(words=EntityKind)]
    merchant: str
    status: Annotated[str, Bounded(words=Status)]
    previous_status: Annotated[str | None, Bounded(words=Status)]
    terminal: bool
    version: Version
    previous_version: Version
    changed_at: Moment


class FiguresJson(TypedDict):
    """What the database says; null where it could not be asked."""

    as_of: Moment | None
    inbox: InboxJson | None
    visible: VisibleJson | None
    statuses: Annotated[dict[str, int] | None, "The latest payments by status."]
    payments: list[LatestJson] | None


class LookupsJson(TypedDict):
    """Lookups that were answered, by where from."""

    total: _Count
    near: _Count
    cache: _Count
    database: _Count
    provider: _Count
    hit_rate: float | None


class FreshnessJson(TypedDict):
    """How many audited lookups were as late as the database."""

    checked: _Count
    stale: _Count
    nines: float


class ProcessJson(TypedDict):
    """A process that was heard of a moment ago."""

    name: str
    role: str
    since: Moment


class FleetJson(TypedDict):
    """What all processes have counted since each began."""

    lookups: LookupsJson
    provider_calls: Annotated[
        dict[str, int], "Calls to Flutterwave by purpose, and how many lookups were `saved` one."
    ]
    webhooks: _Count
    streams: int
    violations: _Count
    freshness: dict[str, FreshnessJson]
    processes: list[ProcessJson]


class BoardJson(FiguresJson):
    """How everything stands that the caller may see."""

    you: YouJson
    merchant: str | None
    health: HealthJson
    queue_depth: NotRequired[Annotated[int | None, "Only to who may see every merchant."]]
    fleet: NotRequired[Annotated[FleetJson, "Only to who may see every merchant."]]
