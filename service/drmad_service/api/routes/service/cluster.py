"""The cluster: its nodes, the running jobs and the queue."""

from __future__ import annotations

from fastapi import APIRouter

from drmad_client.records.job import JobRecord
from drmad_client.records.service.cluster import Cluster, Placement
from drmad_client.records.status import JobStatus
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.routes.dependencies import OverviewDependency, StoreDependency
from drmad_service.errors import ResultNotFound

router = APIRouter(prefix="/v1", tags=["cluster"])

_ANONYMOUS = {"id": None, "name": "", "tenant": "", "message": ""}


@router.get("/cluster")
async def retrieve(
    store: StoreDependency, overview: OverviewDependency, principal: PrincipalDependency
) -> Cluster:
    """Show the nodes that the schedulers report, the jobs that run on them, and the queue in order.

    Jobs of other tenants appear without id, name, tenant and message.
    """

    def shown(job: JobRecord, nodes: list[str]) -> Placement:
        placed = _placement(job, nodes)
        is_theirs = principal.sees_all or job.tenant == principal.tenant
        return placed if is_theirs else placed.model_copy(update=_ANONYMOUS)

    schedulers = await overview.schedulers()
    running = [shown(job, await _nodes(store, job)) for job in await overview.driven()]
    # Several schedulers may share one cluster, so each node counts once.
    nodes = {node.id: node for view in schedulers for node in view.nodes if node.alive}
    reserved = {}
    for node, held in (await store.node_reservations()).items():
        own = [each for each in held.jobs if await _sees(store, principal, each)]
        reserved[node] = held.model_copy(update={"jobs": own})
    return Cluster(
        reserved=reserved,
        schedulers=schedulers,
        cpus=sum(node.cpus for node in nodes.values()),
        gpus=sum(node.gpus for node in nodes.values()),
        reserved_cpus=sum(placement.cpus for placement in running),
        reserved_gpus=sum(placement.gpus for placement in running),
        running=running,
        queue=[shown(job, []) for job in await overview.queue()],
        queued=(await overview.counts()).get(JobStatus.QUEUED, 0),
    )


async def _sees(store: StoreDependency, principal: PrincipalDependency, run: str) -> bool:
    """Whether the caller may know of a reservation; runs beside jobs have ids of their own."""
    return principal.sees_all or await store.tenant_of(run) == principal.tenant


def _placement(job: JobRecord, nodes: list[str]) -> Placement:
    count = job.spec.replicas.count
    return Placement(
        id=job.id,
        name=job.name,
        tenant=job.tenant,
        status=job.status,
        priority=job.spec.priority,
        cpus=job.spec.resources.cpus * count,
        gpus=job.spec.resources.gpus * count,
        since=job.transitions[-1].at if job.transitions else job.created_at,
        nodes=nodes,
        message=job.message,
    )


async def _nodes(store: StoreDependency, job: JobRecord) -> list[str]:
    if job.progress.iteration == 0:
        return []
    try:
        record = await store.iteration(job.id, "last")
    except ResultNotFound:
        return []  # the job was deleted meanwhile
    return sorted({replica.node for replica in record.replicas if replica.node})
