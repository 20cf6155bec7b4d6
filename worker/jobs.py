"""The jobs, by the names that `paystate.queue` gives them."""

from __future__ import annotations

import time
from typing import Any

from paystate.logs import logger
from worker.together import Together

__all__ = ["settle"]

log = logger()


async def settle(ctx: dict[str, Any], inbox_ids: list[int]) -> None:
    """Settle the inbox rows `inbox_ids`; whatever is not ended here, the sweeper finds."""
    started = time.perf_counter()
    together: Together = ctx["together"]
    batch = await together.settle(inbox_ids)
    log.info("job_finished", job=ctx["job_id"], attempt=ctx["job_try"], events=len(inbox_ids),
             batch=len(batch.ids), batch_ended=batch.ended,
             duration_ms=round((time.perf_counter() - started) * 1000, 2))  # fmt: skip
