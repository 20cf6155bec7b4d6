"""Take one mechanism out of the protocol, to see what it is there for.

A proof that cannot fail proves nothing. Each name here removes one mechanism from the scripts, or
from the flow around them, in this process only; the same run that finds no violation with all of
them must find one without it. The removals are edits of the real text and fail loudly where the
text has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

from paystate.batch import Coalescer, _hand_out
from paystate.cache import scripts, statuses
from paystate.cache.scripts import Script
from paystate.cache.statuses import StatusCache
from paystate.near import Ticket
from paystate.payments.answers import StatusAnswer
from paystate.payments.lookup import Lookups
from paystate.state import EntityState
from paystate.store import unlocked
from webhook_server.payments import PaymentEndpoints

__all__ = ["MECHANISMS", "ON_POSTGRESQL", "without"]

# What to look for in which script, and what to put in its place.
_Edit = tuple[str, str, str]

_INCARNATION = "string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')"

_EDITS: dict[str, tuple[_Edit, ...]] = {
    # Anybody may fill, with what it has read at any time.
    "token": (
        ("fill", "if ARGV[2] == '' or held[4] ~= ARGV[2] then", "if false then"),
        (
            "fill",
            "local age = now - (tonumber(held[5]) or 0)",
            "held[5], held[6] = now, nil\nlocal age = 0",
        ),
        ("fill", "if held[6] ~= incarnation or", "if"),
    ),
    # Nobody is told that what they hold, or are about to store, has been overtaken.
    "mark": (
        ("mark", "local held =", "do return 0 end\nlocal held ="),
        ("put", "elseif held[1] ~= 'successful' then", "elseif false then"),
    ),
    # Leases and tokens outlive the server that gave them.
    "incarnation": (
        ("get", _INCARNATION, "'same'"),
        ("fill", _INCARNATION, "'same'"),
    ),
    # Whoever writes last wins.
    "version": (
        ("get", "version >= (tonumber(held[5]) or 0) and held[7]", "held[7]"),
        ("fill", "if version < (tonumber(held[3]) or 0) then", "if false then"),
        ("fill", "if held[1] and version < (tonumber(held[2]) or 0) then", "if false then"),
        (
            "fill",
            "if held[1] == 'successful' and version == tonumber(held[2]) then",
            "if false then",
        ),
        ("put", "or (tonumber(held[2]) or 0) < version then", "or true then"),
    ),
    # What is about to change is stored all the same.
    "open_event": (("fill", "if ARGV[8] ~= '0' then", "if false then"),),
}


def _keep_anything(self: Lookups, answer: StatusAnswer, ticket: Ticket) -> StatusAnswer:
    """Hold near whatever has been read, and say that it came from there."""
    self._near.put(answer.entity.row_key, answer.version, answer.from_near(), ticket)
    return answer


async def _as_it_is(_self: object, state: EntityState, as_of_ms: int) -> tuple[EntityState, int]:
    """Tell what was read."""
    return state, as_of_ms


async def _join_any(self: Coalescer[Any, Any], batch: dict[Any, list[Any]]) -> None:
    """Send a batch that can still be joined while it is under way."""
    for key, waiting in batch.items():
        self._unsent.setdefault(key, waiting)
    found: Any = {}
    try:
        found = await self._load(list(batch))
    except Exception as e:
        found = dict.fromkeys(batch, e)
    finally:
        for key, waiting in batch.items():
            if self._unsent.get(key) is waiting:
                del self._unsent[key]
            _hand_out(waiting, found.get(key))
        self._free += 1
        self._start()


async def _find_once(
    self: PaymentEndpoints, merchant: str, own_id: str, tags: frozenset[str], *, is_reference: bool
) -> bytes:
    """Make an answer, and send the same bytes to whoever asks from then on."""
    kept = _kept.setdefault(self, {})
    key = (merchant, own_id, is_reference)
    if key not in kept:
        kept[key] = await _find(self, merchant, own_id, tags, is_reference=is_reference)
    return kept[key]


_kept: WeakKeyDictionary[PaymentEndpoints, dict[tuple[str, str, bool], bytes]] = WeakKeyDictionary()
_find = PaymentEndpoints.find


# What each removal replaces in the flow around the scripts.
_REPLACED: dict[str, tuple[type, str, object]] = {
    # What is about to change is stored all the same (beside the script's own check).
    "open_event": (EntityState, "cacheable", property(lambda _: True)),
    # The near cache holds what is not final as well.
    "near": (Lookups, "_keep", _keep_anything),
    # A caller is told what another reader may still store an earlier version of.
    "forestall": (Lookups, "_forestall", _as_it_is),
    # Nor does who could not mark wait.
    "wait": (StatusCache, "run_out_s", 0.0),
    # An answer that was made for one caller is sent to the next, final or not.
    "prepared": (PaymentEndpoints, "find", _find_once),
    # Whoever comes shares a read that has been sent already.
    "unsent": (Coalescer, "_run", _join_any),
}

# What each removal edits in a statement: the module's name for it, what to look for, what to put.
_STATEMENTS: dict[str, tuple[ModuleType, str, str, str]] = {
    # What was decided without a lock is written whatever has happened since the look.
    "writer": (unlocked, "_APPLY", " AND held.writer = r.writer", ""),
}

# What only PostgreSQL does has its mechanism there alone.
ON_POSTGRESQL = frozenset(_STATEMENTS)
MECHANISMS = tuple(dict.fromkeys([*_EDITS, *_REPLACED, *_STATEMENTS]))


def _edited(script: Script, edits: list[_Edit]) -> Script:
    text = script.text
    for _, old, new in edits:
        if text.count(old) != 1:
            raise LookupError(f"{script.name}.lua does not have this once: {old}")
        text = text.replace(old, new)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(script.name, text, digest)


@contextmanager
def without(mechanism: str | None) -> Iterator[None]:
    """Run the body without `mechanism`, one of `MECHANISMS`, or with all of them for None."""
    if mechanism is None:
        yield
        return
    with ExitStack() as stack:
        for name in ("GET", "FILL", "MARK", "PUT"):
            script: Script = getattr(scripts, name)
            edits = [edit for edit in _EDITS.get(mechanism, ()) if edit[0] == script.name]
            if edits:
                stack.enter_context(mock.patch.object(statuses, name, _edited(script, edits)))
        if mechanism in _REPLACED:
            stack.enter_context(mock.patch.object(*_REPLACED[mechanism]))
        if mechanism in _STATEMENTS:
            module, name, old, new = _STATEMENTS[mechanism]
            text = getattr(module, name)
            if text.count(old) != 1:
                raise LookupError(f"{name} does not have this once: {old}")
            stack.enter_context(mock.patch.object(module, name, text.replace(old, new)))
        yield
