"""``paystate audit``: is what customers are shown what the database has? Now, and all of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.client import server_url
from paystate.cli.exits import Exit, Failure, errors_as_exits
from paystate.cli.progress import progress
from paystate.cli.targets import data_dir_option
from paystate.cli.workbench import settings_of

if TYPE_CHECKING:
    from paystate.audit import Audit
    from paystate.settings import Settings
    from paystate.store.sampling import SampledRow
    from paystate.store.violations import Violation

__all__ = ["command"]

# Entries and rows at a time: a query of so many keys takes a few milliseconds.
PAGE = 500
RECORDED_MS = 24 * 3600 * 1000


@click.command("audit")
@click.option("--once", is_flag=True, help="One pass over everything; this is the default.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Go on for so long, and follow changes as they come.",
)
@click.option(
    "--lookups",
    type=click.IntRange(0, 100_000),
    default=200,
    show_default=True,
    help="Payments and references to look up in each pass, picked at random.",
)
@click.option(
    "--provider",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="Settled payments to ask Flutterwave about.",
)
@click.option("--url", help="Web process to ask. Default: AUDIT_URL, else this process itself.")
@click.option("--token", help="Bearer token for it. Default: AUDIT_TOKEN.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def command(
    once: bool,
    seconds: float | None,
    lookups: int,
    provider: int,
    url: str | None,
    token: str | None,
    data_dir: str,
    as_json: bool,
) -> None:
    """Compare what is shown, and what is cached, with the database.

    Every cached entry, every row, and some lookups by the way that customers go. Nothing is
    changed; what is found is written down, as what the worker's audit finds is.

    \b
    Examples:
      paystate audit
      paystate audit --seconds 60 --lookups 1000
      paystate audit --url https://pay.example.com --json | jq .violations

    \b
    Exit codes:
      0  nothing is wrong
      1  violations were found
      2  could not audit: wrong arguments or settings
      3  could not audit: database, cache or server unreachable
      4  could not audit: token refused, or not enough
      5  could not audit: server error
    """
    if once and seconds is not None:
        raise click.UsageError("--once and --seconds exclude each other")
    settings = settings_of(data_dir)
    address = _address(url)
    with errors_as_exits(), progress("Comparing …", hidden=as_json) as tell:
        report = asyncio.run(_audit(settings, address, token, seconds, lookups, provider, tell))
    if as_json:
        click.echo(json.dumps(report))
    else:
        _show(report)
    if report["violations"]:
        raise click.exceptions.Exit(Exit.REFUSED)


def _address(url: str | None) -> str | None:
    try:
        return server_url(url) if url else None
    except ValueError as e:
        raise click.UsageError(f"--url: {e}") from e


async def _audit(
    settings: Settings,
    url: str | None,
    token: str | None,
    seconds: float | None,
    lookups: int,
    provider: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    from paystate.audit import open_audit  # noqa: PLC0415
    from paystate.logs import configure_logging  # noqa: PLC0415
    from paystate.resources import open_resources  # noqa: PLC0415

    configure_logging("CRITICAL", settings.log_format, "audit")  # the table says it all
    async with (
        open_resources(settings) as resources,
        open_audit(resources, url=url, token=token) as audit,
    ):
        await resources.store.ping()
        following = asyncio.create_task(_follow(audit)) if seconds is not None else None
        ends = time.monotonic() + (seconds or 0)
        try:
            await _pass(audit, lookups, provider, tell)
            while time.monotonic() < ends:
                await asyncio.sleep(min(1.0, max(0.0, ends - time.monotonic())))
                await _pass(audit, lookups, 0, tell)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.wait([following], timeout=2)
        _refuse_unaudited(audit, lookups)
        recorded = await resources.store.sampling.listed(since_ms=RECORDED_MS, most=50)
    ledger = audit.ledger
    return {
        "asked": audit.path.name,
        "lookups": ledger.summary(),
        "compared": dict(ledger.compared),
        "violations": [v.to_json() for v in _distinct(ledger.violations)],
        "recorded": [v.to_json() for v in recorded],
    }


async def _follow(audit: Audit) -> None:
    from paystate.connections import REDIS_FAILURES  # noqa: PLC0415

    while True:
        try:
            await audit.follower.hear()
        except REDIS_FAILURES:
            await asyncio.sleep(0.5)


async def _pass(audit: Audit, lookups: int, provider: int, tell: Callable[[str], None]) -> None:
    """Go through every cached entry and every row, and look some of them up."""
    import random  # noqa: PLC0415

    while not await audit.entries.round(PAGE):
        tell(f"{audit.ledger.compared.get('entries', 0)} cached entries")
    picked: list[SampledRow] = []
    seen = 0
    ended = False
    while not ended:
        page, ended = await audit.rows.round(PAGE)
        tell(f"{audit.ledger.compared.get('rows', 0)} rows")
        for row in page.rows:
            # Every row is as likely to be among the picked ones, however many come.
            seen += 1
            if len(picked) < lookups:
                picked.append(row)
            elif lookups and (place := random.randrange(seen)) < lookups:  # noqa: S311
                picked[place] = row
        for entity in audit.provider.askable(page)[:provider]:
            provider -= 1
            await audit.provider.compare(entity)
    await audit.rows.claims()
    for row in picked:
        await audit.checker.lookup(row.entity, "spot")


def _refuse_unaudited(audit: Audit, lookups: int) -> None:
    """End with an error if lookups were wanted and there was no answer to any."""
    from paystate.audit.ledger import SPOT, Outcome  # noqa: PLC0415

    counts: Mapping[Outcome, int] = audit.ledger.outcomes.get(SPOT, {})
    failed = audit.checker.last_unanswered
    answered = sum(n for outcome, n in counts.items() if outcome is not Outcome.UNANSWERED)
    if failed is None or not lookups or answered or audit.ledger.violations:
        return
    if failed.status in (401, 403):
        raise Failure(
            "The server refused the token. Set AUDIT_TOKEN, or give --token.", Exit.UNAUTHORISED
        )
    code = Exit.SERVER_ERROR if failed.status is not None else Exit.UNREACHABLE
    raise Failure(f"No lookup was answered by {audit.path.name}: {failed.reason}", code)


def _distinct(found: list[Violation]) -> list[Violation]:
    """Return each violation once, as it was found first."""
    return list({(v.kind, v.entity): v for v in reversed(found)}.values())[::-1]


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console(soft_wrap=True, highlight=False)
    table = Table(title=f"Lookups compared with the database; asked: {report['asked']}")
    columns = ("fresh", "stale", "unacknowledged", "unsure", "unanswered", "skipped")
    for name in ("when", *columns, "nines", "worst, ms"):
        table.add_column(name, justify="left" if name == "when" else "right")
    for scale, counts in report["lookups"].items():
        shown = [str(counts[name]) for name in columns]
        table.add_row(scale, *shown, f"{counts['nines']:.2f}", str(counts["worst_ms"]))
    console.print(table)
    compared = report["compared"]
    console.print(
        f"Compared: {compared.get('entries', 0)} cached entries, {compared.get('rows', 0)} rows, "
        f"{compared.get('provider', 0)} answers of Flutterwave."
    )
    _list(console, "Violations", report["violations"])
    if not report["violations"]:
        console.print("No violation was found.", style="green")
    _list(console, "Written down in the last 24 hours (latest first)", report["recorded"])


def _list(console: Any, title: str, found: list[dict[str, Any]]) -> None:
    if not found:
        return
    console.print(f"\n{title}: {len(found)}", style="bold")
    for one in found:
        name = f"{one['entity_kind']} {one['id']}" if one["id"] else "–"
        merchant = f" ({one['merchant']})" if one["merchant"] not in (None, "default") else ""
        evidence = ", ".join(f"{key}={value}" for key, value in one["evidence"].items())
        console.print(f"  {one['kind']}  {name}{merchant}\n      {evidence}", markup=False)
