"""``cli.md``: what each command says of itself."""

from __future__ import annotations

from collections.abc import Iterator

import click

from paystate.cli.commands import cli

__all__ = ["page"]

_WIDTH = 96


def page() -> str:
    """Return the page."""
    root = _context(None, cli, "paystate")
    lines = ["# Command line\n", "```", cli.get_help(root).rstrip(), "```\n"]
    return "\n".join([*lines, *_below(root, cli)])


def _below(parent: click.Context, group: click.Group) -> Iterator[str]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None  # noqa: S101 - it is in the list
        context = _context(parent, command, name)
        yield f"## {context.command_path}\n"
        yield f"```\n{command.get_help(context).rstrip()}\n```\n"
        if isinstance(command, click.Group):
            yield from _below(context, command)


def _context(parent: click.Context | None, command: click.Command, name: str) -> click.Context:
    return click.Context(
        command, parent=parent, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH,
        **command.context_settings,
    )  # fmt: skip
