"""When to try again: exponential, bounded, and spread so that a crowd does not return as one."""

from __future__ import annotations

__all__ = ["delay_s"]


def delay_s(attempt: int, *, first_s: float, most_s: float, draw: float) -> float:
    """Return the seconds to wait before try number `attempt` + 1.

    Doubles from `first_s` up to `most_s`; `draw` in [0, 1) takes away up to half of it, so that
    processes that failed together do not come back together.
    """
    full: float = min(most_s, first_s * 2.0 ** min(max(attempt - 1, 0), 30))
    return full * (1 - draw / 2)
