"""Retrainings with the hyperparameters of a job, and their models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from drmad_client.records.pages import Page
from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_service.api.file_responses import FILE, SAFETENSORS, file_response
from drmad_service.api.middleware.strict_requests import JsonRoute
from drmad_service.api.routes.dependencies import (
    PROBLEM,
    ChangeableJobId,
    StoreDependency,
    VisibleJobId,
    body_refused,
)

router = APIRouter(prefix="/v1/jobs/{job_id}/retrainings", tags=["results"], route_class=JsonRoute)

_UNKNOWN: dict[int | str, dict[str, Any]] = {404: PROBLEM, 422: PROBLEM}

RetrainingId = Annotated[
    str, Path(max_length=64, description="Id of a retraining, as in retraining_01JD7X8Z9T...")
]


@router.post("", status_code=202, responses={400: PROBLEM, 409: PROBLEM, 413: PROBLEM, **_UNKNOWN})
async def request(
    job_id: ChangeableJobId, asked: RetrainingSpec, store: StoreDependency, response: Response
) -> Retraining:
    """Train from scratch with the hyperparameters that a job found, and with the untuned ones.

    It starts when no job waits for its resources, and trains the seeds of both recipes on as many
    workers as are free. The report has mean and interval of every held-out figure.
    """
    job = await store.get(job_id)
    for path, _, message in job.spec.retraining_misfits(asked):
        raise body_refused(message, *map(str, path))
    iteration = None
    if job.spec.kind == "attribution":
        await store.attribution(job_id)
    else:
        iteration = (await store.iteration(job_id, asked.iteration)).iteration
    found = await store.request_retraining(job_id, iteration, asked)
    response.headers["Location"] = f"/v1/jobs/{job_id}/retrainings/{found.id}"
    return found


@router.get("", responses=_UNKNOWN)
async def list_retrainings(job_id: VisibleJobId, store: StoreDependency) -> Page[Retraining]:
    """List the last retrainings of a job, the newest first."""
    return Page(data=await store.retrainings(job_id), has_more=False, next=None)


@router.get("/{retraining_id}", responses=_UNKNOWN)
async def retrieve(
    job_id: VisibleJobId, retraining_id: RetrainingId, store: StoreDependency
) -> Retraining:
    """Return a retraining, with its report once it has succeeded."""
    return await store.retraining(job_id, retraining_id)


@router.get("/{retraining_id}/model", response_class=Response, responses=FILE)
async def model(
    job_id: VisibleJobId, retraining_id: RetrainingId, store: StoreDependency, request: Request
) -> Response:
    """Return the model of the best seed as safetensors, by state_dict name.

    `Range` and `If-Match` work as for the model of a job.
    """
    file = await store.retrained_model(job_id, retraining_id)
    return await file_response(request, file, SAFETENSORS)


@router.post("/{retraining_id}/cancel", responses={409: PROBLEM, **_UNKNOWN})
async def cancel(
    job_id: ChangeableJobId, retraining_id: RetrainingId, store: StoreDependency
) -> Retraining:
    """Cancel a retraining that is not finished."""
    return await store.cancel_retraining(job_id, retraining_id)
