"""``python -m docs.generate [--check]``."""

from __future__ import annotations

import difflib
from pathlib import Path

import click

from docs.generate import commands, errors, http, keys, metrics, settings

FOLDER = Path(__file__).parent.parent / "reference"
PAGES = {
    "settings.md": settings.page,
    "metrics.md": metrics.page,
    "errors.md": errors.page,
    "keys.md": keys.page,
    "http.md": http.page,
    "cli.md": commands.page,
}
HEAD = "<!-- Made from the code by `make docs`; edit the code. -->\n"


def pages() -> dict[str, str]:
    """Return every page by its name."""
    return {name: HEAD + make() for name, make in PAGES.items()}


def stale(folder: Path = FOLDER) -> dict[str, str]:
    """Return the pages that are not what the code makes, each with how it differs."""
    found = {}
    for name, text in pages().items():
        path = folder / name
        held = path.read_text() if path.exists() else ""
        if held != text:
            lines = difflib.unified_diff(held.splitlines(), text.splitlines(), lineterm="", n=0)
            found[name] = "\n".join(lines)
    return found


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; end with 1 if a page is stale.")
def main(check: bool) -> None:
    """Write docs/reference anew from the code."""
    differing = stale()
    if check:
        for name, lines in differing.items():
            click.echo(
                f"docs/reference/{name} is not what the code says: run `make docs`", err=True
            )
            click.echo("\n".join(lines.splitlines()[:20]), err=True)
        raise click.exceptions.Exit(1 if differing else 0)
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
        click.echo(f"docs/reference/{name}{' changed' if name in differing else ''}")


if __name__ == "__main__":
    main()
