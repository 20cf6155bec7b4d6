"""What a person sees who waits for a command; a program, or a file, sees nothing of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]


@contextmanager
def progress(text: str, *, hidden: bool) -> Iterator[Callable[[str], None]]:
    """Show `text` and a spinner on a terminal's standard error until left.

    What is called with a string shows it behind `text`, in place of what stood there.
    """
    if hidden or not sys.stderr.isatty():
        yield lambda _more: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415

    with Console(stderr=True).status(escape(text)) as status:
        yield lambda more: status.update(escape(f"{text} {more}"))
