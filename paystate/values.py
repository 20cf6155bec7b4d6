"""What the text of a setting may be: parsers that say what is wrong, and never what was said.

A value may be a secret, and so may any part of an address, so that no refusal quotes one. What can
be shown of an address is what `mask_url` leaves of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from paystate.addresses import PARAMETERS

__all__ = [
    "POOLER",
    "TLS_PARAMETERS",
    "Unusable",
    "address_of",
    "base_address",
    "database_address",
    "log_level",
    "mask_url",
    "redis_address_of",
    "secret",
    "secrets",
    "whole",
]


class Unusable(ValueError):
    """Says what is wrong with a value, without the value: it may be a secret."""


def secrets(text: str) -> tuple[str, ...]:
    """Return the secrets of a list with commas between them."""
    parts = tuple(text.split(","))
    if any(not part for part in parts):
        raise Unusable("holds an empty secret")
    if any(part != part.strip() for part in parts):
        raise Unusable("has spaces around a secret: remove them, or quote the value rightly")
    return parts


def secret(text: str) -> str:
    """Return one secret, which may hold commas."""
    return secrets(text.replace(",", "\0"))[0].replace("\0", ",")


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise Unusable("must be a whole number")
        number = int(text)
        if not least <= number <= most:
            raise Unusable(f"must be from {least} to {most}")
        return number

    return parse


def address_of(*schemes: str) -> Callable[[str], str]:
    """Return a parser of URLs with one of `schemes`."""

    def parse(text: str) -> str:
        scheme = urlsplit(text).scheme
        if scheme not in schemes:
            raise Unusable(f"must start with {' or '.join(s + '://' for s in schemes)}")
        return text

    return parse


# Says that a pooler stands before the database and gives each transaction another connection.
POOLER, TRANSACTION = "pooler", "transaction"
# What libpq, and so every provider of databases, calls them.
TLS_PARAMETERS = frozenset({"sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword"})
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_DATABASE_PARAMETERS = TLS_PARAMETERS | {
    POOLER,
    "host", "port", "user", "password", "ssl", "prepared_statement_cache_size",
}  # fmt: skip


def database_address(text: str) -> str:
    """Return the URL of a database; of PostgreSQL's parameters those that asyncpg knows."""
    parts = urlsplit(address_of("sqlite", "postgresql")(text))
    if parts.scheme == "sqlite":
        return text
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in given:
        if name not in _DATABASE_PARAMETERS:
            shown = name if re.fullmatch(r"[a-z_]{1,40}", name) else "..."
            raise Unusable(
                f"has the parameter ?{shown}= which cannot be used here: leave it out. TLS is "
                "?sslmode=verify-full&sslrootcert=FILE"
            )
    if given.get(POOLER, TRANSACTION) != TRANSACTION:
        raise Unusable(f"has another ?{POOLER}= than {TRANSACTION}")
    if given.get("sslmode", "prefer") not in _SSL_MODES:
        raise Unusable(f"has another ?sslmode= than {', '.join(_SSL_MODES)}")
    return text


def redis_address_of(*schemes: str) -> Callable[[str], str]:
    """Return a parser of URLs of Redis: one server, or several with commas between them."""

    def parse(text: str) -> str:
        parts = urlsplit(address_of(*schemes)(text))
        hosts = parts.netloc.rpartition("@")[2].split(",")
        if not all(
            re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:/?#@\[\]]*)(:[0-9]{1,5})?", h) for h in hosts
        ):
            raise Unusable("needs host:port after the password, and %2F and %23 for / and # in it")
        path = [piece for piece in parts.path.split("/") if piece]
        database = path[1:] if parts.scheme.endswith("+sentinel") else path
        if len(database) > 1 or not all(piece.isdigit() for piece in database):
            raise Unusable("ends in the number of its database, as in /0")
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in PARAMETERS:
                raise Unusable(f"has a parameter that is none of {', '.join(sorted(PARAMETERS))}")
            if name in ("ssl_check_hostname", "sentinel_tls") and value not in ("yes", "no"):
                raise Unusable(f"has a ?{name}= that is neither yes nor no")
        return text

    return parse


def base_address(text: str) -> str:
    """Return the address under which the paths of an API begin, without a slash at its end."""
    parts = urlsplit(address_of("http", "https")(text))
    if parts.username or parts.query or parts.fragment or not parts.hostname:
        raise Unusable("is an address alone: no user, no ?query, no #fragment")
    return text.rstrip("/")


def log_level(text: str) -> str:
    """Return the name of a log level in capitals."""
    level = text.upper()
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise Unusable("must be DEBUG, INFO, WARNING or ERROR")
    return level


_PLAIN_PARAMETERS = frozenset({"host", "port", "db", "timeout", "sslmode", "sslrootcert"}) | (
    PARAMETERS - {"sentinel_password"}
)


def mask_url(url: str) -> str:
    """Return `url` without what could be a secret: password, parameters but a few, fragment."""
    parts = urlsplit(url)
    if not ("@" in url or parts.query or parts.fragment):
        return url
    if "@" in parts.path or "@" in parts.query or "@" in parts.fragment:
        return f"{parts.scheme}://***"  # a password with a / or # in it: where it ends is unsure
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username or ''}:***@" if parts.password else parts.netloc[: -len(host) or None]
    query = "&".join(
        pair if pair.partition("=")[0] in _PLAIN_PARAMETERS else f"{pair.partition('=')[0]}=***"
        for pair in parts.query.split("&")
        if pair
    )
    fragment = "***" if parts.fragment else ""
    netloc = (user if "@" in parts.netloc else "") + host
    return parts._replace(netloc=netloc, query=query, fragment=fragment).geturl()
