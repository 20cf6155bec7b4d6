"""What a sandbox is told at its start, by arguments or by environment variables."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from paystate.errors import SettingsInvalid
from paystate.flutterwave.sandbox.sender import Rates

__all__ = ["SandboxConfig"]


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """One sandbox. The defaults are those of `paystate dev`; the secrets are mute in `repr`.

    `port` 0 takes a free one. Without `receiver_url` no webhook is sent. `rate_per_s` is payments
    made a second, 0 for a quiet sandbox. The rates are shares of webhooks from 0 to 1.
    `retry_interval_s` is the pause before an unacknowledged webhook is sent again. The same seed
    gives the same ids, so a second run against kept data needs another one.
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
    retry_interval_s: float = 2.0

    @property
    def rates(self) -> Rates:
        """Return the four rates as the sender takes them. Raises ValueError if one is no share."""
        return Rates(self.duplicate_rate, self.delay_rate, self.reorder_rate, self.drop_rate)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Return the sandbox that ``SANDBOX_*`` and ``FLW_*`` of `environ` describe.

        Without ``SANDBOX_SEED`` the seed is drawn. Of several secret hashes it signs with the
        first. Raises SettingsInvalid, naming every variable that cannot be used.
        """
        reader = _Reader(environ)
        config = cls(
            host=reader.text("SANDBOX_HOST", "127.0.0.1"),
            port=reader.integer("SANDBOX_PORT", 0, most=65535),
            receiver_url=environ.get("SANDBOX_RECEIVER") or None,
            secret_hash=reader.text("FLW_SECRET_HASH", "sandbox-secret-hash").split(",")[0].strip(),
            secret_key=reader.text("FLW_SECRET_KEY", "FLWSECK_TEST-sandbox"),
            client_id=reader.text("FLW_CLIENT_ID", "sandbox-client"),
            client_secret=reader.text("FLW_CLIENT_SECRET", "sandbox-client-secret"),
            seed=reader.integer("SANDBOX_SEED", secrets.randbits(32), most=2**63),
            rate_per_s=reader.number("SANDBOX_RATE", 0.0, most=10_000),
            duplicate_rate=reader.number("SANDBOX_DUPLICATE", 0.1, most=1),
            delay_rate=reader.number("SANDBOX_DELAY", 0.1, most=1),
            reorder_rate=reader.number("SANDBOX_REORDER", 0.1, most=1),
            drop_rate=reader.number("SANDBOX_DROP", 0.0, most=1),
        )
        if not config.secret_hash:
            reader.problems.append("FLW_SECRET_HASH: the first secret is empty")
        if reader.problems:
            raise SettingsInvalid(reader.problems)
        return config


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

    def integer(self, name: str, default: int, *, most: int) -> int:
        raw = self._environ.get(name)
        if not raw:
            return default
        if not (raw.isascii() and raw.isdigit() and int(raw) <= most):
            self.problems.append(f"{name}: a whole number from 0 to {most} is needed")
            return default
        return int(raw)
