"""Liveness and readiness of the process."""

from __future__ import annotations

from fastapi import APIRouter

from drmad_service.api.routes.dependencies import PROBLEM, StoreDependency
from drmad_service.errors import StoreFull

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Check that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: PROBLEM})
async def readyz(store: StoreDependency) -> dict[str, str]:
    """Check that Redis answers with this version's schema.

    `warning` says that Redis is too full for new jobs.
    """
    await store.must_agree()
    try:
        await store.must_have_room()
    except StoreFull as error:
        return {"status": "ready", "warning": str(error)}
    return {"status": "ready"}
