"""Merchants: whose webhooks are taken, and with which secrets, credentials, budget and tokens.

The first one's come from the variables. Each table of MERCHANTS_FILE is a further one; whatever it
does not say of addresses and budgets is as for the first. docs/merchants.md has the file's form.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from paystate.keys import DEFAULT_MERCHANT
from paystate.updates import Api
from paystate.values import Unusable, base_address, secrets

__all__ = [
    "ApiVersion",
    "Confirm",
    "Merchant",
    "api_version",
    "confirm",
    "further_merchants",
    "shared_tokens",
]


class Confirm(StrEnum):
    """Which webhooks are confirmed with the verify API where credentials are set."""

    ALWAYS = "always"
    V3 = "v3"  # a v4 body is signed over its bytes, and may be believed as it is
    NEVER = "never"


class ApiVersion(StrEnum):
    """Which of Flutterwave's APIs a merchant has: its webhooks are taken, and it is asked."""

    ANY = "any"
    V3 = "v3"
    V4 = "v4"

    def allows(self, api: Api) -> bool:
        """Say whether the merchant has `api`."""
        return self is ApiVersion.ANY or self.value == api.value


@dataclass(frozen=True, slots=True)
class Merchant:
    """One merchant's own secrets, credentials and limits; None is as for the first merchant.

    `tokens` are of the forms ``NAME:read=TOKEN`` and ``NAME:operate=TOKEN``. `calls_per_hour` and
    `calls_per_minute` are its budget at Flutterwave, `api_calls_per_minute` what each token that is
    bound to it may ask of us.
    """

    name: str
    secret_hashes: tuple[str, ...] = field(default=(), repr=False)
    secret_key: str | None = field(default=None, repr=False)
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    confirm: Confirm = Confirm.ALWAYS
    api: ApiVersion = ApiVersion.ANY
    base_url: str | None = None
    v4_base_url: str | None = None
    token_url: str | None = None
    calls_per_hour: int | None = None
    calls_per_minute: int | None = None
    tokens: tuple[str, ...] = field(default=(), repr=False)
    api_calls_per_minute: int | None = None


def confirm(text: str) -> Confirm:
    """Return which webhooks are confirmed."""
    if text not in set(Confirm):
        raise Unusable("must be always, v3 or never")
    return Confirm(text)


def api_version(text: str) -> ApiVersion:
    """Return which APIs a merchant has."""
    if text not in set(ApiVersion):
        raise Unusable("must be any, v3 or v4")
    return ApiVersion(text)


_NAME = re.compile(r"[a-z0-9_-]{1,40}")
_TOKEN = re.compile(r"[a-z0-9_-]{1,40}:(?:read|operate)=(.+)")
_MOST_CALLS = 10_000_000


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
        found[name] = _Table(where, table, env, problems).merchant(name)
    return found


def shared_tokens(merchants: Mapping[str, Merchant], others: tuple[str, ...]) -> list[str]:
    """Return a problem for each merchant that has a token which somebody else has too.

    `others` are the tokens of API_TOKENS, in their forms.
    """
    owners = {text.rpartition("=")[2] if ":" in text else text: "API_TOKENS" for text in others}
    problems = []
    for merchant in merchants.values():
        for text in merchant.tokens:
            owner = owners.setdefault(text.partition("=")[2], merchant.name)
            if owner != merchant.name:
                whose = owner if owner == "API_TOKENS" else f"[{owner}]"
                problems.append(f"MERCHANTS_FILE [{merchant.name}]: it has a token of {whose}")
    return problems


class _Table:
    """One table of the file, and what is wrong with it."""

    def __init__(
        self, where: str, table: dict[str, Any], env: Mapping[str, str], problems: list[str]
    ) -> None:
        self._where = where
        self._table = table
        self._env = env
        self._problems = problems
        self._known: set[str] = set()

    def merchant(self, name: str) -> Merchant:
        """Return the merchant; what cannot be used is left out of it, and a problem."""
        merchant = Merchant(
            name,
            secret_hashes=self._parsed("secret_hash", secrets, self._text("secret_hash") or ""),
            secret_key=self._text("secret_key"),
            client_id=self._text("client_id"),
            client_secret=self._text("client_secret"),
            confirm=self._parsed("confirm", confirm) or Confirm.ALWAYS,
            api=self._parsed("api", api_version) or ApiVersion.ANY,
            base_url=self._parsed("base_url", base_address),
            v4_base_url=self._parsed("v4_base_url", base_address),
            token_url=self._parsed("token_url", base_address),
            calls_per_hour=self._number("calls_per_hour"),
            calls_per_minute=self._number("calls_per_minute"),
            tokens=self._tokens(),
            api_calls_per_minute=self._number("api_calls_per_minute"),
        )
        if (merchant.client_id is None) != (merchant.client_secret is None):
            self._wrong("client_id and client_secret go together: give both or neither")
        for extra in sorted(self._table.keys() - self._known):
            self._wrong(f"{extra} is not known")
        return merchant

    def _wrong(self, what: str) -> None:
        self._problems.append(f"{self._where}: {what}")

    def _text(self, key: str) -> str | None:
        self._known.add(key)
        return self._plain(key, self._table.get(key))

    def _plain(self, key: str, text: Any) -> str | None:
        if isinstance(text, str) and text.startswith("env:"):
            text = self._env.get(text[4:], "")
        if text is None:
            return None
        if not isinstance(text, str) or not text or text != text.strip():
            self._wrong(f"{key} is empty or not a plain text")
            return None
        return text

    def _parsed(self, key: str, parse: Callable[[str], Any], text: str | None = None) -> Any:
        text = text if text is not None else self._text(key)
        if text is None:
            return None
        try:
            return parse(text)
        except Unusable as e:
            self._wrong(f"{key} {e}")
        except ValueError:
            self._wrong(f"{key} is not valid")  # its text may quote the value
        return () if key == "secret_hash" else None

    def _number(self, key: str) -> int | None:
        self._known.add(key)
        number = self._table.get(key)
        if number is None:
            return None
        if type(number) is not int or not 1 <= number <= _MOST_CALLS:
            self._wrong(f"{key} must be a whole number from 1 to {_MOST_CALLS}")
            return None
        return number

    def _tokens(self) -> tuple[str, ...]:
        self._known.add("tokens")
        listed = self._table.get("tokens", [])
        if not isinstance(listed, list):
            self._wrong('tokens is a list: ["NAME:read=TOKEN"]')
            return ()
        found = []
        for text in listed:
            plain = self._plain("tokens", text)
            token = _TOKEN.fullmatch(plain) if plain is not None else None
            if plain is not None and (token is None or token[1] != token[1].strip()):
                self._wrong("each of tokens is NAME:read=TOKEN or NAME:operate=TOKEN")
            elif plain is not None:
                found.append(plain)
        return tuple(found)
