"""Where webhooks go, what signs them, and how patiently they are delivered."""

from __future__ import annotations

from dataclasses import dataclass, field

from paystate.flutterwave.sandbox.fates import Fate, Mishap, Rates

__all__ = ["Policy", "Receiver"]

_NEVER_A_SECRET = "never-was-a-secret"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where webhooks go, and what signs them: the current secret, and the one before it.

    Without a `url` everything is dropped.
    """

    url: str | None
    secret_hash: str = field(repr=False)
    previous_secret_hash: str = field(default="sandbox-previous-hash", repr=False)

    def secret_for(self, fate: Fate) -> str:
        """Return what signs a webhook of this fate."""
        if Mishap.BAD_SIGNATURE in fate.mishaps:
            return _NEVER_A_SECRET
        old = Mishap.OLD_SECRET in fate.mishaps
        return self.previous_secret_hash if old else self.secret_hash


@dataclass(frozen=True, slots=True)
class Policy:
    """How webhooks are delivered; all of it may be changed while the sandbox runs.

    `retries` more tries follow a failed one, `retry_interval_s` apart. A delay is up to
    `max_delay_s`, and a held webhook goes out after `hold_s` if nothing overtakes it.
    `form_encoded` sends forms in place of JSON, as some accounts are set.
    """

    rates: Rates = field(default_factory=Rates)
    retries: int = 3
    retry_interval_s: float = 2.0
    max_delay_s: float = 5.0
    hold_s: float = 10.0
    form_encoded: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= 3:
            raise ValueError("retries are a whole number from 0 to 3")
        for name in ("retry_interval_s", "max_delay_s", "hold_s"):
            if not 0 <= getattr(self, name) <= 86_400:
                raise ValueError(f"{name} is a number of seconds, up to a day")
