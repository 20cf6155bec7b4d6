"""``paystate reject``: end a held or dead event without effect."""

from __future__ import annotations

from paystate.cli.ruling import ruling_command

__all__ = ["command"]

command = ruling_command(
    "reject",
    """End a held or dead event without effect on its payment.

    It stays as evidence, and is not opened again when it is delivered again.
    """,
)
