"""``paystate send``: one signed sample webhook, as Flutterwave would send it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from urllib.parse import quote, urlsplit

import click

from paystate.cli.client import Answer, Unreachable, request
from paystate.cli.exits import Exit, Failure
from paystate.cli.refusals import no_server
from paystate.cli.samples import Sample, Shape, check_amount, provider_word, to_body
from paystate.cli.targets import Target, data_dir_option, find_target
from paystate.updates import Kind

__all__ = ["command"]

_PATH = "/webhooks/flutterwave"

# HTTP status → the exit code, and what a person should do.
_REFUSALS = {
    400: (Exit.REFUSED, "The server could not read the body as JSON."),
    401: (
        Exit.UNAUTHORISED,
        "The server refused the signature: set its FLW_SECRET_HASH here too, or give --secret.",
    ),
    404: (
        Exit.REFUSED,
        "There is no such webhook address: wrong --url, or a --merchant the server does not know.",
    ),
    413: (Exit.REFUSED, "The body is larger than the server's MAX_BODY_BYTES."),
    503: (
        Exit.SERVER_ERROR,
        "The server could not record it: GET /readyz says why. Flutterwave would send it again.",
    ),
}


class _Amount(click.ParamType[Decimal]):
    name = "amount"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Decimal:
        try:
            return check_amount(Decimal(str(value)))
        except (InvalidOperation, ValueError):
            self.fail("an amount is a number like 1500.25, of at most 15 digits", param, ctx)


@dataclass(frozen=True, slots=True)
class _Sent:
    """One try and what came of it."""

    status: int
    ms: float
    detail: str


@click.command("send")
@click.option("--api", type=click.Choice(["v3", "v4", "flat"]), default="v3", show_default=True)
@click.option(
    "--status",
    default="successful",
    show_default=True,
    help="successful, failed, pending, voided: put into the API's own word. Any other word is "
    "sent as it is.",
)
@click.option("--id", "payment_id", help="Payment id (v3, flat: a whole number). Default: made up.")
@click.option("--tx-ref", help="Merchant reference. Default: made up.")
@click.option("--kind", type=click.Choice(["charge", "transfer"]), default="charge")
@click.option("--amount", type=_Amount(), default="1500.25", show_default=True)
@click.option("--currency", default="NGN", show_default=True)
@click.option("--event", help="Event name. Default: the API's own for the kind.")
@click.option("--url", help="Server, or the webhook's whole address. Default: 127.0.0.1:$PORT.")
@click.option("--secret", help="Webhook secret. Default: the first of FLW_SECRET_HASH.")
@click.option("--merchant", help="Send to this merchant's address.")
@click.option("--bad-signature", is_flag=True, help="Sign with another secret: expect a 401.")
@click.option(
    "--forged",
    is_flag=True,
    help="Do not tell the sandbox of `paystate dev` about the payment: it will not confirm it.",
)
@click.option("--times", type=click.IntRange(1, 10_000), default=1, help="Send it so many times.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(
    api: str,
    status: str,
    payment_id: str | None,
    tx_ref: str | None,
    kind: str,
    amount: Decimal,
    currency: str,
    event: str | None,
    url: str | None,
    secret: str | None,
    merchant: str | None,
    bad_signature: bool,
    forged: bool,
    times: int,
    data_dir: str,
    as_json: bool,
) -> None:
    """Send a signed sample webhook to a running server.

    Against a `paystate dev` its sandbox is told of the payment first, so that the worker finds it
    confirmed. The secret and the address come from the options, else from FLW_SECRET_HASH and
    PORT, else from a running `paystate dev`.

    \b
    Examples:
      paystate send
      paystate send --api v3 --status pending --id 7001 --tx-ref order-7001
      paystate send --api v4 --kind transfer --status failed --times 2
      paystate send --bad-signature

    \b
    Exit codes:
      0  acknowledged with 200
      1  refused
      2  wrong arguments
      3  server unreachable
      4  signature refused
      5  server error
    """
    base, path = _split(url)
    target = find_target(base, data_dir)
    sample = Sample(
        shape=Shape(api),
        kind=Kind(kind),
        payment_id=_checked_id(payment_id, api, kind),
        tx_ref=tx_ref or f"sample-{secrets.token_hex(6)}",
        status=status,
        amount=amount,
        currency=currency,
        event=event,
        webhook_id=f"wbk_{secrets.token_hex(10)}",
    )
    signing = target.webhook_secret(secret, merchant)
    if not signing.strip():
        raise click.UsageError("the secret is blank: a server with such a secret does not start")
    if target.sandbox and not (forged or bad_signature or merchant):
        _tell_sandbox(target.sandbox, sample)
    body = to_body(sample, datetime.now(UTC))
    address = target.url + (path or _PATH) + (f"/{quote(merchant, safe='')}" if merchant else "")
    headers = _headers(sample.shape, body, "not-" + signing if bad_signature else signing)
    sent = [_post(address, headers, body, target) for _ in range(times)]
    _report(sample, address, sent, as_json)


def _split(url: str | None) -> tuple[str | None, str]:
    """Return the server and the path of `url`, which may name either or both."""
    if url is None:
        return None, ""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")


def _checked_id(given: str | None, api: str, kind: str) -> str:
    if api == "v4":
        prefix = "chg" if kind == "charge" else "trf"
        return given or f"{prefix}_{secrets.token_hex(6)}"
    if given is None:
        return str(secrets.randbelow(9 * 10**8) + 10**8)
    if not (given.isascii() and given.isdigit()):
        raise click.UsageError(f"--id: ids of {api} are whole numbers, not {given!r}")
    return str(int(given))


def _headers(shape: Shape, body: bytes, secret: str) -> dict[str, str | bytes]:
    from paystate.flutterwave.signatures import V3_HEADER, V4_HEADER, sign_v4  # noqa: PLC0415

    headers: dict[str, str | bytes] = {"Content-Type": "application/json"}
    if shape is Shape.V4:
        headers[V4_HEADER] = sign_v4(body, secret)
    else:
        headers[V3_HEADER] = secret.encode("utf-8", "surrogateescape")
    return headers


def _tell_sandbox(sandbox: str, sample: Sample) -> None:
    """Make the payment true at the sandbox; where it refuses, say so and go on."""
    payment = {
        "id": sample.payment_id,
        "api": sample.shape,
        "kind": sample.kind,
        "tx_ref": sample.tx_ref,
        "amount": format(sample.amount, "f"),
        "currency": sample.currency,
    }
    where = f"{sandbox}/sandbox/payments"
    try:
        answer = request("POST", where, body=json.dumps(payment).encode())
        # A conflict is a payment it knows: then this webhook is the next one of that payment.
        if answer.status in (201, 409) and sample.status != "pending":
            word = json.dumps({"status": sample.status, "announce": False}).encode()
            settle = f"{where}/{quote(sample.payment_id, safe='')}/settle?kind={sample.kind}"
            answer = request("POST", settle, body=word)
    except Unreachable as e:
        click.echo(f"The sandbox was not told ({e}): the payment stays unconfirmed.", err=True)
        return
    if answer.status >= 400:
        said = answer.json().get("message", f"HTTP {answer.status}")
        click.echo(f"The sandbox will not confirm it: {said}.", err=True)


def _post(address: str, headers: Mapping[str, str | bytes], body: bytes, target: Target) -> _Sent:
    began = time.perf_counter()
    try:
        answer: Answer = request("POST", address, headers=headers, body=body)
    except Unreachable as e:
        raise no_server(target, e) from e
    return _Sent(answer.status, (time.perf_counter() - began) * 1000, answer.detail)


def _report(sample: Sample, address: str, sent: list[_Sent], as_json: bool) -> None:
    word = provider_word(sample.shape, sample.kind, sample.status)
    if as_json:
        shown = {
            "id": sample.payment_id,
            "tx_ref": sample.tx_ref,
            "kind": sample.kind,
            "api": sample.shape,
            "status": word,
            "url": address,
            "answers": [{"status": s.status, "ms": round(s.ms, 1)} for s in sent],
        }
        click.echo(json.dumps(shown))
    else:
        click.echo(f"{sample.shape} {sample.kind} {word} → {address}")
        click.echo(f"id {sample.payment_id}   tx_ref {sample.tx_ref}")
        for one in sent:
            click.echo(f"HTTP {one.status} in {one.ms:.0f} ms")
    refused = next((s for s in sent if s.status != 200), None)
    if refused is not None:
        raise _explained(replace(refused, detail="" if refused.status == 401 else refused.detail))


def _explained(sent: _Sent) -> Failure:
    other = Exit.SERVER_ERROR if sent.status >= 500 else Exit.REFUSED
    code, advice = _REFUSALS.get(
        sent.status, (other, "Only 200 acknowledges a webhook; Flutterwave would send it again.")
    )
    return Failure(
        f"HTTP {sent.status}. {advice}" + (f"\nIt said: {sent.detail}" if sent.detail else ""), code
    )
