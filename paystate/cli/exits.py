"""How a command ends: the exit codes, and the one place where errors become them.

The codes are the same for every command, so a script can tell "not there" from "not reached".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

import click

from paystate.errors import (
    CacheUnavailable,
    PaystateError,
    QueueUnavailable,
    SettingsInvalid,
    StoreUnavailable,
    TransientError,
)

if TYPE_CHECKING:
    from paystate.settings import Role, Settings

__all__ = ["Exit", "Failure", "errors_as_exits", "load_settings"]


class Exit(IntEnum):
    """What the exit code says."""

    OK = 0
    REFUSED = 1  # understood, and the answer is no: unknown payment, refused webhook
    USAGE = 2  # wrong arguments or settings (click uses 2 as well)
    UNREACHABLE = 3  # the server or database did not answer
    UNAUTHORISED = 4  # wrong token or signature
    SERVER_ERROR = 5  # it answered, and could not do it


class Failure(click.ClickException):
    """An end that is not success: a message for a person, a code for a program."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click reads it so


_STANDS_ON: dict[type[TransientError], tuple[str, str]] = {
    StoreUnavailable: ("database", "DATABASE_URL"),
    CacheUnavailable: ("cache", "CACHE_URL"),
    QueueUnavailable: ("queue", "QUEUE_URL"),
}


@contextmanager
def errors_as_exits() -> Iterator[None]:
    """Turn what paystate raises on purpose into a `Failure` with the code that fits."""
    try:
        yield
    except SettingsInvalid as invalid:
        raise Failure(str(invalid), Exit.USAGE) from invalid
    except TransientError as unavailable:
        raise Failure(_told(unavailable), Exit.UNREACHABLE) from unavailable
    except PaystateError as error:
        raise Failure(str(error), Exit.SERVER_ERROR) from error


def _told(unavailable: TransientError) -> str:
    """Return what a person can do about what cannot be reached."""
    if isinstance(unavailable, StoreUnavailable) and unavailable.reason != "database_unreachable":
        return str(unavailable)
    for kind, (name, variable) in _STANDS_ON.items():
        if isinstance(unavailable, kind):
            words = unavailable.reason.replace("_", " ")
            return (
                f"The {name} cannot be reached ({words}). Does it run, and is {variable} right? "
                "`paystate doctor` looks closer."
            )
    return str(unavailable)


def load_settings(environ: Mapping[str, str] | None = None, role: Role | None = None) -> Settings:
    """Return the settings in `environ`; ends the command with code 2 where they are invalid."""
    from paystate import settings  # noqa: PLC0415

    with errors_as_exits():
        return settings.load(environ, role=role or settings.Role.TOOL)
