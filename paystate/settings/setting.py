"""One setting: its variable, default and meaning, and how its text is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

__all__ = ["setting"]


def setting(
    env: str, default: Any, doc: str, *, parse: Callable[[str], Any] = str, secret: bool = False
) -> Any:
    """Return the field of a setting. `parse` raises Unusable, or another ValueError.

    A `secret` one is never shown.
    """
    return field(
        default=default, metadata={"env": env, "doc": doc, "parse": parse, "secret": secret}
    )
