"""``paystate migrate``: bring the database to the schema of this release."""

from __future__ import annotations

import json

import click

from paystate.cli.exits import errors_as_exits, load_settings

__all__ = ["command"]


@click.command("migrate")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(as_json: bool) -> None:
    """Bring the database of DATABASE_URL to the schema of this release.

    Running it again changes nothing. Run it before the new processes start.

    \b
    Examples:
      paystate migrate
      DATABASE_URL=sqlite:///paystate.db paystate migrate
      paystate migrate --json

    \b
    Exit codes:
      0  done
      2  settings invalid
      3  database unreachable
    """
    from paystate.store.migrate import upgrade  # noqa: PLC0415
    from paystate.values import mask_url  # noqa: PLC0415

    settings = load_settings()
    with errors_as_exits():
        upgrade(settings.database_url)
    database = mask_url(settings.database_url)
    if as_json:
        click.echo(json.dumps({"database": database, "migrated": True}))
    else:
        click.echo(f"The database {database} has the schema of this release.")
