"""``python -m bench.peers``: what a plain program does instead, each at its best.

``bare``: an aiohttp server that checks a webhook's HMAC and answers 200, and keeps nothing.
``arq``: a stock arq worker whose job does nothing. Both on uvloop, with hiredis.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import sys
import time
from typing import Any

import uvloop
from aiohttp import web
from arq.connections import RedisSettings
from arq.worker import Worker, func

__all__ = ["JOB"]

JOB = "nothing"


async def _bare(secret: str) -> None:
    key = secret.encode()

    async def receive(request: web.Request) -> web.Response:
        raw = await request.read()
        expected = base64.b64encode(hmac.digest(key, raw, hashlib.sha256)).decode()
        if not hmac.compare_digest(expected, request.headers.get("flutterwave-signature", "")):
            raise web.HTTPUnauthorized
        return web.Response(body=b'{"status":"ok"}', content_type="application/json")

    app = web.Application()
    app.router.add_post("/webhooks/flutterwave", receive)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


async def _arq(url: str, jobs: int, max_jobs: int, poll_s: float) -> None:
    """Run `jobs` jobs; print how long that took from the first one's start, and how each waited."""
    waited: list[float] = []
    started = 0.0

    async def nothing(ctx: dict[str, Any]) -> None:
        nonlocal started
        if not waited:
            started = time.perf_counter()
        waited.append((time.time() - ctx["enqueue_time"].timestamp()) * 1000)

    worker = Worker(
        functions=[func(nothing, name=JOB, keep_result=0)],
        redis_settings=RedisSettings.from_dsn(url),
        handle_signals=False,
        max_jobs=max_jobs,
        poll_delay=poll_s,
        keep_result=0,
        log_results=False,
    )
    running = asyncio.create_task(worker.async_run())
    print(json.dumps({"ready": True}), flush=True)
    while True:
        if worker.jobs_complete >= jobs or running.done():
            break
        await asyncio.sleep(0.002)
    seconds = time.perf_counter() - started
    running.cancel()
    print(json.dumps({"seconds": seconds, "waited_ms": sorted(waited)}), flush=True)


def main() -> None:
    """Be the peer that is named."""
    logging.disable(logging.INFO)
    name, options = sys.argv[1], json.loads(sys.argv[2])
    uvloop.run((_bare if name == "bare" else _arq)(**options))


if __name__ == "__main__":
    main()
