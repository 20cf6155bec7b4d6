"""The payments under load, and which of them are worth a lookup now.

An answer can be stale only around an acknowledgement, so lookups crowd there: at payments that have
just been acknowledged, and at those whose delivery has been under way for longest, for deliveries
are answered in about the order in which they began.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.drill.oracle import AT_RISK_S
from paystate.flutterwave.sandbox.records import Payment

__all__ = ["BULK", "Subject", "Targets"]

# Asked for at once; for each that may be at risk, so many others.
BULK = 160
SHARE_OTHERS = 2
REMEMBERED = 2000


@dataclass(slots=True)
class Subject:
    """One payment: its row keys, and how many deliveries have not got their 200 yet."""

    payment: Payment
    charge: str
    reference: str
    unanswered: int = 0


@dataclass
class Targets:
    """Chooses payments; times are seconds, monotonic."""

    rng: random.Random
    recent: deque[Subject] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _under_way: dict[int, Subject] = field(default_factory=dict)
    _fresh: deque[tuple[float, Subject]] = field(default_factory=deque)
    _tickets: Iterator[int] = field(default_factory=itertools.count)

    def begin(self, subject: Subject) -> int:
        """Note that a delivery begins; return what ends it."""
        ticket = next(self._tickets)
        self.recent.append(subject)
        self._under_way[ticket] = subject
        return ticket

    def end(self, ticket: int, subject: Subject, now: float, *, acknowledged: bool) -> None:
        """Note that a delivery has been answered, or was not."""
        del self._under_way[ticket]
        if acknowledged:
            self._fresh.append((now, subject))

    def choose(self, now: float) -> list[Subject]:
        """Return payments to ask for: just acknowledged, about to be, and some others."""
        while self._fresh and self._fresh[0][0] < now - AT_RISK_S * 0.9:
            self._fresh.popleft()
        chosen = {id(subject): subject for _, subject in self._fresh}
        soon = itertools.islice(self._under_way.values(), len(chosen) + 4)
        chosen |= {id(subject): subject for subject in soon}
        others = min(len(self.recent), BULK - len(chosen), SHARE_OTHERS * len(chosen))
        if others > 0:
            chosen |= {id(s): s for s in self.rng.sample(self.recent, others)}
        return list(chosen.values())[:BULK]
