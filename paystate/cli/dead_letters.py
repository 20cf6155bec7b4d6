"""``paystate dead-letters``: the events that wait for a person."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import MOMENT, run_over, settings_of

if TYPE_CHECKING:
    from paystate.resources import Resources

__all__ = ["command"]


@click.command("dead-letters")
@click.option("--held", is_flag=True, help="Only what is held, not what is dead.")
@click.option("--merchant", help="Only this merchant's.")
@click.option("--reason", help="Only those given up for this reason.")
@click.option("--since", type=MOMENT, metavar="TIME", help="Received since: 2h (ago), or a date.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(
    held: bool,
    merchant: str | None,
    reason: str | None,
    since: int | None,
    limit: int,
    data_dir: str,
    as_json: bool,
) -> None:
    """List events that were held or given up, and count them by reason.

    \b
    Examples:
      paystate dead-letters
      paystate dead-letters --held --since 2d
      paystate dead-letters --json | jq '.events[].event'

    \b
    Exit codes:
      0  listed (also an empty list)
      2  wrong arguments or settings
      3  database unreachable
      5  another error
    """

    async def work(resources: Resources) -> Any:
        from paystate.payments.explaining import listing  # noqa: PLC0415
        from paystate.store.operations import Wanted  # noqa: PLC0415

        states = ("held",) if held else ("held", "dead")
        wanted = Wanted(states, merchant, reason, since)
        return listing(await resources.store.operations.given_up(wanted, most=limit))

    found = run_over(settings_of(data_dir), work)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not found["events"]:
        click.echo("No event waits for an operator.")
        return
    table = Table()
    for name in ("event", "state", "reason", "payment", "says", "age", "tries"):
        table.add_column(name, overflow="fold", justify="right" if name == "event" else "left")
    for event in found["events"]:
        claim = event["claim"] or {}
        money = f" {claim['amount']} {claim.get('currency', '')}" if "amount" in claim else ""
        cells = (
            str(event["event"]), event["state"], event["reason"] or "",
            f"{event['kind']} {event['payment_id']}", f"{claim.get('status', '?')}{money}",
            _age(event["age_s"]), str(event["attempts"]),
        )  # fmt: skip
        table.add_row(*map(Text, cells))
    Console().print(table)
    for count in found["counts"]:
        click.echo(f"{count['events']:>6}  {count['state']}  {count['reason'] or 'no reason'}")
    left_out = found["total"] - len(found["events"])
    if left_out:
        click.echo(f"{left_out} more are not shown: raise --limit.")


def _age(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
