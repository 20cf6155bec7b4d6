"""`paystate dev` as a person meets it: start, send, look up, break, stop."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from paystate.cli.devdata import read_data_dir
from paystate.settings import Settings, describe

PAYSTATE = [sys.executable, "-m", "paystate"]
TIMEOUT_S = 90.0


def environ() -> dict[str, str]:
    """The environment without any setting of paystate in it."""
    ours = {name for name, _, _ in describe(Settings())}
    return {name: value for name, value in os.environ.items() if name not in ours}


class Dev:
    """A running `paystate dev`, and the lines it has written. `settings` are variables by name."""

    def __init__(self, folder: Path, *options: str, **settings: str) -> None:
        self.folder = folder
        self.env = environ() | settings
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*PAYSTATE, "dev", "--data-dir", str(folder), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, text: str) -> str:
        """Return the next line that holds `text`."""
        deadline = time.monotonic() + TIMEOUT_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                break
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"never said {text!r}:\n{''.join(self.lines)}")

    def children(self) -> dict[str, psutil.Process]:
        """Return the processes it runs, by the last word of their command."""
        found = psutil.Process(self.process.pid).children()
        return {child.cmdline()[-1].split(":")[0].rpartition(".")[2]: child for child in found}

    def ask(self, *args: str) -> tuple[int, Any]:
        """Run a command against it; return its exit code and its JSON."""
        ran = subprocess.run(
            [*PAYSTATE, *args, "--json", "--data-dir", str(self.folder)],
            capture_output=True,
            text=True,
            env=self.env,
            timeout=TIMEOUT_S,
            check=False,
        )
        return ran.returncode, json.loads(ran.stdout) if ran.stdout else None

    def look_up_until(self, payment_id: str, wanted: Callable[[dict[str, Any]], bool]) -> Any:
        """Look the payment up, again and again, until the answer is as wanted."""
        deadline = time.monotonic() + TIMEOUT_S
        answer: Any = None
        while time.monotonic() < deadline:
            code, answer = self.ask("lookup", payment_id)
            if code == 0 and wanted(answer):
                return answer
        raise AssertionError(f"the last answer was {answer}:\n{''.join(self.lines)}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(TIMEOUT_S)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running(folder: Path, *options: str, **settings: str) -> Iterator[Dev]:
    dev = Dev(folder, *options, **settings)
    try:
        dev.wait_for("Ctrl-C ends it all")
        yield dev
    finally:
        dev.close()


def is_settled(answer: dict[str, Any]) -> bool:
    return answer["status"] == "successful" and bool(answer["fresh"])


def test_a_webhook_sent_is_a_status_looked_up_and_ctrl_c_ends_it_all(tmp_path: Path) -> None:
    with running(tmp_path / "data") as dev:
        code, sent = dev.ask("send", "--api", "v4", "--tx-ref", "order-1")
        assert (code, sent["answers"][0]["status"]) == (0, 200)
        answer = dev.look_up_until(sent["id"], is_settled)
        assert (answer["tx_ref"], answer["terminal"]) == ("order-1", True)

        example = next(line.split()[2] for line in dev.lines if " lookup " in line)
        dev.look_up_until(example, is_settled)

        assert dev.ask("send", "--bad-signature")[0] == 4
        assert dev.ask("lookup", "999999999999")[0] == 1
        assert dev.ask("lookup", "1", "--token", "wrong")[0] == 4

        children = dev.children()
        assert len(children) == 4, children
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.wait(TIMEOUT_S) == 0
        assert not [child for child in children.values() if child.is_running()]
    assert dev.ask("lookup", "1")[0] == 3


def test_a_worker_that_is_killed_comes_back_and_settles_what_waited(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--no-traffic") as dev:
        dev.children()["worker"].kill()
        _, sent = dev.ask("send", "--api", "v3")
        dev.wait_for("ended by SIGKILL")
        dev.look_up_until(sent["id"], is_settled)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_after_a_supervisor_that_was_killed_the_next_start_finds_everything(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--no-traffic") as dev:
        _, sent = dev.ask("send", "--api", "v3")
        dev.look_up_until(sent["id"], is_settled)
        token = read_data_dir(dev.folder).secrets["API_TOKENS"]
        dev.process.kill()
        dev.process.wait(TIMEOUT_S)
    with running(tmp_path / "data", "--no-traffic") as dev:
        assert read_data_dir(dev.folder).secrets["API_TOKENS"] == token
        dev.look_up_until(sent["id"], is_settled)


def test_a_cache_of_ones_own_that_is_away_is_named_with_its_setting(tmp_path: Path) -> None:
    """It starts all the same: the database answers."""
    away = {"CACHE_URL": "redis://127.0.0.1:1/0"}
    with running(tmp_path / "data", "--no-traffic", **away) as dev:
        assert "is CACHE_URL right? `paystate doctor`" in dev.wait_for("the cache cannot be used")
        assert "QUEUE_URL" in dev.wait_for("the queue cannot be used")


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--no-traffic") as dev:
        second = subprocess.run(
            [*PAYSTATE, "dev", "--data-dir", str(dev.folder), "--port", "0"],
            capture_output=True,
            text=True,
            env=environ(),
            timeout=TIMEOUT_S,
            check=False,
        )
    assert second.returncode == 2
    assert f"process {dev.process.pid}" in second.stderr
