"""``errors.md``: what is raised, what HTTP says of it, and how commands end."""

from __future__ import annotations

import inspect

from docs.generate.tables import code, table
from paystate import errors
from paystate.cli.commands import cli
from webhook_server.description.document import make_document
from webhook_server.description.problems import refusals
from webhook_server.description.table import OPERATIONS

__all__ = ["page"]


def page() -> str:
    """Return the page."""
    return (
        "# Errors\n\n"
        "## Problems\n\n"
        "Every refusal over HTTP is a problem document (RFC 9457) with `type`, `title`, `status`, "
        "`detail` and `reason`. Programs look at `reason`: it is stable. `Retry-After` says when, "
        "where waiting helps.\n\n" + table(("type", "status", "meaning", "from"), _problems())
        + "\n## What the code raises\n\n```\n" + _tree() + "\n```\n"
        "\n`reason` is a metric label and a field of the log line, and never free text.\n"
        "\n## Exit codes\n\n```\n" + _exits() + "\n```\n"
    )  # fmt: skip


def _problems() -> list[tuple[str, ...]]:
    where: dict[str, list[str]] = {}
    for operation in OPERATIONS:
        for reasons in refusals(operation).values():
            for reason in reasons:
                where.setdefault(reason, []).append(operation.tag)
    every = {operation.tag for operation in OPERATIONS}
    rows = []
    for problem in make_document()["x-problems"]:
        tags = set(where.get(problem["reason"], every))
        told = "all" if tags == every else ", ".join(sorted(tags))
        rows.append((code(problem["type"]), str(problem["status"]), problem["meaning"], told))
    return rows


def _tree() -> str:
    text = inspect.cleandoc(errors.__doc__ or "")
    drawn = [line for line in text.splitlines() if line.startswith("    ")]
    return inspect.cleandoc("\n".join(["", *drawn]))


def _exits() -> str:
    lines = inspect.cleandoc(cli.help or "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Exit codes"))
    return "\n".join(line.strip() for line in lines[start + 1 :])
