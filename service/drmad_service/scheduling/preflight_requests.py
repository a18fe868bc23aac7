"""Checks of jobs that are not created: asked by the API, answered on a worker.

The API never runs user code, so it leaves a question in Redis; the first scheduler that has a hand
free takes it, has a worker rehearse the job, and leaves the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import ray
from ray.exceptions import RayError
from redis.exceptions import RedisError

from drmad_client.records.job import JobError, PreflightReport
from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.ray_errors import failure_of
from drmad_service.scheduling.replica_group import beside_jobs, runtime
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_workers.ray_actor.actor import Replica
from drmad_workers.ray_actor.messages import Failure

logger = logging.getLogger(__name__)


async def answer_preflights(store: Store, settings: SchedulerSettings) -> None:
    """Answer one check after the other, for ever.

    A check reserves nothing: it is short, and what it finds out saves the time of a job.
    """
    while True:
        asked = None
        with contextlib.suppress(RedisError):
            asked = await store.next_preflight()
        if asked is None:
            await asyncio.sleep(settings.poll_s)
            continue
        preflight_id, spec = asked
        logger.info("checks a job", extra={"action": "job_checked", "preflight_id": preflight_id})
        try:
            answer = await _tried(store, spec, settings)
        except Exception as error:
            logger.exception("could not check a job")
            answer = JobError(code="internal_error", message=f"{type(error).__name__}: {error}")
        with contextlib.suppress(RedisError):
            await store.answer_preflight(preflight_id, answer)


async def _tried(
    store: Store, spec: JobSpec, settings: SchedulerSettings
) -> PreflightReport | JobError:
    code = await store.code(spec.problem.code) if spec.problem.kind == "code" else None
    memory = spec.resources.memory_bytes or settings.replica_memory_bytes
    roots = [str(root) for root in settings.data_roots]
    options = await asyncio.to_thread(beside_jobs) | runtime(spec)
    worker: Any = Replica.options(**options).remote(  # type: ignore[attr-defined]
        spec.model_dump_json(), [0], 1.0, roots, str(settings.data_dir), code, memory
    )
    try:
        async with asyncio.timeout(settings.check_timeout_s):
            result = await asyncio.wrap_future(worker.preflight.remote().future())
    except TimeoutError:
        message = f"the check did not end within {settings.check_timeout_s:g} s"
        return JobError(code="timeout", message=message)
    except RayError as error:
        failure = failure_of(error)
        return JobError(code=failure.code, message=failure.message)
    finally:
        with contextlib.suppress(RayError):
            await asyncio.to_thread(ray.kill, worker)
    if isinstance(result, Failure):
        return JobError(code=result.code, message=result.message, traceback=result.traceback)
    return PreflightReport.model_validate(result)
