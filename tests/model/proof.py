"""What must hold and what must break, and whether it does.

A promise that holds because its model cannot break it proves nothing: so every rule is left out
once, and every run without it must end in a counterexample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tests.model.checker import Model, Result, explore
from tests.model.feed import FEED_RULES, FEEDS, LARGE_FEEDS, FeedModel
from tests.model.protocol import ProtocolModel
from tests.model.scenarios import DESIGNS, LARGE, RULES, SCENARIOS, SPLIT_BRAIN, TORN
from tests.model.state import Scenario

__all__ = [
    "LEASE",
    "MODES",
    "Case",
    "Verdict",
    "all_cases",
    "bound",
    "case",
    "check",
    "chosen",
    "design",
    "feed",
    "quick_cases",
    "without",
]

# Two ticks, so that one and a half leases are three.
LEASE = 2
MODES = {"strict": 0, "leased": LEASE}


@dataclass(frozen=True, slots=True)
class Case:
    """One exploration. `breaks`: a counterexample must be found; else there must be none."""

    name: str
    mode: str
    make: Callable[[], Model]
    breaks: bool = False
    about: str = ""
    rest: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a case."""

    case: Case
    result: Result

    @property
    def as_expected(self) -> bool:
        """Whether it holds or breaks as it must; a run that was cut short shows neither."""
        return bool(self.result.flaw) == self.case.breaks and not self.result.bounded

    @property
    def text(self) -> str:
        """The result in a few words."""
        if self.result.bounded:
            return "cut short"
        outcome = "breaks" if self.result.flaw else "holds"
        return outcome if self.as_expected else f"{outcome.upper()}, against expectation"

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "name": self.case.name,
            "mode": self.case.mode,
            "about": self.case.about,
            "expected": "breaks" if self.case.breaks else "holds",
            "as_expected": self.as_expected,
            **asdict(self.result),
        }


def check(what: Case) -> Verdict:
    """Explore a case; a counterexample shows versions as they really count."""
    result = explore(what.make(), rest=what.rest)
    renumbered = what.mode != "feed"
    if renumbered and result.flaw and not result.flaw.startswith("G5"):  # G5 is known of all alone
        shown = explore(what.make(), plain=True)
        result.flaw, result.path = shown.flaw, shown.path
    return Verdict(what, result)


def case(
    scenario: Scenario, mode: str, *, breaks: bool = False, lease: int | None = None, **more: Any
) -> Case:
    """Return the case of one scenario of the protocol in one mode; `lease` is in ticks."""
    inside = scenario._replace(lease=MODES[mode] if lease is None else lease)
    return Case(scenario.name, mode, lambda: ProtocolModel(inside), breaks, **more)


def _scenarios() -> Iterator[Case]:
    for scenario in SCENARIOS.values():
        for mode in MODES:
            torn = scenario is SPLIT_BRAIN and mode == "leased"
            about = "an old pending may be served for one lease at most" if torn else ""
            yield case(scenario, mode, breaks=torn, about=about, rest=not torn)


def bound() -> Iterator[Case]:
    """Yield the bound of a split brain: one lease, and no less would do."""
    for ticks, about in ((LEASE, "one lease after"), (LEASE + 1, "more than one lease after")):
        name = f"split_brain, {about}"
        torn = TORN._replace(name=name, grace=ticks)
        yield case(
            torn,
            "leased",
            breaks=ticks == LEASE,
            about=f"lookups that begin {about} the acknowledgement",
        )


def without(rule: str, mode: str, scenario: Scenario | None = None) -> Case:
    """Return the case of a rule left out.

    The strict mode stores nothing but `successful`: it needs none of them.
    """
    inside, about = RULES[rule]
    if scenario is not None:
        inside = scenario
    less = inside._replace(name=f"without {rule}: {inside.name}", without=rule)
    return case(less, mode, breaks=mode == "leased", about=about)


def design(name: str) -> Case:
    """Return the case of a naive design."""
    other = DESIGNS[name]._replace(name=name, design=name, acknowledged_only=True)
    return Case(name, "naive", lambda: ProtocolModel(other), breaks=True)


def feed(name: str, without: str = "") -> Case:
    """Return the case of a feed scenario, with or without one of its rules."""
    scenario = {**FEEDS, **LARGE_FEEDS}[name]._replace(without=without)
    title = f"without {without}: {name}" if without else f"feed: {name}"
    about = FEED_RULES[without][1] if without else ""
    return Case(title, "feed", lambda: FeedModel(scenario), bool(without), about)


def _feeds() -> Iterator[Case]:
    yield from (feed(name) for name in FEEDS)
    yield from (feed(scenario.name, rule) for rule, (scenario, _) in FEED_RULES.items())


def quick_cases() -> list[Case]:
    """Return every scenario, rule and design, with few actors."""
    return [
        *_scenarios(),
        *(without(rule, "leased") for rule in RULES),
        *(design(name) for name in DESIGNS),
        *_feeds(),
    ]


def all_cases() -> list[Case]:
    """Return everything."""
    large = [case(scenario, mode) for scenario in LARGE for mode in MODES]
    feeds = [feed(name) for name in LARGE_FEEDS]
    strict = [without(rule, "strict") for rule in RULES]
    return [*quick_cases(), *bound(), *strict, *large, *feeds]


def chosen(
    scenario: str | None, mode: str | None, rule: str | None, naive: str | None
) -> list[Case]:
    """Return the cases that the command line names. Raises KeyError for an unknown name."""
    if naive:
        return [design(naive)]
    if rule in FEED_RULES:
        return [feed(scenario or FEED_RULES[rule][0].name, rule)]
    if scenario in FEEDS:
        return [feed(scenario)]
    if rule:
        return [without(rule, mode or "leased", SCENARIOS[scenario] if scenario else None)]
    return [c for c in _scenarios() if c.name == scenario and mode in (None, c.mode)]
