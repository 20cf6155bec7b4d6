"""``paystate cache reset``: a new history after the database was restored to an earlier point."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import run_over, settings_of

if TYPE_CHECKING:
    from paystate.resources import Resources

__all__ = ["command"]


@click.group("cache")
def command() -> None:
    """Work on the cache as a whole."""


@command.command("reset")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs; needs --yes.")
def reset(yes: bool, data_dir: str, as_json: bool) -> None:
    """Begin anew after the database was restored to an earlier point.

    The cache, its readers and the subscribers know a history that the database has lost. This
    raises the version of every payment above any that they can have seen, refuses cursors of the
    change log from before (subscribers read the present instead), and deletes what is cached. No
    status changes. The queue stays.

    Stop web and workers before the restore, and start them after this. If it is interrupted, run it
    again: twice does no harm.

    \b
    Examples:
      paystate cache reset
      paystate cache reset --yes --json

    \b
    Exit codes:
      0  done
      1  not wanted after all
      2  wrong arguments or settings
      3  database or cache unreachable
      5  another error
    """
    if as_json and not yes:
        raise click.UsageError("--json needs --yes: nobody can be asked")
    settings = settings_of(data_dir)
    if not yes:
        click.confirm(
            "Are web and workers stopped, and is the database the restored one?", abort=True
        )
    done = run_over(settings, lambda resources: _reset(resources, as_json))
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(
        f"Epoch {done['epoch']}: {done['raised']} versions raised, {done['deleted']} keys deleted. "
        "Start the workers and the web processes."
    )


async def _reset(resources: Resources, as_json: bool) -> dict[str, int]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from paystate.cache.clearing import clear  # noqa: PLC0415

    console = Console(stderr=True)
    epoch = resources.store.epoch
    with Progress(console=console, transient=True, disable=as_json) as progress:
        number = await epoch.begin()
        raising = progress.add_task("raising versions", total=await epoch.count())
        raised, after = 0, ""
        while True:
            batch = await epoch.raise_versions(after)
            raised += batch.count
            progress.update(raising, completed=raised)
            if batch.last is None:
                break
            after = batch.last
        clearing = progress.add_task("deleting cached keys", total=None)
        deleted = 0
        async for count in clear(resources.redis, resources.keys):
            deleted += count
            progress.update(clearing, completed=deleted)
    return {"epoch": number, "raised": raised, "deleted": deleted}
