"""What is under examination: the settings as far as they can be read, and what was learnt."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from paystate.doctor.facts.database import DatabaseFacts
from paystate.doctor.facts.endpoints import WebFacts, WorkerFacts
from paystate.doctor.facts.provider import ProviderFacts
from paystate.doctor.facts.topology import ClusterFacts, SentinelFacts
from paystate.doctor.facts.valkey import ServerFacts
from paystate.doctor.findings import Missing, Verdict
from paystate.doctor.places import Measure, room
from paystate.errors import SettingsInvalid
from paystate.keys import DEFAULT_MERCHANT
from paystate.merchants import Merchant
from paystate.settings import Role, Settings, load

__all__ = ["WEBHOOK_PATH", "Case", "Check", "Options", "open_case"]

WEBHOOK_PATH = "/webhooks/flutterwave"

_NOT_READ = Missing("was not looked at")
_NO_QUEUE = Missing("the queue was not reached")


@dataclass(frozen=True, slots=True)
class Options:
    """What to examine beside the settings, and with what patience.

    `url` and `worker_url` are None for this host's ports, which may well be silent. `processes` is
    how many web and worker processes there are in all; None is WEB_PROCESSES and one worker.
    `timeout_s` bounds the gathering of each group of facts. `send` permits signed webhooks of an
    ignored type. `now` gives epoch seconds, `mounts` the mounted file systems in Linux's form,
    `measure` the room on a disk.
    """

    url: str | None = None
    worker_url: str | None = None
    processes: int | None = None
    send: bool = False
    timeout_s: float = 8.0
    now: Callable[[], float] = time.time
    mounts: Path = Path("/proc/mounts")
    measure: Measure = room


@dataclass(slots=True)
class Case:
    """One examination. Facts that could not be learnt are `Missing`.

    `unusable` names the variables whose values cannot be read; the settings have defaults in their
    places, which nobody is to be asked about.
    """

    environ: Mapping[str, str] = field(repr=False)
    settings: Settings
    problems: tuple[str, ...]
    unusable: frozenset[str]
    options: Options
    cache: list[ServerFacts] | Missing = _NOT_READ
    queue: list[ServerFacts] | Missing = _NOT_READ
    queue_depth: int | Missing = _NO_QUEUE
    cluster: ClusterFacts | Missing = _NOT_READ
    sentinels: SentinelFacts | Missing = _NOT_READ
    database: DatabaseFacts | Missing = _NOT_READ
    provider: dict[str, ProviderFacts] | Missing = _NOT_READ
    web: WebFacts | Missing = _NOT_READ
    worker: WorkerFacts | Missing = _NOT_READ

    @property
    def web_url(self) -> str:
        """The web process's address without a path, or nothing where it is not known."""
        if self.options.url:
            return self.options.url.rstrip("/").removesuffix(WEBHOOK_PATH)
        return _here(self.settings.host, self.settings.port)

    @property
    def worker_url(self) -> str:
        """The worker's address, or nothing where it is not known."""
        given = self.options.worker_url
        return given.rstrip("/") if given else _here(self.settings.host, self.settings.worker_port)

    @property
    def processes(self) -> int:
        """How many processes there are, each with a pool of connections of its own."""
        return self.options.processes or self.settings.web_processes + 1

    @property
    def is_exposed(self) -> bool:
        """Say whether real money is meant: v3 or v4 is asked elsewhere than on this machine."""
        hosts = (urlsplit(u).hostname for u in (self.settings.base_url, self.settings.v4_base_url))
        return not all(host in LOOPBACKS for host in hosts)


# Judges the facts of a case; raises NotKnown where it cannot.
Check = Callable[[Case], Verdict | list[Verdict]]

LOOPBACKS = frozenset({"127.0.0.1", "::1", "localhost"})
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


def _here(host: str, port: int) -> str:
    host = _EVERYWHERE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}" if port else ""


def open_case(environ: Mapping[str, str] | None = None, options: Options | None = None) -> Case:
    """Return the case of `environ` (default: the process's), nothing examined yet.

    Never raises for what `environ` holds.
    """
    env = os.environ if environ is None else environ
    options = options or Options()
    try:
        settings = load(env, role=Role.TOOL)
    except SettingsInvalid as invalid:
        settings, unusable = _as_far_as_possible(env)
        return Case(env, settings, tuple(invalid.problems), unusable, options)
    return Case(env, settings, (), frozenset(), options)


def _as_far_as_possible(environ: Mapping[str, str]) -> tuple[Settings, frozenset[str]]:
    values: dict[str, Any] = {}
    unusable = set()
    for spec in fields(Settings):
        name = spec.metadata.get("env")
        if name is None or not environ.get(name):
            continue
        try:
            values[spec.name] = spec.metadata["parse"](environ[name])
        except ValueError:
            unusable.add(name)
    plain = Settings(**values)
    only = Merchant(
        DEFAULT_MERCHANT,
        plain.secret_hashes,
        plain.secret_key,
        plain.client_id,
        plain.client_secret,
        plain.confirm,
    )
    if "+cluster://" in plain.cache_url and not plain.queue_url:
        unusable.add("QUEUE_URL")  # a cluster holds no queue
    return Settings(**values, merchants={DEFAULT_MERCHANT: only}), frozenset(unusable)
