"""Values that must be found nowhere, and the search for them in whatever form they could take."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.unit import bodies

__all__ = [
    "MARK", "MARKED", "PERSON", "Finding", "canary", "digits", "search", "search_folder",
    "search_person", "tainted",
]  # fmt: skip

# Every canary has one of these in it, so that large files are searched for these alone.
MARK = "kNry7Zq"
MARKED = "4929370155"

# A customer as the provider's API shows them: kept for the profile, and nowhere else.
_NAME, _TELEPHONE = "vXqPersonJ", "9929370199"
PERSON = {
    "name": f"Wemimo {_NAME}",
    "email": f"{_NAME}@example.com",
    "phone_number": f"+234{_TELEPHONE}",
}

_issued: list[str] = []


def canary(name: str) -> str:
    """Return a text that must not be found, for the field or secret `name`."""
    value = f"{name}-{MARK}"
    _issued.append(value)
    return value


def digits(tail: str) -> str:
    """Return digits that must not be found: an account's number, a card's, a telephone's."""
    value = MARKED + tail
    _issued.append(value)
    return value


@dataclass(frozen=True)
class Finding:
    """A form of a canary, and where it was found."""

    form: str
    place: str
    around: bytes


def _base64_of(text: str) -> set[bytes]:
    """Return what base64 makes of `text` inside a longer text, wherever in it that begins."""
    forms = set()
    for before in range(3):
        raw = b"\0" * before + text.encode()
        whole = base64.b64encode(raw[: len(raw) // 3 * 3])
        forms.add(whole[(before * 8 + 5) // 6 :])
    return forms | {form.translate(bytes.maketrans(b"+/", b"-_")) for form in forms}


def _forms(text: str) -> dict[bytes, str]:
    raw = text.encode()
    forms = {raw: "plain", raw.hex().encode(): "hex", raw.hex().upper().encode(): "hex"}
    forms |= dict.fromkeys(_base64_of(text), "base64")
    forms[quote(text, safe="").encode()] = "plain"
    forms[text.encode("utf-16-le")] = "utf-16"
    return forms


def _digests() -> dict[bytes, str]:
    made: dict[bytes, str] = {}
    for value in _issued:
        digest = hashlib.sha256(value.encode())
        made[digest.hexdigest().encode()] = made[digest.digest()] = "sha256"
        made[base64.b64encode(digest.digest())] = "sha256"
    return made


def search(place: str, found: bytes | str, *, digests: bool = True) -> list[Finding]:
    """Return every form of a canary in `found`, which comes from `place`."""
    data = found.encode("utf-8", "surrogateescape") if isinstance(found, str) else found
    needles = {**_forms(MARK), **_forms(MARKED), **(_digests() if digests else {})}
    return [
        Finding(form, place, data[max(0, at - 60) : at + 60])
        for needle, form in needles.items()
        if (at := data.find(needle)) >= 0
    ]


def search_person(place: str, found: bytes | str) -> list[Finding]:
    """Return every form of what is personal of `PERSON` in `found`, which comes from `place`."""
    data = found.encode("utf-8", "surrogateescape") if isinstance(found, str) else found
    return [
        Finding(form, place, data[max(0, at - 60) : at + 60])
        for needle, form in {**_forms(_NAME), **_forms(_TELEPHONE)}.items()
        if (at := data.find(needle)) >= 0
    ]


def search_folder(folder: Path, needles: Iterable[bytes] | None = None) -> list[Finding]:
    """Return every mark in the files of `folder`; of PostgreSQL's, 16 MB at a time."""
    wanted = dict.fromkeys(needles, "plain") if needles else {**_forms(MARK), **_forms(MARKED)}
    findings = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # a server's file of a moment
            continue
        for needle, form in wanted.items():
            if (at := data.find(needle)) >= 0:
                findings.append(Finding(form, str(path), data[max(0, at - 60) : at + 60]))
    return findings


# --- bodies ---

# Fields that are kept on purpose, in the forms that `paystate.flutterwave.fields` allows; a canary
# in one of them would say nothing. A customer's id is kept, nothing else about a customer is.
_KEPT = frozenset(
    {"id", "tx_ref", "txRef", "reference", "flw_ref", "flwRef", "status", "amount", "currency",
     "charged_amount", "app_fee", "appfee", "payment_type", "created_at", "createdAt", "event",
     "type", "event.type", "webhook_id", "created_datetime", "first_6digits", "last_4digits",
     "expiry", "first6", "last4", "network", "expiry_month", "expiry_year", "card6", "card_last4",
     "TransactionId", "AmountRefunded", "amount_refunded", "charge_id", "source_currency",
     "destination_currency", "FlwRef", "code", "reconciliation_status", "initial_status", "value",
     "applies_to", "timestamp", "customer_id", "tx_id"}
)  # fmt: skip

# Named in none of the bodies, and sent in all of them: section by section, what must never stay.
_ADDED: dict[str, Any] = {
    "token": canary("card-token"),
    "customertoken": canary("customer-token"),
    "otp": canary("otp"),
    "pin": canary("pin"),
    "cvv": canary("cvv"),
    "pan": digits("012345"),
    "card_number": digits("543210"),
    "account_number": digits("11"),
    "originatoraccountnumber": digits("22"),
    "originatorname": canary("originator"),
    "bvn": digits("3"),
    "email": canary("email") + "@example.com",
    "phone": "+" + digits("44"),
    "name": canary("name"),
    "address": {"line1": canary("street"), "city": canary("city")},
    "ip": canary("ip"),
    "client_ip": canary("client-ip"),
    "device_fingerprint": canary("fingerprint"),
    "narration": canary("narration"),
    "meta": {"note": canary("meta")},
    "redirect_url": f"https://shop.example.com/{canary('redirect')}",
    "processor_response": canary("free text") + " of the processor",
}


def tainted(body: Any, *, top: bool = True) -> Any:
    """Return `body` with a canary in every field that is not kept, and with more such fields.

    The top level gets no further ones: an OTP there makes the body one that is dropped whole.
    """
    if isinstance(body, list):
        return [tainted(item, top=False) for item in body]
    if not isinstance(body, dict):
        return body
    out: dict[str, Any] = {}
    for name, value in body.items():
        if isinstance(value, dict | list):
            out[name] = tainted(value, top=False)
        elif name in _KEPT or not isinstance(value, str):
            out[name] = value
        else:
            out[name] = canary(name)
    if not top:
        out |= {name: value for name, value in _ADDED.items() if name not in out}
    else:
        out["meta_data"] = {"seat": canary("seat"), **_ADDED}
    return out


def families() -> list[Any]:
    """Return a tainted body of every family that reaches the endpoint."""
    return [tainted(make()) for make in (*bodies.PAYMENTS.values(), *bodies.OTHERS.values())]
