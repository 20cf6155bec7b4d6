"""Compare what is shown with the database, and write down what does not agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paystate.audit.asking import LookupPath, Unanswered
from paystate.audit.ledger import Ledger, Outcome
from paystate.audit.verdicts import Fault, Shown, Suspicion, is_certain, suspect
from paystate.keys import Entity
from paystate.logs import logger, place_of
from paystate.state import EntityState
from paystate.status import TERMINAL, Status
from paystate.store import Store
from paystate.store.violations import Violation

__all__ = ["Checker", "Question", "Verdict"]

log = logger()


@dataclass(frozen=True, slots=True)
class Question:
    """What was known when something was asked for: `asked_at` in seconds, monotonic.

    `before` is the database's row, read before; `heard` the latest version in the news by then.
    """

    entity: Entity
    before: EntityState | None
    asked_at: float
    heard: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fault` None is no fault. `age_ms`: for how long the answer had been overtaken."""

    fault: Fault | None
    outcome: Outcome
    age_ms: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)


_FRESH = Verdict(None, Outcome.FRESH)


class Checker:
    """Asks and judges. `recheck_s` and `lease_ms` are the settings of those who are asked.

    `clock` (seconds, monotonic) and `now_ms` (ms since the epoch) are parameters for tests.
    """

    def __init__(
        self,
        store: Store,
        path: LookupPath,
        ledger: Ledger,
        *,
        lease_ms: int,
        recheck_s: int,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._path = path
        self._ledger = ledger
        self._lease_ms = lease_ms
        self._recheck_ms = recheck_s * 1000
        self._clock = clock
        self._now_ms = now_ms
        self.last_unanswered: Unanswered | None = None

    async def lookup(self, entity: Entity, scale: str, *, heard: int = 0) -> Shown | None:
        """Look `entity` up and compare; return what was shown, None if nothing was.

        Raises StoreUnavailable where the database cannot be compared with.
        """
        before = (await self._store.states([entity])).get(entity)
        if before is None:
            if heard:
                await self.report([Violation(Fault.UNKNOWN, entity, {"heard_version": heard})])
            return None
        if self._would_spend(before):
            self._ledger.looked(scale, Outcome.SKIPPED)
            return None
        question = Question(entity, before, self._clock(), heard)
        try:
            shown = await self._path.ask(entity)
        except Unanswered as e:
            self.last_unanswered = e
            self._ledger.looked(scale, Outcome.UNANSWERED)
            log.info("audit_unanswered", scale=scale, reason=e.reason)
            return None
        verdict = await self.judge(question, shown, Fault.STALE_LOOKUP)
        self._ledger.looked(scale, verdict.outcome, verdict.age_ms)
        if verdict.fault is not None:
            evidence = {**verdict.evidence, "scale": scale, "asked": self._path.name}
            await self.report([Violation(verdict.fault, entity, evidence)])
        return shown

    def _would_spend(self, state: EntityState) -> bool:
        """Say whether looking it up could ask the provider, out of the customers' budget.

        Half of the time after which lookups do, so that no difference of clocks matters.
        """
        if state.open_events or state.status in TERMINAL:
            return False
        age_ms = self._now_ms() - state.changed_ms
        return state.status is Status.UNKNOWN or age_ms > self._recheck_ms / 2

    async def judge(self, question: Question, shown: Shown, stale: Fault) -> Verdict:
        """Return what is wrong with `shown`; `stale` is what an old one is called.

        Raises StoreUnavailable.
        """
        if not shown.fresh:
            return Verdict(None, Outcome.UNSURE)
        entity, before, heard = question.entity, question.before, question.heard
        match suspect(shown, before, heard=heard):
            case Suspicion.OVERTAKEN:
                age_ms = await self._overtaken_ms(question, shown)
                if is_certain(
                    shown, before, heard=heard, overtaken_ms=age_ms, lease_ms=self._lease_ms
                ):
                    return _fault(stale, question, shown, before, max(0, age_ms))
                return Verdict(None, Outcome.UNACKNOWLEDGED)
            case Suspicion.AHEAD:
                after = (await self._store.states([entity])).get(entity)
                if after is None:
                    return _fault(Fault.UNKNOWN, question, shown, after)
                if shown.version > after.version:
                    return _fault(Fault.AHEAD, question, shown, after)
                if shown.version == after.version and shown.status is not after.shown:
                    return _fault(Fault.WRONG_STATUS, question, shown, after)
            case Suspicion.WRONG_STATUS:
                return _fault(Fault.WRONG_STATUS, question, shown, before)
            case Suspicion.NOTHING:
                return _fault(Fault.NOT_FOUND, question, shown, before)
        return _FRESH

    async def _overtaken_ms(self, question: Question, shown: Shown) -> int:
        """Return for how long it had been overtaken when it was asked for."""
        changed_ms = question.before.changed_ms if question.before is not None else self._now_ms()
        age_ms = await self._store.sampling.overtaken_ms(question.entity, shown.version, changed_ms)
        return age_ms - round((self._clock() - question.asked_at) * 1000)

    async def report(self, found: Sequence[Violation]) -> None:
        """Count violations, log those nobody has found a moment ago, and write them down."""
        if not found:
            return
        for violation in found:
            self._ledger.violate(violation)
        new, recorded = list(found), False
        try:
            new = await self._store.sampling.record(found)
            recorded = True
        except Exception as e:
            # Whatever keeps it from being written down, the evidence must not be lost.
            log.warning("audit_not_recorded", error=type(e).__name__, where=place_of(e))
        for violation in new:
            entity = violation.entity
            log.error("audit_violation", fault=str(violation.kind), recorded=recorded,
                      kind=entity.kind.value if entity else None, id=entity.id if entity else None,
                      merchant=entity.merchant if entity else None,
                      evidence=violation.evidence)  # fmt: skip


def _fault(
    fault: Fault, question: Question, shown: Shown, row: EntityState | None, age_ms: int = 0
) -> Verdict:
    evidence: dict[str, Any] = {
        "shown_status": shown.status.value if shown.status else None,
        "shown_version": shown.version,
        "status": row.shown.value if row else None,
        "version": row.version if row else None,
    }
    if question.heard:
        evidence["heard_version"] = question.heard
    if age_ms:
        evidence["overtaken_ms"] = age_ms
    return Verdict(fault, Outcome.STALE, age_ms, evidence)
