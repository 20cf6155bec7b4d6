"""A TCP proxy that can be told to misbehave: late replies, cut connections, half-open ones.

``python -m bench.proxy PORT JITTER_MS`` runs one before a local port in a process of its own and
prints the port that it listens on: each reply is up to so many milliseconds late.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

__all__ = ["Proxy"]

_CHUNK = 65_536


@dataclass(eq=False)
class _Connection:
    """One client and its own connection to the server; the two may be of different health."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    subscribed: bool = False
    # While this is not set nothing passes, and neither side is told: the connection is half open.
    passing: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        self.client.close()
        self.server.close()


class Proxy:
    """Forwards to a port of this machine; `jitter_s` is the most that a reply is late."""

    def __init__(self, to_port: int, *, jitter_s: float = 0.0, port: int = 0) -> None:
        self._to_port = to_port
        self._jitter_s = jitter_s
        self._rng = random.Random(1)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = port

    async def start(self) -> None:
        """Listen, on the same port each time."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Refuse connections from now on and cut those that there are."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self, *, only_subscribed: bool = False) -> int:
        """Close connections on both sides, those alone that are subscribed, or all."""
        return self._each(_Connection.cut, only_subscribed)

    def freeze(self, *, only_subscribed: bool = False) -> int:
        """Let nothing pass on the connections there are, and tell nobody; new ones are sound."""
        return self._each(lambda connection: connection.passing.clear(), only_subscribed)

    def _each(self, act: Callable[[_Connection], None], only_subscribed: bool) -> int:
        chosen = [c for c in self._connections if c.subscribed or not only_subscribed]
        for connection in chosen:
            act(connection)
        return len(chosen)

    async def close(self) -> None:
        """End everything."""
        self.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.close()
            return
        connection = _Connection(writer, to_server)
        connection.passing.set()
        self._connections.add(connection)

        async def ask(data: bytes) -> None:
            if b"SUBSCRIBE" in data:
                connection.subscribed = True
            if not to_server.is_closing():
                to_server.write(data)

        async def answer(data: bytes) -> None:
            if self._jitter_s:
                await asyncio.sleep(self._rng.random() * self._jitter_s)
            if not writer.is_closing():
                writer.write(data)

        try:
            await asyncio.gather(
                _pump(connection, reader, ask), _pump(connection, from_server, answer)
            )
        finally:
            self._connections.discard(connection)
            connection.cut()


async def _pump(
    connection: _Connection, source: asyncio.StreamReader, give: Callable[[bytes], Awaitable[None]]
) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_CHUNK):
            await connection.passing.wait()
            await give(data)
    connection.cut()


async def _run(to_port: int, jitter_ms: float) -> None:
    proxy = Proxy(to_port, jitter_s=jitter_ms / 1000)
    await proxy.start()
    print(proxy.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_run(int(sys.argv[1]), float(sys.argv[2])))
