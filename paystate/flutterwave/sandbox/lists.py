"""One page of a list, and who is on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from paystate.flutterwave.sandbox.records import Chargeback, Payment
from paystate.flutterwave.sandbox.words import provider_word

__all__ = ["Dispute", "Page", "disputed", "matching", "page_of"]

T = TypeVar("T")
Dispute = tuple[Payment, Chargeback]

MAX_PAGE = 1_000_000


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list, and where in the list that is."""

    items: Sequence[T]
    info: dict[str, int]


def page_of(items: Sequence[T], query: Mapping[str, str], *, size: int, most: int) -> Page[T]:
    """Return the page that ``page`` (from 1) and ``size`` (up to `most`) of `query` ask for.

    A page behind the last one is empty. Raises ValueError for what is no such number.
    """
    number = _count(query, "page", 1, most=MAX_PAGE)
    size = _count(query, "size", size, most=most)
    start = (number - 1) * size
    info = {
        "total": len(items),
        "current_page": number,
        "total_pages": max(1, -(-len(items) // size)),
    }
    return Page(items[start : start + size], info)


def matching(payments: Iterable[Payment], query: Mapping[str, str]) -> list[Payment]:
    """Return those that `query` asks for, newest first.

    ``from`` and ``to`` are days (both included) or moments; ``tx_ref`` or ``reference``,
    ``status`` (the API's own word), ``currency``, ``customer_id`` and ``customer_email`` compare.
    Raises ValueError for a moment that is none.
    """
    tests = _tests(query)
    found = [p for p in payments if all(test(p) for test in tests)]
    found.reverse()
    return found


def disputed(payments: Iterable[Payment], query: Mapping[str, str]) -> list[Dispute]:
    """Return the chargebacks on `payments` that ``from`` and ``to`` ask for, the newest first.

    Raises as `matching` does.
    """
    first = _moment(query["from"], end=False) if query.get("from") else float("-inf")
    last = _moment(query["to"], end=True) if query.get("to") else float("inf")
    found = [(p, c) for p in payments for c in p.chargebacks if first <= c.at < last]
    return sorted(found, key=lambda one: -one[1].at)


def _tests(query: Mapping[str, str]) -> list[Callable[[Payment], bool]]:
    wanted = {name: value for name, value in query.items() if value}
    tests: list[Callable[[Payment], bool]] = []
    for name, read in _FIELDS.items():
        if name in wanted:
            tests.append(_equals(read, wanted[name]))
    if "status" in wanted:
        word = wanted["status"].casefold()
        tests.append(lambda p: provider_word(p).casefold() == word)
    if "from" in wanted:
        first = _moment(wanted["from"], end=False)
        tests.append(lambda p: p.created_at >= first)
    if "to" in wanted:
        last = _moment(wanted["to"], end=True)
        tests.append(lambda p: p.created_at < last)
    return tests


def _equals(read: Callable[[Payment], str], value: str) -> Callable[[Payment], bool]:
    return lambda payment: read(payment) == value


_FIELDS: dict[str, Callable[[Payment], str]] = {
    "tx_ref": lambda p: p.tx_ref,
    "reference": lambda p: p.tx_ref,
    "currency": lambda p: p.currency,
    "customer_id": lambda p: p.customer.v4_id,
    "customer_email": lambda p: p.customer.email,
}


def _moment(text: str, *, end: bool) -> float:
    """Return epoch seconds; a day as an end is the whole of it."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if end and len(text) == 10:
        moment += timedelta(days=1)
    return moment.timestamp()


def _count(query: Mapping[str, str], name: str, default: int, *, most: int) -> int:
    text = query.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise ValueError(f"{name} is a whole number from 1 to {most}")
    return int(text)
