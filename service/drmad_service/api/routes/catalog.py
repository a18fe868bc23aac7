"""What can be asked for without any code of one's own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from drmad_client.spec import catalog

router = APIRouter(prefix="/v1", tags=["catalog"])


@router.get("/catalog")
async def retrieve() -> dict[str, Any]:
    """Models, data sets, hyperparameter kinds and methods, and the JSON schema of a job."""
    return catalog.describe()
