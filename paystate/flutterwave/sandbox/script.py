"""A script: what is to happen at the sandbox, in order, and when.

A JSON list of steps, each ``{"at_s": 0.5, "do": "settle", ...}``. `at_s` counts from the start and
never goes back; a step without one comes right after the step before. The other fields are those
of the act (see `acts`); a payment made ``"as": "a"`` is ``"payment": "a"`` afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from paystate.flutterwave.sandbox.acts import ACTS

__all__ = ["MAX_STEPS", "Script", "ScriptInvalid", "Step", "parse_script", "read_script"]

MAX_STEPS = 10_000
_MAX_AT_S = 86_400


class ScriptInvalid(ValueError):
    """A script that cannot be played; the message says which step, and why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, `at_s` seconds after the start."""

    at_s: float
    do: str
    body: Mapping[str, Any]


Script = tuple[Step, ...]


def parse_script(value: object) -> Script:
    """Return the script in a JSON value. Raises ScriptInvalid."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_STEPS:
        raise ScriptInvalid(f"a script is a list of 1 to {MAX_STEPS} steps")
    steps: list[Step] = []
    for number, item in enumerate(value, start=1):
        try:
            steps.append(_step(item, steps[-1].at_s if steps else 0.0))
        except ValueError as problem:
            raise ScriptInvalid(f"step {number}: {problem}") from None
    return tuple(steps)


def read_script(path: str) -> Script:
    """Return the script in the file `path`. Raises ScriptInvalid, also if it cannot be read."""
    try:
        return parse_script(json.loads(Path(path).read_text("utf-8"), parse_float=Decimal))
    except ScriptInvalid as invalid:
        raise ScriptInvalid(f"{path}: {invalid}") from None
    except (OSError, ValueError) as problem:
        raise ScriptInvalid(f"{path} cannot be read: {problem}") from None


def _step(item: object, earliest_s: float) -> Step:
    if not isinstance(item, dict):
        raise ScriptInvalid("a step is an object")
    body = dict(item)
    do, at = body.pop("do", None), body.pop("at_s", earliest_s)
    if not isinstance(do, str) or do not in ACTS:
        raise ScriptInvalid(f"`do` is one of {', '.join(ACTS)}")
    if isinstance(at, bool) or not isinstance(at, int | float | Decimal):
        raise ScriptInvalid("`at_s` is a number of seconds")
    at_s = float(at)  # a float before it is compared with one: 0.1 is not Decimal("0.1")
    if not earliest_s <= at_s <= _MAX_AT_S:
        raise ScriptInvalid("`at_s` is not before that of the step before, and within a day")
    unknown = body.keys() - ACTS[do][1]
    if unknown:
        raise ScriptInvalid(f"`{do}` takes no {', '.join(sorted(unknown))}")
    return Step(at_s, do, body)
