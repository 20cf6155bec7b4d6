"""What a measurement leaves behind: its figures as JSON, a table, and a bar chart as SVG.

All lie in ``bench/results/`` under the name of the bench. The chart is written by hand, so that
nothing has to be installed to see it or to make it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["FOLDER", "Chart", "draw", "load", "plain_chart", "save"]

FOLDER = Path(__file__).parent / "results"

_WIDTH, _LABELS, _VALUES = 760, 290, 90
_BAR, _GAP, _HEAD = 22, 10, 44
_OURS, _OTHERS = "#1f6f8b", "#b0b7bd"


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars from zero, one for each (label, value); those of `ours` are coloured."""

    title: str
    unit: str
    bars: Sequence[tuple[str, float]]
    ours: Sequence[str] = ()


# The bars of benches that say no more than their figures do: title, unit, label and field.
_PLAIN: Mapping[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "ingest": ("Webhooks acknowledged by one process", "/s", (
        ("paystate, committed", "webhooks_per_s"),
        ("bare aiohttp, HMAC alone", "bare_hmac_per_s"),
    )),
    "apply": ("Events applied by one worker", "/s", (
        ("paystate", "events_per_s"),
        ("stock arq, empty jobs", "stock_arq_jobs_per_s"),
    )),
    "latency": ("From a webhook to whoever waits for it", "ms", (
        ("paystate, told: p50", "p50_ms"),
        ("paystate, told: p99", "p99_ms"),
        ("stock arq, job starts: p50", "stock_arq_p50_ms"),
        ("stock arq, job starts: p99", "stock_arq_p99_ms"),
    )),
    "streams": ("Memory of one open stream", "bytes", (("paystate", "bytes_per_stream"),)),
}  # fmt: skip


def plain_chart(name: str, figures: Mapping[str, Any]) -> Chart | None:
    """Return the bars of a bench that draws none itself, if there is anything to draw."""
    title, unit, bars = _PLAIN.get(name, ("", "", ()))
    found = [(label, figures[field]) for label, field in bars if field in figures]
    ours = [label for label, _ in found if label.startswith("paystate")]
    return Chart(title, unit, found, ours) if found else None


def draw(chart: Chart) -> str:
    """Return the chart as SVG."""
    most = max((value for _, value in chart.bars), default=0) or 1
    height = _HEAD + len(chart.bars) * (_BAR + _GAP) + _GAP
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="26" font-size="15" font-weight="bold">{escape(chart.title)}</text>',
    ]
    y = _HEAD
    for label, value in chart.bars:
        length = max(1, round((_WIDTH - _LABELS - _VALUES) * value / most))
        colour = _OURS if label in chart.ours else _OTHERS
        parts += [
            f'<text x="{_LABELS - 8}" y="{y + 16}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LABELS}" y="{y}" width="{length}" height="{_BAR}" fill="{colour}"/>',
            (
                f'<text x="{_LABELS + length + 6}" y="{y + 16}">{_short(value)} '
                f"{escape(chart.unit)}</text>"
            ),
        ]
        y += _BAR + _GAP
    return "\n".join([*parts, "</svg>", ""])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def save(name: str, figures: Mapping[str, Any], table: str, chart: Chart | None) -> None:
    """Write the figures of bench `name`, its table and its chart, over those of the last run."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    where = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
    where += f"Python {platform.python_version()}"
    plot = f"![{name}]({name}.svg)\n\n" if chart else ""
    (FOLDER / f"{name}.md").write_text(
        f"# {name}\n\n{where}.\n\n{plot}```\n{table}\n```\n", "utf-8"
    )
    if chart:
        (FOLDER / f"{name}.svg").write_text(draw(chart), "utf-8")


def load(name: str) -> dict[str, Any] | None:
    """Return the figures of the last run of bench `name`, or None."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None
