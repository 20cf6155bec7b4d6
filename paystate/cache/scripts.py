"""Lua scripts, those of the cache first of all, and pipelines of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from paystate.connections import CacheClient

__all__ = ["FILL", "GET", "KEEP", "MARK", "PUT", "Call", "Script", "load", "run"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script by name, with its text and the digest under which servers keep it."""

    name: str
    text: str
    digest: str


def load(package: str, name: str) -> Script:
    """Return the script that lies in `package` under `name`."""
    text = files(package).joinpath(f"{name}.lua").read_text("utf-8")
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


GET, FILL, MARK, PUT, KEEP = (
    load("paystate.cache", name) for name in ("get", "fill", "mark", "put", "keep")
)

# A script, its one key, its arguments.
Call = tuple[Script, str, tuple[Any, ...]]


async def run(redis: CacheClient, calls: Sequence[Call]) -> list[Any]:
    """Run scripts in one round trip; the exception of a call that failed stands in its place.

    An error reply is a ResponseError. On a cluster a call can also fail alone because its server
    cannot be reached; on one server that is raised, and nothing may be known of any call.

    A server that does not have a script (restarted, promoted, flushed) has run nothing of that
    call, so it is given the scripts and those calls are made once more.
    """
    results = await _pipeline(redis, calls)
    missing = [i for i, result in enumerate(results) if isinstance(result, NoScriptError)]
    if missing:
        for script in {calls[i][0].name: calls[i][0] for i in missing}.values():
            await redis.script_load(script.text)
        again = await _pipeline(redis, [calls[i] for i in missing])
        for i, result in zip(missing, again, strict=True):
            results[i] = result
    return results


async def _pipeline(redis: CacheClient, calls: Sequence[Call]) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipe:
        for script, key, arguments in calls:
            pipe.evalsha(script.digest, 1, key, *arguments)
        results: list[Any] = await pipe.execute(raise_on_error=False)
    return results
