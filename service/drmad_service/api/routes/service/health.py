"""Liveness and readiness of the process."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from redis.exceptions import RedisError

from drmad_service.api.problem_details import store_problem
from drmad_service.api.routes.dependencies import PROBLEM, StoreDependency
from drmad_service.errors import StoreFull

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Check that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=dict[str, str], responses={503: PROBLEM})
async def readyz(store: StoreDependency) -> Any:
    """Check that Redis takes writes and has this version's schema.

    `warning` says that Redis is too full for new jobs.
    """
    try:
        await store.must_agree()
        await store.must_accept_writes()
    except RedisError as error:
        answer = store_problem(error, "/readyz")
        answer.status_code = 503  # not ready, whatever the reason
        return answer
    try:
        await store.must_have_room()
    except StoreFull as error:
        return {"status": "ready", "warning": str(error)}
    return {"status": "ready"}
