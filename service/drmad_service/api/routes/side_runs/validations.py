"""Validations of a job's hypergradient by retraining."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from drmad_client.records.pages import Page
from drmad_client.records.side_runs.validation import Validation
from drmad_client.spec.side_runs.validation import ValidationSpec
from drmad_service.api.middleware.strict_requests import JsonRoute
from drmad_service.api.routes.dependencies import (
    PROBLEM,
    ChangeableJobId,
    StoreDependency,
    VisibleJobId,
)

router = APIRouter(prefix="/v1/jobs/{job_id}/validations", tags=["results"], route_class=JsonRoute)

_UNKNOWN: dict[int | str, dict[str, Any]] = {404: PROBLEM, 422: PROBLEM}

ValidationId = Annotated[
    str, Path(max_length=64, description="Id of a validation, as in validation_01JD7X8Z9T...")
]


@router.post(
    "", status_code=202, responses={**dict.fromkeys((400, 409, 413, 415), PROBLEM), **_UNKNOWN}
)
async def request(
    job_id: ChangeableJobId, asked: ValidationSpec, store: StoreDependency, response: Response
) -> Validation:
    """Validate the hypergradient of a job by retraining, on workers beside the jobs.

    It starts when no job waits for its resources, and trains on as many workers as are free.
    """
    iteration = (await store.iteration(job_id, asked.iteration)).iteration
    found = await store.request_validation(job_id, iteration, asked)
    response.headers["Location"] = f"/v1/jobs/{job_id}/validations/{found.id}"
    return found


@router.get("", responses=_UNKNOWN)
async def list_validations(job_id: VisibleJobId, store: StoreDependency) -> Page[Validation]:
    """List the last validations of a job, the newest first."""
    return Page(data=await store.validations(job_id), has_more=False, next=None)


@router.get("/{validation_id}", responses=_UNKNOWN)
async def retrieve(
    job_id: VisibleJobId, validation_id: ValidationId, store: StoreDependency
) -> Validation:
    """Return a validation, with its report once it has succeeded."""
    return await store.validation(job_id, validation_id)


@router.post("/{validation_id}/cancel", responses={409: PROBLEM, **_UNKNOWN})
async def cancel(
    job_id: ChangeableJobId, validation_id: ValidationId, store: StoreDependency
) -> Validation:
    """Cancel a validation that is not finished."""
    return await store.cancel_validation(job_id, validation_id)
