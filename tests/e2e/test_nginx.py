"""The nginx example in front of a server, where nginx is installed (deploy/debian-packages.txt)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from deploy.check.product import default
from deploy.check.tools import find, make_nginx_folder
from deploy.check.tree import Tree
from tests.parts import HANGS_S, ROOT

pytestmark = pytest.mark.skipif(
    find("nginx") is None or find("openssl") is None,
    reason="nginx is not installed: see deploy/debian-packages.txt",
)


@dataclass
class Behind:
    """What stands behind nginx: it notes what came, and holds streams until told."""

    came: list[tuple[str, bytes]] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def webhook(self, request: web.Request) -> web.Response:
        """Note the path as it was sent, and the body."""
        self.came.append((request.raw_path, await request.read()))
        return web.Response()

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send one event, and the next when told to."""
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"event: status\n\n")
        await self.go_on.wait()
        await stream.write(b"event: change\n\n")
        return stream


@asynccontextmanager
async def example(
    behind: Behind, folder: Path, changes: dict[str, str] | None = None
) -> AsyncIterator[str]:
    """Run nginx by the example, over plain HTTP and with `changes`, and give its socket."""
    app = web.Application(client_max_size=2**20)
    app.add_routes(
        [
            web.get("/api/payments/{id}/events", behind.events),
            web.route("*", "/{rest:.*}", behind.webhook),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    # No ports, which another run could take meanwhile.
    address, other = str(folder / "nginx"), str(folder / "other")
    path = make_nginx_folder(Tree(ROOT), folder, {
        "server 127.0.0.1:8080": f"server 127.0.0.1:{runner.addresses[0][1]}",
        "listen 80;": f"listen unix:{other};",
        "listen 443 ssl;": f"listen unix:{address};",
        **(changes or {}),
    })  # fmt: skip
    nginx = await asyncio.create_subprocess_exec(
        find("nginx") or "nginx", "-p", str(folder), "-c", str(path), "-g", "daemon off;",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _listening(address, nginx)
        yield address
    finally:
        if nginx.returncode is None:
            nginx.terminate()
        await nginx.wait()
        await runner.cleanup()


async def _listening(address: str, nginx: asyncio.subprocess.Process) -> None:
    """Wait until nginx takes connections: it does not say when."""
    while nginx.returncode is None:
        try:
            _, writer = await asyncio.open_unix_connection(address)
        except OSError:
            await asyncio.sleep(0.01)  # a socket tells nobody that it is open
        else:
            return writer.close()
    raise AssertionError("nginx has ended")


async def test_nginx_passes_what_it_should_and_nothing_else(scratch: Path) -> None:
    """Bodies and paths as they came, up to the limit; events at once."""
    behind = Behind()
    limit = default("MAX_BODY_BYTES")
    async with (
        asyncio.timeout(HANGS_S),
        example(behind, scratch) as address,
        aiohttp.ClientSession(
            "http://pay.example.com", connector=aiohttp.UnixConnector(address)
        ) as session,
    ):
        body = bytes(range(256)) * (limit // 256)
        path = "/webhooks/flutterwave"
        async with session.post(path, data=body) as response:
            assert response.status == 200
        async with session.post(path, data=body + b"!") as response:
            assert response.status == 413
        raw = "/api/payments/by-ref/a%2Fb%20c/status?x=%2F"
        async with session.get(URL(f"http://pay.example.com{raw}", encoded=True)) as response:
            assert response.status == 200
        assert behind.came == [(path, body), (raw, b"")]

        for inside in ("/metrics", "/healthz", "/readyz"):
            async with session.get(inside) as response:
                assert response.status == 404
        assert len(behind.came) == 2

        async with session.get("/api/payments/7/events") as response:
            assert await response.content.readuntil(b"\n\n") == b"event: status\n\n"
            behind.go_on.set()
            assert await response.content.read() == b"event: change\n\n"


async def test_nginx_does_not_wait_long_for_the_rest_of_a_head(scratch: Path) -> None:
    soon = {"client_header_timeout 10s;": "client_header_timeout 200ms;"}
    async with asyncio.timeout(HANGS_S), example(Behind(), scratch, soon) as address:
        reader, writer = await asyncio.open_unix_connection(address)
        writer.write(b"GET /api/changes HTTP/1.1\r\nHost: h")
        assert await reader.read() == b""  # closed
        writer.close()
