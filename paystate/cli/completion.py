"""``paystate completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

import click

__all__ = ["command"]

_VARIABLE = "_PAYSTATE_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    \b
    Examples:
      paystate completion bash
      eval "$(paystate completion zsh)"
      paystate completion fish > ~/.config/fish/completions/paystate.fish

    \b
    Exit codes:
      0  printed
      2  no such shell
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has these three
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "paystate", _VARIABLE).source())
