"""What a sandbox is told at its start, by arguments or by environment variables."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Self

from paystate.errors import SettingsInvalid
from paystate.flutterwave.sandbox.faults import TOKEN_LIFETIME_S
from paystate.flutterwave.sandbox.sender import Rates

__all__ = ["SandboxConfig"]

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """One sandbox. The defaults are those of `paystate dev`; the secrets are mute in `repr`.

    `port` 0 takes a free one. Without `receiver_url` no webhook is sent. `rate_per_s` is payments
    made a second, 0 for a quiet sandbox. Every other rate is a share of webhooks from 0 to 1.
    `retries` (up to 3) more tries follow a webhook that was not acknowledged, `retry_interval_s`
    apart; a late one is up to `max_delay_s` late. `script` is a file to play at the start.
    `allow_remote` lets the control API point it at another machine's receiver. The same seed gives
    the same ids, so a second run against kept data needs another one.
    """

    host: str = "127.0.0.1"
    port: int = 0
    receiver_url: str | None = None
    secret_hash: str = field(default="sandbox-secret-hash", repr=False)
    secret_key: str = field(default="FLWSECK_TEST-sandbox", repr=False)
    client_id: str = "sandbox-client"
    client_secret: str = field(default="sandbox-client-secret", repr=False)
    seed: int = 0
    rate_per_s: float = 0.0
    duplicate_rate: float = 0.1
    delay_rate: float = 0.1
    reorder_rate: float = 0.1
    drop_rate: float = 0.0
    contradict_rate: float = 0.0
    wrong_amount_rate: float = 0.0
    wrong_currency_rate: float = 0.0
    wrong_reference_rate: float = 0.0
    old_secret_rate: float = 0.0
    bad_signature_rate: float = 0.0
    retries: int = 3
    retry_interval_s: float = 2.0
    max_delay_s: float = 5.0
    previous_secret_hash: str = field(default="sandbox-previous-hash", repr=False)
    token_lifetime_s: int = TOKEN_LIFETIME_S
    allow_remote: bool = False
    script: str | None = None

    @property
    def rates(self) -> Rates:
        """Return the rates as the sender takes them. Raises ValueError if one is no share."""
        return Rates(**{f.name: getattr(self, f"{f.name}_rate") for f in fields(Rates)})

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Return the sandbox that ``SANDBOX_*`` and ``FLW_*`` of `environ` describe.

        Without ``SANDBOX_SEED`` the seed is drawn. Of several secret hashes it signs with the
        first; the second is the old one of a rotation. Raises SettingsInvalid, naming every
        variable that cannot be used.
        """
        reader = _Reader(environ)
        secret_hash, *previous = reader.words("FLW_SECRET_HASH", "sandbox-secret-hash")
        config = cls(
            host=reader.text("SANDBOX_HOST", "127.0.0.1"),
            port=reader.integer("SANDBOX_PORT", 0, most=65535),
            receiver_url=environ.get("SANDBOX_RECEIVER") or None,
            secret_hash=secret_hash,
            previous_secret_hash=next(iter(previous), "") or "sandbox-previous-hash",
            secret_key=reader.text("FLW_SECRET_KEY", "FLWSECK_TEST-sandbox"),
            client_id=reader.text("FLW_CLIENT_ID", "sandbox-client"),
            client_secret=reader.text("FLW_CLIENT_SECRET", "sandbox-client-secret"),
            seed=reader.integer("SANDBOX_SEED", secrets.randbits(32), most=2**63),
            rate_per_s=reader.number("SANDBOX_RATE", 0.0, most=10_000),
            retries=reader.integer("SANDBOX_RETRIES", 3, most=3),
            retry_interval_s=reader.number("SANDBOX_RETRY_INTERVAL", 2.0, most=86_400),
            max_delay_s=reader.number("SANDBOX_MAX_DELAY", 5.0, most=86_400),
            token_lifetime_s=reader.integer("SANDBOX_TOKEN_LIFETIME", 600, most=86_400, least=1),
            allow_remote=reader.flag("SANDBOX_ALLOW_REMOTE"),
            script=environ.get("SANDBOX_SCRIPT") or None,
            **{
                f"{name}_rate": reader.number(f"SANDBOX_{name.upper()}", default, most=1)
                for name, default in _DEFAULT_RATES.items()
            },
        )
        if not config.secret_hash:
            reader.problems.append("FLW_SECRET_HASH: the first secret is empty")
        if reader.problems:
            raise SettingsInvalid(reader.problems)
        return config


_DEFAULT_RATES = {
    f.name.removesuffix("_rate"): float(f.default)  # type: ignore[arg-type]  # all have numbers
    for f in fields(SandboxConfig)
    if f.name.endswith("_rate")
}


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str, default: str) -> str:
        return self._environ.get(name) or default

    def number(self, name: str, default: float, *, most: float) -> float:
        raw = self._environ.get(name)
        if not raw:
            return default
        try:
            value = float(raw)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            self.problems.append(f"{name}: a number from 0 to {most:g} is needed")
            return default
        return value

    def words(self, name: str, default: str) -> list[str]:
        return [word.strip() for word in self.text(name, default).split(",")]

    def flag(self, name: str) -> bool:
        raw = self._environ.get(name, "").lower()
        if raw not in _YES | _NO:
            self.problems.append(f"{name}: 1 or 0 is needed")
        return raw in _YES

    def integer(self, name: str, default: int, *, most: int, least: int = 0) -> int:
        raw = self._environ.get(name)
        if not raw:
            return default
        if not (raw.isascii() and raw.isdigit() and least <= int(raw) <= most):
            self.problems.append(f"{name}: a whole number from {least} to {most} is needed")
            return default
        return int(raw)
