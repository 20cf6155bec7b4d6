"""``paystate prune``: remove what is old from the inbox and the change log, now."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.progress import progress
from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import DURATION, run_over, settings_of

if TYPE_CHECKING:
    from paystate.resources import Resources

__all__ = ["command"]


@click.command("prune")
@click.option(
    "--older-than",
    type=DURATION,
    metavar="DAYS",
    help="Such as 90d. Default: INBOX_KEEP_DAYS and CHANGES_KEEP_DAYS.",
)
@click.option("--dry-run", is_flag=True, help="Count, and remove nothing.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(older_than: timedelta | None, dry_run: bool, data_dir: str, as_json: bool) -> None:
    """Remove old changes, and what ended events said; never what is open, held or dead.

    The rows of such events stay until EVENT_KEYS_KEEP_DAYS, so that a delivery that comes late
    still counts for nothing. Workers do the same all the time.

    \b
    Examples:
      paystate prune --dry-run
      paystate prune --older-than 90d --json

    \b
    Exit codes:
      0  done
      2  wrong arguments or settings
      3  database unreachable
      5  another error
    """
    if older_than is not None and older_than < timedelta(days=1):
        raise click.UsageError("--older-than: a day (1d) at least")

    async def work(resources: Resources) -> dict[str, Any]:
        from paystate.payments.retention import Pruner, Retention  # noqa: PLC0415

        kept = resources.settings
        days = older_than.days if older_than is not None else None
        pruner = Pruner(
            resources.store,
            Retention(
                kept.inbox_keep_days if days is None else days,
                kept.event_keys_keep_days,
                kept.changes_keep_days if days is None else days,
            ),
        )
        if dry_run:
            count = await pruner.count()
            return _counts(True, count.emptied, count.removed, count.changes)
        with progress("Removing …", hidden=as_json) as tell:
            while await pruner.batch():
                tell(f"{pruner.done.removed} events, {pruner.done.changes} changes")
        done = pruner.done
        return _counts(False, done.emptied, done.removed, done.changes)

    done = run_over(settings_of(data_dir), work)
    if as_json:
        click.echo(json.dumps(done))
        return
    verb = "would be" if dry_run else "have been"
    click.echo(
        f"{done['emptied']} events {verb} emptied, {done['removed']} events and "
        f"{done['changes']} changes {verb} removed."
    )


def _counts(dry_run: bool, emptied: int, removed: int, changes: int) -> dict[str, Any]:
    return {"dry_run": dry_run, "emptied": emptied, "removed": removed, "changes": changes}
