"""Asks a new worker beside the running jobs for one thing, and stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from drmad_client.records.job import JobError
from drmad_client.spec.job import JobSpec
from drmad_service.ray_driver.connection import CallFailed, RayDriver
from drmad_service.scheduling.ray_cluster import place_beside_jobs
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.scheduling.replica_group import runtime_options
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_workers.ray_actor.messages import Failure


async def answer_of_worker(
    store: Store,
    spec: JobSpec,
    settings: SchedulerSettings,
    driver: RayDriver,
    what: str,
    ask: Callable[[Any], Any],
) -> Any | JobError:
    """The result of the call that `ask` makes of a worker with the problem of `spec`.

    It reserves no capacity: it is short. `what` names it in the error of a timeout.
    """
    code = await store.code(spec.problem.code) if spec.problem.kind == "code" else None
    memory = spec.resources.memory_bytes or settings.replica_memory_bytes
    roots = [str(root) for root in settings.data_roots]
    options, place = await place_beside_jobs(driver)
    folder = str(settings.data_dir)
    artifacts = settings.job_artifacts("beside")  # it keeps nothing there, but says whether it can
    arguments = (spec.model_dump_json(), [0], 1.0, roots, folder, code, memory, (), artifacts)
    worker = driver.create("Replica", options | runtime_options(spec), place, *arguments)
    try:
        async with asyncio.timeout(settings.check_timeout_s):
            result = await future_of(ask(worker))
    except TimeoutError:
        message = f"{what} did not end within {settings.check_timeout_s:g} s"
        return JobError(code="timeout", message=message)
    except CallFailed as error:
        failure = error.failure
        return JobError(code=failure.code, message=failure.message)
    finally:
        driver.kill(worker)
    if isinstance(result, Failure):
        return JobError(code=result.code, message=result.message, traceback=result.traceback)
    return result
