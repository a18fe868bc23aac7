"""The catalog: what a job can use without code of the user's."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from drmad_client.spec import capabilities

router = APIRouter(prefix="/v1", tags=["catalog"])


@router.get("/catalog")
async def retrieve() -> dict[str, Any]:
    """List models, data sets, hyperparameter kinds and methods, with the JSON schema of a job."""
    return capabilities.describe()
