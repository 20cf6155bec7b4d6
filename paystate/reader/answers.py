"""What a reader answers, with the fields of the HTTP API, and where each form of it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NamedTuple, Self, cast

from paystate.changes import Change
from paystate.keys import MAX_ID_LENGTH, Entity, EntityKind
from paystate.state import Attempt
from paystate.status import TERMINAL, Status, is_terminal

__all__ = ["PaymentDetails", "PaymentStatus", "Question", "Source", "best"]

Source = Literal["cache", "database", "provider"]
_SOURCES = ("cache", "database", "provider")
_STATUSES = {status.value.encode(): status for status in Status}
_PAYMENT_KINDS = (EntityKind.CHARGE, EntityKind.TRANSFER)


class Question(NamedTuple):
    """What is asked for. `kind` None: the charge of that id, else the transfer."""

    kind: EntityKind | None
    id: str

    @classmethod
    def payment(cls, payment_id: str | int, kind: str | None) -> Question:
        """Return the question for a payment. Raises ValueError for what cannot be an id."""
        own_kind = None if kind is None else EntityKind(kind)
        if own_kind is EntityKind.REFERENCE:
            raise ValueError("a payment is a charge or a transfer; references have tx_ref")
        return cls(own_kind, _identifier(payment_id))

    @classmethod
    def reference(cls, tx_ref: str) -> Question:
        """Return the question for a reference. Raises ValueError for what cannot be one."""
        return cls(EntityKind.REFERENCE, _identifier(tx_ref))

    @classmethod
    def of(cls, payment_id: str | int | None, kind: str | None, tx_ref: str | None) -> Question:
        """Return the question for the one of the two that is given."""
        if (payment_id is None) == (tx_ref is None):
            raise ValueError("name a payment id or a tx_ref, one of them")
        if tx_ref is not None:
            return cls.reference(tx_ref)
        return cls.payment(cast("str | int", payment_id), kind)

    def entity(self, merchant: str) -> Entity:
        """Return what the cache may answer for: of a bare id, the charge alone.

        A transfer of the same id proves nothing about a bare id: there may be a charge.
        """
        return Entity(merchant, self.kind or EntityKind.CHARGE, self.id)


def _identifier(value: str | int) -> str:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not 0 < len(text) <= MAX_ID_LENGTH or "\0" in text:
        raise ValueError(f"an id is a text of 1 to {MAX_ID_LENGTH} characters")
    text.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    return text


@dataclass(frozen=True, slots=True)
class PaymentStatus:
    """A status and how far it can be trusted.

    `version` is the database's, and rises with every change that can be seen; 0 says that nothing
    is known of it here. `as_of` is the last moment at which the status is known to have been so (a
    successful payment stays so, and there it is when it became so), or None where nobody knows.
    `fresh` is False where the answer is not proven: take it as the last known state. `held` says
    that a person must look first. For a reference `payment_id` is the payment that decides it.
    """

    payment_id: str | None
    tx_ref: str | None
    kind: EntityKind
    status: Status
    terminal: bool
    version: int
    as_of: datetime | None
    source: Source
    fresh: bool
    held: bool

    @property
    def known(self) -> bool:
        """Whether anything is known of it at all."""
        return self.version > 0

    @property
    def id(self) -> str:
        """The id or the reference that this is the status of."""
        own = self.tx_ref if self.kind is EntityKind.REFERENCE else self.payment_id
        return own or ""

    def to_json(self) -> dict[str, Any]:
        """Return the form of the HTTP API."""
        as_of = self.as_of and self.as_of.astimezone(UTC).isoformat(timespec="milliseconds")
        return {
            "payment_id": self.payment_id,
            "tx_ref": self.tx_ref,
            "kind": self.kind.value,
            "status": self.status.value,
            "terminal": self.terminal,
            "version": self.version,
            "as_of": as_of.replace("+00:00", "Z") if as_of else None,
            "source": self.source,
            "fresh": self.fresh,
            "held": self.held,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the answer in the API's form. Raises ValueError, KeyError or TypeError."""
        source, version = data["source"], data["version"]
        if source not in _SOURCES or type(version) is not int:
            raise ValueError("not an answer of ours")
        answer = cls(
            payment_id=_text_or_none(data["payment_id"]),
            tx_ref=_text_or_none(data["tx_ref"]),
            kind=EntityKind(data["kind"]),
            status=Status(data["status"]),
            terminal=data["terminal"] is True,
            version=version,
            as_of=datetime.fromisoformat(data["as_of"]),
            source=source,
            fresh=data["fresh"] is True,
            held=data["held"] is True,
        )
        if not answer.id:
            raise ValueError("an answer without an id")
        return answer

    @classmethod
    def nothing(cls, entity: Entity) -> Self:
        """Return the answer where nothing is known: `unknown`, version 0, not fresh."""
        return cls._of(entity, Status.UNKNOWN, 0, None, None, fresh=False)

    @classmethod
    def from_entry(
        cls, entity: Entity, entry: Sequence[Any], as_of_ms: Any, *, fresh: bool
    ) -> Self | None:
        """Return what a cache entry says (status, version, at, link), or None if it says nothing.

        None as well for an entry that is not one of ours.
        """
        try:
            status, version = _STATUSES[entry[0]], int(entry[1])
            link = entry[3].decode() or None if entry[3] else None
            as_of = datetime.fromtimestamp(int(as_of_ms) / 1000, UTC) if as_of_ms else None
        except (LookupError, ValueError, TypeError, AttributeError, OverflowError, OSError):
            return None
        kind = entity.kind
        if kind is EntityKind.REFERENCE:
            return cls._of(entity, status, version, link, as_of, fresh=fresh)
        # Nearly every read makes one of these.
        return cls(
            entity.id, link, kind, status, status in TERMINAL, version, as_of, "cache", fresh, False
        )

    @classmethod
    def from_change(cls, change: Change, *, fresh: bool) -> Self:
        """Return what a change that has just been heard says."""
        return cls(
            payment_id=change.payment_id,
            tx_ref=change.tx_ref,
            kind=change.entity.kind,
            status=change.status,
            terminal=change.terminal,
            version=change.version,
            as_of=datetime.fromtimestamp(change.changed_ms / 1000, UTC),
            source="database",
            fresh=fresh,
            held=False,
        )

    @classmethod
    def _of(
        cls,
        entity: Entity,
        status: Status,
        version: int,
        link: str | None,
        as_of: datetime | None,
        *,
        fresh: bool,
    ) -> Self:
        """Return what the cache says of `entity`."""
        kind = entity.kind
        if kind is EntityKind.REFERENCE:
            attempt = Attempt.parse_short(link)
            payment_id, tx_ref = (attempt.id if attempt else None), entity.id
            terminal = status is Status.SUCCESSFUL
        else:
            payment_id, tx_ref, terminal = entity.id, link or "", is_terminal(status)
        # By position: one of these is made for each read.
        return cls(
            payment_id, tx_ref or None, kind, status, terminal, version, as_of, "cache",
            fresh, False,
        )  # fmt: skip


