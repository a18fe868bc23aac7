"""Asks a new worker beside the running jobs for one thing, and stops it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from drmad_client.records.job import JobError
from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.ray_cluster import options_beside_jobs
from drmad_service.scheduling.ray_errors import failure_of
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.scheduling.replica_group import runtime_options
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_workers.ray_actor.actor import Replica
from drmad_workers.ray_actor.messages import Failure


async def answer_of_worker(
    store: Store,
    spec: JobSpec,
    settings: SchedulerSettings,
    what: str,
    ask: Callable[[Any], Any],
) -> Any | JobError:
    """The result of the call that `ask` makes of a worker with the problem of `spec`.

    It reserves no capacity: it is short. `what` names it in the error of a timeout.
    """
    code = await store.code(spec.problem.code) if spec.problem.kind == "code" else None
    memory = spec.resources.memory_bytes or settings.replica_memory_bytes
    roots = [str(root) for root in settings.data_roots]
    options = await asyncio.to_thread(options_beside_jobs) | runtime_options(spec)
    worker: Any = Replica.options(**options).remote(  # type: ignore[attr-defined]
        spec.model_dump_json(), [0], 1.0, roots, str(settings.data_dir), code, memory
    )
    try:
        async with asyncio.timeout(settings.check_timeout_s):
            result = await future_of(ask(worker))
    except TimeoutError:
        message = f"{what} did not end within {settings.check_timeout_s:g} s"
        return JobError(code="timeout", message=message)
    except RayError as error:
        failure = failure_of(error)
        return JobError(code=failure.code, message=failure.message)
    finally:
        with contextlib.suppress(RayError):
            await asyncio.to_thread(ray.kill, worker)
    if isinstance(result, Failure):
        return JobError(code=result.code, message=result.message, traceback=result.traceback)
    return result
