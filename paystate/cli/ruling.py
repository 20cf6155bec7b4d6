"""The two commands that rule on an event which was held or given up: release, and reject."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import run_over, settings_of

if TYPE_CHECKING:
    from paystate.resources import Resources

__all__ = ["operator_option", "ruling_command"]

_END = """
    \b
    Examples:
      paystate {action} 42 --reason "seen in the bank's statement"
      paystate {action} 42 --reason "ticket 311" --by ada --json

    \b
    Exit codes:
      0  done (also if it was done before)
      1  refused: no such event, not held or dead, ruled otherwise
      2  wrong arguments or settings
      3  database unreachable
      5  another error
"""

operator_option = click.option(
    "--by",
    envvar=["PAYSTATE_OPERATOR", "USER"],
    default="unknown",
    help="Who does so. Default: $PAYSTATE_OPERATOR, else $USER.",
)


def ruling_command(action: str, meaning: str) -> click.Command:
    """Return the command that gives one kind of ruling; `meaning` says what it does."""

    @click.command(action, help=meaning + _END.format(action=action))
    @click.argument("event", metavar="INBOX_ID", type=click.IntRange(1))
    @click.option("--reason", required=True, help="Why; it is kept, and shown by `explain`.")
    @operator_option
    @data_dir_option
    @click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
    def command(event: int, reason: str, by: str, data_dir: str, as_json: bool) -> None:
        async def work(resources: Resources) -> Any:
            from paystate.payments.operating import Operator  # noqa: PLC0415
            from paystate.store.rulings import Action, Ruling  # noqa: PLC0415

            operator = Operator(
                resources.store, resources.cache, resources.queue, resources.settler,
                resources.metrics,
            )  # fmt: skip
            outcome = await operator.rule(Ruling(event, Action(action), by, reason.strip()))
            return outcome.to_json()

        done = run_over(settings_of(data_dir), work)
        click.echo(json.dumps(done) if as_json else _sentence(action, done))

    return command


def _sentence(action: str, done: dict[str, Any]) -> str:
    again = " (it had been before)" if done["repeated"] else ""
    held = "; other events of it are still held" if done["held"] else ""
    later = "" if done["settled"] else "; a worker settles it from here"
    return (
        f"Event {done['event']}: {action} done{again}. The {done['kind']} {done['payment_id']} "
        f"shows {done['status']}, version {done['version']}{held}{later}."
    )
