"""The wire to one server: many calls, one round trip, and little else.

redis-py's own pipeline spends about fifteen microseconds on each reply: a timeout, three coroutines
and a callback. Nobody asks for one reply of a pipeline alone, so here one timeout guards them all,
and a loop reads them. Connecting, TLS, passwords and the parsers are redis-py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError


def _pack_slowly(command: tuple[Any, ...]) -> bytes:
    """Return a command as the server takes it."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


_pack: Callable[[tuple[Any, ...]], bytes]
try:
    from hiredis import pack_command as _pack
except ImportError:  # a reader has it only where its service installs it
    _pack = _pack_slowly


__all__ = [
    "Client",
    "PlainWire",
    "SentinelTlsWire",
    "SentinelWire",
    "TlsWire",
    "Wire",
    "WirePipeline",
    "WirePool",
]


# Writing to a connection that has closed is a RuntimeError of uvloop's, which neither redis-py nor
# those who ask through it expect of a server that went away.
_CLOSED = "the connection has closed"


class Wire(AbstractConnection):
    """A connection over which a batch of commands is one exchange."""

    @property
    def quiet(self) -> bool:
        """Whether it is open as far as anybody has heard."""
        return self.is_connected and self._reader is not None and not self._reader.at_eof()

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send `commands` and return their replies in order; an error reply stands in its place.

        `socket_timeout` bounds it all. Raises redis-py's ConnectionError and TimeoutError, and then
        nothing may be known of any command; the connection is closed, for what is still to come on
        it would be taken for the answer to something else.
        """
        parser: Any = self._parser
        writer: Any = self._writer  # there is one: a pool hands out what is connected
        try:
            async with asyncio.timeout(self.socket_timeout):
                try:
                    writer.write(b"".join(map(_pack, commands)))
                    await writer.drain()
                except RuntimeError as e:
                    raise ConnectionResetError(_CLOSED) from e
                replies = [await parser.read_response() for _ in commands]
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("the server did not answer in time") from None
        except OSError as e:
            await self.disconnect(nowait=True)
            raise RedisConnectionError("the connection broke") from e
        except BaseException:
            await self.disconnect(nowait=True)
            raise
        return replies

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        """Write what redis-py does not send as an `exchange`: single commands, greetings.

        It lets a turn of the event loop pass before this, in which the connection may close.
        """
        try:
            await super()._send_packed_command(command)
        except RuntimeError as e:
            raise ConnectionResetError(_CLOSED) from e


class PlainWire(Wire, Connection):
    """A connection by TCP."""


class TlsWire(Wire, SSLConnection):
    """A connection by TLS."""


class _ToPrimary(Wire):
    """A connection to a primary; one that has become a replica is left."""

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies = await super().exchange(commands)
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            await self.disconnect(nowait=True)
            raise RedisConnectionError("the primary has become a replica")
        return replies


class SentinelWire(_ToPrimary, SentinelManagedConnection):
    """A connection to wherever the sentinels say."""


class SentinelTlsWire(_ToPrimary, SentinelManagedSSLConnection):
    """The same by TLS."""


class WirePool(BlockingConnectionPool):
    """A pool that does not look into a connection that is open: that costs more than a call.

    A server that has closed a connection is found out by the event loop, before it is handed out.
    While nobody has to wait for one, connections change hands without a lock.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._callers_waiting = 0

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        """Return a connection that is open, once there is one."""
        del command_name, keys, options  # which redis-py has given up
        if self._available_connections:
            connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
            if isinstance(connection, Wire) and connection.quiet:
                return connection
            self._hand_back(connection)
        self._callers_waiting += 1
        try:
            waited_for: AbstractConnection = await super().get_connection()
            return waited_for
        finally:
            self._callers_waiting -= 1

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back."""
        if self._callers_waiting:
            await super().release(connection)
        else:
            self._hand_back(connection)

    def _hand_back(self, connection: AbstractConnection) -> None:
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Connect it if it is not open."""
        if not (isinstance(connection, Wire) and connection.quiet):
            await super().ensure_connection(connection)


class WirePipeline:
    """Calls that share a round trip, on one connection of `pool`."""

    def __init__(self, pool: BlockingConnectionPool) -> None:
        self._pool = pool
        self._commands: list[tuple[Any, ...]] = []

    async def __aenter__(self) -> WirePipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reset()

    async def reset(self) -> None:
        """Forget what was added."""
        self._commands = []

    def execute_command(self, *command: Any) -> None:
        """Add any command."""
        self._commands.append(command)

    def get(self, name: str) -> None:
        """Add a GET."""
        self._commands.append(("GET", name))

    def hmget(self, name: str, keys: Sequence[str]) -> None:
        """Add an HMGET."""
        self._commands.append(("HMGET", name, *keys))

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> None:
        """Add an EVALSHA."""
        self._commands.append(("EVALSHA", sha, numkeys, *keys_and_args))

    def publish(self, channel: str, message: Any) -> None:
        """Add a PUBLISH."""
        self._commands.append(("PUBLISH", channel, message))

    def script_load(self, script: str) -> None:
        """Add a SCRIPT LOAD."""
        self._commands.append(("SCRIPT", "LOAD", script))

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the calls and return their replies, with an error reply in its place or raised."""
        commands, self._commands = self._commands, []
        if not commands:
            return []
        connection: Any = await self._pool.get_connection()
        try:
            replies: list[Any] = await connection.exchange(commands)
        finally:
            await self._pool.release(connection)
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies


class Client(Redis):
    """redis-py's client, whose pipelines without a transaction are a `WirePipeline`."""

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Return a pipeline."""
        if transaction:
            return super().pipeline(transaction, shard_hint)
        return WirePipeline(self.connection_pool)  # type: ignore[arg-type]
