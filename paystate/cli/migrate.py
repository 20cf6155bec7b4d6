"""``paystate migrate``: bring the database to the schema of this release."""

from __future__ import annotations

import click

from paystate.cli.exits import errors_as_exits, load_settings

__all__ = ["command"]


@click.command("migrate")
def command() -> None:
    """Bring the database of DATABASE_URL to the schema of this release.

    Running it again changes nothing. Run it before the new processes start.

    Exit codes: 0 done, 2 settings invalid, 3 database unreachable.
    """
    from paystate.store.migrate import upgrade  # noqa: PLC0415
    from paystate.values import mask_url  # noqa: PLC0415

    settings = load_settings()
    with errors_as_exits():
        upgrade(settings.database_url)
    click.echo(f"The database {mask_url(settings.database_url)} has the schema of this release.")
