"""A drill on whole processes: a web process is killed under load, and nothing is lost or stale."""

from __future__ import annotations

from bench.drill import MUST_BE_ZERO
from bench.drill.faults import DRILLS
from bench.drill.one import Timing, drill_once


async def test_a_killed_web_process_loses_nothing_and_makes_nothing_stale() -> None:
    drill = next(drill for drill in DRILLS if drill.name == "web-kill")
    result = await drill_once(drill, None, Timing(before_s=1.0, after_s=0.5), seed=5)
    assert {name: result[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0), result
    assert result["recovery_s"] is not None
    assert result["acknowledged"]["before"] > 0
    assert result["acknowledged"]["after"] > 0
    assert result["at_risk"] > 0
