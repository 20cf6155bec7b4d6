"""Explores the model: ``python -m tests.model``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from tests.model.feed import FEED_RULES, FEEDS
from tests.model.proof import MODES, Case, Verdict, all_cases, check, chosen, quick_cases
from tests.model.scenarios import DESIGNS, RULES, SCENARIOS

_HEAD = ("scenario", "mode", "states", "transitions", "depth", "seconds", "result")
_FORM = "{:<34} {:<7} {:>9} {:>12} {:>6} {:>8}  {}"


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.model",
        description="Explore the model of the coherence protocol and of the change feed. Without "
        "arguments: every scenario, rule and naive design, with few actors.",
        epilog="Exit code 1: a promise broke, or an expected counterexample was not found.",
    )
    parser.add_argument("--all", action="store_true", help="everything, with more actors too")
    names = sorted({*SCENARIOS, *FEEDS})
    parser.add_argument("--scenario", choices=names, metavar="NAME", help=", ".join(names))
    rules = [*RULES, *FEED_RULES]
    parser.add_argument(
        "--without", choices=rules, metavar="RULE", help=f"leave a rule out: {', '.join(rules)}"
    )
    parser.add_argument("--design", choices=DESIGNS, metavar="NAME", help=", ".join(DESIGNS))
    parser.add_argument("--mode", choices=MODES, help="strict or leased; both if not given")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args(words)


def _cases(given: argparse.Namespace) -> list[Case]:
    if given.scenario or given.without or given.design:
        return chosen(given.scenario, given.mode, given.without, given.design)
    return all_cases() if given.all else quick_cases()


def _row(verdict: Verdict) -> str:
    result = verdict.result
    return _FORM.format(
        verdict.case.name, verdict.case.mode, f"{result.states:,}", f"{result.transitions:,}",
        result.depth, f"{result.seconds:.2f}", verdict.text,
    )  # fmt: skip


def _counterexample(verdict: Verdict) -> str:
    about = f" ({verdict.case.about})" if verdict.case.about else ""
    steps = [f"    {n:>2}. {step}" for n, step in enumerate(verdict.result.path, 1)]
    flaw = f"        {verdict.result.flaw}"
    return "\n".join([f"\n{verdict.case.name}, {verdict.case.mode}{about}:", *steps, flaw])


def main(words: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    given = _arguments(words)
    verdicts = []
    if not given.json:
        print(_FORM.format(*_HEAD))
    for case in _cases(given):
        verdict = check(case)
        verdicts.append(verdict)
        if not given.json:
            print(_row(verdict), flush=True)
    wrong = [v for v in verdicts if not v.as_expected]
    if given.json:
        print(json.dumps([v.to_json() for v in verdicts], indent=2))
        return 1 if wrong else 0
    for verdict in verdicts:
        if verdict.result.flaw:
            print(_counterexample(verdict))
    seconds = sum(v.result.seconds for v in verdicts)
    states = sum(v.result.states for v in verdicts)
    print(f"\n{len(verdicts)} runs, {states:,} states, {seconds:.0f} s: " + (
        f"{len(wrong)} NOT AS EXPECTED" if wrong else "all as expected"))  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
