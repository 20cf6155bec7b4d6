"""Customers in the provider's answers: v4 has an API for them, v3 shows them in transactions.

Each field is kept only in a form of its own, so that nothing else travels in it: a name has hardly
a digit in it, so no card or account number can pass for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from paystate.flutterwave import fields
from paystate.updates import Person

__all__ = ["parse_v3_customer", "parse_v4_customer"]

_LONGEST_NAME = 200
_MOST_DIGITS = 4
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])")
_PHONE = re.compile(r"\+?[0-9]{5,15}")
_SPACING = re.compile(r"[\s().-]")


def parse_v3_customer(data: Mapping[str, Any]) -> tuple[str, Person] | None:
    """Return the id and the person of a v3 transaction's customer; None if it has no usable id."""
    held = data.get("customer")
    if not isinstance(held, dict):
        return None
    customer_id = fields.identifier(held.get("id"))
    if customer_id is None:
        return None
    person = Person(
        name=_name(held.get("name"), held.get("fullName")),
        email=_email(held.get("email")),
        phone=_phone(held.get("phone_number") or held.get("phone")),
        since=fields.instant(held.get("created_at") or held.get("createdAt")),
    )
    return customer_id, person


def parse_v4_customer(data: Mapping[str, Any]) -> tuple[str, Person] | None:
    """Return the id and the person of a v4 customer; None if it has no usable id."""
    customer_id = fields.identifier(data.get("id"))
    if customer_id is None:
        return None
    parts = data.get("name")
    parts = parts if isinstance(parts, dict) else {}
    words = [parts.get(part) for part in ("first", "middle", "last")]
    person = Person(
        name=_name(" ".join(word for word in words if isinstance(word, str) and word)),
        email=_email(data.get("email")),
        phone=_v4_phone(data.get("phone")),
        since=fields.instant(data.get("created_datetime")),
    )
    return customer_id, person


def _name(*values: Any) -> str | None:
    for value in values:
        text = " ".join(value.split()) if isinstance(value, str) else ""
        digits = sum(character.isdigit() for character in text)
        if 0 < len(text) <= _LONGEST_NAME and text.isprintable() and digits <= _MOST_DIGITS:
            return text
    return None


def _email(value: Any) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    return text if text.isprintable() and _EMAIL.fullmatch(text) else None


def _phone(value: Any) -> str | None:
    text = str(value) if type(value) is int else value
    digits = _SPACING.sub("", text) if isinstance(text, str) and len(text) <= 40 else ""
    return digits if _PHONE.fullmatch(digits) else None


def _v4_phone(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    number = _phone(value.get("number"))
    code = _SPACING.sub("", str(value.get("country_code") or "")).removeprefix("+")
    if number is None or number.startswith("+") or not re.fullmatch(r"[0-9]{1,4}", code):
        return number
    return _phone(f"+{code}{number}")
