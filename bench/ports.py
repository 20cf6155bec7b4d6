"""Ports for servers that are killed and started again at the same address.

In between, nobody else may come to sit there: neither an outgoing connection, so the ports are none
of those that the kernel gives to these, nor a server of another process, so each process has a
block of ports to itself. It holds the block by the UDP port of its first number, which ends with it
however it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import random
import socket
from collections.abc import Iterator

__all__ = ["HOST", "free_port"]

HOST = "127.0.0.1"
# Linux takes the ports of outgoing connections from 32,768 on.
_PORTS = range(10_000, 32_000)
# None is given out again before so many others have been: a server that is down keeps its own.
_BLOCK = 100


def free_port() -> int:
    """Return a loopback port that nobody listens on and nobody else will take.

    Raises RuntimeError if too many processes ask for some.
    """
    _, ports = _block()
    while True:
        port = next(ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


@functools.cache
def _block() -> tuple[socket.socket, Iterator[int]]:
    """Return what holds the block of this process, and its ports."""
    held = socket.socket(type=socket.SOCK_DGRAM)
    firsts = _PORTS[::_BLOCK]
    for first in random.sample(firsts, len(firsts)):
        with contextlib.suppress(OSError):
            held.bind((HOST, first))
            atexit.register(held.close)
            return held, itertools.cycle(range(first, first + _BLOCK))
    held.close()
    raise RuntimeError("every block of ports is held by a process")
