"""What a job learned, as its page asks for it: entries, examples, sums by group, CSV."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from drmad_client.plots.learned_overview import overview
from drmad_client.plots.learned_values import Values
from drmad_client.plots.pairs import pairs
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import JobRecord
from drmad_service.api.auth.authentication import PrincipalDependency, signed_in
from drmad_service.api.routes.dashboard.figures import first_and_best
from drmad_service.api.routes.dependencies import (
    StoreDependency,
    VisibleJobId,
    must_see,
    until_gone,
)
from drmad_service.dashboard import learned
from drmad_service.errors import ResultNotFound
from drmad_service.store import Store

router = APIRouter(dependencies=[signed_in], include_in_schema=False)

_WAIT_S = 50.0

Name = Annotated[str, Query(max_length=256)]


async def _values(
    store: Store, job_id: str, name: str
) -> tuple[JobRecord, HyperparameterInfo, Values, Values | None]:
    """The raw values of one hyperparameter, tuned and untuned.

    Raises:
        ResultNotFound: there is no such hyperparameter, or its values are not kept.
    """
    job = await store.get(job_id)
    info = next((info for info in job.hyperparameters if info.name == name), None)
    before, after = await first_and_best(store, job)
    if info is None or name not in after:
        raise ResultNotFound(f"job {job_id} has no values of a hyperparameter {name!r}")
    return job, info, after[name], before.get(name)


@router.get("/jobs/{job_id}/learned/figure")
async def figure(job_id: VisibleJobId, name: Name, store: StoreDependency) -> dict[str, Any]:
    _, info, after, before = await _values(store, job_id, name)
    return await asyncio.to_thread(overview, info, after, before)


@router.get("/jobs/{job_id}/learned/image")
async def image(job_id: VisibleJobId, name: Name, store: StoreDependency) -> dict[str, Any]:
    """The penalties per pixel of an input, as an image."""
    job, info, after, _ = await _values(store, job_id, name)
    return await asyncio.to_thread(learned.image, info, job.spec, after)


@router.get("/compare/learned")
async def pair(
    name: Name,
    job: Annotated[list[str], Query(min_length=2, max_length=2)],
    store: StoreDependency,
    principal: PrincipalDependency,
) -> dict[str, Any]:
    """One hyperparameter as two jobs learned it."""
    for job_id in job:
        await must_see(principal, store, job_id)
    one, info, x, _ = await _values(store, job[0], name)
    other, _, y, _ = await _values(store, job[1], name)
    if x.size != y.size:
        raise ResultNotFound(
            f"{name} must have as many values in both jobs, it has {x.size} and {y.size}"
        )
    titles = [f"{each.name} ({each.id[-6:]})" for each in (one, other)]
    return await asyncio.to_thread(pairs, info, x, y, titles)


@router.get("/jobs/{job_id}/learned/entries")
async def entries(
    job_id: VisibleJobId,
    name: Name,
    store: StoreDependency,
    order: Literal["lowest", "highest", "index"] = "index",
    q: Annotated[str, Query(max_length=256)] = "",
    at: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=learned.MOST_ENTRIES)] = 12,
) -> list[dict[str, Any]]:
    job, info, after, before = await _values(store, job_id, name)
    return learned.as_json(
        await asyncio.to_thread(learned.entries, info, job.spec, after, before, order, q, at, limit)
    )


@router.get("/jobs/{job_id}/learned/values.csv")
async def values_csv(job_id: VisibleJobId, name: Name, store: StoreDependency) -> Response:
    _, info, after, before = await _values(store, job_id, name)
    text = await asyncio.to_thread(learned.as_csv, info, after, before)
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-{info.kind}.csv"'}
    return Response(text, media_type="text/csv", headers=headers)


@router.get("/jobs/{job_id}/learned/groups")
async def groups(job_id: VisibleJobId, name: Name, store: StoreDependency) -> list[dict[str, Any]]:
    """Mean weights by class and source; empty until a worker has told the groups of the rows."""
    _, info, after, _ = await _values(store, job_id, name)
    known = await store.example_groups(job_id) or {}
    return learned.as_json(await asyncio.to_thread(learned.group_weights, known, info, after))


@router.get("/jobs/{job_id}/examples")
async def examples(
    job_id: VisibleJobId,
    store: StoreDependency,
    principal: PrincipalDependency,
    request: Request,
    row: Annotated[list[int], Query(max_length=2 * learned.MOST_ENTRIES)] = [],  # noqa: B006
) -> dict[str, Any]:
    """Pictures and texts of training examples by row, from the data set, through a worker."""
    shown = await store.shown_examples(job_id, row)
    missing = [each for each in dict.fromkeys(row) if each not in shown]
    error = ""
    if missing:
        with_groups = await store.example_groups(job_id) is None
        asked = await store.request_examples(job_id, principal.tenant, missing, with_groups)
        try:
            failed = await store.examples_answered(asked, _WAIT_S, until_gone(request))
            error = failed.message if failed else ""
        except TimeoutError:
            error = f"no worker answered within {_WAIT_S:g} s: check that a scheduler is running"
        shown = await store.shown_examples(job_id, row)
    groups = await store.example_groups(job_id) or {}
    return {
        "examples": {
            each: view.model_dump() | {"groups": learned.labels_of(groups, each)}
            for each, view in shown.items()
        },
        "error": error,
    }
