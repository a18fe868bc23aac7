"""Requests of clients: create, list, pause, resume, cancel, extend, fork and delete jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from drmad_client.records.job import JobRecord, Progress
from drmad_client.records.pages import Page
from drmad_client.records.status import TERMINAL, JobStatus
from drmad_client.spec.job import JobSpec
from drmad_client.spec.problem import uploaded_files
from drmad_service.errors import (
    ActionRefused,
    IdempotencyConflict,
    JobNotFound,
    TooManyQueued,
)
from drmad_service.store.files.job_artifacts import ArtifactsOfJobs
from drmad_service.store.jobs.checkpoints import Checkpoints
from drmad_service.store.jobs.forked_state import forked_scalars
from drmad_service.store.jobs.placement import Capacity, Needs
from drmad_service.store.jobs.warm_starts import WarmStarts
from drmad_service.store.layout import decoding, keys
from drmad_service.store.layout.ids import new_id
from drmad_service.store.layout.state_machine import Action

Archived = Literal["exclude", "include", "only"]
"""Whether a list leaves archived jobs out, has them among the others, or has them alone."""
LOCAL = "local"
"""The principal of whoever uses the store without a key of the API."""
RETENTION = "retention"
"""The principal that deletes jobs which are kept no longer."""


class JobRequests(WarmStarts, Checkpoints, ArtifactsOfJobs):
    """Jobs as clients create, read and control them; `by` names who does, for the audit log."""

    async def create(
        self,
        spec: JobSpec,
        idempotency_key: str | None = None,
        tenant: str = "local",
        by: str = LOCAL,
    ) -> tuple[JobRecord, bool]:
        """Create a job. Returns it, and whether it is new.

        Raises:
            IdempotencyConflict: the key was used with another body.
            StoreFull: too much of the memory budget is used.
            TooManyQueued: the tenant has reached its bound of queued and paused jobs.
            JobNotFound, ResultNotFound: the values from which it starts do not exist.
        """
        await self.must_have_room()
        job_id = new_id("job")
        fields = {} if spec.start is None else await self._copy_start(job_id, spec, spec.start)
        return await self._create(job_id, spec, fields, "", idempotency_key, tenant, by)

    async def fork(
        self,
        job_id: str,
        iteration: int,
        before: JobSpec,
        spec: JobSpec,
        tenant: str = "local",
        by: str = LOCAL,
    ) -> JobRecord:
        """Create a job that continues from the state before a meta-iteration of another job.

        What of the state does not fit the new spec is adapted, and the record says so.

        Args:
            before: the spec under which the other job computed the state.
            spec: the spec of the new job, which fits the tensors of the state; see ForkSpec.
        Raises:
            ResultNotFound: the vectors of that meta-iteration are not kept.
            StoreFull, TooManyQueued: as in `create`.
        """
        await self.must_have_room()
        kept = await self._kept(job_id, iteration)
        fork_id = new_id("job")
        await self._blobs.copy(job_id, fork_id, kept["state"])
        scalars, adapted = forked_scalars(kept["scalars"], before, spec)
        state = {
            "iteration": iteration,
            "scalars": scalars,
            "chunks": kept["state"],
            "bytes": kept["state_bytes"],
        }
        progress = Progress(iteration=iteration, iterations=spec.meta.iterations)
        copied = 0
        if spec.meta.mode == "online":
            begin = iteration - iteration % (spec.training.steps // spec.meta.window)
            copied = await self._copy_training(job_id, fork_id, begin, iteration)
        fields = {
            "vector_bytes": str(copied),
            "iteration": str(iteration),
            "forked_from": f"{job_id}@{iteration}",
            "adapted": json.dumps(adapted),
            "progress": progress.model_dump_json(),
        }
        return (await self._create(fork_id, spec, fields, json.dumps(state), None, tenant, by))[0]

    async def put_restored(
        self,
        job_id: str,
        fields: Mapping[str, str],
        before: JobStatus,
        after: JobStatus,
        parts: Sequence[str],
    ) -> bool:
        """Create a job of a backup whose parts are written. Returns False when the job exists."""
        described = json.dumps(dict(fields))
        outcome = await self._scripts.run("restore", job_id, described, before, after, *parts)
        return bool(outcome == "ok")

    async def tenant_of(self, job_id: str) -> str | None:
        """The tenant of a job; None when the job does not exist."""
        tenant = await self._redis.hget(keys.job(job_id), "tenant")
        return tenant.decode() if tenant else None

    async def owner_of(self, job_id: str) -> str | None:
        """Who made a job; None when that is not known, or the job does not exist."""
        owner = await self._redis.hget(keys.job(job_id), "created_by")
        return owner.decode() if owner else None

    async def jobs(
        self,
        statuses: Collection[JobStatus] = (),
        tags: Collection[str] = (),
        after: str | None = None,
        limit: int = 20,
        tenant: str | None = None,
        archived: Archived = "exclude",
    ) -> Page[JobRecord]:
        """Jobs without their transitions, the newest first; of one tenant, or of all.

        Args:
            statuses: the states of the jobs; none stands for all.
            archived: whether archived jobs are left out, are among them, or are alone.
            tags: `key:value`; of those of one key a job has one, and it has a tag of every key.
        """
        indices = [keys.jobs_with(status, tenant) for status in statuses or (None,)]
        if archived == "only":
            indices = [keys.archived_jobs(status, tenant) for status in statuses or TERMINAL]
        wanted = _by_key(tags)
        found: list[JobRecord] = []
        last = after
        while len(found) <= limit:
            most = 100 if wanted else limit + 1 - len(found)
            pipe = self._redis.pipeline(transaction=False)
            for index in indices:
                end = f"({last}" if last else "+"
                pipe.zrevrangebylex(index, end, "-", start=0, num=most)
            listed = {raw for part in await pipe.execute() for raw in part}
            ids = sorted(listed, reverse=True)[:most]
            if not ids:
                break
            pipe = self._redis.pipeline(transaction=False)
            for raw in ids:
                pipe.hgetall(keys.job(raw.decode()))
            self._ask_cluster(pipe)
            answers = await pipe.execute()
            cluster = self._cluster_of(answers[len(ids) :])
            described = dict(zip((raw.decode() for raw in ids), answers, strict=False))
            queued = [each for each, of in described.items() if of.get(b"status") == b"queued"]
            turns = await self._turns(cluster, queued)
            for last, fields in described.items():
                if not fields:  # deleted meanwhile
                    continue
                if archived == "exclude" and b"archived_at" in fields:
                    continue
                job = decoding.job(last, fields, [], cluster, turns.get(last))
                if all(_has_one(job.tags, choices) for choices in wanted):
                    found.append(job)
        page = found[:limit]
        has_more = len(found) > limit
        return Page(data=page, has_more=has_more, next=page[-1].id if has_more else None)

    async def queue(self, limit: int) -> list[str]:
        """Ids of the first queued jobs, in the order in which they will run."""
        cluster = await self.cluster()
        ids: list[str] = await self._scripts.run("queue", cluster.capacity.described(), limit)
        return ids

    async def demand(self, most_waiting: int, cluster: Capacity) -> list[Needs]:
        """What the driven jobs and the first waiting ones of a cluster's tenants need."""
        driven = await self._redis.zrange(keys.LEASES, 0, -1)
        pipe = self._redis.pipeline(transaction=False)
        for job_id in [raw.decode() for raw in driven] + await self.queue(most_waiting):
            pipe.hmget(keys.job(job_id), "spec", "tenant")
        found = [(raw, tenant.decode()) for raw, tenant in await pipe.execute() if raw]
        return [Needs.of(JobSpec.accepted(raw)) for raw, tenant in found if cluster.serves(tenant)]

    async def pause(self, job_id: str, by: str = LOCAL) -> JobRecord:
        """Release the job's resources after its running meta-iteration."""
        await self._act(job_id, Action.PAUSE, "user", "paused by its user", by=by)
        return await self.get(job_id)

    async def resume(self, job_id: str, by: str = LOCAL) -> JobRecord:
        await self._act(job_id, Action.RESUME, "user", "resumed by its user", by=by)
        return await self.get(job_id)

    async def cancel(self, job_id: str, by: str = LOCAL) -> JobRecord:
        await self._act(job_id, Action.CANCEL, "user", "cancelled by its user", by=by)
        return await self.get(job_id)

    async def extend(self, job: JobRecord, spec: JobSpec, by: str = LOCAL) -> JobRecord:
        """Queue an ended job again, with more meta-iterations and its timeout_s anew."""
        await self.must_have_room()
        job_id = job.id
        progress = job.progress.model_copy(
            update={"iterations": spec.meta.iterations, "remaining_s": None, "spent_s": 0.0}
        )
        fields = {"spec": spec.model_dump_json(), "progress": progress.model_dump_json()}
        raw = await self._redis.get(keys.job(job_id, "state"))
        state = ""
        if raw is not None:  # meta.patience counts anew
            described = json.loads(raw)
            described["scalars"]["stale"] = 0
            state = json.dumps(described)
        message = f"extended to {spec.meta.iterations} meta-iterations"
        seen = str(job.version)
        await self._act(
            job_id, Action.EXTEND, "extended", message, fields, state=state, seen=seen, by=by
        )
        return await self.get(job_id)

    async def delete(self, job_id: str, by: str = LOCAL) -> None:
        outcome, status = await self._scripts.run("delete", job_id, by, *keys.PARTS)
        if outcome == "unknown":
            raise JobNotFound(job_id)
        if outcome == "refused":
            raise ActionRefused(job_id, "delete", status)
        await self._remove_artifacts(job_id)

    async def delete_ended_before(self, milliseconds_ago: float) -> int:
        """Delete up to 1000 jobs that ended longer ago. Returns how many."""
        seconds, micros = await self._redis.time()
        horizon = seconds * 1000 + micros / 1000 - milliseconds_ago
        ids = await self._redis.zrangebyscore(keys.ENDED, "-inf", horizon, start=0, num=1000)
        for raw in ids:
            await self._scripts.run("delete", raw.decode(), RETENTION, *keys.PARTS)
            await self._remove_artifacts(raw.decode())
        return len(ids)

    async def _create(
        self,
        job_id: str,
        spec: JobSpec,
        fields: Mapping[str, str],
        state: str,
        idempotency_key: str | None,
        tenant: str,
        by: str,
    ) -> tuple[JobRecord, bool]:
        body = spec.model_dump_json()
        if spec.problem.kind == "code":
            await self._touch(keys.CODES, spec.problem.code.removeprefix("sha256:"))
        for name in uploaded_files(spec.problem).values():
            await self._touch(keys.DATA, name.removeprefix("sha256:"))
        described = {
            "spec": body,
            "tenant": tenant,
            "cpus": str(spec.resources.cpus * spec.replicas.count),
            "gpus": str(spec.resources.gpus * spec.replicas.count),
            "replicas": f"{spec.replicas.count} {spec.replicas.placement}",
            "progress": Progress(iterations=spec.meta.iterations).model_dump_json(),
        }
        if spec.notify.wanted:
            described["notices"] = " ".join(spec.notify.wanted)
        outcome, created_id, *most = await self._scripts.run(
            "create",
            job_id,
            json.dumps(described | dict(fields)),
            state,
            spec.priority,
            1000 * spec.priority * self._settings.point_s,
            keys.idempotency(tenant, idempotency_key) if idempotency_key else "",
            hashlib.sha256(body.encode()).hexdigest(),
            int(self._settings.repeat_s),
            tenant,
            self._most_queued,
            by,
        )
        if outcome == "too_many":
            raise TooManyQueued(tenant, int(created_id), int(most[0]))
        if outcome == "other_body":
            raise IdempotencyConflict(idempotency_key or "")
        return await self.get(created_id), outcome == "created"


def _by_key(tags: Collection[str]) -> list[list[str]]:
    """The tags of each key. A key may hold colons itself; the part before its first one groups."""
    groups: dict[str, list[str]] = {}
    for tag in tags:
        groups.setdefault(tag.partition(":")[0], []).append(tag)
    return list(groups.values())


def _has_one(tags: Mapping[str, str], choices: Collection[str]) -> bool:
    return any(f"{key}:{value}" in choices for key, value in tags.items())
