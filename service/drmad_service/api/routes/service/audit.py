"""The audit log: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from drmad_client.records.pages import Page
from drmad_client.records.service.audit import AuditEntry
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.routes.dependencies import PROBLEM, StoreDependency

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("", responses={422: PROBLEM})
async def list_entries(
    store: StoreDependency,
    principal: PrincipalDependency,
    job: Annotated[
        str | None, Query(max_length=64, description="Return only entries of this job.")
    ] = None,
    by: Annotated[
        str | None,
        Query(max_length=255, description="Return only what this key, scheduler or operator did."),
    ] = None,
    after: Annotated[
        str | None,
        Query(pattern=r"^[0-9]{1,15}-[0-9]{1,9}$", description="`next` of the page before."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[AuditEntry]:
    """List who did what with the tenant's jobs and keys, newest first.

    A key with the scope `admin` lists the entries of every tenant. Entries of deleted jobs stay.
    """
    return await store.audit(principal.only_tenant, job, by, after, limit)
