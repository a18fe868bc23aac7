"""A job's figures as plotly's JSON, drawn by the functions of the SDK."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
from importlib import resources
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Path, Request, Response
from numpy.typing import NDArray

from drmad_client import plots
from drmad_client.plots.figures import FIGURES, Material, draw
from drmad_client.records.job import JobRecord
from drmad_client.version import __version__
from drmad_service.api import array_responses, etags
from drmad_service.api.middleware.compression import compressible
from drmad_service.api.routes.dependencies import (
    PROBLEM,
    OverviewDependency,
    StoreDependency,
    VisibleJobId,
)
from drmad_service.errors import ResultNotFound
from drmad_service.store import Store

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

FigureName = Annotated[
    str, Path(max_length=64, description=f"Name of the figure: one of {', '.join(FIGURES)}.")
]


@router.get(
    "/figures/{name}",
    response_model=dict[str, Any],
    responses={304: {}, 404: PROBLEM, 422: PROBLEM},
)
async def figure(
    job_id: VisibleJobId,
    name: FigureName,
    request: Request,
    store: StoreDependency,
    overview: OverviewDependency,
    if_none_match: Annotated[str | None, Header(max_length=4096)] = None,
) -> Any:
    """Draw a figure: {"data": [...], "layout": {...}}. Long histories are sampled evenly."""
    job = await store.get(job_id)
    if name not in FIGURES:
        raise ResultNotFound(f"there is no figure {name}; the figures are {', '.join(FIGURES)}")
    version = f"{name}-{_software()}-{job.progress.iteration}"
    if FIGURES[name].needs_fidelity and await store.fidelity_report(job_id):
        version += "-reported"  # the report may precede the first meta-iteration
    if FIGURES[name].needs_trials:
        version += f"-{job.progress.trials}"
    rollbacks: list[int] = []
    if name == "losses":
        events = await overview.notable_events(job_id)
        rollbacks = [event.data["iteration"] for event in events if event.type == "rollback"]
        version += f"-{len(rollbacks)}-{job.best.iteration if job.best else ''}"
    headers = {"ETag": f'"{version}"', "Cache-Control": "private, no-cache"}
    if etags.matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    before = after = None
    if FIGURES[name].needs_vectors and job.progress.iteration > 0:
        before, after = await first_and_best(store, job)
    fidelity = await store.fidelity(job_id) if FIGURES[name].needs_fidelity else None
    trials = (await store.trials(job_id, limit=1000)).data if FIGURES[name].needs_trials else ()
    material = Material.of(
        job, await overview.sample(job), before, after, fidelity, trials, rollbacks
    )
    body = await asyncio.to_thread(lambda: json.dumps(draw(name, material)).encode())
    return await compressible(request, body, "application/json", headers)


@functools.cache
def _software() -> str:
    """Changes with the version and with the code that draws: no browser keeps old figures."""
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(resources.files(plots).iterdir(), key=lambda file: file.name):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


async def first_and_best(
    store: Store, job: JobRecord
) -> tuple[dict[str, NDArray[np.floating[Any]]], dict[str, NDArray[np.floating[Any]]]]:
    """The raw hyperparameters of the first and of the best, or last, meta-iteration."""
    last = job.best.iteration if job.best else max(0, job.progress.iteration - 1)
    first = int((job.forked_from or "@0").partition("@")[2])
    return await _raw(store, job, first), await _raw(store, job, last)


async def _raw(
    store: Store, job: JobRecord, iteration: int
) -> dict[str, NDArray[np.floating[Any]]]:
    """The raw hyperparameters of a meta-iteration; empty if they are no longer kept."""
    with contextlib.suppress(ResultNotFound):
        blob = await store.vectors(job.id, iteration, "state")
        return await asyncio.to_thread(array_responses.select, blob, job.hyperparameters)
    return {}
