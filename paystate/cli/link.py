"""``paystate link``: a link to a customer's page, made by a running server."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import click

from paystate.cli.client import Answer, Unreachable, request
from paystate.cli.refusals import no_server, refused
from paystate.cli.targets import data_dir_option, find_target

__all__ = ["ask_for_link", "command"]


@click.command("link")
@click.argument("payment", metavar="ID")
@click.option("--kind", type=click.Choice(["charge", "transfer"]), help="What ID is the id of.")
@click.option("--ref", is_flag=True, help="ID is a merchant reference (tx_ref).")
@click.option("--ttl", type=click.IntRange(60, 604_800), help="Seconds that it is good for.")
@click.option("--merchant", help="Whose payment it is.")
@click.option("--url", help="Server. Default: 127.0.0.1:$PORT, else a running `paystate dev`.")
@click.option("--token", help="Bearer token. Default: the first of API_TOKENS that has no name.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write the server's answer as it is.")
def command(
    payment: str,
    kind: str | None,
    ref: bool,
    ttl: int | None,
    merchant: str | None,
    url: str | None,
    token: str | None,
    data_dir: str,
    as_json: bool,
) -> None:
    """Print a link to the page on which a customer sees the payment ID settle, live.

    The page shows the status and nothing else. Whoever has the link can open it until it expires;
    --ttl or LINK_TTL_S says when.

    \b
    Examples:
      paystate link 7001
      paystate link order-7001 --ref --ttl 3600
      paystate link 7001 --json | jq -r .url

    \b
    Exit codes:
      0  made
      1  nobody knows that payment (404)
      2  wrong arguments, or a question the server refuses
      3  server unreachable
      4  token refused, or not enough
      5  server error, or a server without LINK_KEY
    """
    target = find_target(url, data_dir)
    asked: dict[str, object] = {"tx_ref" if ref else "id": payment}
    asked |= {"kind": kind} if kind and not ref else {}
    asked |= {"ttl_s": ttl} if ttl is not None else {}
    try:
        answer = ask_for_link(target.url, target.token(token), asked, merchant)
    except Unreachable as e:
        raise no_server(target, e) from e
    made = answer.json()
    if answer.status != 201 or "url" not in made:
        raise refused(answer, payment, ref=ref, failed="made no link")
    click.echo(json.dumps(made) if as_json else made["url"])


def ask_for_link(
    server: str, token: str, asked: dict[str, object], merchant: str | None = None
) -> Answer:
    """Ask `server` for a link. Raises Unreachable."""
    query = f"?{urlencode({'merchant': merchant})}" if merchant else ""
    return request(
        "POST",
        f"{server}/api/payments/link{query}",
        headers={"Authorization": f"Bearer {token}".encode(), "Content-Type": "application/json"},
        body=json.dumps(asked).encode(),
    )
