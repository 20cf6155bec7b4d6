"""The command line: everything a person or a script does to paystate.

Nothing is imported before it is needed. So ``paystate --help`` is quick, and where paystate is
installed for reading only (without the extra ``server``) the answer is a sentence and no traceback.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

# Top-level packages whose absence is a fault in a checkout, not an extra that was left out.
_OWN = frozenset({"paystate", "webhook_server", "worker"})


def main() -> None:
    """Run the command that the arguments name; the entry point of ``paystate``."""
    try:
        from paystate.cli.commands import cli  # noqa: PLC0415 - click may not be installed

        cli(prog_name="paystate")
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in _OWN or not package:
            raise
        sys.stderr.write(
            f"Error: the command line needs the package `{package}`, which is not installed.\n"
            'Install all of it with: pip install "paystate[server]"\n'
        )
        sys.exit(1)
