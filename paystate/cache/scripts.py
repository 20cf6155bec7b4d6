"""Lua scripts, those of the cache first of all, and pipelines of them.

A script is about one key. Where all keys lie on one server, a batch of calls of one script is one
call of the same script made into a loop: most of a short script's time is its beginning and end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any
from weakref import WeakSet

from redis.exceptions import NoScriptError, ResponseError

from paystate.cluster import ClusterClient
from paystate.connections import CacheClient

__all__ = ["FILL", "GET", "KEEP", "MARK", "PUT", "Call", "Script", "load", "run", "together"]

# Calls in one. Nobody else is served while a script runs: at 10 us for a key this is half a
# millisecond.
MOST_TOGETHER = 50

# Each key is given the arguments that follow it in its turn, as many as any other. An error is the
# reply for its own key alone, as it is where each is a call of its own.
_TOGETHER = """
local function one(KEYS, ARGV)
%s
end
local replies, own, width = {}, {}, #ARGV / #KEYS
for i = 1, #KEYS do
  for n = 1, width do
    own[n] = ARGV[(i - 1) * width + n]
  end
  local went_well, reply = pcall(one, {KEYS[i]}, own)
  if not went_well and type(reply) ~= 'table' then
    reply = {err = tostring(reply)}
  end
  replies[i] = reply
end
return replies
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script by name, with its text and the digest under which servers keep it."""

    name: str
    text: str
    digest: str


def _script(name: str, text: str) -> Script:
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def load(package: str, name: str) -> Script:
    """Return the script that lies in `package` under `name`."""
    return _script(name, files(package).joinpath(f"{name}.lua").read_text("utf-8"))


@cache
def together(script: Script) -> Script:
    """Return the script that does for each of many keys what `script` does for one.

    All calls have the same number of arguments, and a reply that is not nil.
    """
    return _script(f"{script.name}_together", _TOGETHER % script.text)


GET, FILL, MARK, PUT, KEEP = (
    load("paystate.cache", name) for name in ("get", "fill", "mark", "put", "keep")
)

# A script, its one key, its arguments.
Call = tuple[Script, str, tuple[Any, ...]]

# Clients of what looks like one server and is several, as a proxy in front of a cluster does.
_apart: WeakSet[Any] = WeakSet()


async def run(redis: CacheClient, calls: Sequence[Call]) -> list[Any]:
    """Run scripts in one round trip; the exception of a call that failed stands in its place.

    An error reply is a ResponseError. On a cluster a call can also fail alone because its server
    cannot be reached; on one server that is raised, and nothing may be known of any call.

    A server that does not have a script (restarted, promoted, flushed) has run nothing of that
    call, so it is given the scripts and those calls are made once more.
    """
    groups = _groups(calls, 1 if isinstance(redis, ClusterClient) or redis in _apart else
                     MOST_TOGETHER)  # fmt: skip
    replies = await _pipeline(redis, groups)
    missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if missing:
        for script in {_sent(groups[i]).name: _sent(groups[i]) for i in missing}.values():
            await redis.script_load(script.text)
        again = await _pipeline(redis, [groups[i] for i in missing])
        for i, reply in zip(missing, again, strict=True):
            replies[i] = reply
    results: list[Any] = []
    for group, reply in zip(groups, replies, strict=True):
        if len(group) == 1:
            results.append(reply)
        elif not isinstance(reply, Exception):
            results += reply
        elif _is_several(reply):  # which it says before it does anything
            _apart.add(redis)
            results += await run(redis, group)
        else:
            results += [reply] * len(group)
    return results


def _groups(calls: Sequence[Call], most: int) -> list[Sequence[Call]]:
    """Return calls in their order, those of one script that follow each other as one group."""
    if most == 1 or len(calls) == 1:
        return [(call,) for call in calls]
    groups: list[Sequence[Call]] = []
    for _, mine in groupby(calls, key=lambda call: call[0].digest):
        same = list(mine)
        groups += [same[start : start + most] for start in range(0, len(same), most)]
    return groups


def _sent(group: Sequence[Call]) -> Script:
    """Return the script that a group is sent to."""
    return group[0][0] if len(group) == 1 else together(group[0][0])


def _is_several(error: Exception) -> bool:
    return isinstance(error, ResponseError) and "CROSSSLOT" in str(error)


async def _pipeline(redis: CacheClient, groups: Sequence[Sequence[Call]]) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipe:
        for group in groups:
            keys = [key for _, key, _ in group]
            arguments = [argument for _, _, own in group for argument in own]
            pipe.evalsha(_sent(group).digest, len(group), *keys, *arguments)
        results: list[Any] = await pipe.execute(raise_on_error=False)
    return results
