"""The documents on running it: the paths, settings, metrics and commands they name are there."""

from __future__ import annotations

import re

from deploy.check import product
from deploy.check.tree import Tree

__all__ = ["problems"]

DOCUMENTS = ("docs/deploy.md", "docs/runbook.md", "deploy/README.md")
# No settings of ours, but of what stands around, and what commands take.
_FOREIGN = frozenset({"QUEUE_ADDRESS", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD", "INBOX_ID"})


def problems(tree: Tree) -> list[str]:
    """Return what the documents name that is not there."""
    return [p for path in DOCUMENTS for p in _document(tree, path)]


def _document(tree: Tree, where: str) -> list[str]:
    text = tree.text(where)
    found = [f"{where}: no file {path}" for path in _paths(where, text) if not tree.has(path)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    quoted = " ".join(re.findall(r"`([^`]+)`", prose))
    known = product.settings().keys() | _FOREIGN
    found += [
        f"{where}: {name} is no setting"
        for name in sorted(set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", text)))
        if name not in known
    ]
    found += [
        f"{where}: there is no metric {name}"
        for name in sorted(set(re.findall(r"\bpaystate_\w+", quoted)))
        if name not in product.metrics()
    ]
    return found + [
        f"{where}: there is no command paystate {name}"
        for name in sorted(set(re.findall(r"(?:^|`|\$ )paystate ([a-z-]+)", text, re.MULTILINE)))
        if name not in product.commands()
    ]


def _paths(where: str, text: str) -> list[str]:
    named = re.findall(r"\b(?:deploy|docs|tests)/[\w./-]*[\w/]", text)
    folder = where.rpartition("/")[0]
    linked = [link for link in re.findall(r"\]\(([^)#:]+)", text) if "/" not in link]
    return sorted({*named, *(f"{folder}/{link}" for link in linked)} - {"deploy/.env"})
