"""One visible change of a status, in the one shape that channels, streams and the change log share.

A change is applied by whoever receives it only if its version is greater than what they hold; a
`previous_version` that is not what they hold shows a gap. The cursor orders changes for replay.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, Self, TypedDict

from paystate.keys import Entity, EntityKind
from paystate.shapes import Bounded, CursorText, Moment, Version
from paystate.status import Status

__all__ = ["MOST", "Change", "ChangeJson", "Cursor", "iso_utc"]


# The greatest number that a column of the databases holds.
MOST = 2**63 - 1


@lru_cache(maxsize=256)  # what is committed together has changed at one moment
def iso_utc(ms: int) -> str:
    """Return `ms` since the epoch as ISO 8601 in UTC with milliseconds."""
    second, rest = divmod(ms, 1000)
    return f"{_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=1000)
def _second(second: int) -> str:
    """Return a second of those that are being told of: nearly always this one."""
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


class Cursor(NamedTuple):
    """A place in the change log: everything up to it has been seen, nothing after it has.

    On PostgreSQL `xid` is the writing transaction's id, because rows of a transaction that commits
    late have smaller `id`s than rows already read; on SQLite there is one writer, and it is 0.
    """

    xid: int = 0
    id: int = 0

    def __str__(self) -> str:
        return f"{self.xid}.{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cursor in `text`; raises ValueError if there is none."""
        xid, dot, row = text.partition(".")
        if not (dot and xid.isascii() and xid.isdigit() and row.isascii() and row.isdigit()):
            raise ValueError("a cursor looks like 123.456")
        if len(text) > 40 or max(int(xid), int(row)) > MOST:
            raise ValueError("a cursor's numbers have 64 bits")
        return cls(int(xid), int(row))


class ChangeJson(TypedDict):
    """One visible change of a status, as channels, streams and the change log carry it."""

    payment_id: Annotated[str | None, "The payment, or the attempt that decides the reference."]
    tx_ref: Annotated[str | None, "The merchant reference, if one is known."]
    kind: Annotated[str, Bounded(words=EntityKind)]
    merchant: Annotated[str, "`default`, or the name of a further merchant."]
    status: Annotated[str, Bounded(words=Status)]
    previous_status: Annotated[str | None, Bounded(words=Status), "What was shown before."]
    terminal: Annotated[bool, "Whether the status has come to its end."]
    version: Annotated[Version, "Apply the change only if this is greater than what you hold."]
    previous_version: Annotated[Version, "If this is not what you hold, a change was missed."]
    changed_at: Annotated[Moment, "When it was committed. Versions order changes, times do not."]
    cursor: Annotated[CursorText, "Go on from here: `GET /api/changes?after=`."]


class Change(NamedTuple):
    """A committed change of what is shown of one entity; a tuple, as `EntityState` is.

    For a merchant reference `entity.kind` is ``reference``, the versions are the reference's own,
    and `payment_id` names the attempt that decides its status, or nobody yet.
    """

    entity: Entity
    payment_id: str | None
    tx_ref: str | None
    status: Status
    previous_status: Status | None
    terminal: bool
    version: int
    previous_version: int
    changed_ms: int
    cursor: Cursor

    def to_json(self) -> ChangeJson:
        """Return the public form."""
        return {
            "payment_id": self.payment_id,
            "tx_ref": self.tx_ref,
            "kind": str(self.entity.kind),  # sooner than `value`, as below
            "merchant": self.entity.merchant,
            "status": str(self.status),
            "previous_status": str(self.previous_status) if self.previous_status else None,
            "terminal": self.terminal,
            "version": self.version,
            "previous_version": self.previous_version,
            "changed_at": iso_utc(self.changed_ms),
            "cursor": str(self.cursor),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the change in the public form `data`; raises ValueError or KeyError if unsound."""
        try:
            return cls._from_json(data)
        except (TypeError, AttributeError, OverflowError):
            raise ValueError("not a change") from None

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        kind = EntityKind.named(data["kind"])
        version, previous_version = data["version"], data["previous_version"]
        for number in (version, previous_version):
            if type(number) is not int or not 0 <= number <= MOST:
                raise ValueError("a version is a whole number of 64 bits")
        merchant, payment_id, tx_ref = data["merchant"], data["payment_id"], data["tx_ref"]
        own_id, other = (
            (tx_ref, payment_id) if kind is EntityKind.REFERENCE else (payment_id, tx_ref)
        )
        if not (_is_name(merchant) and _is_name(own_id) and type(other) in (str, NoneType)):
            raise ValueError("a name is a text")
        previous = data["previous_status"]
        return cls(
            entity=Entity(merchant, kind, own_id),
            payment_id=payment_id,
            tx_ref=tx_ref,
            status=Status(data["status"]),
            previous_status=Status(previous) if previous else None,
            terminal=bool(data["terminal"]),
            version=version,
            previous_version=previous_version,
            changed_ms=round(datetime.fromisoformat(data["changed_at"]).timestamp() * 1000),
            cursor=Cursor.parse(data["cursor"]),
        )


def _is_name(value: object) -> bool:
    return type(value) is str and value != ""
