"""What tenants use and may use."""

from __future__ import annotations

from fastapi import APIRouter

from drmad_client.records.pages import Page
from drmad_client.records.service.usage import TenantLimits, TenantUsage
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.routes.dependencies import (
    FolderDependency,
    SettingsDependency,
    StoreDependency,
)

router = APIRouter(prefix="/v1/usage", tags=["usage"])


@router.get("")
async def usage(
    store: StoreDependency,
    data: FolderDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
) -> Page[TenantUsage]:
    """Show what the tenant used, what it holds now, and its limits.

    A key with the scope `admin` sees every tenant.
    """
    limits = TenantLimits(
        queued_jobs=settings.most_queued or None,
        stored_bytes=settings.tenant_bytes or None,
        uploads=settings.tenant_uploads,
    )
    found = await store.usage(principal.only_tenant, limits, data.size_or_none)
    return Page(data=found, has_more=False, next=None)
