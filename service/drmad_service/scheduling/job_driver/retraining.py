"""The retraining that a job asks for at its end, by its field retrain."""

from __future__ import annotations

from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_service.errors import ResultNotFound, RetrainingRefused
from drmad_service.scheduling.job_driver.driven_job import DrivenJob


async def request_retraining(job: DrivenJob) -> None:
    """Request the retraining of a job whose result is committed, before it succeeds.

    It runs beside the jobs, once this one has released its workers. A scheduler that is lost in
    between leaves a request that the next one finds. What prevents it becomes a warning.
    """
    if job.spec.retrain is None:
        return
    store, job_id = job.store, job.lease.job_id
    best = (await store.get(job_id)).best
    iteration = None if best is None else best.iteration
    asked = RetrainingSpec.model_validate(job.spec.retrain.model_dump())
    for found in await store.retrainings(job_id):
        is_ours = found.at_end and (found.iteration, found.asked) == (iteration, asked)
        if is_ours and found.status not in ("failed", "cancelled"):
            return
    try:
        await job.persist(lambda: store.request_retraining(job_id, iteration, asked, at_end=True))
    except (RetrainingRefused, ResultNotFound) as error:
        message = f"the job is not retrained at its end: {error}"
        await job.persist(lambda: store.warn(job.lease, "not_retrained", message))
