"""Callers of the API: whom each token stands for, and what it may do."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aiohttp import web

from paystate.merchants import Merchant

__all__ = ["CALLER", "EVERYONE", "Caller", "callers", "digest", "everyone", "tokens_of"]

# The name and the account of who asks where there are no tokens.
EVERYONE = "everyone"

_NARROWED = re.compile(r"([a-z0-9_-]{1,40}):([a-z0-9_-]{1,40}):(read|operate)=(.+)")


@dataclass(slots=True, eq=False)
class Caller:
    """Whom a token stands for. `merchant` None means every merchant.

    `account` names it where its calls are counted, `per_minute` of them at most; 0 is no limit.
    `left` is how many it may make before that is looked at again.
    """

    name: str
    merchant: str | None
    operator: bool
    account: str = EVERYONE
    per_minute: int = 0
    left: float = field(default=math.inf, repr=False)


def everyone() -> Caller:
    """Return who asks where there are no tokens: whoever can reach us may do everything."""
    return Caller(EVERYONE, None, operator=True)


# Who asks, once a request has been let in.
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)


def digest(token: str) -> bytes:
    """Return what a token is looked up by."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Token(NamedTuple):
    """A token, and what was said of it. `account` names it where its calls are counted."""

    text: str
    name: str
    merchant: str | None
    right: str
    account: str


def tokens_of(tokens: Sequence[str], merchants: Mapping[str, Merchant]) -> Iterator[Token]:
    """Give every token: those of API_TOKENS (`tokens`, in their forms), and the merchants' own."""
    for place, text in enumerate(tokens, 1):
        narrowed = _NARROWED.fullmatch(text)
        if narrowed is None:
            yield Token(text, "operator", None, "operate", f"operator-{place}")
        else:
            name, merchant, right, own = narrowed.groups()
            yield Token(own, name, merchant, right, f"{name}.{right}")
    for bound in merchants.values():
        for text in bound.tokens:
            form, _, own = text.partition("=")
            name, _, right = form.partition(":")
            yield Token(own, name, bound.name, right, f"{name}.{right}")


def callers(
    tokens: Sequence[str], merchants: Mapping[str, Merchant], *, per_minute: int
) -> dict[bytes, Caller]:
    """Return the caller of each token, by its digest.

    `per_minute` is the limit of those whose merchant has none of its own.
    """
    found: dict[bytes, Caller] = {}
    for token in tokens_of(tokens, merchants):
        own = merchants.get(token.merchant or "")
        limit = own.api_calls_per_minute if own is not None else None
        limit = limit if limit is not None else per_minute
        found[digest(token.text)] = Caller(
            token.name, token.merchant, operator=token.right == "operate", account=token.account,
            per_minute=limit, left=0 if limit else math.inf,
        )  # fmt: skip
    return found
