"""Tell: put what was committed into the cache, publish it, count it and write it to the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from paystate.cache.statuses import StatusCache
from paystate.errors import CacheUnavailable
from paystate.logs import logger
from paystate.metrics import Metrics
from paystate.store import Ending, Settled

__all__ = ["Teller"]

log = logger()

_FOR_A_PERSON = frozenset({Ending.HELD, Ending.DEAD, Ending.CONTRADICTED})


class Teller:
    """Tells of transactions that have settled events; one for each settler."""

    def __init__(self, cache: StatusCache, metrics: Metrics) -> None:
        self._cache = cache
        self._metrics = metrics

    async def tell(self, settled: Settled) -> None:
        try:
            await self._cache.put(settled.states, settled.changes)
        except CacheUnavailable:
            # The entries were marked, so nothing stale is served; the change log has the news.
            log.warning("put_failed", entities=len(settled.states))
        self._count(settled)

    def _count(self, settled: Settled) -> None:
        """Count what has ended, and log it: in one line, and one for each that a person wants.

        Which payment changed, when and to what is in the change log of the database.
        """
        endings = Counter(settled.endings.values())
        statuses = Counter([change.status for change in settled.changes])
        for (ending, reason), count in endings.items():
            self._metrics.events.labels(ending, reason or "none").inc(count)
        for waited_ms in settled.waited_ms.values():
            self._metrics.event_seconds.observe(waited_ms / 1000)
        for status, count in statuses.items():
            self._metrics.changes.labels(status).inc(count)
        if any(ending in _FOR_A_PERSON for ending, _ in endings):
            for inbox_id, (ending, reason) in settled.endings.items():
                if ending in _FOR_A_PERSON:
                    log.info("event_given_up", inbox_id=inbox_id, ending=ending.value,
                             reason=reason, waited_ms=settled.waited_ms[inbox_id])  # fmt: skip
        if endings:
            log.info("events_ended", events=len(settled.endings), inbox_id=min(settled.endings),
                     endings=_by_word((e, count) for (e, _), count in endings.items()),
                     changes=_by_word(statuses.items()),
                     most_waited_ms=max(settled.waited_ms.values()))  # fmt: skip


def _by_word(counts: Iterable[tuple[StrEnum, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for word, count in counts:
        found[word.value] += count
    return dict(found)
