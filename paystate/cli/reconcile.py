"""``paystate reconcile``: ask Flutterwave about what has not settled, now."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import DURATION, run_over, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from paystate.payments.report import Report
    from paystate.resources import Resources
    from paystate.store.unsettled import Narrowed

__all__ = ["command"]

MOST_SHOWN = 50


@click.command("reconcile")
@click.option("--once", is_flag=True, help="One pass; this is the default.")
@click.option(
    "--every",
    type=DURATION,
    help="Go on, with a pause of so long between two passes, until Ctrl-C.",
)
@click.option("--merchant", help="Only this merchant.")
@click.option("--older-than", type=DURATION, help="Ask only about what is older, as in 10m.")
@click.option("--all", "everything", is_flag=True, help="Also what is not due yet.")
@click.option("--no-lists", is_flag=True, help="Do not read Flutterwave's lists.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="Ask about so many at most in a pass.",
)
@click.option("--flagged", is_flag=True, help="Ask nothing; list what has been silent for long.")
@click.option("--dry-run", is_flag=True, help="Ask nothing; list what would be asked about.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(
    once: bool,
    every: timedelta | None,
    merchant: str | None,
    older_than: timedelta | None,
    everything: bool,
    no_lists: bool,
    limit: int,
    flagged: bool,
    dry_run: bool,
    data_dir: str,
    as_json: bool,
) -> None:
    """Ask Flutterwave about payments that have not settled, and read its lists.

    Workers do so all the time; this does it at once, beside them. It goes on where they or an
    earlier run left off, asks about nothing twice, and stays within the budget.

    \b
    Examples:
      paystate reconcile
      paystate reconcile --older-than 10m --limit 200 --no-lists
      paystate reconcile --flagged --json | jq '.flagged[].id'

    \b
    Exit codes:
      0  done
      1  some were put off: budget, outage, credentials
      2  wrong arguments or settings
      3  database unreachable
      5  another error
    """
    if once and every is not None:
        raise click.UsageError("--once and --every exclude each other")
    settings = settings_of(data_dir)
    if merchant is not None and merchant not in settings.merchants:
        raise click.UsageError(f"no merchant {merchant} is configured")

    async def work(resources: Resources) -> Any:
        from paystate.payments.reconciliation import overview, planned  # noqa: PLC0415
        from paystate.store.unsettled import Narrowed  # noqa: PLC0415

        age_ms = int(older_than.total_seconds() * 1000) if older_than is not None else 0
        narrowed = Narrowed(merchant, age_ms=age_ms, due=not everything)
        if flagged:
            return await overview(resources.store, merchant, most=limit)
        if dry_run:
            return await planned(resources.store, narrowed, most=limit)
        return await _passes(resources, narrowed, limit, not no_lists, every, as_json)

    found = run_over(settings, work)
    if flagged or dry_run:
        click.echo(json.dumps(found)) if as_json else _list(found["flagged" if flagged else "due"])
    elif found["put_off"]:
        raise click.exceptions.Exit(1)


async def _passes(
    resources: Resources,
    narrowed: Narrowed,
    limit: int,
    lists: bool,
    every: timedelta | None,
    as_json: bool,
) -> dict[str, Any]:
    if not any(one.has_credentials for one in resources.providers.values()):
        click.echo(
            "No merchant has credentials of Flutterwave's API here (FLW_SECRET_KEY, or "
            "FLW_CLIENT_ID and FLW_CLIENT_SECRET), so nothing is asked.",
            err=True,
        )
    while True:
        with _progress(as_json) as told:
            report = await resources.reconciliation.round(
                narrowed, most=limit, lists=lists, told=told
            )
        done = report.to_json()
        if as_json:
            click.echo(json.dumps(done))
        else:
            _show(done)
        if every is None:
            return done
        await asyncio.sleep(every.total_seconds())


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[Report], None]]:
    """Show how far a pass has come, where a person looks on."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    hidden = as_json or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("reading lists")

        def told(report: Report) -> None:
            progress.update(
                task,
                description=f"{report.pages} pages of lists, {report.asked} questions, "
                f"{report.found + report.found_in_lists} found",
            )

        yield told


def _show(done: dict[str, Any]) -> None:
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(done["outcomes"].items()))
    click.echo(
        f"Lists: {done['pages']} pages, {done['listed']} payments, {done['found_in_lists']} that "
        f"no webhook had told of.\n"
        f"Questions: {done['asked']}, {done['found']} that changed something"
        f"{f' ({outcomes})' if outcomes else ''}."
    )
    if done["flagged"]:
        click.echo(f"Silent for too long: {done['flagged']} more; see --flagged.")
    for merchant, reason in done["put_off"].items():
        click.echo(f"Put off for {merchant}: {reason}. The rest stays due.", err=True)


def _list(found: list[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if not found:
        click.echo("Nothing.")
        return
    table = Table(box=None)
    for name in ("kind", "id", "merchant", "status", "age", "asked", "last outcome"):
        table.add_column(name, overflow="fold")
    for one in found[:MOST_SHOWN]:
        table.add_row(
            one["kind"], one["id"], one["merchant"], one["status"],
            str(timedelta(seconds=one["age_s"])), str(one["asked"]), one["outcome"] or "–",
        )  # fmt: skip
    Console().print(table)
    if len(found) > MOST_SHOWN:
        click.echo(f"And {len(found) - MOST_SHOWN} more; --json has all of them.")
