"""What no single setting shows: settings that do not go together, or not with a process's role."""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import urlsplit

from paystate.settings.variables import Variables

__all__ = ["Role", "contradictions"]


class Role(StrEnum):
    """What a process is, which decides the settings it cannot start without."""

    WEB = "web"
    WORKER = "worker"
    TOOL = "tool"


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def _cluster_problems(settings: Variables) -> list[str]:
    problems = []
    if not settings.queue_url:
        problems.append(
            "QUEUE_URL is not set, and CACHE_URL names a cluster, which cannot hold the queue: "
            "name one primary, or a redis+sentinel:// service"
        )
    if urlsplit(settings.cache_url).path.strip("/") not in ("", "0"):
        problems.append(
            "CACHE_URL names a cluster, which has no databases but 0: end it at the port"
        )
    return problems


def contradictions(settings: Variables, role: Role) -> list[str]:
    """Return what a person must mend, one sentence for each."""
    problems = []
    if "+cluster://" in settings.cache_url:
        problems.extend(_cluster_problems(settings))
    if (settings.client_id is None) != (settings.client_secret is None):
        problems.append("FLW_CLIENT_ID and FLW_CLIENT_SECRET go together: set both or neither")
    if settings.log_format not in {"auto", "json", "console"}:
        problems.append("LOG_FORMAT must be auto, json or console")
    if 0 < settings.event_keys_keep_days < (settings.inbox_keep_days or 36_500):
        problems.append("EVENT_KEYS_KEEP_DAYS must be at least INBOX_KEEP_DAYS, or 0")
    if role is Role.WEB:
        if not settings.secret_hashes:
            problems.append(
                "FLW_SECRET_HASH is not set: without it nobody can tell Flutterwave's webhooks "
                "from anyone's. Take it from the dashboard, Settings, Webhooks"
            )
        if not settings.api_tokens and settings.host not in LOOPBACK:
            problems.append(
                f"API_TOKENS is not set, so the server binds to loopback only, not to "
                f"{settings.host}: set a token (a long random text) or HOST=127.0.0.1"
            )
    return problems
