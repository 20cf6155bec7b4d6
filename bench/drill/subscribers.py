"""Who listens meanwhile: a reader's feed of changes and a client of server-sent events.

Each holds what it has been told and nothing else. At the end each must hold what the database does.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import aiohttp

from bench.drill.deployment import TOKEN, Part
from bench.drill.oracle import Oracle
from paystate import PaymentReader
from paystate.changes import Change
from paystate.reader import Gap

__all__ = ["Held", "Subscriber", "follow_events", "follow_feed"]

# Row key → status and version.
Held = dict[str, tuple[str, int]]

COME_BACK_S = 0.2


@dataclass
class Subscriber:
    """What one listener has been told, and how often it had to begin again."""

    name: str
    oracle: Oracle
    held: Held = field(default_factory=dict)
    resumed: int = 0

    def take(self, change: Change) -> None:
        """Hold a change."""
        self.held[change.entity.row_key] = change.status.value, change.version

    def version(self, change: Change) -> int:
        """Return the version that is held of the same entity, 0 if none is."""
        return self.held.get(change.entity.row_key, ("", 0))[1]

    def differs_from(self, truth: Held) -> int:
        """Return how many entities it holds otherwise than `truth`."""
        return sum(
            truth.get(key) != self.held.get(key) for key in truth.keys() | self.held.keys()
        )  # fmt: skip


async def follow_feed(reader: PaymentReader, subscriber: Subscriber) -> None:
    """Follow the changes of a reader."""
    async with reader.changes() as feed:
        async for item in feed:
            if isinstance(item, Gap):
                subscriber.resumed += 1
                continue
            before, key = subscriber.version(item), item.entity.row_key
            subscriber.oracle.told(subscriber.name, key, item.version, before=before)
            subscriber.take(item)


async def follow_events(
    session: aiohttp.ClientSession, web: list[Part], subscriber: Subscriber, last_id: str
) -> None:
    """Follow ``GET /api/changes`` from `last_id` on, at one web process after another."""
    turn = 0
    while True:
        try:
            last_id = await _stream(session, web[turn % len(web)].url, subscriber, last_id)
        except _Broken as broken:
            last_id = broken.last_id
        turn += 1
        subscriber.resumed += 1
        await asyncio.sleep(COME_BACK_S)


class _Broken(Exception):
    """The connection was lost; `last_id` is how far it had come."""

    def __init__(self, last_id: str) -> None:
        super().__init__("the stream was lost")
        self.last_id = last_id


async def _stream(
    session: aiohttp.ClientSession, url: str, subscriber: Subscriber, last_id: str
) -> str:
    headers = {
        "Accept": "text/event-stream", "Authorization": f"Bearer {TOKEN}", "Last-Event-ID": last_id,
    }  # fmt: skip
    patience = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=40)
    try:
        async with session.get(f"{url}/api/changes", headers=headers, timeout=patience) as response:
            if response.status != 200:
                return last_id
            told: dict[str, int] = {}
            event: dict[str, str] = {}
            async for raw in response.content:
                name, _, value = raw.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = value
                    continue
                if event.get("event") == "change":
                    _take(Change.from_json(json.loads(event["data"])), subscriber, told)
                    last_id = event["id"]
                event = {}
    except (OSError, aiohttp.ClientError, TimeoutError) as e:
        raise _Broken(last_id) from e
    return last_id


def _take(change: Change, subscriber: Subscriber, told: dict[str, int]) -> None:
    """Judge a change by what this stream has told; hold it if it is news over all streams."""
    key = change.entity.row_key
    subscriber.oracle.told(subscriber.name, key, change.version, before=told.get(key, 0))
    told[key] = change.version
    if change.version > subscriber.version(change):
        subscriber.take(change)
