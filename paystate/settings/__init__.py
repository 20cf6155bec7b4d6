"""Every setting of every process: its name, unit, default, and what goes wrong at the extremes.

Settings come from environment variables and are read once. All problems are reported together, so
that nobody mends them one restart at a time. Secrets are mute: `repr`, logs and `paystate config`
show that they are set, never what they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from paystate.errors import SettingsInvalid
from paystate.keys import DEFAULT_MERCHANT
from paystate.merchants import Merchant, further_merchants, shared_tokens
from paystate.settings.contradictions import Role, contradictions
from paystate.settings.variables import Variables
from paystate.ttl import TtlPolicy
from paystate.values import Unusable, mask_url

__all__ = ["Role", "Settings", "describe", "load"]

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Settings(Variables):
    """The settings of one process. Durations carry their unit in the name."""

    merchants: Mapping[str, Merchant] = field(default_factory=dict)

    @property
    def is_redundant_cache(self) -> bool:
        """Say whether the cache fails over, so that acknowledged writes can be forgotten."""
        return "+cluster://" in self.cache_url or "+sentinel://" in self.cache_url

    @property
    def lease_ms(self) -> int:
        """The lease in force, in milliseconds; 0 is the strict mode."""
        if self.pending_lease_ms is not None:
            return self.pending_lease_ms
        return 0 if self.is_redundant_cache else 1000

    @property
    def queue(self) -> str:
        """The URL of the queue in force."""
        return self.queue_url or self.cache_url

    @property
    def ttl(self) -> TtlPolicy:
        """How long the cache keeps what it knows."""
        return TtlPolicy(
            terminal_s=self.ttl_terminal_s,
            pending_s=self.ttl_pending_s,
            processing_s=self.ttl_processing_s,
            unknown_s=self.ttl_unknown_s,
            customer_active_s=self.ttl_customer_active_s,
            customer_recent_s=self.ttl_customer_recent_s,
            customer_s=self.ttl_customer_s,
            history_s=self.ttl_history_s,
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value, _ in describe(self))
        return f"Settings({shown})"


def _shown(spec: Field[Any], value: Any) -> str:
    if value in (None, "", ()):
        return ""
    if spec.name.endswith("_url"):
        return mask_url(str(value))
    if spec.metadata["secret"]:
        return f"(set, {len(value)})" if isinstance(value, tuple) else "(set)"
    return str(value)


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """Return (variable, value, meaning) of every setting, secrets masked."""
    return [
        (spec.metadata["env"], _shown(spec, getattr(settings, spec.name)), spec.metadata["doc"])
        for spec in fields(Settings)
        if "env" in spec.metadata
    ]


def load(environ: Mapping[str, str] | None = None, *, role: Role = Role.TOOL) -> Settings:
    """Return the settings in `environ` (default: the process's), checked for `role`.

    Raises SettingsInvalid with every problem there is.
    """
    env = os.environ if environ is None else environ
    problems: list[str] = []
    values: dict[str, Any] = {}
    for spec in fields(Settings):
        name = spec.metadata.get("env")
        if name is None or name not in env:
            continue
        if env[name] == "" and name != "FLW_SECRET_HASH":
            continue  # an empty variable is an unset one, but an empty secret is a mistake
        try:
            values[spec.name] = spec.metadata["parse"](env[name])
        except Unusable as e:
            problems.append(f"{name} {e}")
        except ValueError:
            problems.append(f"{name} is not valid")  # its text may quote the value
    settings = Settings(**values)
    settings = Settings(**values, merchants=_merchants(settings, env, problems))
    # What could not be read has its default here, which contradicts nothing that was meant.
    unread = {problem.partition(" ")[0] for problem in problems}
    problems.extend(p for p in contradictions(settings, role) if not unread & set(_WORD.findall(p)))
    if problems:
        raise SettingsInvalid(problems)
    return settings


def _merchants(
    settings: Settings, env: Mapping[str, str], problems: list[str]
) -> dict[str, Merchant]:
    first = Merchant(
        DEFAULT_MERCHANT,
        secret_hashes=settings.secret_hashes,
        secret_key=settings.secret_key,
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        confirm=settings.confirm,
        api=settings.api,
    )
    found = {DEFAULT_MERCHANT: first}
    if settings.merchants_file is not None:
        found |= further_merchants(settings.merchants_file, env, problems)
        problems += shared_tokens(found, settings.api_tokens)
    return found
