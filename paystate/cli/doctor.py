"""``paystate doctor``: what is set up wrongly, and how to mend it."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from paystate.cli.client import server_url
from paystate.cli.devdata import DevFileInvalid, read_data_dir
from paystate.cli.exits import Exit, Failure
from paystate.cli.progress import progress
from paystate.cli.targets import data_dir_option

if TYPE_CHECKING:
    from paystate.doctor import Finding

__all__ = ["command"]

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


@click.command("doctor")
@click.option(
    "--url",
    envvar="WEBHOOK_URL",
    show_envvar=True,
    help="Address at which Flutterwave reaches the web process, with or without "
    "/webhooks/flutterwave. Default: a running `paystate dev`, else 127.0.0.1:$PORT.",
)
@click.option("--worker-url", help="Address of a worker. Default: 127.0.0.1:$WORKER_PORT.")
@click.option(
    "--processes",
    type=click.IntRange(1, 10_000),
    help="Web and worker processes in all, for the count of connections. Default: WEB_PROCESSES "
    "and one worker.",
)
@click.option(
    "--send",
    is_flag=True,
    help="Send signed webhooks of an ignored type too; they leave events, but no payment.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.5, 120),
    default=8.0,
    show_default=True,
    help="Longest wait for each server, in seconds.",
)
@click.option("--all", "show_all", is_flag=True, help="List what is well or was skipped, too.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings as well.")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs; it lists all.")
def command(
    url: str | None,
    worker_url: str | None,
    processes: int | None,
    send: bool,
    timeout_s: float,
    show_all: bool,
    strict: bool,
    data_dir: str,
    as_json: bool,
) -> None:
    """Look for what is set up wrongly, and say how to mend it.

    Settings, secrets, Flutterwave's answers, database, cache, queue, and the processes as they run.
    The settings are those of the environment; run it where a process runs. Nothing is changed, and
    no secret is shown.

    \b
    Examples:
      paystate doctor
      paystate doctor --url https://pay.example.com --processes 6
      paystate doctor --url https://pay.example.com --send
      paystate doctor --json | jq '.findings[] | select(.outcome == "fail")'

    \b
    Exit codes:
      0  nothing is wrong (there may be warnings)
      1  something is wrong; with --strict a warning is
      2  wrong arguments, or settings that cannot be used
    """
    from paystate.doctor import Options, examine, open_case  # noqa: PLC0415
    from paystate.logs import configure_logging  # noqa: PLC0415

    configure_logging("CRITICAL", "auto", "doctor")  # the table says it all
    environ, own_url = _environ(data_dir)
    options = Options(
        url=_address("--url", url) or own_url,
        worker_url=_address("--worker-url", worker_url),
        processes=processes,
        send=send,
        timeout_s=timeout_s,
    )
    case = open_case(environ, options)
    done: list[str] = []
    with progress("Asking every server …", hidden=as_json) as tell:

        def told(name: str) -> None:
            done.append(name)
            tell(f"{', '.join(done)}: done")

        findings = asyncio.run(examine(case, told))
    if as_json:
        _write(findings)
    else:
        _show(findings, show_all)
    code = _exit_code(findings, strict)
    if code is not Exit.OK:
        raise click.exceptions.Exit(code)


def _exit_code(findings: list[Finding], strict: bool) -> Exit:
    failed = {f.check for f in findings if f.outcome == "fail"}
    if "settings.valid" in failed:
        return Exit.USAGE
    warned = any(f.outcome == "warn" for f in findings)
    return Exit.REFUSED if failed or (strict and warned) else Exit.OK


def _address(option: str, text: str | None) -> str | None:
    try:
        return server_url(text) if text else None
    except ValueError as e:
        raise click.UsageError(f"{option}: {e}") from e


def _environ(data_dir: str) -> tuple[Mapping[str, str], str | None]:
    """Return the environment, with what a running `paystate dev` has made up beneath it.

    And where that one's web process is.
    """
    try:
        dev = read_data_dir(data_dir)
    except DevFileInvalid as e:
        raise Failure(str(e), Exit.USAGE) from e
    if dev.running is None or {"DATABASE_URL", "CACHE_URL"} & os.environ.keys():
        return os.environ, None
    made = {"DATABASE_URL": f"sqlite:///{dev.path / 'paystate.db'}", **dev.secrets}
    if "valkey" in dev.ports:
        made["CACHE_URL"] = f"redis://127.0.0.1:{dev.ports['valkey']}/0"
    if "worker" in dev.ports:
        made["WORKER_PORT"] = str(dev.ports["worker"])
    if dev.running.sandbox:
        made["FLW_BASE_URL"] = f"{dev.running.sandbox}/v3"
        made["FLW_V4_BASE_URL"] = f"{dev.running.sandbox}/v4"
        made["FLW_TOKEN_URL"] = f"{dev.running.sandbox}/token"
    return {**made, **os.environ}, dev.running.web


def _counts(findings: list[Finding]) -> dict[str, int]:
    counted = Counter(f.outcome.value for f in findings)
    return {name: counted.get(name, 0) for name in _STYLES}


def _write(findings: list[Finding]) -> None:
    shown = {"counts": _counts(findings), "findings": [f.to_json() for f in findings]}
    click.echo(json.dumps(shown, indent=2))


def _show(findings: list[Finding], show_all: bool) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    listed = [f for f in findings if show_all or f.outcome in ("fail", "warn")]
    console = Console()
    if listed:
        table = Table(show_lines=True)
        table.add_column("check", no_wrap=True, style="bold")
        table.add_column("", no_wrap=True)
        table.add_column("found", overflow="fold", ratio=1)
        table.add_column("to mend it", overflow="fold", ratio=1)
        for one in sorted(listed, key=_gravity):
            outcome = Text(one.outcome, style=_STYLES[one.outcome])
            table.add_row(Text(one.check), outcome, Text(one.found), Text(one.mend))
        console.print(table)
    _summarise(console, _counts(findings), show_all)


def _gravity(finding: Finding) -> int:
    return ("fail", "warn", "skipped", "ok").index(finding.outcome)


def _summarise(console: Any, counts: dict[str, int], show_all: bool) -> None:
    said = f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} wrong, "
    said += f"{counts['skipped']} skipped"
    hint = "" if show_all or not (counts["ok"] or counts["skipped"]) else " (--all lists them)"
    style = "red" if counts["fail"] else "yellow" if counts["warn"] else "green"
    console.print(said + hint, style=style, highlight=False)
