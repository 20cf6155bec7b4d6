"""A secret that any test has left in a file fails the run, in one process and in several."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.remains import PATTERNS, SECRETS, secrets_in
from tests.parts import ROOT

_LEAVING = """
def test_that_leaves_something(tmp_path):
    (tmp_path / "web.log").write_text("bound to {left}")
"""


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that is gone when this run itself is searched."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("processes", "left", "code"),
    [((), "operator-token", 1), (("-n", "2"), "operator-token", 1), ((), "nothing", 0)],
)
def test_a_run_fails_over_a_secret_in_a_file_of_any_of_its_processes(
    processes: tuple[str, ...], left: str, code: int, elsewhere: Path
) -> None:
    """The test itself passes; the run does not, and says which file it is."""
    (elsewhere / "test_leaving.py").write_text(_LEAVING.format(left=left))
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", elsewhere,
         "-p", "tests.afterwards", "-p", "no:cacheprovider", *processes,
         "--basetemp", elsewhere / "written", elsewhere / "test_leaving.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stdout
    assert "1 passed" in ended.stdout
    assert ("web.log: operator-token" in ended.stdout) is bool(code)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_kind_of_file_is_searched_for_every_secret(pattern: str, elsewhere: Path) -> None:
    for number, secret in enumerate(SECRETS):
        folder = elsewhere / str(number)
        folder.mkdir()
        (folder / pattern.replace("*", "x")).write_bytes(b"before " + secret + b" after")
    assert len(list(secrets_in(elsewhere))) == len(SECRETS)
