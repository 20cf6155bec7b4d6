"""Merchants: whose webhooks are taken, and with which secrets and credentials.

The first one's come from the variables. Each table of MERCHANTS_FILE is a further one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from paystate.keys import DEFAULT_MERCHANT
from paystate.values import Unusable, secrets

__all__ = ["Confirm", "Merchant", "confirm", "further_merchants"]


class Confirm(StrEnum):
    """Which webhooks are confirmed with the verify API where credentials are set."""

    ALWAYS = "always"
    V3 = "v3"  # a v4 body is signed over its bytes, and may be believed as it is
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Merchant:
    """One merchant's own secrets and credentials at Flutterwave."""

    name: str
    secret_hashes: tuple[str, ...] = field(default=(), repr=False)
    secret_key: str | None = field(default=None, repr=False)
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    confirm: Confirm = Confirm.ALWAYS


def confirm(text: str) -> Confirm:
    """Return which webhooks are confirmed."""
    if text not in set(Confirm):
        raise Unusable("must be always, v3 or never")
    return Confirm(text)


_NAME = re.compile(r"[a-z0-9_-]{1,40}")


def further_merchants(
    path: str, env: Mapping[str, str], problems: list[str]
) -> dict[str, Merchant]:
    """Return the merchants of the file at `path` by their names; add what is wrong to `problems`.

    A value ``env:NAME`` is read from `env`.
    """
    found: dict[str, Merchant] = {}
    try:
        tables = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as e:
        problems.append(f"MERCHANTS_FILE cannot be read: {e.strerror}")
        return found
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        problems.append("MERCHANTS_FILE is not valid TOML")
        return found
    except ValueError:
        problems.append("MERCHANTS_FILE is no path of a file")
        return found
    for name, table in tables.items():
        where = f"MERCHANTS_FILE [{name}]"
        if name == DEFAULT_MERCHANT or not isinstance(table, dict):
            problems.append(f"{where}: `{DEFAULT_MERCHANT}` is the merchant of the variables")
            continue
        if not _NAME.fullmatch(name):
            problems.append(f"{where}: a name has 1 to 40 of a-z, 0-9, - and _")
            continue
        found[name] = _merchant(name, table, env, where, problems)
    return found


def _merchant(
    name: str, table: dict[str, Any], env: Mapping[str, str], where: str, problems: list[str]
) -> Merchant:
    known = {"secret_hash", "secret_key", "client_id", "client_secret", "confirm"}
    problems.extend(f"{where}: {extra} is not known" for extra in sorted(table.keys() - known))

    def value(key: str) -> str | None:
        text = table.get(key)
        if isinstance(text, str) and text.startswith("env:"):
            text = env.get(text[4:], "")
        if text is None:
            return None
        if not isinstance(text, str) or not text or text != text.strip():
            problems.append(f"{where}: {key} is empty or not a plain text")
            return None
        return text

    hashes: tuple[str, ...] = ()
    try:
        hashes = secrets(value("secret_hash") or "")
    except Unusable as e:
        problems.append(f"{where}: secret_hash {e}")
    confirms = Confirm.ALWAYS
    try:
        confirms = confirm(value("confirm") or Confirm.ALWAYS)
    except Unusable as e:
        problems.append(f"{where}: confirm {e}")
    return Merchant(
        name,
        hashes,
        value("secret_key"),
        value("client_id"),
        value("client_secret"),
        confirms,
    )
