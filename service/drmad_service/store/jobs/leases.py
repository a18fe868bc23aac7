"""Requests of schedulers: claim a job, renew its lease, record its progress."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drmad_client.records.job import JobError, PreflightReport, Progress, StartPhases
from drmad_client.records.status import JobStatus
from drmad_service.errors import LeaseLost
from drmad_service.store.base import Base, states
from drmad_service.store.jobs.placement import Capacity, Placed, placed
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import DRIVEN, Action
from drmad_service.store.layout.types import Lease


class Leases(Base):
    """Leases, and the writes of their holders. A write without the lease raises LeaseLost."""

    async def claim(self, scheduler: str, lease_s: float, capacity: Capacity) -> Lease | None:
        """Claim the next job that fits, and reserve its resources; None when no job can run now."""
        claimed = await self._scripts.run(
            "claim",
            scheduler,
            int(lease_s * 1000),
            capacity.described(),
            states(Action.CLAIM),
        )
        return Lease(*claimed) if claimed else None

    async def outranked(self, lease: Lease, capacity: Capacity) -> bool:
        """Whether a queued job of higher priority needs the resources of this one."""
        return bool(
            await self._scripts.run(
                "outranked",
                lease.job_id,
                lease.fence,
                capacity.described(),
            )
        )

    async def place(self, lease: Lease, capacity: Capacity) -> list[Placed]:
        """Where the replicas of a held job go: where they are while the nodes live, else anew.

        Returns nothing when the nodes have no room for all of them.
        """
        entries = await self._scripts.run("place", lease.job_id, lease.fence, capacity.described())
        if entries == "fenced":
            raise LeaseLost(f"placing {lease.job_id} refused: fenced")
        return placed(entries)

    async def renew(self, leases: Iterable[Lease], lease_s: float) -> set[str]:
        """Extend the leases to `lease_s` seconds from now. Returns the ids of the lost ones."""
        pairs = [part for lease in leases for part in (lease.job_id, lease.fence)]
        if not pairs:
            return set()
        return set(await self._scripts.run("renew", int(lease_s * 1000), *pairs))

    async def report_nodes(self, scheduler: str, nodes: str | None) -> None:
        """Record a scheduler's view of its cluster (JSON); None removes it."""
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
        """Run a transition of a held job. Returns the new status."""
        fields = {"error": error.model_dump_json()} if error else {}
        return await self._act(lease.job_id, action, reason, message, fields, lease.fence)

    async def progress(self, lease: Lease, progress: Progress) -> JobStatus:
        """Record the progress of the running meta-iteration. Returns the job's status."""
        return await self._update(lease, {"progress": progress.model_dump_json()})

    async def status(self, lease: Lease) -> JobStatus:
        """The status of a held job."""
        status, fence = await self._redis.hmget(keys.job(lease.job_id), ["status", "fence"])
        if status is None or fence.decode() != lease.fence or status.decode() not in DRIVEN:
            raise LeaseLost(f"job {lease.job_id} is no longer driven under {lease.fence}")
        return JobStatus(status.decode())

    async def control_requests(self) -> list[str]:
        """Ids of the driven jobs with an open control request: to pause or to be cancelled."""
        pipe = self._redis.pipeline(transaction=False)
        for status in (JobStatus.CANCELLING, JobStatus.PAUSING):
            pipe.zrange(keys.jobs_with(status), 0, -1)
        return [job_id.decode() for ids in await pipe.execute() for job_id in ids]

    async def say(self, lease: Lease, message: str) -> None:
        """Say in the job's message what it waits for; also where Redis is full."""
        if await self._scripts.run("say", lease.job_id, lease.fence, message) != "ok":
            raise LeaseLost(f"message of {lease.job_id} refused: fenced")

    async def warn(self, lease: Lease, code: str, message: str) -> None:
        await self._update(lease, {}, "warning", _warning(code, message))

    async def keep_not_batched(self, lease: Lease, reason: str) -> None:
        """Keep why the replicas are not batched; the same write records the warning."""
        message = (
            f"the replicas are not batched: {reason}; each has an actor of its own, as with "
            "replicas.batched: off"
        )
        warning = _warning("not_batched", message)
        await self._update(lease, {"not_batched": reason}, "warning", warning)

    async def record_arrival(self, lease: Lease, arrival: Mapping[str, Any]) -> None:
        """Record the event that a single hypergradient was applied."""
        await self._update(lease, {}, "arrival", json.dumps(arrival))

    async def keep_start_phases(self, lease: Lease, phases: StartPhases) -> None:
        """Keep where the time of the job's start went."""
        await self._update(lease, {"start_phases": phases.model_dump_json()})

    async def keep_fidelity(self, lease: Lease, report: Mapping[str, Any]) -> None:
        """Keep the measured fidelity of the job's method."""
        await self._update(lease, {"fidelity": json.dumps(report)})

    async def keep_preflight(
        self,
        lease: Lease,
        report: PreflightReport,
        progress: Progress,
        code: str = "",
        warning: str = "",
    ) -> None:
        """Keep the report of the preflight, and the remaining time that it predicts.

        `warning` says which failed proofs the job overrides, and what did not run; the same write
        records its event, under `code`.
        """
        fields = {"preflight": report.model_dump_json(), "progress": progress.model_dump_json()}
        event = ("warning", _warning(code, warning)) if warning else ("", "")
        await self._update(lease, fields, *event)

    async def log(self, lease: Lease, replica: int, lines: Sequence[str], source: str = "") -> None:
        """Append log lines of a replica.

        Args:
            source: see LogLine; empty for the replica itself.
        """
        holder = (lease.job_id, lease.fence)
        outcome = await self._append_lines("log", holder, replica, source or f"{replica}", lines)
        if outcome != "ok":
            raise LeaseLost(f"lines of {lease.job_id} refused: {outcome}")


def _warning(code: str, message: str) -> str:
    return json.dumps({"code": code, "message": message})
