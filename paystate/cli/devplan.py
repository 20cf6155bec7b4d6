"""What ``paystate dev`` will run: a plan made from the environment, the options and the folder.

Whatever the environment gives is used as it is, and what stands in for it is left out: with
CACHE_URL no embedded Valkey, with FLW_BASE_URL no sandbox. Only the rest is made up.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import paystate
from paystate.cli import embedded
from paystate.cli.devdata import DataDir, Running
from paystate.cli.processes import Command
from paystate.cli.targets import NAMED_TOKEN
from paystate.errors import SettingsInvalid

__all__ = ["CheckoutMissing", "Options", "Plan", "find_checkout", "make_plan"]

_LOOPBACK_OF = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound to


class CheckoutMissing(Exception):
    """The web and worker packages, which are not part of the wheel, are nowhere to be found."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides. `rate_per_s` 0 is a sandbox without traffic of its own."""

    host: str
    port: int
    rate_per_s: float
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes to run, in the order of their start, and where they will be."""

    running: Running
    environ: dict[str, str] = field(repr=False)
    valkey: Command | None
    web: Command
    worker: Command
    sandbox: Command | None
    worker_url: str
    valkey_port: int
    has_traffic: bool
    notes: tuple[str, ...]


def find_checkout() -> Path:
    """Return the folder that holds the packages `webhook_server` and `worker`.

    Raises `CheckoutMissing`.
    """
    beside = Path(paystate.__file__).resolve().parents[1]
    for root in (beside, Path.cwd()):
        if all((root / name / "__main__.py").is_file() for name in ("webhook_server", "worker")):
            return root
    raise CheckoutMissing(
        "the packages `webhook_server` and `worker` are not here: they are run from the "
        f"checkout and are not part of the installed package. Looked in {beside} and {Path.cwd()}. "
        "Change into the checkout and run `paystate dev` there."
    )


def make_plan(data: DataDir, environ: Mapping[str, str], options: Options, root: Path) -> Plan:
    """Return the plan for the folder `data`; makes its secrets and picks its ports.

    Raises OSError for a host that is no address of this machine, SettingsInvalid for a port that
    is no port. The settings of the processes themselves are not checked here.
    """
    given = {name: value for name, value in environ.items() if value}
    web = _http(options.host, options.port)
    has_sandbox = not ({"FLW_BASE_URL", "FLW_V4_BASE_URL"} & given.keys())
    has_valkey = "CACHE_URL" not in given
    sandbox_host = given.get("SANDBOX_HOST", embedded.HOST)
    sandbox_port = _given_port(given, "SANDBOX_PORT") or data.port("sandbox", sandbox_host)
    sandbox = _http(sandbox_host, sandbox_port) if has_sandbox else None
    valkey_port = data.port("valkey", embedded.HOST) if has_valkey else 0
    made = _made_up(data, given, sandbox, valkey_port)
    token = _operators_token(given.get("API_TOKENS", made["API_TOKENS"]))
    if token:  # the worker's audit asks as customers do
        made |= {"AUDIT_URL": web, "AUDIT_TOKEN": token}
    worker_port = _given_port(given, "WORKER_PORT") or data.port("worker", options.host)
    fixed = {"HOST": options.host, "PORT": str(options.port), "WORKER_PORT": str(worker_port)}
    whole = {**made, **given, **fixed}
    whole["PYTHONPATH"] = f"{root}:{given['PYTHONPATH']}" if "PYTHONPATH" in given else str(root)
    whole["PYTHONUNBUFFERED"] = "1"
    running = Running(
        pid=0,
        web=web,
        webhook=f"{web}/webhooks/flutterwave",
        sandbox=sandbox,
        from_env=tuple(sorted({"FLW_SECRET_HASH", "API_TOKENS"} & given.keys())),
    )
    return Plan(
        running=running,
        environ=whole,
        valkey=_valkey(data, valkey_port, given) if has_valkey else None,
        web=Command("web", [sys.executable, "-m", "webhook_server"], whole),
        worker=Command("worker", [sys.executable, "-m", "worker"], whole),
        sandbox=_sandbox(whole, options, running.webhook, sandbox_port) if sandbox else None,
        worker_url=_http(options.host, worker_port),
        valkey_port=valkey_port,
        has_traffic=has_sandbox and options.rate_per_s > 0,
        notes=_notes(given, has_sandbox),
    )


def _given_port(given: Mapping[str, str], name: str) -> int:
    """Return the port that the environment gives, 0 if it leaves the choice to us."""
    text = given.get(name, "0")
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise SettingsInvalid([f"{name} must be a whole number from 0 to 65535"])
    return int(text)


def _http(host: str, port: int) -> str:
    """Return the address that reaches what is bound to `host`, every interface included."""
    host = _LOOPBACK_OF.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _made_up(
    data: DataDir, given: Mapping[str, str], sandbox: str | None, valkey_port: int
) -> dict[str, str]:
    """Return a value for every setting that the environment may have left open."""
    made = {
        "DATABASE_URL": f"sqlite:///{data.path / 'paystate.db'}",
        "LOG_FORMAT": "console" if sys.stdout.isatty() else "json",
        "API_TOKENS": data.secret("API_TOKENS"),
        "LINK_KEY": data.secret("LINK_KEY"),
        "FLW_SECRET_HASH": data.secret("FLW_SECRET_HASH"),
    }
    if valkey_port:
        made["CACHE_URL"] = f"redis://{embedded.HOST}:{valkey_port}/0"
    if sandbox is not None:
        made["FLW_BASE_URL"] = f"{sandbox}/v3"
        made["FLW_V4_BASE_URL"] = f"{sandbox}/v4"
        made["FLW_TOKEN_URL"] = f"{sandbox}/token"
        # The sandbox has no limit but the one that is asked of it.
        made["PROVIDER_CALLS_PER_HOUR"] = "1000000"
        made["FLW_SECRET_KEY"] = data.secret("FLW_SECRET_KEY")
        # These two go together: half of a pair that was given is an error to report, not to mend.
        if not {"FLW_CLIENT_ID", "FLW_CLIENT_SECRET"} & given.keys():
            made["FLW_CLIENT_ID"] = data.secret("FLW_CLIENT_ID")
            made["FLW_CLIENT_SECRET"] = data.secret("FLW_CLIENT_SECRET")
    return made


def _operators_token(tokens: str) -> str:
    """Return a token that may read every merchant; nothing if there is none."""
    bare = (text for text in tokens.split(",") if not NAMED_TOKEN.fullmatch(text))
    return next(bare, "")


def _valkey(data: DataDir, port: int, environ: Mapping[str, str]) -> Command:
    return Command("valkey", embedded.argv(port, data.valkey), environ, foundation=True)


def _sandbox(environ: Mapping[str, str], options: Options, receiver: str, port: int) -> Command:
    own = {
        "SANDBOX_HOST": embedded.HOST,
        "SANDBOX_RECEIVER": receiver,
        **environ,
        "SANDBOX_PORT": str(port),
        "SANDBOX_RATE": str(options.rate_per_s),
    }
    if options.seed is not None:
        own["SANDBOX_SEED"] = str(options.seed)
    return Command("sandbox", [sys.executable, "-m", "paystate.flutterwave.sandbox"], own)


def _notes(given: Mapping[str, str], has_sandbox: bool) -> tuple[str, ...]:
    notes = [
        f"{name} of the environment is used"
        for name in ("DATABASE_URL", "CACHE_URL", "QUEUE_URL")
        if name in given
    ]
    if not has_sandbox:
        notes.append("FLW_BASE_URL or FLW_V4_BASE_URL of the environment is used: no sandbox")
    return tuple(notes)
