"""What the tests have left behind, searched once all of them have ended.

With pytest-xdist the tests run in several processes, and none of them knows when the others are
done: only the one that deals the tests out can search last. The others tell it where they wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.remains import secrets_in

_WRITTEN = pytest.StashKey[set[str]]()
_FOUND = pytest.StashKey[list[str]]()
_FOLDER = "paystate_written"


class Nodes:
    """Hears from each process of pytest-xdist, where that is used."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Note where the process that has ended wrote; one that crashed could not say it."""
        folder = getattr(node, "workeroutput", {}).get(_FOLDER)
        if folder is not None:
            self._config.stash[_WRITTEN].add(folder)


def pytest_configure(config: pytest.Config) -> None:
    """Begin with nothing written and nothing found."""
    config.stash[_WRITTEN] = set()
    config.stash[_FOUND] = []
    config.pluginmanager.register(Nodes(config))


@pytest.fixture(scope="session", autouse=True)
def _written(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.getbasetemp())
    pytestconfig.stash[_WRITTEN].add(folder)
    if hasattr(pytestconfig, "workeroutput"):
        pytestconfig.workeroutput[_FOLDER] = folder


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail the run over a secret that any of its tests has left in a file."""
    yield
    config = session.config
    if hasattr(config, "workerinput"):
        return
    for folder in sorted(config.stash[_WRITTEN]):
        config.stash[_FOUND].extend(secrets_in(Path(folder)))
    if config.stash[_FOUND]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name the files."""
    if config.stash[_FOUND]:
        terminalreporter.section("the tests have left secrets in files", red=True)
        for line in config.stash[_FOUND]:
            terminalreporter.line(line)
