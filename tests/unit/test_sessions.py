"""A session's cookie stands for a token, holds none, and ends with it."""

from __future__ import annotations

import time

import pytest
from itsdangerous import TimestampSigner

from webhook_server.sessions import SESSION_S, Sessions

TOKENS = ("first-long-token", "second-long-token")


def test_a_cookie_stands_for_its_token_and_does_not_hold_it() -> None:
    sessions = Sessions(TOKENS)
    for token in TOKENS:
        cookie = sessions.make(token)
        assert sessions.token(cookie) == token
        assert token not in cookie
    assert "token" not in repr(sessions).replace("tokens", "")


def test_a_cookie_ends_with_its_token() -> None:
    cookie = Sessions(TOKENS).make(TOKENS[0])
    assert Sessions(TOKENS[1:]).token(cookie) is None
    assert Sessions(()).token(cookie) is None


@pytest.mark.parametrize(("age_s", "good"), [(SESSION_S - 60, True), (SESSION_S + 60, False)])
def test_a_cookie_ends_with_the_day(
    age_s: int, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = Sessions(TOKENS)
    then = int(time.time()) - age_s
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self: then)
    cookie = sessions.make(TOKENS[0])
    monkeypatch.undo()
    assert (sessions.token(cookie) is not None) is good


def test_a_cookie_cannot_be_changed_or_made() -> None:
    sessions = Sessions(TOKENS)
    name, stamp, signature = sessions.make(TOKENS[0]).split(".")
    other = sessions.make(TOKENS[1]).partition(".")[0]
    for forged in (
        f"{name}.{stamp}", f"{name}.{stamp}.", f"{other}.{stamp}.{signature}", name, "", ".", "é",
        f"{name}.{stamp}x.{signature}", f"{name}.{stamp}.{signature[:-2]}", f"{name}" + "." * 500,
    ):  # fmt: skip
        assert sessions.token(forged) is None
