"""What a job has found: history, hyperparameters, hypergradients, the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field

from drmad_client.records.job import MetaIteration, Page, Record, Trial
from drmad_service.api import array_responses
from drmad_service.api.routes.dependencies import PROBLEM, JobId, StoreDependency

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

SAFETENSORS = "application/vnd.safetensors"
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: PROBLEM, 422: PROBLEM}
_ARRAYS: dict[int | str, dict[str, Any]] = {
    200: {"content": {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}},
    **_UNKNOWN,
}

Which = Annotated[
    Literal["best", "last"] | Annotated[int, Query(ge=0, lt=2**31)],
    Query(description="best (lowest validation loss), last, or a number."),
]
Accept = Annotated[str, Header(description=f"{SAFETENSORS} for the arrays themselves.")]


class Fidelity(Record):
    """How far the job's hypergradients can be trusted."""

    report: dict[str, Any] | None = Field(
        description="Of the method that the spec names, held against replay before the first "
        "meta-iteration; null where it is exact, or where auto chooses."
    )
    choices: list[dict[str, Any]] = Field(
        description="Each look of auto: its meta-iteration, the method chosen, the figures of all."
    )


@router.get("/history", responses=_UNKNOWN)
async def history(
    job_id: JobId,
    store: StoreDependency,
    after: Annotated[int | None, Query(ge=0, lt=2**31, description="Iterations after it.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    every: Annotated[int, Query(ge=1, le=2**31, description="Only multiples of it.")] = 1,
) -> Page[MetaIteration]:
    """MetaIteration records, in order."""
    return await store.history(job_id, after, limit, every)


@router.get("/trials", responses=_UNKNOWN)
async def trials(
    job_id: JobId,
    store: StoreDependency,
    after: Annotated[int | None, Query(ge=0, lt=2**31, description="Trials after it.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Trial]:
    """The trials of the job's search, in their order; they are no meta-iterations."""
    return await store.trials(job_id, after, limit)


@router.get("/hyperparameters", response_model=array_responses.Arrays, responses=_ARRAYS)
async def hyperparameters(
    job_id: JobId, store: StoreDependency, iteration: Which = "best", accept: Accept = "*/*"
) -> Any:
    """The hyperparameters with which a meta-iteration trained.

    JSON has shapes and summaries, and the values in the user's units where they are few;
    safetensors has all of them, raw, and its metadata the transforms to the user's units.
    """
    return await _arrays(store, job_id, "state", iteration, accept)


@router.get("/hypergradients", response_model=array_responses.Arrays, responses=_ARRAYS)
async def hypergradients(
    job_id: JobId, store: StoreDependency, iteration: Which = "last", accept: Accept = "*/*"
) -> Any:
    """The derivative of the validation loss in the raw hyperparameters of a meta-iteration."""
    return await _arrays(store, job_id, "hypergradient", iteration, accept)


@router.get("/fidelity", responses=_UNKNOWN)
async def fidelity(job_id: JobId, store: StoreDependency) -> Fidelity:
    """What was measured of the methods on this job's own problem, and which was chosen."""
    return Fidelity(**await store.fidelity(job_id))


@router.get("/model", response_class=Response, responses=_ARRAYS)
async def model(
    job_id: JobId, store: StoreDependency, iteration: Literal["best", "last"] = "best"
) -> Response:
    """Weights and buffers of the trained model, as safetensors by state_dict name."""
    number, blob = await store.model(job_id, iteration)
    return Response(blob, media_type=SAFETENSORS, headers={"X-Meta-Iteration": str(number)})


async def _arrays(
    store: StoreDependency,
    job_id: str,
    what: Literal["state", "hypergradient"],
    which: Literal["best", "last"] | int,
    accept: str,
) -> Any:
    job = await store.get(job_id)
    record = await store.iteration(job_id, which)
    blob = await store.vectors(job_id, record.iteration, what)
    tensors = array_responses.select(blob, job.hyperparameters)
    if SAFETENSORS in accept:
        content = array_responses.as_safetensors(record.iteration, tensors, job.hyperparameters)
        return Response(content, media_type=SAFETENSORS)
    in_raw_units = what == "hypergradient"
    return array_responses.as_json(record.iteration, tensors, job.hyperparameters, in_raw_units)
