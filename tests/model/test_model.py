"""The protocol and the feed hold in every state of their model, and each of their rules is needed.

Every scenario is explored whole, with few actors; ``python -m tests.model --all`` has the larger
ones.
"""

from __future__ import annotations

import json

import pytest

from tests.model.__main__ import main
from tests.model.feed import FEED_RULES, FEEDS, GAP, POLLED, PRUNED, STREAM, WATCH, WIRED
from tests.model.proof import bound, case, check, design, feed, without
from tests.model.protocol import ProtocolModel
from tests.model.rows import SUCCESSFUL
from tests.model.scenarios import DESIGNS, ONE_EVENT, RULES, SCENARIOS, SMALLER, SPLIT_BRAIN
from tests.model.state import Scenario


def named(scenario: Scenario) -> str:
    return scenario.name


STRICT = [s for name, s in SCENARIOS.items() if name != "correction"]


@pytest.mark.parametrize("scenario", STRICT, ids=named)
def test_the_strict_mode_holds(scenario: Scenario) -> None:
    """No promise is broken in any state, split brain included, and all that was acknowledged can
    still end."""
    verdict = check(case(scenario, "strict", rest=True))
    assert verdict.result.flaw is None
    assert not verdict.result.bounded
    assert verdict.result.states > 100


@pytest.mark.parametrize("scenario", SMALLER, ids=named)
def test_the_leased_mode_holds(scenario: Scenario) -> None:
    """No promise is broken in any state."""
    verdict = check(case(scenario, "leased", lease=scenario.lease))
    assert verdict.result.flaw is None
    assert not verdict.result.bounded
    assert verdict.result.states > 1000


def test_a_split_brain_shows_an_old_pending_under_a_lease() -> None:
    """The leased mode needs one primary; even a whole lease later the old one still answers."""
    for torn in (case(SPLIT_BRAIN, "leased", breaks=True), next(bound())):
        verdict = check(torn)
        assert verdict.as_expected
        assert verdict.result.flaw is not None
        assert "`pending`, version 1" in verdict.result.flaw


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "8r"])  # 8 s of work
def test_each_rule_is_needed(rule: str) -> None:
    """Without it there is a way to an answer that has been overtaken, and it is printed."""
    verdict = check(without(rule, "leased"))
    assert verdict.result.flaw is not None
    assert verdict.result.flaw[:2] in ("G1", "G2")
    assert verdict.result.path
    assert all(verdict.result.path)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_naive_designs_fail(name: str) -> None:
    """Even when nothing but the acknowledgement is held against them."""
    verdict = check(design(name))
    assert verdict.result.flaw is not None
    assert any("acknowledges" in step for step in verdict.result.path)


@pytest.mark.parametrize("name", [s.name for s in (POLLED, WIRED, GAP, PRUNED, STREAM, WATCH)])
def test_the_feed_tells_everything(name: str) -> None:
    """When all is quiet, feed and client hold what the database has, and went there forwards."""
    verdict = check(feed(name))
    assert verdict.result.flaw is None
    assert not verdict.result.bounded


@pytest.mark.parametrize("rule", FEED_RULES)
def test_each_rule_of_the_feed_is_needed(rule: str) -> None:
    """Without it something is never told, or told backwards."""
    flaw = check(feed(FEED_RULES[rule][0].name, rule)).result.flaw
    assert flaw is not None
    assert flaw.startswith("G3")


def test_states_that_differ_in_the_size_of_versions_alone_are_one() -> None:
    """Renumbering keeps the order of the versions of an entity, and 0 for none."""
    model = ProtocolModel(ONE_EVENT)
    first = model.initial()
    held = (SUCCESSFUL, 7, 0, 0, 0, 0)
    later = first._replace(rows=((SUCCESSFUL, 9, 0, 0, -1),), nodes=((held,),), due=(7,))
    after = model.canonical(later)
    assert (after.rows[0][1], after.nodes[0][0][1], after.due) == (2, 1, (1,))
    assert after.nodes[0][0][2] == 0
    assert model.canonical(after) == after


def test_the_command_line_prints_the_counterexample(capsys: pytest.CaptureFixture[str]) -> None:
    """A rule that is left out is shown step by step; that it breaks is what is expected of it."""
    assert main(["--without", "4"]) == 0
    shown = capsys.readouterr().out
    assert "without 4: one_event" in shown
    assert "7. lookup 1 of the payment: fills `pending`, version 1, into the cache" in shown


def test_the_command_line_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs are given the counts and whether all is as it must be."""
    assert main(["--scenario", "one_event", "--json"]) == 0
    strict, leased = json.loads(capsys.readouterr().out)
    assert (strict["mode"], leased["mode"]) == ("strict", "leased")
    assert strict["as_expected"]
    assert leased["states"] > strict["states"]


def test_the_command_line_fails_if_an_expected_counterexample_is_missing() -> None:
    """Rule 7 is about failover: where there is none, leaving it out shows nothing."""
    assert main(["--without", "7", "--scenario", "dead", "--json"]) == 1


def test_every_scenario_can_be_named() -> None:
    """Names are unique over the protocol and the feed."""
    assert not set(SCENARIOS) & set(FEEDS)
    assert not set(RULES) & set(FEED_RULES)
