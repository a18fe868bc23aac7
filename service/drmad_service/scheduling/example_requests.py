"""Training examples that pages of jobs show: requested by the API, answered on a worker."""

from __future__ import annotations

import contextlib
import json
import logging

from redis.exceptions import RedisError

from drmad_client.records.job import JobError
from drmad_client.records.side_runs.examples import ShownExamples
from drmad_client.spec.replicas import ReplicasSpec
from drmad_service.errors import JobNotFound
from drmad_service.ray_driver.connection import RayDriver
from drmad_service.scheduling.worker_beside_jobs import answer_of_worker
from drmad_service.scheduling.worker_requests import keep_answering
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.side_runs.examples import KIND
from drmad_service.store.side_runs.worker_requests import WorkerRequest

logger = logging.getLogger(__name__)


async def answer_examples(store: Store, settings: SchedulerSettings, driver: RayDriver) -> None:
    """Answer requests, for ever."""

    async def answer(request: WorkerRequest) -> None:
        asked = json.loads(request.content)
        job_id, rows, with_groups = asked["job"], asked["rows"], asked["groups"]
        found: ShownExamples | JobError
        try:
            found = await _shown(store, job_id, rows, with_groups, settings, driver)
        except Exception as error:
            logger.exception("could not show training examples", extra={"job_id": job_id})
            found = JobError(code="internal_error", message=f"{type(error).__name__}: {error}")
        with contextlib.suppress(RedisError):
            await store.answer_examples(request.id, job_id, found)

    await keep_answering(store, settings, KIND, answer)


async def _shown(
    store: Store,
    job_id: str,
    rows: list[int],
    with_groups: bool,
    settings: SchedulerSettings,
    driver: RayDriver,
) -> ShownExamples | JobError:
    try:
        job = await store.get(job_id)
    except JobNotFound as error:
        return JobError(code="not_found", message=str(error))
    # One replica has all rows in their order.
    spec = job.begun.model_copy(update={"replicas": ReplicasSpec()})
    result = await answer_of_worker(
        store,
        spec,
        settings,
        driver,
        "showing the examples",
        lambda worker: worker.examples.remote(rows, with_groups),
    )
    return result if isinstance(result, JobError) else ShownExamples.model_validate(result)
