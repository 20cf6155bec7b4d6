"""Gathers the facts, all at once and each in bounded time, and has every check judge them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from paystate.connections import connect
from paystate.doctor.case import WEBHOOK_PATH, Case, Check
from paystate.doctor.checks import (
    credentials,
    database,
    flutterwave,
    keeping,
    running,
    settings,
    topology,
    valkey,
)
from paystate.doctor.facts.database import read_database
from paystate.doctor.facts.endpoints import read_web, read_worker
from paystate.doctor.facts.provider import ProviderFacts, ask_provider
from paystate.doctor.facts.topology import read_cluster, read_sentinels
from paystate.doctor.facts.valkey import ServerFacts, read_cache, read_queue
from paystate.doctor.findings import Finding, Missing, NotKnown, Outcome, Verdict
from paystate.errors import QueueUnavailable
from paystate.flutterwave.accounts import open_gate
from paystate.keys import DEFAULT_MERCHANT, Keys
from paystate.queue import open_queue

__all__ = ["CHECKS", "examine", "judge"]

# The order in which a person would set things up, and in which findings are listed.
_AREAS = (
    "settings", "secrets", "access", "flutterwave", "database", "cache", "cluster", "sentinels",
    "queue", "inbox", "web", "webhook", "worker",
)  # fmt: skip
_MODULES = (settings, credentials, flutterwave, database, valkey, keeping, topology, running)

_ALL = {name: check for module in _MODULES for name, check in module.CHECKS.items()}

CHECKS: dict[str, Check] = {
    name: _ALL[name] for name in sorted(_ALL, key=lambda name: _AREAS.index(name.partition(".")[0]))
}

# Of the time for a group of facts, what one answer may take.
_ANSWER_SHARE = 0.4
# A call that was cancelled and still does not end is left to the end of the process.
_CANCEL_S = 1.0


async def examine(case: Case, tell: Callable[[str], None] | None = None) -> list[Finding]:
    """Learn what can be learnt and return the findings of every check, in a stable order.

    `tell` hears the name of each group of facts as it is done. Never raises for what is found.
    """
    await _gather(case, tell or (lambda _name: None))
    return judge(case)


def judge(case: Case, checks: Mapping[str, Check] | None = None) -> list[Finding]:
    """Return what every check says of the facts in `case`; one that breaks is `skipped`."""
    hide = _hiding(case)
    findings = []
    for name, check in (CHECKS if checks is None else checks).items():
        try:
            said = check(case)
        except NotKnown as e:
            said = Verdict(Outcome.SKIPPED, str(e))
        except Exception as e:
            said = Verdict(Outcome.SKIPPED, f"the check itself failed: {type(e).__name__}")
        verdicts = said if isinstance(said, list) else [said]
        findings += [Finding(name, v.outcome, hide(v.found), hide(v.mend)) for v in verdicts]
    return findings


def _hiding(case: Case) -> Callable[[str], str]:
    """Return what replaces secrets in a text: the last net, below checks that name none.

    Short ones are left, since they would be found in plain words.
    """
    one = case.settings
    values = {s.strip() for m in one.merchants.values() for s in m.secret_hashes}
    for merchant in one.merchants.values():
        values |= {merchant.secret_key or "", merchant.client_secret or ""}
    values |= {*one.link_keys, one.audit_token or ""}
    values |= {part for token in one.api_tokens for part in (token, token.rpartition("=")[2])}
    for name in (
        "FLW_SECRET_HASH",
        "FLW_SECRET_KEY",
        "FLW_CLIENT_SECRET",
        "API_TOKENS",
        "LINK_KEY",
    ):
        values |= {part.strip() for part in case.environ.get(name, "").split(",")}
    urls = (one.database_url, one.cache_url, one.queue_url)
    values |= {unquote(urlsplit(url).password or "") for url in urls}
    secrets = sorted((v for v in values if len(v) >= 12), key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        return text

    return hide


async def _gather(case: Case, tell: Callable[[str], None]) -> None:
    """Fill in the facts of `case`, group by group and all groups at once."""
    async with AsyncExitStack() as stack:
        total_s = case.options.timeout_s
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=total_s * _ANSWER_SHARE),
            )
        )
        groups: dict[str, Coroutine[Any, Any, None]] = {
            "cache": _cache(case),
            "queue": _queue(case),
            "database": _database(case),
            "provider": _provider(case, session),
            "web": _web(case, session),
            "worker": _worker(case, session),
        }
        tasks = {name: asyncio.create_task(group) for name, group in groups.items()}
        for name, task in tasks.items():
            task.add_done_callback(partial(_tell, tell, name))
        _, late = await asyncio.wait(tasks.values(), timeout=total_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCEL_S)
        for name, task in tasks.items():
            if reason := _why_not(task, late, total_s):
                setattr(case, name, Missing(reason))


def _tell(tell: Callable[[str], None], name: str, _task: asyncio.Future[Any]) -> None:
    tell(name)


def _why_not(task: asyncio.Task[Any], late: set[asyncio.Task[Any]], total_s: float) -> str:
    if task in late:
        return f"no answer within {total_s:g} s"
    error = task.exception()
    if error is None:
        return ""
    return str(error) if isinstance(error, NotKnown) else f"failed: {type(error).__name__}"


def _usable(case: Case, *names: str) -> None:
    """Raise NotKnown where the settings that say whom to ask cannot be read."""
    if bad := [name for name in names if name in case.unusable]:
        raise NotKnown(f"{' and '.join(bad)} cannot be used: see settings.valid")


async def _cache(case: Case) -> None:
    _usable(case, "CACHE_URL")
    url, now = case.settings.cache_url, case.options.now
    wait_s = case.options.timeout_s * _ANSWER_SHARE
    servers: list[str] = []
    if "+cluster://" in url:
        case.cluster = await read_cluster(url, timeout_s=wait_s)
        if case.cluster.trouble:
            case.cache = [ServerFacts("cache", trouble=case.cluster.trouble)]
            return
        servers = list(case.cluster.primaries or {})
    elif "+sentinel://" in url:
        case.sentinels = await read_sentinels(url, timeout_s=wait_s)
    case.cache = await read_cache(url, timeout_s=wait_s, now=now, servers=servers)


async def _queue(case: Case) -> None:
    _usable(case, "QUEUE_URL")
    if not case.settings.queue_url:
        _usable(case, "CACHE_URL")
    url, wait_s = case.settings.queue, case.options.timeout_s * _ANSWER_SHARE
    case.queue = await read_queue(url, timeout_s=wait_s, now=case.options.now)
    if not case.queue[0].trouble:
        async with open_queue(url, Keys(), timeout_s=wait_s) as queue:
            try:
                case.queue_depth = await queue.depth()
            except QueueUnavailable:
                case.queue_depth = Missing("the queue could not be read: see queue.topology")


async def _database(case: Case) -> None:
    _usable(case, "DATABASE_URL")
    wait_s = case.options.timeout_s * _ANSWER_SHARE
    case.database = await read_database(
        case.settings.database_url, timeout_s=wait_s, now=case.options.now
    )


async def _provider(case: Case, session: aiohttp.ClientSession) -> None:
    one = case.settings
    _usable(case, "FLW_BASE_URL", "FLW_V4_BASE_URL", "FLW_TOKEN_URL")
    wait_s = min(case.options.timeout_s * _ANSWER_SHARE, float(one.provider_timeout_s))
    async with AsyncExitStack() as stack:
        redis = None
        if "CACHE_URL" not in case.unusable:
            # The budget and the cool-off of all processes hold for the doctor as well.
            redis = connect(one.cache_url, timeout_s=one.cache_timeout_ms / 1000)
            stack.push_async_callback(redis.aclose)
        gates = {name: open_gate(m, one, redis, Keys()) for name, m in one.merchants.items()}
        found: dict[str, ProviderFacts] = await ask_provider(
            one.merchants, one, gates, session, timeout_s=wait_s
        )
        case.provider = found


async def _web(case: Case, session: aiohttp.ClientSession) -> None:
    url = case.web_url
    if not url or "PORT" in case.unusable:
        raise NotKnown("PORT does not say where it is: give --url")
    others = [name for name in case.settings.merchants if name != DEFAULT_MERCHANT]
    secrets = case.settings.secret_hashes if case.options.send else ()
    webhook = f"{url}{WEBHOOK_PATH}"
    case.web = await read_web(session, url, webhook, merchants=others, secrets=secrets)


async def _worker(case: Case, session: aiohttp.ClientSession) -> None:
    url = case.worker_url
    if not url or "WORKER_PORT" in case.unusable:
        raise NotKnown("WORKER_PORT does not say where it is: give --worker-url")
    case.worker = await read_worker(session, url)
