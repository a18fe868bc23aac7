"""The data that recipe.py of a job reads: requested by the API, written by a worker."""

from __future__ import annotations

import contextlib
import logging

from redis.exceptions import RedisError

from drmad_client.records.job import JobError
from drmad_service.errors import JobNotFound
from drmad_service.ray_driver.connection import RayDriver
from drmad_service.scheduling.worker_beside_jobs import answer_of_worker
from drmad_service.scheduling.worker_requests import keep_answering
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.side_runs.recipe_data import KIND
from drmad_service.store.side_runs.worker_requests import WorkerRequest
from drmad_workers.artifacts.artifact import Artifact

logger = logging.getLogger(__name__)


async def answer_recipe_data(store: Store, settings: SchedulerSettings, driver: RayDriver) -> None:
    """Answer requests, for ever."""

    async def answer(request: WorkerRequest) -> None:
        job_id = request.content
        found: Artifact | JobError
        try:
            found = await _written(store, job_id, settings, driver)
        except Exception as error:
            logger.exception("could not write the data of a recipe", extra={"job_id": job_id})
            found = JobError(code="internal_error", message=f"{type(error).__name__}: {error}")
        with contextlib.suppress(RedisError):
            await store.answer_recipe_data(request.id, job_id, found)

    await keep_answering(store, settings, KIND, answer)


async def _written(
    store: Store, job_id: str, settings: SchedulerSettings, driver: RayDriver
) -> Artifact | JobError:
    try:
        job = await store.get(job_id)
    except JobNotFound as error:
        return JobError(code="not_found", message=str(error))
    artifacts, most_bytes = settings.job_artifacts(job_id), settings.max_model_bytes
    found: Artifact | JobError = await answer_of_worker(
        store,
        job.begun,
        settings,
        driver,
        "writing the data",
        lambda worker: worker.recipe_data.remote(artifacts, most_bytes),
    )
    return found
