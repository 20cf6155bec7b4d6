"""The list of commands, each in a module of its own that is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from paystate import __version__

__all__ = ["cli"]

# Command name → module; the module's attribute `command` is the command. Shown in this order.
_MODULES = {
    "dev": "paystate.cli.dev",
    "migrate": "paystate.cli.migrate",
    "config": "paystate.cli.config",
    "send": "paystate.cli.send",
    "lookup": "paystate.cli.lookup",
    "link": "paystate.cli.link",
    "watch": "paystate.cli.watch",
    "doctor": "paystate.cli.doctor",
    "explain": "paystate.cli.explain",
    "dead-letters": "paystate.cli.dead_letters",
    "release": "paystate.cli.release",
    "reject": "paystate.cli.reject",
    "replay": "paystate.cli.replay",
    "reconcile": "paystate.cli.reconcile",
    "customer": "paystate.cli.customer",
    "prune": "paystate.cli.prune",
    "audit": "paystate.cli.audit",
    "cache": "paystate.cli.cache",
    "sandbox": "paystate.cli.sandbox",
    "completion": "paystate.cli.completion",
}


class _LazyGroup(click.Group):
    """A group that imports a command when it is named, or when all of them are listed."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of the commands, the first to try first."""
        return list(_MODULES)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None."""
        if cmd_name not in _MODULES:
            return None
        command = import_module(_MODULES[cmd_name]).command
        assert isinstance(command, click.Command)  # noqa: S101 - what the table above promises
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="paystate")
def cli() -> None:
    """Payment status that never answers with a pending that has been overtaken.

    Start with `paystate dev`: it runs everything on this machine, with a sandbox Flutterwave.
    Each command has examples: `paystate lookup --help`.

    \b
    Exit codes, the same for every command:
      0  done
      1  understood, and the answer is no
      2  wrong arguments or settings
      3  server or database unreachable
      4  token or signature refused
      5  it answered, and could not do it
    """
