"""Results of a job: history, hyperparameters, hypergradients, the model."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from drmad_client.export.history_table import PARQUET, history_parquet
from drmad_client.records.base import Record
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.pages import Page
from drmad_client.records.search import Trial
from drmad_service.api import array_responses
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.file_responses import FILE, SAFETENSORS, file_response
from drmad_service.api.problem_details import problem_response
from drmad_service.api.routes.dependencies import (
    PROBLEM,
    SettingsDependency,
    StoreDependency,
    VisibleJobId,
    until_gone,
)
from drmad_service.errors import NotInstalled, ResultNotFound

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

_UNKNOWN: dict[int | str, dict[str, Any]] = {404: PROBLEM, 422: PROBLEM}
_ARRAYS: dict[int | str, dict[str, Any]] = {
    200: {"content": {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}},
    **_UNKNOWN,
}

Which = Annotated[
    Literal["best", "last"] | Annotated[int, Query(ge=0, lt=2**31)],
    Query(description="best, last, or the number of a meta-iteration."),
]
Name = Annotated[str, Path(max_length=200, description="Name of the hyperparameter.")]
Offset = Annotated[int, Query(ge=0, lt=2**53, description="Number of values to leave out.")]
Limit = Annotated[int, Query(ge=1, le=array_responses.MAX_JSON_VALUES)]
Accept = Annotated[str, Header(description=f"{SAFETENSORS} selects safetensors instead of JSON.")]


class Fidelity(Record):
    """Measured fidelity of the job's hypergradients."""

    report: dict[str, Any] | None = Field(
        description="Fidelity of the spec's method, measured against exact replay before the first "
        "meta-iteration; null if the method is exact, or if auto chooses the method."
    )
    choices: list[dict[str, Any]] = Field(
        description="Fidelity probes of auto: the meta-iteration, the chosen method, and the "
        "measured fidelity of every candidate."
    )


