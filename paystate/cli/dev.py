"""``paystate dev``: all of paystate on this machine, with nothing to set up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from paystate.cli.devdata import (
    DEFAULT_FOLDER,
    DataDir,
    DataDirTaken,
    DevFileInvalid,
    can_bind,
    free_port,
    lock_data_dir,
)
from paystate.cli.exits import Exit, Failure, errors_as_exits, load_settings

if TYPE_CHECKING:
    from paystate.cli.devplan import Options, Plan
    from paystate.cli.processes import Child, Supervisor

__all__ = ["command"]

_COLOURS = {"web": "cyan", "worker": "green", "sandbox": "magenta", "valkey": "blue"}

# A first start compiles and migrates; a machine under load takes a multiple of its usual 2 s.
_READY_S = 60.0
_PROBE_S = 0.1
# What dies this often before it was ever ready has a reason that time does not mend.
_DEATHS = 3
# On top of STOP_GRACE_S, which the processes take for their own work in hand.
_GRACE_S = 3.0


@click.command("dev")
@click.option(
    "--data-dir",
    default=DEFAULT_FOLDER,
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder for all data.",
)
@click.option("--host", default="127.0.0.1", envvar="HOST", show_default=True)
@click.option(
    "--port",
    default=8080,
    envvar="PORT",
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes a free one.",
)
@click.option("--no-traffic", is_flag=True, help="A sandbox that makes no payments of its own.")
@click.option(
    "--rate",
    default=1.0,
    envvar="SANDBOX_RATE",
    show_default=True,
    type=click.FloatRange(0, 1000),
    help="Sandbox payments begun per second.",
)
@click.option(
    "--seed",
    envvar="SANDBOX_SEED",
    type=click.IntRange(0),
    help="Same seed, same payments (for an empty folder). Default: drawn anew.",
)
def command(
    data_dir: str, host: str, port: int, no_traffic: bool, rate: float, seed: int | None
) -> None:  # fmt: skip
    """Run everything here: Valkey, SQLite, web, worker and a sandbox Flutterwave.

    Needs no settings; any setting in the environment is used instead of what is made up here. The
    sandbox makes payments and sends signed webhooks, some of them twice, late or out of order.

    What dies is started again. Ctrl-C ends it all, softly; a second Ctrl-C at once. The data stay
    in the folder, and so do the secrets, which are made once.

    \b
    Examples:
      paystate dev
      paystate dev --no-traffic --port 9000
      paystate dev --data-dir /tmp/paystate --rate 20 --seed 7

    \b
    Exit codes:
      0  stopped as asked
      2  wrong arguments or settings
      3  a database in DATABASE_URL that cannot be reached
      5  a part that would not start
    """
    if sys.platform == "win32":
        raise Failure("`paystate dev` needs Linux or macOS; on Windows, use WSL", Exit.USAGE)
    from paystate.cli.devplan import CheckoutMissing, Options, find_checkout  # noqa: PLC0415

    ctx = click.get_current_context()
    is_default = ctx.get_parameter_source("port") is ParameterSource.DEFAULT
    try:
        root = find_checkout()
        with lock_data_dir(data_dir) as data:
            options = Options(
                host=host,
                port=_port(host, port, is_default),
                rate_per_s=0.0 if no_traffic else rate,
                seed=seed,
            )
            _run(data, options, root)
    except (CheckoutMissing, DataDirTaken, DevFileInvalid) as e:
        raise Failure(str(e), Exit.USAGE) from e


def _port(host: str, port: int, is_default: bool) -> int:
    try:
        if port and can_bind(host, port):
            return port
        if port and not is_default:
            raise Failure(
                f"Port {port} is taken. Stop what uses it, or choose another with --port (0 takes "
                "a free one).",
                Exit.USAGE,
            )
        chosen = free_port(host)
    except OSError as e:
        raise Failure(f"--host {host}: {e.strerror}", Exit.USAGE) from e
    if port:
        click.echo(f"Port {port} is taken: using {chosen}.")
    return chosen


def _run(data: DataDir, options: Options, root: Path) -> None:
    from paystate.cli import embedded  # noqa: PLC0415
    from paystate.cli.devplan import make_plan  # noqa: PLC0415
    from paystate.settings import Role  # noqa: PLC0415
    from paystate.store.migrate import upgrade  # noqa: PLC0415

    if old := data.ports.get("valkey"):
        try:
            embedded.end_leftover(old, data.valkey)
        except embedded.LeftoverRefused as e:
            raise Failure(str(e), Exit.SERVER_ERROR) from e
    try:
        with errors_as_exits():
            plan = make_plan(data, os.environ, options, root)
    except OSError as e:
        raise Failure(f"SANDBOX_HOST: {e.strerror}", Exit.USAGE) from e
    settings = load_settings(plan.environ, Role.WEB)
    data.valkey.mkdir(exist_ok=True)
    data.running = replace(plan.running, pid=os.getpid())
    data.save()
    with errors_as_exits():
        upgrade(settings.database_url)
    asyncio.run(_supervise(plan, data, settings.stop_grace_s + _GRACE_S))


async def _supervise(plan: Plan, data: DataDir, grace_s: float) -> None:
    from paystate.cli.processes import Supervisor  # noqa: PLC0415

    async with Supervisor(_write, grace_s=grace_s) as supervisor:
        stop = _stop_on_signals(supervisor)
        starting = asyncio.create_task(_start(supervisor, plan, data))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        await starting
        await _greet(plan, data)
        await stopping
        _write("dev", "stopping")


def _stop_on_signals(supervisor: Supervisor) -> asyncio.Event:
    """Return what the first Ctrl-C, SIGTERM or closed terminal sets; the second one kills."""
    stop = asyncio.Event()

    def handle() -> None:
        if stop.is_set():
            supervisor.kill()
        stop.set()

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, handle)
    return stop


async def _start(supervisor: Supervisor, plan: Plan, data: DataDir) -> None:
    """Start every process after what it stands on, and return when all can be used."""
    from paystate.cli import embedded  # noqa: PLC0415

    for note in plan.notes:
        _write("dev", note)
    if plan.valkey is not None:
        valkey = supervisor.start(plan.valkey)
        hint = (
            f"{embedded.log_file(data.valkey)} says why. The folder may be deleted: all that "
            "matters is in the database"
        )
        await _ready(valkey, lambda: embedded.is_ready(plan.valkey_port), hint)
    web = supervisor.start(plan.web)
    await _ready(web, lambda: _answers(f"{plan.running.web}/readyz"))
    if plan.sandbox is not None:  # sends to the one and is asked by the other, from the beginning
        sandbox = supervisor.start(plan.sandbox)
        await _ready(sandbox, lambda: _answers(f"{plan.running.sandbox}/sandbox/payments?limit=1"))
    worker = supervisor.start(plan.worker)
    await _ready(worker, lambda: _answers(f"{plan.worker_url}/readyz"))


async def _ready(
    child: Child, probe: Callable[[], bool], hint: str = "its last lines above say why"
) -> None:
    """Wait until `probe`, which is run in a thread, says yes."""
    name = child.command.name
    try:
        async with asyncio.timeout(_READY_S):
            while not await asyncio.to_thread(probe):
                if child.deaths >= _DEATHS:
                    raise Failure(f"{name} does not start: {hint}", Exit.SERVER_ERROR)
                await asyncio.sleep(_PROBE_S)
    except TimeoutError as e:
        raise Failure(f"{name} was not ready within {_READY_S:g} s", Exit.SERVER_ERROR) from e


def _answers(url: str) -> bool:
    from paystate.cli.client import Unreachable, request  # noqa: PLC0415

    try:
        return request("GET", url, timeout_s=2.0).status == 200
    except Unreachable:
        return False


async def _greet(plan: Plan, data: DataDir) -> None:
    from paystate.cli.banner import banner, make_example  # noqa: PLC0415

    example = await asyncio.to_thread(make_example, plan)
    _print(banner(plan, data, example))
    for trouble in await asyncio.to_thread(_troubles, plan.running.web):
        _write("dev", trouble)


def _troubles(url: str) -> list[str]:
    """Return what the web process at `url` has to do without, for now, and what to do about it."""
    from paystate.cli.client import Unreachable, request  # noqa: PLC0415

    try:
        said = request("GET", f"{url}/readyz", timeout_s=10.0).json()
    except Unreachable:
        return []
    settings = {"cache": "CACHE_URL", "queue": "QUEUE_URL (else CACHE_URL)"}
    return [
        f"the {part} cannot be used ({said[part]}). Does it run, and is {setting} right? "
        "`paystate doctor` looks closer"
        for part, setting in settings.items()
        if said.get(part, "ok") != "ok"
    ]


def _write(name: str, line: str) -> None:
    _print(click.style(f"{name:>8} │ ", fg=_COLOURS.get(name, "yellow")) + line)


def _print(text: str) -> None:
    try:
        click.echo(text)
    except OSError:
        # Nobody reads any more, which is no reason to end what runs: write to nowhere from now on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
