"""``settings.md``: every environment variable."""

from __future__ import annotations

from dataclasses import fields

from docs.generate.tables import code, table
from paystate.settings import Settings, describe

__all__ = ["page"]


def page() -> str:
    """Return the page."""
    shown = {name: value for name, value, _ in describe(Settings())}
    rows = []
    for spec in fields(Settings):
        if "env" not in spec.metadata:
            continue
        name = spec.metadata["env"]
        default = spec.default
        value = shown[name] if not spec.metadata["secret"] or default else ""
        rows.append((
            code(name), code(value) or "not set", "yes" if spec.metadata["secret"] else "",
            spec.metadata["doc"],
        ))  # fmt: skip
    return (
        "# Settings\n\n"
        "Environment variables, read once when a process starts; every problem is reported at "
        "once, and the process ends with code 2. An empty variable is an unset one. Secrets are "
        "masked wherever they could be shown. `paystate config` lists them with the values in "
        "force.\n\n" + table(("variable", "default", "secret", "meaning"), rows)
    )
