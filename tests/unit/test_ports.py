"""Ports for the servers of tests and benches: each is its process's own."""

from __future__ import annotations

import subprocess
import sys

from bench.ports import _block, free_port

ASK = """
import sys
from bench import ports
ports._PORTS = range(int(sys.argv[1]), int(sys.argv[2]))
print(ports.free_port())
"""


def test_no_port_is_given_out_again_soon() -> None:
    assert len({free_port() for _ in range(50)}) == 50


def test_no_other_process_has_one_of_ours() -> None:
    """Where there are no others, it has none."""
    held, _ = _block()
    first = held.getsockname()[1]
    asked = [sys.executable, "-c", ASK, str(first), str(first + 100)]
    other = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert other.stderr.endswith("RuntimeError: every block of ports is held by a process\n")
