"""Readers of single fields: each returns a value that is safe to keep, or None.

Whatever a field holds, of whatever type, a reader returns and does not raise. Texts are kept only
in the characters their field is made of, so that no free text travels on in a field for a code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any

from paystate.keys import MAX_ID_LENGTH
from paystate.updates import Card

__all__ = [
    "UNRECOGNISED",
    "card",
    "code",
    "currency",
    "event_type",
    "identifier",
    "instant",
    "money",
    "provider_reference",
    "provider_status",
    "reference",
    "word",
]

UNRECOGNISED = "unrecognised"

# Starts with a letter or digit: ids become a part of the provider's addresses, where ``..`` climbs.
_IDENTIFIER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.:-]{{0,{MAX_ID_LENGTH - 1}}}")
_PROVIDER_REFERENCE = re.compile(rf"[A-Za-z0-9_./:-]{{1,{MAX_ID_LENGTH}}}")
_EVENT_TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_PROVIDER_STATUS = re.compile(r"[A-Za-z0-9_. -]{1,40}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,20}")
_CURRENCY = re.compile(r"[A-Za-z]{3}")

_INT_BOUND = 10**MAX_ID_LENGTH

# Above any amount in any currency; together 24 digits, which a NUMERIC(24, 9) column holds.
_AMOUNT_BOUND = 10**15
_AMOUNT_STEP = Decimal("1e-9")
_EXACT = Context(prec=30, traps=[Inexact, InvalidOperation])
_PLAIN_NUMBER = re.compile(r"[0-9]{1,40}(?:\.[0-9]{1,40})?")

# As most moments come: in UTC, with milliseconds.
_AS_KEPT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_EPOCH = re.compile(r"[0-9]{9,13}(?:\.[0-9]{1,9})?")
# Seconds up to the year 5138; from there on it is milliseconds, since 1973.
_EPOCH_MS_FROM = 10**11
_EPOCH_BOUND = 10**14

_CARD_TYPE = re.compile(r"[A-Za-z][A-Za-z _-]{0,19}")  # no digit: a card number cannot pass as one
_CARD_EXPIRY = re.compile(r"(?:0[1-9]|1[0-2])/[0-9]{2}")


# Words of one field that are remembered.
_WORDS_KNOWN = 256


def _matching(pattern: re.Pattern[str], value: Any) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _one_of_few(pattern: re.Pattern[str]) -> Callable[[Any], str | None]:
    """Return `_matching` for a field that holds one of few words: each is looked at once.

    Only what matches is remembered: it may be kept, and its length has a bound.
    """
    known: set[str] = set()

    def matching(value: Any) -> str | None:
        if type(value) is not str:
            return None
        if value not in known:
            if not pattern.fullmatch(value):
                return None
            if len(known) >= _WORDS_KNOWN:
                known.clear()
            known.add(value)
        return value

    return matching


_currency, _provider_status, _word, _code, _card_type, _card_expiry = map(
    _one_of_few, (_CURRENCY, _PROVIDER_STATUS, _WORD, _CODE, _CARD_TYPE, _CARD_EXPIRY)
)
_NO_CARD = Card()


def _integer_text(value: Any) -> str | None:
    """Return an int as text; bools are not ints here, nor is what has too many digits for an id."""
    if type(value) is int and -_INT_BOUND < value < _INT_BOUND:
        return str(value)
    return None


def identifier(value: Any) -> str | None:
    """Return an id of the provider's: an int of 0 or more, or a string kept exactly as it is."""
    return _matching(_IDENTIFIER, value if isinstance(value, str) else _integer_text(value))


def reference(value: Any) -> str | None:
    """Return a merchant's reference: printable text of any script as it is, or an int as text."""
    text = value if isinstance(value, str) else _integer_text(value)
    if text is None or not 0 < len(text) <= MAX_ID_LENGTH or not text.isprintable():
        return None
    return text


def provider_reference(value: Any) -> str | None:
    """Return a reference of the provider's own (`flw_ref`)."""
    return _matching(_PROVIDER_REFERENCE, value)


def money(value: Any) -> Decimal | None:
    """Return an amount in major units: 0 or more, below 10^15, at most 9 decimal places.

    Takes an int, a Decimal or a plain number as text (a form's). The result is exact and has no
    exponent and no trailing zeros.
    """
    if type(value) is int:
        return Decimal(value) if 0 <= value < _AMOUNT_BOUND else None
    if isinstance(value, str):
        number = Decimal(value) if _PLAIN_NUMBER.fullmatch(value) else None
    else:
        number = value if isinstance(value, Decimal) else None
    if number is None or not number.is_finite():
        return None
    if not number:
        return Decimal(0)  # whatever its sign and exponent
    # The size first: an exponent of a billion is a short text and a long number.
    if number < 0 or number.adjusted() >= 15:
        return None
    _, digits, exponent = number.as_tuple()
    if isinstance(exponent, int) and -9 <= exponent < 0 and digits[-1]:  # as most are written
        return number
    try:
        shortest = number.quantize(_AMOUNT_STEP, context=_EXACT).normalize(_EXACT)
    except (Inexact, InvalidOperation):
        return None
    return Decimal(format(shortest, "f"))


def currency(value: Any) -> str | None:
    """Return three letters in upper case."""
    text = _currency(value)
    return text.upper() if text else None


def event_type(value: Any) -> str:
    """Return an event's name in lower case, or `UNRECOGNISED`: good for a label and a log field."""
    if not isinstance(value, str) or len(value) > 64:
        return UNRECOGNISED
    return _matching(_EVENT_TYPE, value.lower()) or UNRECOGNISED


def provider_status(value: Any) -> str:
    """Return the provider's own word for a status, or `UNRECOGNISED`."""
    text = value.strip() if isinstance(value, str) else value
    return _provider_status(text) or UNRECOGNISED


def word(value: Any) -> str | None:
    """Return one word, such as a payment type."""
    return _word(value)


def code(value: Any) -> str | None:
    """Return a short code, such as a processor's response code."""
    return _code(value)


def instant(value: Any) -> str | None:
    """Return a moment as ISO 8601 in UTC with milliseconds.

    Takes ISO 8601 (without a zone it is UTC; nanoseconds are cut) or epoch seconds or milliseconds
    as a number or its text.
    """
    try:
        if isinstance(value, str):
            if len(value) > 40:
                return None
            if _AS_KEPT.fullmatch(value):
                datetime.fromisoformat(value)
                return f"{value[:-1]}+00:00"
            if not _EPOCH.fullmatch(value):
                return _utc(datetime.fromisoformat(value))
            value = Decimal(value)
        if type(value) is not int and not isinstance(value, Decimal):
            return None
        return _epoch(value)
    except (ValueError, OverflowError):
        return None


def _utc(moment: datetime) -> str:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _epoch(value: int | Decimal) -> str | None:
    if isinstance(value, Decimal) and not value.is_finite():
        return None
    if not 0 < value < _EPOCH_BOUND:
        return None
    seconds = value if value < _EPOCH_MS_FROM else Decimal(value) / 1000
    return _utc(datetime.fromtimestamp(float(seconds), UTC))


def card(first_6: Any, last_4: Any, card_type: Any, expiry: Any) -> Card | None:
    """Return what may be kept of a card, each field only in its own form; None if nothing is."""
    found = Card(
        _digits(first_6, 6), _digits(last_4, 4), _card_type(card_type), _card_expiry(expiry)
    )
    return found if found != _NO_CARD else None


def _digits(value: Any, count: int) -> str | None:
    if type(value) is str and len(value) == count and value.isdecimal() and value.isascii():
        return value
    return None