@router.get("/history", responses=_UNKNOWN)
async def history(
    job_id: VisibleJobId,
    store: StoreDependency,
    after: Annotated[
        int | None, Query(ge=0, lt=2**31, description="Return only meta-iterations after this one.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    every: Annotated[
        int,
        Query(
            ge=1,
            le=2**31,
            description="Return only meta-iterations that are multiples of this number.",
        ),
    ] = 1,
) -> Page[MetaIteration]:
    """List the job's meta-iterations in order."""
    return await store.history(job_id, after, limit, every)


@router.get(
    "/history.parquet",
    response_class=Response,
    responses={200: {"content": {PARQUET: {}}}, 501: PROBLEM, **_UNKNOWN},
)
async def history_file(job_id: VisibleJobId, store: StoreDependency) -> Response:
    """Return all meta-iterations as a Parquet file with the columns of the CSV.

    The API needs drmad[parquet], which its image lacks; the client makes the same file.
    """
    records: list[MetaIteration] = []
    after: int | None = None
    while True:
        page = await store.history(job_id, after, 1000)
        records += page.data
        if not page.has_more or page.next is None:
            break
        after = int(page.next)
    try:
        content = await asyncio.to_thread(history_parquet, records)
    except ImportError as error:
        raise NotInstalled(
            f"this API makes no Parquet files ({error}): use drmad history {job_id} --out "
            "history.parquet, or install drmad[parquet] where the API runs"
        ) from error
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-history.parquet"'}
    return Response(content, media_type=PARQUET, headers=headers)


@router.get("/trials", responses=_UNKNOWN)
async def trials(
    job_id: VisibleJobId,
    store: StoreDependency,
    after: Annotated[
        int | None, Query(ge=0, lt=2**31, description="Return only trials after this one.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Trial]:
    """List the trials of the job's search in order. Trials are not meta-iterations."""
    return await store.trials(job_id, after, limit)


@router.get("/hyperparameters", response_model=array_responses.Arrays, responses=_ARRAYS)
async def hyperparameters(
    job_id: VisibleJobId, store: StoreDependency, iteration: Which = "best", accept: Accept = "*/*"
) -> Any:
    """Return the hyperparameters with which a meta-iteration trained.

    JSON holds shapes, summaries and, for small arrays, the values in the user's units. safetensors
    holds all raw values; its metadata names the transforms to the user's units.
    """
    return await _arrays(store, job_id, "state", iteration, accept)


@router.get("/hypergradients", response_model=array_responses.Arrays, responses=_ARRAYS)
async def hypergradients(
    job_id: VisibleJobId, store: StoreDependency, iteration: Which = "last", accept: Accept = "*/*"
) -> Any:
    """Return the gradient of the validation loss in a meta-iteration's raw hyperparameters."""
    return await _arrays(store, job_id, "hypergradient", iteration, accept)


@router.get("/hyperparameters/{name}", responses=_UNKNOWN)
async def hyperparameter_page(
    job_id: VisibleJobId,
    store: StoreDependency,
    name: Name,
    iteration: Which = "best",
    offset: Offset = 0,
    limit: Limit = 1000,
) -> array_responses.ArrayPage:
    """Return a part of one hyperparameter's values, in the user's units and in row-major order."""
    return await _page(store, job_id, "state", iteration, name, offset, limit)


@router.get("/hypergradients/{name}", responses=_UNKNOWN)
async def hypergradient_page(
    job_id: VisibleJobId,
    store: StoreDependency,
    name: Name,
    iteration: Which = "last",
    offset: Offset = 0,
    limit: Limit = 1000,
) -> array_responses.ArrayPage:
    """Return a part of one hyperparameter's hypergradient, in row-major order."""
    return await _page(store, job_id, "hypergradient", iteration, name, offset, limit)


@router.get("/fidelity", responses=_UNKNOWN)
async def fidelity(job_id: VisibleJobId, store: StoreDependency) -> Fidelity:
    """Return the fidelity that was measured on this job's own problem."""
    return Fidelity(**await store.fidelity(job_id))


@router.get("/model", response_class=Response, responses=FILE)
async def model(
    job_id: VisibleJobId,
    store: StoreDependency,
    request: Request,
    iteration: Literal["best", "last"] = "best",
) -> Response:
    """Return weights and buffers of the trained model as safetensors, by state_dict name.

    `Range` selects a part, and `If-Match` with the `ETag` of an earlier answer the same file;
    `Repr-Digest` has the SHA-256 of the whole file.
    """
    number, file = await store.model(job_id, iteration)
    return await file_response(request, file, SAFETENSORS, {"X-Meta-Iteration": str(number)})


@router.get("/data", response_class=Response, responses={409: PROBLEM, **FILE})
async def data(
    job_id: VisibleJobId,
    store: StoreDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
    request: Request,
) -> Response:
    """Return the data as the job's training reads them, for recipe.py, as safetensors.

    Of a problem of the catalog they are train_inputs and train_targets, and those of valid and
    test; of own code the arrays of its upload. A worker writes the file when it is asked for, and
    the service keeps it for 25 minutes. `Range` and `If-Match` work as for the model.
    """
    await store.get(job_id)  # a job that does not exist has no worker to wait for
    file = await store.recipe_data(job_id)
    if file is None:
        asked = await store.request_recipe_data(job_id, principal.tenant)
        wait_s = settings.check_wait_s
        try:
            failed = await store.recipe_data_answered(asked, wait_s, until_gone(request))
        except TimeoutError:
            status, why = 503, "retry later"
            if not (await store.cluster()).schedulers:
                status, why = 409, "no scheduler is running; start one with: drmad schedule"
            detail = f"no worker wrote the data within {wait_s:g} s: {why}"
            return problem_response(status, "no_worker", detail, instance=request.url.path)
        if failed is not None:
            return problem_response(422, failed.code, failed.message, instance=request.url.path)
        file = await store.recipe_data(job_id)
        if file is None:
            raise ResultNotFound(f"the data of job {job_id} are no longer kept: ask again")
    return await file_response(request, file, SAFETENSORS)


async def _arrays(
    store: StoreDependency,
    job_id: str,
    what: Literal["state", "hypergradient"],
    which: Literal["best", "last"] | int,
    accept: str,
) -> Any:
    job = await store.get(job_id)
    record = await store.iteration(job_id, which)
    tensors = await store.hyperparameter_tensors(job_id, record.iteration, what)
    infos = job.hyperparameters
    if SAFETENSORS in accept:
        size, pieces = await array_responses.safetensors_pieces(record.iteration, tensors, infos)
        headers = {"Content-Length": str(size)}
        return StreamingResponse(pieces, media_type=SAFETENSORS, headers=headers)
    return await array_responses.as_json(record, tensors, infos, what == "hypergradient")


async def _page(
    store: StoreDependency,
    job_id: str,
    what: Literal["state", "hypergradient"],
    which: Literal["best", "last"] | int,
    name: str,
    offset: int,
    limit: int,
) -> array_responses.ArrayPage:
    job = await store.get(job_id)
    record = await store.iteration(job_id, which)
    info = next((each for each in job.hyperparameters if each.name == name), None)
    if info is None:
        names = ", ".join(each.name for each in job.hyperparameters) or "none yet"
        raise ResultNotFound(f"job {job_id} has no hyperparameter {name!r}; it has {names}")
    tensors = await store.hyperparameter_tensors(job_id, record.iteration, what)
    transform = info.transform if what == "state" else "identity"
    return await array_responses.page(
        record.iteration, name, tensors[name], transform, offset, limit
    )
