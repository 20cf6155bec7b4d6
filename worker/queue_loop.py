"""The arq worker: kept alive when Redis goes away, and woken when a job comes in.

Stock arq looks into the queue twice a second, so a job waits a quarter of a second on average. Here
whoever enqueues also publishes, and the worker looks at once; the slow poll stays as the net below.
"""

from __future__ import annotations

import asyncio
from typing import Any

from arq.worker import Worker, func

from paystate.keys import Keys
from paystate.observability import logger
from paystate.payments.settling import Settler
from paystate.queue import JOB_SETTLE, JOB_TIMEOUT_S, Queue, decode_job, encode_job
from worker.jobs import settle
from worker.together import Together

__all__ = ["QueueLoop"]

log = logger()

# Only a wake-up that was lost waits this long.
POLL_S = 1.0
CANCEL_S = 2.0
# Each needs a connection of the queue's sixteen while it is claimed.
START_AT_ONCE = 8


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
            await self._poll_iteration()
            try:
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start as many jobs as there is room for, some side by side.

        arq starts one after the other, with four round trips each: two hundred jobs a second wait
        for each other then.
        """
        room = max(0, self.max_jobs - self.job_counter)
        for first in range(0, min(room, len(job_ids)), START_AT_ONCE):
            some = job_ids[first : min(first + START_AT_ONCE, room)]
            started = await asyncio.gather(
                *(super(WakefulWorker, self).start_jobs([job_id]) for job_id in some),
                return_exceptions=True,
            )
            for failure in started:
                if isinstance(failure, BaseException):
                    raise failure

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
