"""``python -m bench.summary``: write the figures of the last runs into README.md.

The table stands between two markers there, and nothing else of the file is touched. A bench that
has not been run on this machine has no rows.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from bench import results

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- figures: make bench -->", "<!-- end of figures -->"

# Bench, its fields, and what they say; a field in braces is written as a whole number.
ROWS = (
    ("lookup", "lookups over HTTP, by one process", "{lookups_per_s:,}/s",
     ("{ratio_to_bare_aiohttp} × a bare aiohttp handler with constant bytes; {ratio_to_redis_py} × "
      "one redis-py HMGET for each request")),
    ("lookup", "the same while payments settle", "{while_settling_per_s:,}/s",
     "{ratio_to_cashews} × aiohttp with cashews; stale answers: {stale}, cashews {cashews_stale}"),
    ("scale", "p99 with a million cached payments", "{p99_1m_ms} ms",
     "{p99_ratio_1m_to_10k} × that with ten thousand; {bytes_per_payment} bytes of Valkey each"),
    ("reader", "`PaymentReader`, shared cache", "{reads_per_s:,}/s",
     "{ratio_to_redis_py} × redis-py, {callers} callers"),
    ("reader", "`PaymentReader`, near cache", "{near_hits_per_s:,}/s", "`await reader.status(id)`"),
    ("polls", "{callers:,} callers poll {payments} pending payments", "{db_queries_per_s}/s",
     "database queries; {strict_db_queries_per_s} in strict mode"),
    ("ingest", "webhooks acknowledged, by one process", "{webhooks_per_s:,}/s",
     "{ratio_to_bare_hmac} of a bare aiohttp handler that checks the HMAC and keeps nothing"),
    ("apply", "events applied, by one worker", "{events_per_s:,}/s",
     "{ratio_to_stock_arq} × stock arq with empty jobs"),
    ("latency", "webhook sent to subscriber told, at {per_s}/s", "p50 {p50_ms} ms",
     "p99 {p99_ms} ms; stock arq only starts a job after p50 {stock_arq_p50_ms} ms"),
    ("streams", "memory of one open stream", "{bytes_per_stream:,} bytes", "{streams:,} at once"),
    ("race", "lookups in the 5 ms around a change", "{lookups:,}", "stale: {stale}"),
)  # fmt: skip


def table() -> str:
    """Return the table of what there is."""
    lines = ["| measured | | |", "|---|---|---|"]
    for name, *cells in ROWS:
        figures: dict[str, Any] | None = results.load(name)
        if figures is None:
            continue
        try:
            filled = [cell.format(**figures) for cell in cells]
        except KeyError as e:
            print(f"{name} has no {e}", file=sys.stderr)
            continue
        lines.append(f"| {' | '.join(filled)} |")
    where = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    return "\n".join((*lines, "", f"On one machine of {where}, load and servers included."))


def main() -> None:
    """Rewrite the table in README.md."""
    text = README.read_text("utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin, f"README.md has lost its marker {BEGIN}"
    assert end, f"README.md has lost its marker {END}"
    README.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}", "utf-8")


if __name__ == "__main__":
    main()
