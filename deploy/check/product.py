"""What the product has: settings, ports, metrics, routes, and how long its processes take to stop.

Read from the code itself, so that nothing here has to be kept up to date.
"""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from paystate.audit.ledger import Ledger
from paystate.cli.commands import cli
from paystate.errors import SettingsInvalid
from paystate.metrics import Metrics
from paystate.process import HARD_STOP_S
from paystate.settings import Role, Settings, load
from worker.queue_loop import CANCEL_S

__all__ = [
    "MODULES",
    "commands",
    "default",
    "has_literal",
    "metrics",
    "routes",
    "setting_problems",
    "settings",
    "stop_s",
]

SOURCE = Path(__file__).parent.parent.parent
PACKAGES = ("paystate", "webhook_server", "worker")

# The module of each process, and the role whose settings it loads.
MODULES = {"web": ("webhook_server", Role.WEB), "worker": ("worker", Role.WORKER)}

_SUFFIXES = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
}


@cache
def settings() -> dict[str, Any]:
    """Return the default of every setting, by its variable."""
    specs = [spec for spec in fields(Settings) if "env" in spec.metadata]
    return {spec.metadata["env"]: spec.default for spec in specs}


def default(variable: str) -> Any:
    """Return the default of a setting. Raises KeyError."""
    return settings()[variable]


def setting_problems(where: str, environ: dict[str, str], role: Role) -> list[str]:
    """Return why a process would not start with `environ`, and what it would not look at."""
    unknown = [f"{where}: {name} is no setting" for name in environ if name not in settings()]
    try:
        load(environ, role=role)
    except SettingsInvalid as e:
        return [*unknown, *(f"{where}: {problem}" for problem in e.problems)]
    return unknown


def stop_s(process: str, grace_s: int) -> float:
    """Return how long a process can take to stop, in seconds, with STOP_GRACE_S = `grace_s`.

    The web process lets its requests finish; the worker its loops, then its jobs, then requests to
    its own port, and waits for what it had to cancel. Both end themselves after a hard stop.
    """
    graces = {"web": 1, "worker": 3}[process]
    return graces * grace_s + 2 * CANCEL_S + HARD_STOP_S


@cache
def metrics() -> dict[str, frozenset[str]]:
    """Return the labels of every time series that a process can expose, by its name."""
    registries = [Metrics().registry, CollectorRegistry()]
    Ledger(registries[1])
    found: dict[str, frozenset[str]] = {}
    for registry in registries:
        for collector in set(registry._collector_to_names):  # noqa: SLF001 - nothing else lists them
            labels = frozenset(getattr(collector, "_labelnames", ()))
            for family in collector.describe():  # type: ignore[attr-defined]
                for suffix in _SUFFIXES[family.type]:
                    more = {"le"} if suffix == "_bucket" else set()
                    found[family.name + suffix] = labels | more
    return found


@cache
def _sources() -> str:
    files = [path for name in PACKAGES for path in sorted((SOURCE / name).rglob("*.py"))]
    return "\n".join(path.read_text("utf-8") for path in files)


def has_literal(value: str) -> bool:
    """Say whether the code has `value` as a text of its own."""
    return f'"{value}"' in _sources()


@cache
def routes() -> frozenset[str]:
    """Return the paths of every route of our processes, without the sandbox's."""
    files = [SOURCE / "paystate/health.py", *(SOURCE / "webhook_server").rglob("*.py")]
    text = "\n".join(path.read_text("utf-8") for path in files)
    return frozenset(re.findall(r'web\.(?:get|post|route)\(\s*"(/[^"]*)"', text))


@cache
def commands() -> frozenset[str]:
    """Return the names of the subcommands of `paystate`."""
    return frozenset(cli.list_commands(None))  # type: ignore[arg-type]
