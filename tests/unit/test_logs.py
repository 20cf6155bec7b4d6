"""What a line of the log looks like: JSON for programs, words and colours for a terminal."""

from __future__ import annotations

import json
import sys

import pytest

from paystate.logs import configure_logging, logger


def _written(capsys: pytest.CaptureFixture[str]) -> str:
    logger().info("payment_changed", inbox_id=7, email="someone@example.com")
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


@pytest.mark.parametrize("style", ["json", "auto"])
def test_a_line_is_one_json_object_where_nobody_looks_on(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the process, the level and the time; what must not be logged is masked."""
    configure_logging("INFO", style, "web")
    (line,) = _written(capsys).splitlines()
    found = json.loads(line)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "event": "payment_changed", "process": "web", "level": "info", "inbox_id": 7,
        "email": "***",
    }  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_a_person_gets_words_and_a_terminal_colours(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    configure_logging("INFO", "auto" if terminal else "console", "web")
    line = _written(capsys)
    assert "payment_changed" in line
    assert "someone" not in line
    assert ("\x1b[" in line) is terminal


def test_a_level_below_the_one_that_was_asked_for_is_not_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("WARNING", "json", "web")
    assert _written(capsys) == ""
