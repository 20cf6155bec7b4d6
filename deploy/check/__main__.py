"""``python -m deploy.check``: all checks, and the tools that are installed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from deploy.check import compose, hosts, image, kubernetes, monitoring, words
from deploy.check.tools import TOOLS, find
from deploy.check.tree import Tree

CHECKS = {
    "image": image.problems,
    "compose": compose.problems,
    "kubernetes": kubernetes.problems,
    "monitoring": monitoring.problems,
    "hosts": hosts.problems,
    "words": words.problems,
}


def main() -> int:
    """Run everything; return 1 if there is a problem."""
    tree = Tree(Path(__file__).parent.parent.parent)
    problems = 0
    for name, check in {**CHECKS, **TOOLS}.items():
        if name in TOOLS and find(name) is None:
            click.echo(f"deploy: {name} SKIPPED: it is not installed (deploy/debian-packages.txt)")
            continue
        found = check(tree)
        problems += len(found)
        click.echo(f"deploy: {name} {'ok' if not found else f'{len(found)} problems'}")
        for problem in found:
            click.echo(f"  {problem}", err=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
