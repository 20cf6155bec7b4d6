"""``paystate sandbox``: a local Flutterwave by itself, for any receiver."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from paystate.cli.devdata import can_bind, free_port
from paystate.cli.exits import Exit, Failure, errors_as_exits

if TYPE_CHECKING:
    from paystate.flutterwave.sandbox import RunningSandbox, SandboxConfig

__all__ = ["command"]

# Beside `paystate dev`, whose web process is at 8080.
DEFAULT_PORT = 8090

# Secret of a sandbox → the variable that gives another one.
_SECRETS = {
    "secret_hash": "FLW_SECRET_HASH",
    "previous_secret_hash": "FLW_SECRET_HASH",
    "secret_key": "FLW_SECRET_KEY",
    "client_id": "FLW_CLIENT_ID",
    "client_secret": "FLW_CLIENT_SECRET",
}

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any] | click.Command)

_share = click.FloatRange(0, 1)


def _rate(name: str, text: str) -> Callable[[_Decorated], _Decorated]:
    return click.option(f"--{name}", f"{name.replace('-', '_')}_rate", type=_share, help=text)


@click.command("sandbox")
@click.option("--host", help="Address to bind. Default: 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"0 takes a free one. Default: {DEFAULT_PORT}."
)
@click.option("--receiver", "receiver_url", metavar="URL", help="Where webhooks go.")
@click.option("--seed", type=click.IntRange(0), help="Same seed, same choices. Default: drawn.")
@click.option("--rate", "rate_per_s", type=click.FloatRange(0, 10_000), help="Payments a second.")
@_rate("duplicate", "Share of webhooks sent twice. Default: 0.1.")
@_rate("delay", "Share sent late. Default: 0.1.")
@_rate("reorder", "Share sent after the next one of the same payment. Default: 0.1.")
@_rate("drop", "Share never sent.")
@_rate("contradict", "Share that say another status than the API.")
@_rate("wrong-amount", "Share with another amount.")
@_rate("wrong-currency", "Share with another currency.")
@_rate("wrong-reference", "Share with another tx_ref.")
@_rate("old-secret", "Share signed with the previous secret.")
@_rate("bad-signature", "Share signed with what was never a secret.")
@click.option("--retries", type=click.IntRange(0, 3), help="Tries after the first. Default: 3.")
@click.option(
    "--retry-interval",
    "retry_interval_s",
    type=click.FloatRange(0, 86_400),
    help="Seconds between them. Default: 2.",
)
@click.option(
    "--max-delay",
    "max_delay_s",
    type=click.FloatRange(0, 86_400),
    help="Seconds that a late webhook is late at most. Default: 5.",
)
@click.option("--script", type=click.Path(dir_okay=False), help="JSON file of steps to play.")
@click.option(
    "--allow-remote",
    is_flag=True,
    default=None,
    help="Let the control API choose a receiver on another machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON, for programs.")
def command(as_json: bool, **given: Any) -> None:
    """Run a local Flutterwave: APIs to ask, payments to settle, webhooks that misbehave.

    Open /sandbox in a browser to make payments, send any webhook and set faults. What no option
    gives is taken from SANDBOX_HOST, SANDBOX_PORT, SANDBOX_RECEIVER, SANDBOX_SEED, SANDBOX_RATE,
    SANDBOX_DROP (and so on for each share), SANDBOX_SCRIPT, and the secrets from FLW_SECRET_HASH,
    FLW_SECRET_KEY, FLW_CLIENT_ID and FLW_CLIENT_SECRET. Ctrl-C ends it.

    \b
    Examples:
      paystate sandbox
      paystate sandbox --rate 20 --duplicate 0.5 --drop 0.1
      paystate sandbox --receiver http://127.0.0.1:8080/webhooks/flutterwave --seed 7

    \b
    Exit codes:
      0  ended as asked
      2  wrong arguments or settings
    """
    from paystate.flutterwave.sandbox import SandboxConfig, serve  # noqa: PLC0415
    from paystate.flutterwave.sandbox.script import ScriptInvalid  # noqa: PLC0415

    with errors_as_exits():
        config = SandboxConfig.from_env(os.environ)
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    config = replace(config, port=_port(config, given["port"]))
    tell = _print_line if as_json else _print_table
    try:
        asyncio.run(serve(config, tell))
    except ScriptInvalid as invalid:
        raise Failure(f"--script: {invalid}", Exit.USAGE) from invalid
    except OSError as e:
        raise Failure(f"{config.host}:{config.port} cannot be used: {e}", Exit.USAGE) from e


def _port(config: SandboxConfig, given: int | None) -> int:
    """Return the port: the one that was asked for, or 8090, or where that is taken a free one."""
    if given is not None or config.port:
        return config.port
    try:
        return DEFAULT_PORT if can_bind(config.host, DEFAULT_PORT) else free_port(config.host)
    except OSError as e:
        raise Failure(f"--host {config.host}: {e.strerror}", Exit.USAGE) from e


def _secrets(config: SandboxConfig) -> dict[str, str]:
    """Return the made-up secrets; what came from the environment is only named."""
    defaults = {f.name: f.default for f in fields(config)}
    return {
        name: value if value == defaults[name] else f"as in {variable}"
        for name, variable in _SECRETS.items()
        if (value := getattr(config, name))
    }


def _print_line(running: RunningSandbox) -> None:
    from paystate.flutterwave.sandbox.server import ready_line  # noqa: PLC0415

    line = ready_line(running) | {
        "page": f"{running.url}/sandbox",
        **_secrets(running.sandbox.config),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _print_table(running: RunningSandbox) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    config = running.sandbox.config
    secrets = _secrets(config)
    rows = {
        "page": f"{running.url}/sandbox",
        "FLW_BASE_URL": running.base_url,
        "FLW_V4_BASE_URL": running.v4_base_url,
        "FLW_TOKEN_URL": running.token_url,
        "FLW_SECRET_HASH": secrets["secret_hash"],
        "  the one before": secrets["previous_secret_hash"],
        "FLW_SECRET_KEY": secrets["secret_key"],
        "FLW_CLIENT_ID": secrets["client_id"],
        "FLW_CLIENT_SECRET": secrets["client_secret"],
        "receiver": config.receiver_url or "none: choose one on the page or with --receiver",
        "seed": str(config.seed),
    }
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console = Console()
    console.print(table)
    console.print("Ctrl-C ends it.")
