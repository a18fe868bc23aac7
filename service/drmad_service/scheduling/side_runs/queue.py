"""Takes runs beside jobs from the store, and drives each in its own task."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from redis.exceptions import RedisError

from drmad_service.cancellation import cancel_and_wait
from drmad_service.ray_driver.connection import RayDriver, RayLost
from drmad_service.scheduling.ray_cluster import ComputeCluster
from drmad_service.scheduling.side_runs.driver import SideRunDriver
from drmad_service.scheduling.side_runs.retraining import RetrainingRun
from drmad_service.scheduling.side_runs.validation import ValidationRun
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store

logger = logging.getLogger(__name__)

MOST_WORKERS = 16
"""Bounds the workers of a run: each builds the problem anew."""
_DRIVERS: dict[str, type[SideRunDriver]] = {
    "validation": ValidationRun,
    "retraining": RetrainingRun,
}


async def keep_running_beside(
    store: Store, settings: SchedulerSettings, cluster: ComputeCluster, driver: RayDriver
) -> None:
    """Drive every run that fits beside the jobs, for ever."""
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            held = None
            with contextlib.suppress(RedisError, RayLost):
                capacity = await cluster.capacity()
                held = await store.next_run(settings.lease_s, capacity, MOST_WORKERS)
            if held is None:
                await asyncio.sleep(settings.poll_s)
                continue
            fields = {"action": f"{held.kind}_started", "job_id": held.job_id}
            logger.info("began a %s on %d workers", held.kind, held.workers, extra=fields)
            run = _DRIVERS[held.kind](store, settings, held, driver)
            task = asyncio.create_task(run.run())
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        await cancel_and_wait([*running])
