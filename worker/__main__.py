"""``python -m worker``: the worker process."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from paystate.health import health_routes
from paystate.observability import logger
from paystate.process import listen, run_process
from paystate.resources import open_resources
from paystate.settings import Role, Settings
from worker.loops import forever
from worker.queue_loop import QueueLoop
from worker.sweep import Sweeper


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Work until `stop`, then let jobs under way finish."""
    log = logger()
    async with open_resources(settings) as resources:
        app = web.Application()
        app.add_routes(health_routes(resources))
        runner = await listen(app, settings.host, settings.worker_port, settings.stop_grace_s)
        queue = QueueLoop(
            resources.queue, resources.settler, resources.keys, jobs=settings.worker_jobs
        )
        sweeper = Sweeper(resources.settler, resources.store, resources.metrics)
        work = {
            "queue": queue.work,
            "wakes": queue.hear_wakes,
            "sweep": sweeper.work,
            "gauges": sweeper.measure,
        }
        loops = [asyncio.create_task(forever(name, task)) for name, task in work.items()]
        try:
            log.info("worker_started", addresses=[f"{a[0]}:{a[1]}" for a in runner.addresses],
                     jobs=settings.worker_jobs)  # fmt: skip
            await stop.wait()
            log.info("worker_stopping", grace_s=settings.stop_grace_s)
            await queue.finish(settings.stop_grace_s)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await runner.cleanup()


if __name__ == "__main__":
    sys.exit(run_process("worker", Role.WORKER, run))
