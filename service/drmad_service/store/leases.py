"""What schedulers do: claim a job, hold it, tell what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drmad_client.records.job import JobError, JobStatus, PreflightReport, Progress
from drmad_service.errors import LeaseLost
from drmad_service.store import keys
from drmad_service.store.base import Base, states
from drmad_service.store.state_machine import DRIVEN, Action
from drmad_service.store.types import Capacity, Lease

LOG_LINES = 10_000
"""Of a job, the last."""


class Leases(Base):
    """Leases, and what their holder may write. Whoever lost the lease gets LeaseLost."""

    async def claim(self, scheduler: str, lease_s: float, capacity: Capacity) -> Lease | None:
        """Take the next job that fits, and reserve what it needs."""
        claimed = await self._scripts.run(
            "claim",
            scheduler,
            int(lease_s * 1000),
            capacity.cpus,
            capacity.gpus,
            states(Action.CLAIM),
            capacity.tenant_jobs,
            capacity.tenant_gpus,
        )
        return Lease(*claimed) if claimed else None

    async def outranked(self, lease: Lease, capacity: Capacity) -> bool:
        """Whether a job of higher priority waits for what this one holds."""
        return bool(
            await self._scripts.run(
                "outranked",
                lease.job_id,
                lease.fence,
                capacity.cpus,
                capacity.gpus,
                capacity.tenant_jobs,
                capacity.tenant_gpus,
            )
        )

    async def renew(self, leases: Iterable[Lease], lease_s: float) -> set[str]:
        """Hold the leases for another `lease_s` seconds. Returns the ids of the lost ones."""
        pairs = [part for lease in leases for part in (lease.job_id, lease.fence)]
        if not pairs:
            return set()
        return set(await self._scripts.run("renew", int(lease_s * 1000), *pairs))

    async def tell_nodes(self, scheduler: str, nodes: str | None) -> None:
        """What a scheduler sees of its cluster (JSON); None when it ends."""
        if nodes is None:
            await self._redis.hdel(keys.NODES, scheduler)
        else:
            await self._redis.hset(keys.NODES, scheduler, nodes)

    async def act(
        self,
        lease: Lease,
        action: Action,
        reason: str,
        message: str = "",
        error: JobError | None = None,
    ) -> JobStatus:
        """Change the state of a held job. Returns the state that it led to."""
        fields = {"error": error.model_dump_json()} if error else {}
        return await self._act(lease.job_id, action, reason, message, fields, lease.fence)

    async def progress(self, lease: Lease, progress: Progress) -> JobStatus:
        """Show how far the running meta-iteration is. Returns the job's state."""
        return await self._update(lease, {"progress": progress.model_dump_json()})

    async def status(self, lease: Lease) -> JobStatus:
        """The state of a held job."""
        status, fence = await self._redis.hmget(keys.job(lease.job_id), ["status", "fence"])
        if status is None or fence.decode() != lease.fence or status.decode() not in DRIVEN:
            raise LeaseLost(f"job {lease.job_id} is no longer driven under {lease.fence}")
        return JobStatus(status.decode())

    async def wished(self) -> list[str]:
        """Ids of the driven jobs that are to pause or to be cancelled."""
        pipe = self._redis.pipeline(transaction=False)
        for status in (JobStatus.CANCELLING, JobStatus.PAUSING):
            pipe.zrange(keys.jobs_with(status), 0, -1)
        return [job_id.decode() for ids in await pipe.execute() for job_id in ids]

    async def warn(self, lease: Lease, code: str, message: str) -> None:
        warning = json.dumps({"code": code, "message": message})
        await self._update(lease, {}, "warning", warning)

    async def tell_arrival(self, lease: Lease, arrival: Mapping[str, Any]) -> None:
        """Tell of a hypergradient that was applied by itself."""
        await self._update(lease, {}, "arrival", json.dumps(arrival))

    async def keep_fidelity(self, lease: Lease, report: Mapping[str, Any]) -> None:
        """Keep how far the job's method was found to agree with the exact one."""
        await self._update(lease, {"fidelity": json.dumps(report)})

    async def keep_preflight(
        self, lease: Lease, report: PreflightReport, progress: Progress
    ) -> None:
        """Keep what the look at a job at its start found, and how long it will take by that."""
        fields = {"preflight": report.model_dump_json(), "progress": progress.model_dump_json()}
        await self._update(lease, fields)

    async def log(self, lease: Lease, replica: int, lines: Sequence[str]) -> None:
        """Keep what a replica printed; of a job, the last LOG_LINES lines."""
        outcome = await self._scripts.run(
            "log", lease.job_id, lease.fence, LOG_LINES, replica, *lines
        )
        if outcome != "ok":
            raise LeaseLost(f"lines of {lease.job_id} refused: {outcome}")
