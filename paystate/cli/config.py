"""``paystate config``: what every setting is, and whether the settings hold together."""

from __future__ import annotations

import json

import click

from paystate.cli.exits import Exit
from paystate.errors import SettingsInvalid

__all__ = ["command"]


@click.command("config")
@click.option(
    "--role",
    type=click.Choice(["tool", "web", "worker"]),
    default="tool",
    show_default=True,
    help="Check what this process needs to start.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(role: str, as_json: bool) -> None:
    """Show every setting: its variable, its value (secrets masked) and its meaning.

    \b
    Examples:
      paystate config
      paystate config --role web
      paystate config --json | jq .settings.CACHE_URL

    \b
    Exit codes:
      0  the settings can be used
      2  they cannot; all problems are listed
    """
    from paystate.settings import Role, describe, load  # noqa: PLC0415

    try:
        rows = describe(load(role=Role(role)))
    except SettingsInvalid as invalid:
        _show_problems(invalid.problems, as_json)
        raise click.exceptions.Exit(Exit.USAGE) from invalid
    if as_json:
        listed = {name: {"value": value, "meaning": meaning} for name, value, meaning in rows}
        click.echo(json.dumps({"settings": listed}, indent=2))
    else:
        _show_table(rows)


def _show_problems(problems: list[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"problems": problems}, indent=2))
        return
    click.echo("The settings cannot be used:", err=True)
    for problem in problems:
        click.echo(f"  - {problem}", err=True)


def _show_table(rows: list[tuple[str, str, str]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(show_lines=True)
    table.add_column("variable", no_wrap=True, style="bold")
    table.add_column("value", overflow="fold")
    table.add_column("meaning", overflow="fold")
    for name, value, meaning in rows:
        shown = Text(value) if value else Text("not set", style="dim")
        table.add_row(Text(name), shown, Text(meaning))
    console = Console()
    console.print(table)
