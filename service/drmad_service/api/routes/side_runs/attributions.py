"""The attribution of a job: which training examples help its queries, and which harm them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from drmad_client.files.influence_scores import InfluenceScores
from drmad_client.records.side_runs.attribution import AttributionReport
from drmad_service.api.routes.dependencies import PROBLEM, StoreDependency, VisibleJobId

router = APIRouter(prefix="/v1/jobs/{job_id}/attribution", tags=["results"])

SAFETENSORS = "application/vnd.safetensors"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: PROBLEM, 422: PROBLEM}


@router.get("", responses=_UNKNOWN)
async def attribution(job_id: VisibleJobId, store: StoreDependency) -> AttributionReport:
    """Return the examples that help and that harm each query, and the sums by group."""
    return await store.attribution(job_id)


@router.get(
    "/scores",
    response_class=Response,
    responses={200: {"content": {SAFETENSORS: _BINARY, "text/csv": _BINARY}}, **_UNKNOWN},
)
async def scores(
    job_id: VisibleJobId,
    store: StoreDependency,
    written: Annotated[
        Literal["safetensors", "csv"], Query(alias="format", description="Format of the file.")
    ] = "safetensors",
) -> Response:
    """Return the influence of every training example on every query, with the row of each."""
    content = await store.attribution_scores(job_id)
    if written == "csv":
        return Response(InfluenceScores.unpack(content).to_csv(), media_type="text/csv")
    return Response(content, media_type=SAFETENSORS)
