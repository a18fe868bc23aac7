"""Groups: the jobs of one submission over seeds and settings, as one table and one cancel."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Path

from drmad_client.records.group import GroupRecord, group_record
from drmad_client.records.job import JobRecord
from drmad_client.spec.groups import GROUP
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.middleware.strict_requests import JsonRoute
from drmad_service.api.routes.dependencies import PROBLEM, StoreDependency
from drmad_service.errors import ActionRefused, GroupNotFound, NotOwner
from drmad_service.store import Store

router = APIRouter(prefix="/v1/groups", tags=["groups"], route_class=JsonRoute)

_PAGE = 100
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: PROBLEM, 422: PROBLEM}
Name = Annotated[
    str, Path(min_length=1, max_length=256, description="Name of the group, as in its tag group.")
]


@router.get("/{name}", responses=_UNKNOWN)
async def retrieve(
    name: Name, store: StoreDependency, principal: PrincipalDependency
) -> GroupRecord:
    """Return a group: its jobs by state, and the mean over the seeds of each setting.

    Archived jobs belong to it, too. A key with the scope `admin` sees the jobs of every tenant.
    """
    return group_record(name, await members(store, name, principal.only_tenant))


@router.post("/{name}/cancel", responses=_UNKNOWN)
async def cancel(name: Name, store: StoreDependency, principal: PrincipalDependency) -> GroupRecord:
    """Cancel all jobs of the group that have not ended.

    Nothing is cancelled if one of them is another key's and the scope does not suffice.
    """
    found = await members(store, name, principal.only_tenant)
    active = [job for job in found if not job.status.is_terminal]
    for job in active:
        if not principal.may_change(job.created_by):
            raise NotOwner(job.id, job.created_by or "")
    for job in active:
        with contextlib.suppress(ActionRefused):  # it has ended meanwhile
            await store.cancel(job.id, principal.key_id)
    return group_record(name, await members(store, name, principal.only_tenant))


async def members(store: Store, name: str, tenant: str | None) -> list[JobRecord]:
    """
    Raises:
        GroupNotFound: no job has the tag of the group.
    """
    found: list[JobRecord] = []
    after: str | None = None
    while True:
        page = await store.jobs((), (f"{GROUP}:{name}",), after, _PAGE, tenant, archived="include")
        found += page.data
        if not page.has_more:
            break
        after = page.next
    if not found:
        raise GroupNotFound(name)
    return found