def best(answer: PaymentStatus | None, entity: Entity) -> PaymentStatus:
    """Return `answer`, or the answer that nothing is known."""
    return answer if answer is not None else PaymentStatus.nothing(entity)


@dataclass(frozen=True, slots=True)
class PaymentDetails:
    """What is known of a payment beside its status. Money is exact, in major units of `currency`.

    `overlays` are its refunds, reversals and chargebacks, in the form of the HTTP API;
    `refunded_amount` is the sum of the refunds that are completed, `refund_pending_amount` of those
    on their way, `refund_flags` why a person should look at them. `chargeback` and `reversal` say
    how far those have come.
    """

    answer: PaymentStatus
    amount: Decimal | None
    currency: str | None
    charged_amount: Decimal | None
    app_fee: Decimal | None
    payment_type: str | None
    flw_ref: str | None
    processor_code: str | None
    provider_status: str | None
    created_at: str | None
    customer_id: str | None
    card: Mapping[str, str] | None
    overlays: tuple[Mapping[str, Any], ...]
    refunded_amount: Decimal | None
    refund_pending_amount: Decimal | None
    refund_flags: tuple[str, ...]
    chargeback: str | None
    reversal: str | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the details in the API's form. Raises ValueError, KeyError or TypeError."""
        card = data.get("card")
        return cls(
            answer=PaymentStatus.from_json(data),
            amount=_decimal(data.get("amount")),
            currency=_text_or_none(data.get("currency")),
            charged_amount=_decimal(data.get("charged_amount")),
            app_fee=_decimal(data.get("app_fee")),
            payment_type=_text_or_none(data.get("payment_type")),
            flw_ref=_text_or_none(data.get("flw_ref")),
            processor_code=_text_or_none(data.get("processor_code")),
            provider_status=_text_or_none(data.get("provider_status")),
            created_at=_text_or_none(data.get("created_at")),
            customer_id=_text_or_none(data.get("customer_id")),
            card=dict(card) if card else None,
            overlays=tuple(dict(overlay) for overlay in data.get("overlays") or ()),
            refunded_amount=_decimal(data.get("refunded_amount")),
            refund_pending_amount=_decimal(data.get("refund_pending_amount")),
            refund_flags=tuple(data.get("refund_flags") or ()),
            chargeback=_text_or_none(data.get("chargeback")),
            reversal=_text_or_none(data.get("reversal")),
        )


def _text_or_none(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError("not a text")
    return value


def _decimal(value: object) -> Decimal | None:
    text = _text_or_none(value)
    try:
        return Decimal(text) if text is not None else None
    except InvalidOperation:
        raise ValueError("not an amount") from None
