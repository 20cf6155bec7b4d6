"""The arq worker: kept alive when Redis goes away, and woken when a job comes in.

Stock arq looks into the queue twice a second, so a job waits a quarter of a second on average. Here
whoever enqueues also publishes, and the worker looks at once; the slow poll stays as the net below.
"""

from __future__ import annotations

import asyncio
from typing import Any

from arq.constants import in_progress_key_prefix
from arq.utils import timestamp_ms
from arq.worker import Worker, func

from paystate.cache.scripts import Script, load, run
from paystate.connections import REDIS_FAILURES
from paystate.keys import Keys
from paystate.logs import logger
from paystate.payments.settling import Settler
from paystate.queue import JOB_SETTLE, JOB_TIMEOUT_S, Queue, decode_job, encode_job
from worker.jobs import settle
from worker.together import Together

__all__ = ["QueueLoop"]

log = logger()

# Only a wake-up that was lost waits this long.
POLL_S = 1.0
CANCEL_S = 2.0
TAKE: Script = load("worker", "take")


async def _wake_after_job(ctx: dict[Any, Any]) -> None:
    woken: asyncio.Event = ctx["woken"]
    woken.set()  # there is room for another job now


class WakefulWorker(Worker):
    """An arq worker that looks into the queue when told to, and at least every `POLL_S`."""

    def __init__(self, woken: asyncio.Event, stop: asyncio.Event, **options: Any) -> None:
        super().__init__(after_job_end=_wake_after_job, **options)
        self._woken = woken
        self._stop = stop

    async def main(self) -> None:
        """Poll until told to stop, in place of arq's loop, which sleeps whatever happens.

        Told, not cancelled: a cancellation can get lost in the client's own timeouts, and could
        come between a job's claim and its start.
        """
        while not self._stop.is_set():
            self._woken.clear()
            await self.take()
            try:
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def take(self) -> None:
        """Start every job that is due and free, as far as there is room, after one round trip.

        arq looks into the queue and then claims one job after the other, with four round trips
        each: two hundred jobs a second wait for each other then.
        """
        room = self.max_jobs - self.job_counter
        if room > 0:
            claim_ms = int(self.in_progress_timeout_s * 1000)
            arguments = (timestamp_ms(), room, self.queue_read_limit, in_progress_key_prefix,
                         claim_ms)  # fmt: skip
            (taken,) = await run(self.pool, [(TAKE, self.queue_name, arguments)])
            if isinstance(taken, Exception):
                raise taken
            for job_id, score in taken:
                await self._start(job_id.decode(), int(score))
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                task.result()  # what went wrong beside the job itself: it is the loop's to see
        await self.heart_beat()

    async def _start(self, job_id: str, score: int) -> None:
        """Run a job that is claimed, as arq does it."""
        await self.sem.acquire()
        self.job_counter += 1
        task = asyncio.get_running_loop().create_task(self.run_job(job_id, score))
        task.add_done_callback(lambda _: self._release_sem_dec_counter_on_complete())
        self.tasks[job_id] = task

    async def finish(self, grace_s: float) -> None:
        """Let jobs under way finish; cancel what is left after `grace_s`.

        `main` must have ended: it could be just about to start another.
        """
        running = list(self.tasks.values())
        if running:
            _, late = await asyncio.wait(running, timeout=grace_s)
            for task in (*late, *self.job_tasks.values()):
                task.cancel()
            # Waited for with an end: redis-py can lose a cancellation that comes as it has sent.
            await asyncio.wait(running, timeout=CANCEL_S)
        for task in running:
            # Where Redis went away the loop has told of it, once for all jobs.
            error = task.exception() if task.done() and not task.cancelled() else None
            if error is not None and not isinstance(error, REDIS_FAILURES):
                log.error("job_failed", error=type(error).__name__)


class QueueLoop:
    """Runs jobs from the queue; one for each worker process."""

    def __init__(
        self, queue: Queue, settler: Settler, keys: Keys, stop: asyncio.Event, *, jobs: int
    ) -> None:
        self._stop = stop
        self._queue = queue
        self._together = Together(settler)
        self._keys = keys
        self._jobs = jobs
        self._woken = asyncio.Event()
        self._worker: WakefulWorker | None = None

    @property
    def crowded(self) -> bool:
        """Whether jobs wait for others to be settled."""
        return self._together.crowded

    async def work(self) -> None:
        """Run jobs until told to stop. Raises what Redis raises; begun again, it goes on."""
        worker = WakefulWorker(
            self._woken,
            self._stop,
            functions=[func(settle, name=JOB_SETTLE, timeout=JOB_TIMEOUT_S, keep_result=0)],
            redis_pool=self._queue.redis,
            queue_name=self._keys.queue,
            handle_signals=False,
            max_jobs=self._jobs,
            job_timeout=JOB_TIMEOUT_S,
            keep_result=0,
            max_tries=3,
            poll_delay=POLL_S,
            job_serializer=encode_job,
            job_deserializer=decode_job,
            ctx={"together": self._together, "woken": self._woken},
            log_results=False,
        )
        if self._worker is not None:
            await self._worker.finish(grace_s=0)
        self._worker = worker
        await worker.main()

    async def hear_wakes(self) -> None:
        """Listen for wake-ups until cancelled; hearing none costs a poll's wait, nothing else."""
        async with self._queue.redis.pubsub() as pubsub:
            await pubsub.subscribe(self._keys.wake)
            while True:
                message = await pubsub.get_message(timeout=30)
                if message is not None:
                    # A `subscribe` message too: after a silent reconnect something was missed.
                    self._woken.set()

    def wake(self) -> None:
        """Have the queue looked into now, or the stop noticed."""
        self._woken.set()

    async def finish(self, grace_s: float) -> None:
        """Let jobs under way finish, once `work` has ended."""
        if self._worker is not None:
            await self._worker.finish(grace_s)
        await self._together.finish(CANCEL_S)
