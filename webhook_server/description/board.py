"""The operators' board, described."""

from __future__ import annotations

from webhook_server.description.operations import Answer, Example, Operation
from webhook_server.description.parameters import in_query
from webhook_server.standing import BoardJson

__all__ = ["OPERATIONS"]

OPERATIONS = (
    Operation(
        "GET", "/", "The board", "board", "open",
        (Answer(200, "The board, or the form that asks for a token.", str, media="text/html"),),
        examples=(Example("Read"),),
    ),
    Operation(
        "POST", "/sign-in", "Sign in", "board", "open",
        (
            Answer(303, "Signed in: a cookie that scripts cannot read, and on to the board.",
                   media=""),
            Answer(401, "The form again.", str, media="text/html"),
        ),
        "The form of the board's page, with its `token`. Only from that page itself.",
        form=True, refuses=("other_site",),
        examples=(Example("From nowhere", status=403),),
    ),
    Operation(
        "POST", "/sign-out", "Sign out", "board", "open",
        (Answer(303, "Signed out, and on to the board.", media=""),),
        "Only from the board's page itself.", refuses=("other_site",),
        examples=(Example("From nowhere", status=403),),
    ),
    Operation(
        "GET", "/api/board", "How everything stands", "board", "read",
        (Answer(200, "As it is now. What cannot be asked is null.", BoardJson),),
        "The numbers are the same whichever web process is asked.",
        parameters=in_query("merchant"),
        refuses=("overview_missing",),
        examples=(Example("Ask"),),
    ),
)  # fmt: skip
