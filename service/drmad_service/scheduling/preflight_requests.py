"""Preflight of jobs that are not created: requested by the API, answered on a worker.

The API never runs user code. It writes a request to Redis; an idle scheduler takes the request,
runs the preflight on a worker and writes the answer.
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
from drmad_service.scheduling.ray_cluster import options_beside_jobs
from drmad_service.scheduling.ray_errors import failure_of
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.scheduling.replica_group import runtime_options
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_workers.ray_actor.actor import Replica
from drmad_workers.ray_actor.messages import Failure

logger = logging.getLogger(__name__)


async def answer_preflights(store: Store, settings: SchedulerSettings) -> None:
    """Answer one request after the other, for ever.

    A preflight reserves no capacity: it is short, and a mistake that it finds saves a whole job.
    """
    while True:
        request = None
        with contextlib.suppress(RedisError):
            request = await store.next_preflight()
        if request is None:
            await asyncio.sleep(settings.poll_s)
            continue
        preflight_id, spec = request
        fields = {"action": "preflight_started", "preflight_id": preflight_id}
        logger.info("runs the preflight of a job", extra=fields)
        try:
            answer = await _preflight(store, spec, settings)
        except Exception as error:
            logger.exception("could not run the preflight of a job")
            answer = JobError(code="internal_error", message=f"{type(error).__name__}: {error}")
        with contextlib.suppress(RedisError):
            await store.answer_preflight(preflight_id, answer)


async def _preflight(
    store: Store, spec: JobSpec, settings: SchedulerSettings
) -> PreflightReport | JobError:
    code = await store.code(spec.problem.code) if spec.problem.kind == "code" else None
    memory = spec.resources.memory_bytes or settings.replica_memory_bytes
    roots = [str(root) for root in settings.data_roots]
    options = await asyncio.to_thread(options_beside_jobs) | runtime_options(spec)
    worker: Any = Replica.options(**options).remote(  # type: ignore[attr-defined]
        spec.model_dump_json(), [0], 1.0, roots, str(settings.data_dir), code, memory
    )
    try:
        async with asyncio.timeout(settings.check_timeout_s):
            result = await future_of(worker.preflight.remote())
    except TimeoutError:
        message = f"the preflight did not end within {settings.check_timeout_s:g} s"
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
