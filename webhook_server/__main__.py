"""``python -m webhook_server``: the web process, or WEB_PROCESSES of them on one port."""

from __future__ import annotations

import asyncio
import sys

from paystate.cache.reports import Reporter
from paystate.connections import REDIS_FAILURES
from paystate.errors import TransientError
from paystate.heartbeat import HEARTBEAT_S, beat
from paystate.logs import logger
from paystate.process import listen, run_process
from paystate.resources import Resources, open_resources
from paystate.settings import Role, Settings
from webhook_server.app import make_app
from webhook_server.front import FrontRunner
from webhook_server.supervisor import CHILD, Supervisor, follow_supervisor


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`, then let requests under way finish; in several processes if asked to."""
    log = logger()
    if settings.web_processes > 1:
        await Supervisor(settings, stop).run()
        return
    child = CHILD in sys.argv[1:]
    async with open_resources(settings) as resources:
        try:
            await resources.store.ping()
            await resources.feed.catch_up()  # before anybody can listen: news begins here
        except TransientError as e:
            log.warning("database_not_ready", reason=e.reason, detail=str(e))
        runner = await listen(
            make_app(resources),
            settings.host,
            settings.port,
            settings.stop_grace_s,
            shared=child,
            runner_class=FrontRunner,
        )
        reporter = Reporter(resources.redis, resources.keys, resources.metrics, "web")
        news = [
            asyncio.create_task(resources.feed.run()),
            asyncio.create_task(_beat(resources)),
            asyncio.create_task(reporter.report_for_ever()),
        ]
        try:
            log.info("web_listening", addresses=[f"{a[0]}:{a[1]}" for a in runner.addresses],
                     lease_ms=settings.lease_ms)  # fmt: skip
            if child:
                follow_supervisor(stop)
            await stop.wait()
            log.info("web_stopping", grace_s=settings.stop_grace_s)
        finally:
            await runner.cleanup()
            for task in news:
                task.cancel()
            await asyncio.wait(news, timeout=2)


async def _beat(resources: Resources) -> None:
    """Keep the heartbeat going; without Redis there is nobody to hear it."""
    while True:
        try:
            await beat(resources.redis, resources.keys, resources.roster.merchants)
        except REDIS_FAILURES:
            logger().info("heartbeat_missed")
        await asyncio.sleep(HEARTBEAT_S)


if __name__ == "__main__":
    sys.exit(run_process("web", Role.WEB, serve))
