"""``python -m bench NAME``: run one measurement. The last line is one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import signal
import sys
from types import ModuleType
from typing import Any

import uvloop

from bench import results

# Each is a module of this package with `measure`, which returns the figures; it may have
# `arguments`, which adds its options, `table` and `chart`, which show the figures to people, and
# `failed`, which says that they show something that must not be.
BENCHES = (
    "streams", "race", "lookup", "scale", "reader", "ingest", "apply", "latency", "polls", "drill",
    "pages",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the bench that is named and print its figures; 1 if they show what must not be."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar=f"{{{','.join(BENCHES)}}}")
    known = argv if argv is not None else sys.argv[1:]
    modules = {name: _load(name) for name in BENCHES if name in known[:1]}
    for name in BENCHES:
        one = names.add_parser(name)
        one.add_argument("--json", action="store_true", help="print the JSON object alone")
        if name in modules and hasattr(modules[name], "arguments"):
            modules[name].arguments(one)
    options = parser.parse_args(argv)
    module = modules[options.name]
    figures = uvloop.run(_measure(module, options))
    text = module.table(figures) if hasattr(module, "table") else json.dumps(figures, indent=1)
    plain = results.plain_chart(options.name, figures)
    chart = module.chart(figures) if hasattr(module, "chart") else plain
    results.save(options.name, figures, text, chart)
    if not options.json and hasattr(module, "table"):
        print(text)
    print(json.dumps(figures))
    return int(hasattr(module, "failed") and module.failed(figures))


async def _measure(module: ModuleType, options: argparse.Namespace) -> dict[str, Any]:
    """Measure; SIGTERM ends it as Ctrl-C does, so that all it has started is ended too."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    takes_options = bool(inspect.signature(module.measure).parameters)
    figures: dict[str, Any] = await (module.measure(options) if takes_options else module.measure())
    return figures


def _load(name: str) -> ModuleType:
    """Import one bench alone: another may need what is not installed."""
    return importlib.import_module(f"bench.{name}")


if __name__ == "__main__":
    sys.exit(main())
