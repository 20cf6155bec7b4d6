"""``paystate customer``: one customer's profile and payments, and what they may ask for."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.exits import Exit, Failure
from paystate.cli.ruling import operator_option
from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import run_over, settings_of
from paystate.keys import DEFAULT_MERCHANT, MAX_ID_LENGTH

if TYPE_CHECKING:
    from paystate.payments.customers import CustomerId
    from paystate.resources import Resources

__all__ = ["command"]

_merchant_option = click.option(
    "--merchant", default=DEFAULT_MERCHANT, show_default=True, help="Whose customer."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")


@click.group("customer")
def command() -> None:
    """Show, export or erase one customer."""


def _run(
    customer: str,
    merchant: str,
    data_dir: str,
    work: Callable[[Resources, CustomerId], Awaitable[Any]],
) -> Any:
    if not 0 < len(customer) <= MAX_ID_LENGTH:
        raise click.UsageError(f"an id has 1 to {MAX_ID_LENGTH} characters")
    settings = settings_of(data_dir)
    if merchant not in settings.merchants:
        raise Failure(f"There is no merchant `{merchant}`.", Exit.USAGE)

    async def whole(resources: Resources) -> Any:
        from paystate.payments.customers import CustomerId  # noqa: PLC0415

        return await work(resources, CustomerId(merchant, customer))

    return run_over(settings, whole)


@command.command("show")
@click.argument("customer", metavar="ID")
@_merchant_option
@data_dir_option
@_json_option
def show(customer: str, merchant: str, data_dir: str, as_json: bool) -> None:
    """Show the profile of the customer ID, asking Flutterwave where it may know more.

    \b
    Examples:
      paystate customer show cus_h2Wd90
      paystate customer show 640112005 --json | jq .payment_methods

    \b
    Exit codes:
      0  shown
      1  no such customer, or erased
      2  wrong arguments or settings
      3  database unreachable
      5  another error
    """

    async def work(resources: Resources, who: CustomerId) -> Any:
        from paystate.payments.desk import open_desk  # noqa: PLC0415

        return await open_desk(resources).profiles.profile(who)

    found = _run(customer, merchant, data_dir, work)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name in ("customer_id", "name", "email", "phone", "created_at", "payments",
                 "first_seen_at", "last_active_at", "source", "fresh"):  # fmt: skip
        click.echo(f"{name:15} {_text(found[name])}")
    for method in found["payment_methods"]:
        click.echo(f"{'paid by':15} {' '.join(str(part) for part in method.values() if part)}")


@command.command("payments")
@click.argument("customer", metavar="ID")
@click.option("--page", default=1, type=click.IntRange(1), show_default=True, help="20 on each.")
@_merchant_option
@data_dir_option
@_json_option
def payments(customer: str, page: int, merchant: str, data_dir: str, as_json: bool) -> None:
    """Show the payments of the customer ID, newest first.

    \b
    Examples:
      paystate customer payments cus_h2Wd90
      paystate customer payments 640112005 --page 2 --json

    \b
    Exit codes:
      0  shown
      1  no such customer, or erased
      2  wrong arguments or settings
      3  database unreachable
      5  another error
    """

    async def work(resources: Resources, who: CustomerId) -> Any:
        from paystate.payments.desk import open_desk  # noqa: PLC0415

        return (await open_desk(resources).history.page(who, page)).to_json()

    found = _run(customer, merchant, data_dir, work)
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found["payments"]:
        money = f"{one['amount']} {one['currency']}" if one["amount"] else "-"
        click.echo(
            f"{one['payment_id']:20} {one['status']:11} {money:>18}  {_text(one['payment_type'])}"
            f"  {_text(one['created_at'])}  {_text(one['tx_ref'])}"
        )
    click.echo(f"Page {found['page']} of {found['pages']}, {found['total']} payments in all.")


@command.command("export")
@click.argument("customer", metavar="ID")
@_merchant_option
@data_dir_option
@_json_option
def export(customer: str, merchant: str, data_dir: str, as_json: bool) -> None:
    """Write all that is kept of the customer ID, as JSON.

    \b
    Examples:
      paystate customer export 640112005 > export.json
      paystate customer export cus_h2Wd90 --json | jq .person

    \b
    Exit codes:
      0  written
      1  no such customer, or erased
      2  wrong arguments or settings
      3  database unreachable
      5  another error
    """

    async def work(resources: Resources, who: CustomerId) -> Any:
        from paystate.payments.desk import open_desk  # noqa: PLC0415

        return await open_desk(resources).personal.export(who)

    found = _run(customer, merchant, data_dir, work)
    click.echo(json.dumps(found, indent=None if as_json else 2))


@command.command("erase")
@click.argument("customer", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@operator_option
@_merchant_option
@data_dir_option
@_json_option
def erase(customer: str, yes: bool, by: str, merchant: str, data_dir: str, as_json: bool) -> None:
    """Forget the customer ID, in the database and in the cache; it cannot be undone.

    Their payments keep statuses, amounts and references, and belong to nobody. A late webhook of
    them brings nothing back; a new payment does.

    \b
    Examples:
      paystate customer erase 640112005
      paystate customer erase cus_h2Wd90 --yes --by privacy-desk

    \b
    Exit codes:
      0  erased, also if it had been before
      1  no such customer, or erased
      2  wrong arguments or settings
      3  database or cache unreachable
      5  another error
    """
    if not yes:
        click.confirm(f"Erase the customer {customer}? It cannot be undone", abort=True, err=True)

    async def work(resources: Resources, who: CustomerId) -> Any:
        from paystate.payments.desk import open_desk  # noqa: PLC0415

        return await open_desk(resources).personal.erase(who, operator=by)

    done = _run(customer, merchant, data_dir, work)
    click.echo(
        json.dumps(done)
        if as_json
        else f"The customer {customer} is erased; {done['payments']} payments belong to nobody now."
    )


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
