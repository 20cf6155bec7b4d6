"""Alerts and board: each metric, label and value in them exists, and each alert is explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import promql_parser as promql

from deploy.check import product
from deploy.check.tree import Tree

__all__ = ["expression_problems", "problems"]

ALERTS = "deploy/prometheus/alerts.yml"
CASES = "deploy/prometheus/alerts.test.yml"
BOARDS = "deploy/grafana/dashboards"
RUNBOOK = "docs/runbook.md"

# What Prometheus adds.
_ADDED = frozenset({"job", "instance"})
_OWN = {"up": _ADDED, "ALERTS": frozenset({"alertname", "alertstate"})}
# Each alert's section has these words, in bold, at the start of a paragraph.
PARTS = ("Meaning", "Cause", "Action")


def problems(tree: Tree) -> list[str]:
    """Return what is wrong with alerts, board and runbook."""
    (config,) = tree.documents("deploy/prometheus/prometheus.yml")
    jobs = frozenset(job["job_name"] for job in config["scrape_configs"])
    found = []
    for where, expression in chain(_of_alerts(tree), _of_boards(tree), _of_cases(tree)):
        found += [f"{where}: {p}" for p in expression_problems(expression, jobs)]
    return found + _runbook(tree) + _board(tree) + _untested(tree)


def _rules(tree: Tree) -> list[dict[str, Any]]:
    (document,) = tree.documents(ALERTS)
    return [rule for group in document["groups"] for rule in group["rules"]]


def _of_alerts(tree: Tree) -> Iterator[tuple[str, str]]:
    for rule in _rules(tree):
        yield f"{ALERTS}: {rule['alert']}", rule["expr"]


def _panels(tree: Tree) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((tree.root / BOARDS).glob("*.json")):
        for panel in json.loads(tree.text(f"{BOARDS}/{path.name}"))["panels"]:
            yield f"{path.name}: {panel['title']}", panel


def _of_boards(tree: Tree) -> Iterator[tuple[str, str]]:
    for where, panel in _panels(tree):
        for target in panel.get("targets", []):
            yield where, target["expr"].replace("$__rate_interval", "1m")


def _of_cases(tree: Tree) -> Iterator[tuple[str, str]]:
    (document,) = tree.documents(CASES)
    for case in document["tests"]:
        for series in case["input_series"]:
            yield f"{CASES}: {case['name']}", series["series"]


def expression_problems(expression: str, jobs: frozenset[str]) -> list[str]:
    """Return what of a PromQL expression does not exist; `jobs` are those that are scraped."""
    try:
        parsed = promql.parse(expression)
    except ValueError as e:
        return [f"cannot be read: {e}"]
    return [p for selector in _selectors(parsed) for p in _selected(selector, jobs)] + [
        f"no metric has the label {label}"
        for label in re.findall(r"\w+", " ".join(re.findall(r"(?:by|on) \(([^)]*)\)", expression)))
        if label not in _all_labels()
    ]


def _all_labels() -> frozenset[str]:
    return frozenset().union(*product.metrics().values(), *_OWN.values())


def _selectors(expression: Any) -> Iterator[Any]:
    """Yield each selector within a parsed expression."""
    if isinstance(expression, promql.VectorSelector):
        yield expression
    elif isinstance(expression, promql.MatrixSelector):
        yield from _selectors(expression.vector_selector)
    elif isinstance(expression, promql.BinaryExpr):
        yield from chain(_selectors(expression.lhs), _selectors(expression.rhs))
    elif isinstance(expression, promql.Call):
        yield from chain.from_iterable(_selectors(argument) for argument in expression.args)
    elif not isinstance(expression, promql.NumberLiteral | promql.StringLiteral):
        yield from _selectors(expression.expr)  # parentheses, aggregation, minus, subquery


def _selected(selector: Any, jobs: frozenset[str]) -> list[str]:
    known = {**product.metrics(), **_OWN}
    if selector.name not in known:
        return [f"there is no metric {selector.name}"]
    found = []
    for matcher in selector.matchers.matchers:
        if matcher.name not in known[selector.name] | _ADDED:
            found.append(f"{selector.name} has no label {matcher.name}")
        else:
            found += [f"{matcher.name}={v} cannot be" for v in _values(matcher, jobs)]
    return found


def _values(matcher: Any, jobs: frozenset[str]) -> list[str]:
    """Return the values that a matcher names and that its label cannot have."""
    if matcher.name in {"instance", "le", "status", "alertname", "alertstate"}:
        return []
    exact = matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual)
    values = [matcher.value] if exact else _alternatives(matcher.value)
    if matcher.name == "job":
        return [value for value in values if value not in jobs]
    if matcher.name == "route":
        patterns = {value: re.escape(value) if exact else value for value in values}
        return [
            value
            for value, pattern in patterns.items()
            if not any(re.fullmatch(pattern, route) for route in product.routes())
        ]
    return [value for value in values if not product.has_literal(value)]


def _alternatives(pattern: str) -> list[str]:
    """Return what `a|b` and `c-(a|b)` stand for."""
    grouped = re.fullmatch(r"([\w-]*)\(([\w|-]+)\)", pattern)
    if grouped:
        return [grouped[1] + value for value in grouped[2].split("|")]
    return pattern.split("|")


def _runbook(tree: Tree) -> list[str]:
    """Each alert has its section, and each section its alert."""
    pattern = re.compile(r"^### (Paystate\w+)\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
    sections = dict(pattern.findall(tree.text(RUNBOOK)))
    alerts = {rule["alert"]: rule for rule in _rules(tree)}
    found = [f"{RUNBOOK}: says nothing of {name}" for name in alerts.keys() - sections.keys()]
    found += [f"{RUNBOOK}: there is no alert {n}" for n in sections.keys() - alerts.keys()]
    for name, text in sections.items():
        missing = [part for part in PARTS if f"**{part}.**" not in text]
        found += [f"{RUNBOOK}: {name} has no {part.lower()}" for part in missing]
    for name, rule in alerts.items():
        if rule["annotations"].get("runbook") != f"{RUNBOOK}#{name.lower()}":
            found.append(f"{ALERTS}: {name} does not lead to its section")
        if rule["labels"].get("severity") not in {"page", "ticket"}:
            found.append(f"{ALERTS}: {name} needs severity page or ticket")
        if not rule["annotations"].get("summary"):
            found.append(f"{ALERTS}: {name} has no summary")
    return found


def _board(tree: Tree) -> list[str]:
    (provisioned,) = tree.documents("deploy/grafana/provisioning/datasources/prometheus.yaml")
    sources = {source["uid"] for source in provisioned["datasources"]}
    found, seen = [], set()
    for where, panel in _panels(tree):
        if panel["id"] in seen:
            found.append(f"{where}: its id is taken")
        seen.add(panel["id"])
        parts = [panel, *panel.get("targets", [])] if panel["type"] != "row" else []
        lost = {part["datasource"]["uid"] for part in parts} - sources
        found += [f"{where}: no data source {uid}" for uid in lost]
    shown = " ".join(expression for _, expression in _of_boards(tree))
    for name in product.metrics():
        base = re.sub(r"_(bucket|count|sum|created|total)$", "", name)
        if base not in shown:
            found.append(f"{BOARDS}: {name} is shown nowhere")
    return found


def _untested(tree: Tree) -> list[str]:
    cases = tree.text(CASES)
    alerts = [rule["alert"] for rule in _rules(tree)]
    return [f"{CASES}: {alert} never fires" for alert in alerts if f'"{alert}"' not in cases]
