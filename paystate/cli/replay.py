"""``paystate replay``: have the worker look again at events that were given up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.exits import Exit
from paystate.cli.ruling import operator_option
from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import MOMENT, run_over, settings_of

if TYPE_CHECKING:
    from paystate.payments.previews import Preview
    from paystate.resources import Resources
    from paystate.store.operations import Wanted

__all__ = ["command"]

_STATES = ("held", "dead", "contradicted")


@click.command("replay")
@click.argument("event", metavar="[INBOX_ID]", type=click.IntRange(1), required=False)
@click.option("--state", type=click.Choice(_STATES), help="Default: held and dead.")
@click.option("--reason", help="Only those given up for this reason.")
@click.option("--since", type=MOMENT, metavar="TIME", help="Received since: 2h (ago), or a date.")
@click.option("--until", type=MOMENT, metavar="TIME", help="Received before.")
@click.option("--merchant", help="Only this merchant's.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
@click.option(
    "--questions",
    type=click.IntRange(0, 1000),
    default=20,
    show_default=True,
    help="Questions to Flutterwave that a dry run may take of the budget.",
)
@operator_option
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(
    event: int | None,
    state: str | None,
    reason: str | None,
    since: int | None,
    until: int | None,
    merchant: str | None,
    limit: int,
    dry_run: bool,
    questions: int,
    by: str,
    data_dir: str,
    as_json: bool,
) -> None:
    """Open given-up events again: one by its INBOX_ID, or all that the options describe.

    A worker then settles them as if they had just come. An event of a payment that is successful
    already is left as it is, and so is one on which an operator has ruled.

    \b
    Examples:
      paystate replay 42
      paystate replay --state dead --since 2h --dry-run
      paystate replay --reason unknown_to_provider --limit 100 --by ada

    \b
    Exit codes:
      0  done
      1  nothing could be opened
      2  wrong arguments or settings
      3  database unreachable
      5  another error
    """
    if event is None and not any((state, reason, since, until)):
        raise click.UsageError("name an INBOX_ID, or at least one of --state, --reason, --since")

    async def work(resources: Resources) -> dict[str, Any]:
        from paystate.store.operations import Wanted  # noqa: PLC0415

        states = (state,) if state else _STATES if event else ("held", "dead")
        ids = (event,) if event else ()
        wanted = Wanted(states, merchant, reason, since, until, ids)
        if dry_run:
            return {"dry_run": True, "events": await _preview(resources, wanted, limit, questions)}
        return await _replay(resources, wanted, limit, by)

    done = run_over(settings_of(data_dir), work)
    if as_json:
        click.echo(json.dumps(done))
    else:
        _show(done)
    if not (done["events"] if dry_run else done["opened"]):
        raise click.exceptions.Exit(Exit.REFUSED)


async def _preview(
    resources: Resources, wanted: Wanted, limit: int, questions: int
) -> list[dict[str, Any]]:
    from paystate.payments.previews import Previewer  # noqa: PLC0415

    previewer = Previewer(resources.store, resources.providers)
    found: list[Preview] = await previewer.preview(wanted, most=limit, questions=questions)
    return [preview.to_json() for preview in found]


async def _replay(resources: Resources, wanted: Wanted, limit: int, by: str) -> dict[str, Any]:
    from paystate.payments.operating import Operator  # noqa: PLC0415

    found = await resources.store.operations.given_up(wanted, most=limit)
    operator = Operator(
        resources.store, resources.cache, resources.queue, resources.settler, resources.metrics
    )
    done = await operator.replay([e.id for e in found.events], operator=by, why="")
    left = sum(count for _, _, count in found.counts) - len(found.events)
    skipped = {str(one): why for one, why in done.skipped.items()}
    return {"dry_run": False, "opened": done.ids, "skipped": skipped, "left": left}


def _show(done: dict[str, Any]) -> None:
    if done["dry_run"]:
        for one in done["events"]:
            why = f" ({one['reason']})" if one["reason"] else ""
            click.echo(
                f"event {one['event']} of {one['kind']} {one['payment_id']}, {one['state']} for "
                f"{one['was_reason']}: would be {one['verdict'].replace('_', ' ')}{why}; shown: "
                f"{one['status']} → {one['would_show'] or 'not known before it is done'}"
            )
        click.echo(f"{len(done['events'])} events; nothing was changed.")
        return
    for one, why in done["skipped"].items():
        click.echo(f"event {one} was left as it is: {why.replace('_', ' ')}")
    left = f" {done['left']} more fit: raise --limit." if done["left"] else ""
    click.echo(f"{len(done['opened'])} events are open again.{left}")
