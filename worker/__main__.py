"""``python -m worker``: the worker process."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from paystate.audit import open_audit
from paystate.cache.reports import Reporter
from paystate.errors import StoreUnavailable
from paystate.health import health_routes
from paystate.heartbeat import HEARTBEAT_S, beat
from paystate.logs import logger
from paystate.payments.retention import Pruner, Retention
from paystate.process import listen, run_process
from paystate.resources import open_resources
from paystate.settings import Role, Settings
from worker.audit import Auditor
from worker.loops import forever, pause
from worker.pruning import PruningLoop
from worker.queue_loop import QueueLoop
from worker.reconcile import ReconcileLoop
from worker.sweep import Sweeper

# A cancelled task that still has not ended is left to the end of the process.
CANCEL_S = 2.0


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Work until `stop`, then let jobs under way finish."""
    log = logger()
    async with open_resources(settings) as resources, open_audit(resources) as audit:
        app = web.Application()
        app.add_routes(health_routes(resources))
        runner = await listen(
            app, settings.host, settings.worker_port, settings.stop_grace_s, setting="WORKER_PORT"
        )
        try:
            await resources.store.ping()
        except StoreUnavailable as e:
            log.warning("database_not_ready", reason=e.reason, detail=str(e))
        queue = QueueLoop(
            resources.queue, resources.settler, resources.keys, stop, jobs=settings.worker_jobs
        )
        sweeper = Sweeper(
            resources.settler,
            resources.store,
            resources.metrics,
            stop,
            crowded=lambda: queue.crowded,
        )

        auditor = Auditor(audit, stop, every_s=settings.audit_round_s, sample=settings.audit_sample)

        async def heartbeat() -> None:
            await beat(resources.redis, resources.keys, resources.roster.merchants)
            await pause(stop, HEARTBEAT_S)

        rounds = {
            "queue": queue.work,
            "sweep": sweeper.work,
            "gauges": sweeper.measure,
            "heartbeat": heartbeat,
        }
        working = [asyncio.create_task(forever(n, w, stop)) for n, w in rounds.items()]
        # These have nothing to finish, and end at once.
        pruner = Pruner(resources.store, Retention(
            settings.inbox_keep_days, settings.event_keys_keep_days, settings.changes_keep_days
        ))  # fmt: skip
        reporter = Reporter(resources.redis, resources.keys, resources.metrics, "worker")
        aside = {"wakes": queue.hear_wakes, "audit": auditor.work, "audit_news": auditor.hear,
                 "pruning": PruningLoop(pruner, stop).work,
                 "reports": reporter.report_for_ever, "reconcile": ReconcileLoop(
                     resources.reconciliation, stop, every_s=settings.reconcile_every_s
                 ).work}  # fmt: skip
        listening = [asyncio.create_task(forever(n, w, stop)) for n, w in aside.items()]
        try:
            log.info("worker_started", addresses=[f"{a[0]}:{a[1]}" for a in runner.addresses],
                     jobs=settings.worker_jobs)  # fmt: skip
            await stop.wait()
            log.info("worker_stopping", grace_s=settings.stop_grace_s)
        finally:
            # No new jobs; then what is under way is finished; then what it stands on is closed.
            stop.set()
            queue.wake()
            _, late = await asyncio.wait(working, timeout=settings.stop_grace_s)
            await queue.finish(settings.stop_grace_s)
            for task in (*late, *listening):
                task.cancel()
            await asyncio.wait((*late, *listening), timeout=CANCEL_S)
            await runner.cleanup()


if __name__ == "__main__":
    sys.exit(run_process("worker", Role.WORKER, run))
