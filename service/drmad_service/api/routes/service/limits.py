"""Limits of single tenants, set by the operator."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from drmad_client.records.pages import Page
from drmad_client.records.service.usage import LimitsOfTenant, OwnTenantLimits, TenantLimits
from drmad_service.api.auth.api_keys import TENANT
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.middleware.strict_requests import JsonRoute
from drmad_service.api.routes.dependencies import PROBLEM, StoreDependency

router = APIRouter(prefix="/v1/limits", tags=["usage"], route_class=JsonRoute)

TenantName = Annotated[str, Path(pattern=f"^{TENANT.pattern}$", description="Name of the tenant.")]


@router.get("")
async def list_limits(store: StoreDependency) -> Page[LimitsOfTenant]:
    """List the tenants that have limits of their own. `GET /v1/usage` shows what holds for each."""
    found = await store.own_limits.all()
    data = [LimitsOfTenant(tenant=name, limits=found[name]) for name in sorted(found)]
    return Page(data=data, has_more=False, next=None)


@router.put("/{tenant}", responses={422: PROBLEM})
async def set_limits(
    tenant: TenantName,
    limits: OwnTenantLimits,
    store: StoreDependency,
    principal: PrincipalDependency,
) -> LimitsOfTenant:
    """Set all limits of one tenant; those left out or null are the service's.

    They hold at once for new jobs and uploads. Running jobs go on.
    """
    kept = TenantLimits.model_validate(limits.model_dump())
    await store.own_limits.replace(tenant, kept, principal.key_id)
    return LimitsOfTenant(tenant=tenant, limits=kept)
