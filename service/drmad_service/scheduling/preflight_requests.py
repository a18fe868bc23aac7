"""Preflight of jobs that are not created: requested by the API, answered on a worker.

The API never runs user code. It writes a request to Redis; a scheduler takes the request, runs the
preflight on a worker and writes the answer.
"""

from __future__ import annotations

import contextlib
import logging

from redis.exceptions import RedisError

from drmad_client.records.job import JobError, PreflightReport
from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.online import checkpoint_refusal
from drmad_service.ray_driver.connection import RayDriver
from drmad_service.scheduling.worker_beside_jobs import answer_of_worker
from drmad_service.scheduling.worker_requests import keep_answering
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.side_runs.preflights import KIND
from drmad_service.store.side_runs.worker_requests import WorkerRequest

logger = logging.getLogger(__name__)


async def answer_preflights(store: Store, settings: SchedulerSettings, driver: RayDriver) -> None:
    """Answer requests, for ever.

    A preflight reserves no capacity: it is short, and a mistake that it finds saves a whole job.
    """

    async def answer(request: WorkerRequest) -> None:
        fields = {"action": "preflight_started", "preflight_id": request.id}
        logger.info("runs the preflight of a job", extra=fields)
        found: PreflightReport | JobError
        try:
            spec = JobSpec.model_validate_json(request.content)
            found = await _preflight(store, spec, settings, driver)
        except Exception as error:
            logger.exception("could not run the preflight of a job")
            found = JobError(code="internal_error", message=f"{type(error).__name__}: {error}")
        with contextlib.suppress(RedisError):
            await store.answer_preflight(request.id, found)

    await keep_answering(store, settings, KIND, answer)


async def _preflight(
    store: Store, spec: JobSpec, settings: SchedulerSettings, driver: RayDriver
) -> PreflightReport | JobError:
    result = await answer_of_worker(
        store,
        spec,
        settings,
        driver,
        "the preflight",
        lambda worker: worker.preflight.remote(settings.max_model_bytes),
    )
    if isinstance(result, JobError):
        return result
    report = PreflightReport.model_validate(result)
    size, count = report.checkpoint_bytes or 0, spec.replicas.count
    if refusal := checkpoint_refusal(size, count, settings.max_model_bytes):
        return JobError(code="checkpoint_too_large", message=refusal)
    return report
