"""``paystate release``: accept what a held or dead event says."""

from __future__ import annotations

from paystate.cli.ruling import ruling_command

__all__ = ["command"]

command = ruling_command(
    "release",
    """Accept what a held or dead event says, as if Flutterwave had confirmed it.

    The payment takes its status, and its reference. A successful payment learns nothing more.
    """,
)
