"""The answer to "has my payment gone through?", in the form that every interface gives it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, TypedDict, TypeVar

import orjson

from paystate.cache.answers import Hit
from paystate.changes import iso_utc
from paystate.keys import Entity, EntityKind
from paystate.shapes import Bounded, Moment, Version
from paystate.state import Attempt, EntityState
from paystate.status import Status, is_terminal

__all__ = ["Source", "StatusAnswer", "StatusAnswerJson", "from_cache", "from_database"]

T = TypeVar("T")


class Source(StrEnum):
    """Who gave the answer."""

    CACHE = "cache"
    DATABASE = "database"
    PROVIDER = "provider"


class StatusAnswerJson(TypedDict):
    """A status, and how far it can be trusted."""

    payment_id: Annotated[str | None, "The payment, or the attempt that decides the reference."]
    tx_ref: Annotated[str | None, "The merchant reference, if one is known."]
    kind: Annotated[str, Bounded(words=EntityKind)]
    status: Annotated[str, Bounded(words=Status)]
    terminal: Annotated[bool, "Whether the status has come to its end."]
    version: Annotated[Version, "Rises whenever what is shown changes."]
    as_of: Annotated[Moment, "The last moment at which this is known to have been so."]
    source: Annotated[str, Bounded(words=Source)]
    fresh: Annotated[bool, "False: Flutterwave should have been asked and could not, or `held`."]
    held: Annotated[bool, "Whether a person must look at an event of this payment first."]


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """A status and how far it can be trusted.

    `as_of_ms` is the last moment at which it is known to have been so; a successful payment stays
    so, and there it is when its version rose last. `fresh` is False where the provider should have
    been asked and could not, or a person must look first (`held`). `retry_after_s` says when to ask
    again, where waiting helps.
    """

    entity: Entity
    status: Status
    terminal: bool
    version: int
    payment_id: str | None
    tx_ref: str | None
    as_of_ms: int
    source: Source
    fresh: bool = True
    held: bool = False
    retry_after_s: float | None = None
    _rendered: tuple[bytes, str] | None = field(default=None, init=False, compare=False, repr=False)
    _made: Any = field(default=None, init=False, compare=False, repr=False)

    def rendered(self) -> tuple[bytes, str]:
        """Return the public form as JSON, and its entity tag; built once.

        The tag is weak: `as_of` and `source` differ from answer to answer, what is said does not.
        """
        rendered = self._rendered
        if rendered is None:
            tag = f'W/"{self.entity.kind[0]}{self.version}{"f" if self.fresh else "s"}"'
            rendered = (orjson.dumps(self.to_json()), tag)
            object.__setattr__(self, "_rendered", rendered)
        return rendered

    @property
    def made(self) -> Any:
        """What an interface has made of this answer, to give it to the next who asks; or None."""
        return self._made

    def keep_made(self, made: T) -> T:
        """Keep `made` for as long as this answer is kept, and return it."""
        object.__setattr__(self, "_made", made)
        return made

    def to_json(self) -> StatusAnswerJson:
        """Return the public form."""
        return {
            "payment_id": self.payment_id,
            "tx_ref": self.tx_ref,
            "kind": self.entity.kind.value,
            "status": self.status.value,
            "terminal": self.terminal,
            "version": self.version,
            "as_of": iso_utc(self.as_of_ms),
            "source": self.source.value,
            "fresh": self.fresh,
            "held": self.held,
        }

    def from_near(self) -> StatusAnswer:
        """Return this answer as one that is held; it was successful then and is so now."""
        return self if self.source is Source.CACHE else replace(self, source=Source.CACHE)

    def stale(self, retry_after_s: float | None) -> StatusAnswer:
        """Return this answer as the last known state, not as a fresh one."""
        return replace(self, fresh=False, retry_after_s=retry_after_s)


def from_cache(entity: Entity, hit: Hit) -> StatusAnswer:
    """Return the answer that a proven cache entry gives."""
    if entity.is_reference:
        attempt = Attempt.parse_short(hit.link)
        payment_id = attempt.id if attempt else None
        tx_ref: str | None = entity.id
        terminal = hit.status is Status.SUCCESSFUL
    else:
        payment_id, tx_ref = entity.id, hit.link
        terminal = is_terminal(hit.status)
    return StatusAnswer(
        entity=entity,
        status=hit.status,
        terminal=terminal,
        version=hit.version,
        payment_id=payment_id,
        tx_ref=tx_ref,
        as_of_ms=hit.as_of_ms,
        source=Source.CACHE,
    )


def from_database(state: EntityState, read_ms: int, source: Source) -> StatusAnswer:
    """Return the answer that a row gives which was read at `read_ms`."""
    final = state.status is Status.SUCCESSFUL
    return StatusAnswer(
        entity=state.entity,
        status=state.shown,
        terminal=state.terminal,
        version=state.version,
        payment_id=state.payment_id,
        tx_ref=state.tx_ref,
        as_of_ms=state.changed_ms if final else read_ms,
        source=source,
        fresh=not state.held,
        held=state.held,
    )
