"""The reference pages are what the code makes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, Counter

from docs.generate import __main__ as generate
from docs.generate import metrics, tables
from tests.parts import ROOT


def test_no_page_is_stale() -> None:
    """After a change of a setting, metric, error, key, route or command: `make docs`."""
    assert generate.stale() == {}


def test_a_page_that_was_edited_or_is_missing_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--check` names it, shows the line, ends with 1, and writes nothing."""
    for name, text in generate.pages().items():
        (tmp_path / name).write_text(text)
    (tmp_path / "keys.md").write_text("edited\n")
    (tmp_path / "cli.md").unlink()
    monkeypatch.setattr(generate, "stale", lambda held=generate.stale: held(tmp_path))
    ran = CliRunner().invoke(generate.main, ["--check"])
    assert ran.exit_code == 1
    assert "docs/reference/keys.md is not what the code says" in ran.output
    assert "-edited" in ran.output
    assert "settings.md" not in ran.output
    assert not (tmp_path / "cli.md").exists()


def test_every_metric_of_the_code_is_in_the_page() -> None:
    """Those that a module registers without being known to the page would be missing."""
    page = metrics.page()
    named = {
        node.args[0].value
        for path in (*ROOT.glob("paystate/**/*.py"), *ROOT.glob("w*/**/*.py"))
        if "prometheus_client" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        and getattr(node.func, "id", "") in {"Counter", "Gauge", "Histogram", "Summary"}
    }  # fmt: skip
    assert "paystate_webhooks_total" in named
    assert {name for name in named if f"| `{name}` |" not in page} == set()


def test_a_metric_is_listed_with_its_labels_and_meaning() -> None:
    registry = CollectorRegistry()
    Counter("seen_total", "How many.", ["colour"], registry=registry)
    (one,) = metrics.registered(registry)
    assert metrics._row(one) == ("`seen_total`", "counter", "`colour`", "How many.")


def test_the_map_for_contributors_has_every_module_and_no_other() -> None:
    """By its name, be it a file or a folder; of the processes only what is told of them."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## The map")[2]
    rows = [row for row in page.partition("\n\nImports")[0].splitlines() if "|" in row]
    where = _names(row.split("|")[1] for row in rows)
    inside = {path.stem for path in (ROOT / "paystate").iterdir() if path.suffix in ("", ".py")}
    inside = {name for name in inside if not name.startswith("__")}
    assert inside - where - _names(rows) == set()
    assert {
        name for name in where if not [*ROOT.glob(f"{name}*"), *ROOT.glob(f"*/{name}*")]
    } == set()


def _names(texts: Iterable[str]) -> set[str]:
    return {Path(one).stem for text in texts for one in re.findall(r"`([^`]+)`", text)}


def test_a_cell_cannot_end_its_table() -> None:
    assert tables.table(("a",), [("x | y\nz",)]).splitlines()[2] == "| x \\| y z |"
