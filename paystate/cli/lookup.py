"""``paystate lookup``: ask a running server for a payment's status."""

from __future__ import annotations

import json
import math
import time
from typing import Any
from urllib.parse import quote, urlencode

import click

from paystate.cli.client import Answer, Unreachable, request
from paystate.cli.refusals import no_server, refused
from paystate.cli.targets import Target, data_dir_option, find_target

__all__ = ["command"]

_SHOWN = ("status", "version", "source", "fresh", "as_of", "held", "kind", "tx_ref", "payment_id")
# The longest that the server waits before it answers with what there is.
_LONGEST_POLL_S = 25
_SLACK_S = 10.0
_COLOURS = {"successful": "green", "failed": "red", "voided": "red"}


@click.command("lookup")
@click.argument("payment", metavar="ID")
@click.option("--kind", type=click.Choice(["charge", "transfer"]), help="What ID is the id of.")
@click.option("--ref", is_flag=True, help="ID is a merchant reference (tx_ref).")
@click.option("--merchant", help="Whose payment it is.")
@click.option(
    "--wait",
    "wait_s",
    type=click.IntRange(0, 3600),
    default=0,
    metavar="SECONDS",
    help="Wait so long for a status that is final; 0 does not.",
)
@click.option("--url", help="Server. Default: 127.0.0.1:$PORT, else a running `paystate dev`.")
@click.option("--token", help="Bearer token. Default: the first of API_TOKENS that has no name.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write the server's answer as it is.")
def command(
    payment: str,
    kind: str | None,
    ref: bool,
    merchant: str | None,
    wait_s: int,
    url: str | None,
    token: str | None,
    data_dir: str,
    as_json: bool,
) -> None:
    """Ask a running server for the status of the payment ID.

    With --wait it answers as soon as the payment is settled, or with what it is then.

    \b
    Examples:
      paystate lookup 7001
      paystate lookup order-7001 --ref
      paystate lookup 7001 --kind transfer --json | jq -r .status

    \b
    Exit codes:
      0  found
      1  nobody knows that payment (404)
      2  wrong arguments, or a question the server refuses
      3  server unreachable
      4  token refused, or not enough
      5  server error
    """
    target = find_target(url, data_dir)
    address = _address(target, payment, kind, ref, merchant)
    bearer = target.token(token)
    try:
        answer = _ask(address, bearer, wait_s)
    except Unreachable as e:
        raise no_server(target, e) from e
    found = answer.json()
    if as_json and found:
        click.echo(json.dumps(found))
    if answer.status != 200 or "status" not in found:
        raise refused(answer, payment, ref=ref, failed="could not answer")
    if not as_json:
        _show(found)


def _ask(address: str, bearer: str, wait_s: int) -> Answer:
    """Return the first final answer, or the last one within `wait_s`. Raises Unreachable."""
    headers = {"Authorization": f"Bearer {bearer}".encode()}
    until = time.monotonic() + wait_s
    answer = request("GET", address, headers=headers)
    while True:
        found = answer.json()
        left_s = until - time.monotonic()
        if answer.status != 200 or left_s <= 0 or found.get("terminal", True):
            return answer
        longest_s = min(math.ceil(left_s), _LONGEST_POLL_S)
        query = urlencode({"wait": longest_s, "after_version": found.get("version", 0)})
        answer = request(
            "GET",
            f"{address}{'&' if '?' in address else '?'}{query}",
            headers=headers,
            timeout_s=longest_s + _SLACK_S,
        )


def _address(
    target: Target, payment: str, kind: str | None, ref: bool, merchant: str | None
) -> str:
    asked = {"tx_ref": payment if ref else None, "kind": kind, "merchant": merchant}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    path = "/api/payments/status" if ref else f"/api/payments/{quote(payment, safe='')}/status"
    return target.url + path + (f"?{query}" if query else "")


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name in _SHOWN:
        value = found.get(name)
        style = _COLOURS.get(str(value), "yellow") if name == "status" else ""
        table.add_row(name, Text(_words(value), style=style))
    console = Console()
    console.print(table)


def _words(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
