"""What a command says when a server is not there, or answers with something else than it asked for.

What stands in these texts a person can act on; the exit code tells programs the same.
"""

from __future__ import annotations

from paystate.cli.client import Answer, Unreachable
from paystate.cli.exits import Exit, Failure
from paystate.cli.targets import Target

__all__ = ["no_server", "refused"]


def no_server(target: Target, error: Unreachable) -> Failure:
    """Return what is said where nobody answers."""
    return Failure(
        f"No server at {target.url} ({error}). Is it running? Start one with `paystate dev`, or "
        "name another with --url.",
        Exit.UNREACHABLE,
    )


def refused(answer: Answer, named: str, *, ref: bool, failed: str) -> Failure:
    """Return what is said for an answer that does not tell of the payment, or reference, `named`.

    `failed` is what the server did not do, as in "could not answer".
    """
    said = f"\nIt said: {answer.detail}" if answer.detail else ""
    if answer.status == 404 and answer.json():
        return Failure(
            f"Nobody knows the {'reference' if ref else 'payment'} {named}.{said}", Exit.REFUSED
        )
    if answer.status in (401, 403):
        return Failure(
            "The server refused the token. Set API_TOKENS as the server has it, or give --token.",
            Exit.UNAUTHORISED,
        )
    if answer.status >= 500:
        return Failure(f"The server {failed}: HTTP {answer.status}.{said}", Exit.SERVER_ERROR)
    if answer.status < 400 or answer.status == 404:
        return Failure("What answers there is not paystate: check --url.", Exit.SERVER_ERROR)
    return Failure(f"The server refused the question: HTTP {answer.status}.{said}", Exit.USAGE)
