"""The store: every state of every job, in Redis, changed by atomic scripts alone.

Large values (states, hypergradients, models) are cut into chunks named by their content and
written before the script that mentions them, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from drmad_client.records import (
    Best,
    Event,
    HyperparameterInfo,
    Job,
    JobError,
    JobStatus,
    LogLine,
    MetaIteration,
    Page,
    Progress,
)
from drmad_client.specs import JobSpec
from drmad_service import keys, rows
from drmad_service.blobs import CHUNK_BYTES, COPY_S, Blobs, thinned
from drmad_service.errors import (
    ActionRefused,
    IdempotencyConflict,
    JobNotFound,
    LeaseLost,
    ResultNotFound,
    StoreFull,
)
from drmad_service.ids import new_id
from drmad_service.scripts import Scripts
from drmad_service.transitions import DRIVEN, TRANSITIONS, Action

IDEMPOTENCY_S = 24 * 3600
PRIORITY_BONUS_MS = 60_000
"""One point of priority counts as much as a minute of waiting."""
FAIR_SHARE_MS = 300_000
"""Each running job of a tenant puts its queued ones five minutes back."""
LOG_LINES = 10_000
"""Of a job, the last."""
FULL = 0.8
"""Share of the memory budget above which no new job is accepted."""
UNLIMITED = 1e9

_EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")


@dataclass(frozen=True)
class Lease:
    """The right to drive a job, as long as no newer fence exists."""

    job_id: str
    fence: str


@dataclass(frozen=True)
class Capacity:
    """What there is to give to jobs."""

    cpus: float
    gpus: float
    tenant_jobs: float = UNLIMITED
    """Jobs that one tenant may have running."""
    tenant_gpus: float = UNLIMITED
    """GPUs that one tenant may have in use."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a job goes on: the state before meta-iteration `iteration`."""

    iteration: int
    tensors: bytes
    scalars: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What one meta-iteration leaves behind.

    `next_state` is the state after it; `hypergradient` and `model` are safetensors, the model None
    when it is too large to keep; `record` is a MetaIteration without its time; `best` says that
    it is the best so far.
    """

    iteration: int
    record: dict[str, Any]
    next_state: ResumePoint
    hypergradient: bytes
    model: bytes | None
    progress: Progress
    best: Best | None


class Store:
    """Jobs in Redis. One instance a process; the client must return bytes."""

    def __init__(
        self, redis: Redis, events_kept: int = 10_000, vector_bytes: int = 256 << 20
    ) -> None:
        """`vector_bytes` is the budget of a job's states and hypergradients."""
        # redis-py types its answers as bytes, str or None; this client answers bytes.
        self._redis: Any = redis
        self._vector_bytes = vector_bytes
        self._scripts = Scripts(redis, events_kept=events_kept, share_ms=FAIR_SHARE_MS)
        self._blobs = Blobs(redis, self._scripts, "chunks")
        self._model_blobs = Blobs(redis, self._scripts, "model_chunks")

    async def ping(self) -> None:
        await self._redis.ping()

    # What clients do

    async def create(
        self, spec: JobSpec, idempotency_key: str | None = None, tenant: str = "local"
    ) -> tuple[Job, bool]:
        """Accept a job. Returns it and whether it is new.

        Raises:
            IdempotencyConflict: the key was used with another spec.
            StoreFull: too little of the memory budget is left.
        """
        await self.must_have_room()
        return await self._create(new_id("job"), spec, {}, "", idempotency_key, tenant)

    async def fork(self, job_id: str, iteration: int, spec: JobSpec, tenant: str = "local") -> Job:
        """A new job that goes on from the state before a kept meta-iteration of another.

        Raises:
            ResultNotFound: the vectors of that meta-iteration are not kept.
        """
        await self.must_have_room()
        kept = await self._kept(job_id, iteration)
        fork_id = new_id("job")
        await self._blobs.copy(job_id, fork_id, kept["state"])
        # The best of the other job is no model or record of this one.
        scalars = kept["scalars"] | {"best_iteration": None, "best_validation_loss": None}
        state = {
            "iteration": iteration,
            "scalars": scalars,
            "chunks": kept["state"],
            "bytes": kept["state_bytes"],
        }
        progress = Progress(iteration=iteration, iterations=spec.meta.iterations)
        fields = {
            "iteration": str(iteration),
            "forked_from": f"{job_id}@{iteration}",
            "progress": progress.model_dump_json(),
        }
        return (await self._create(fork_id, spec, fields, json.dumps(state), None, tenant))[0]

    async def get(self, job_id: str) -> Job:
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(keys.job(job_id))
        pipe.lrange(keys.job(job_id, "transitions"), 0, -1)
        fields, transitions = await pipe.execute()
        if not fields:
            raise JobNotFound(job_id)
        cluster = await self.cluster() if fields[b"status"] == b"queued" else None
        return rows.job(job_id, fields, [rows.transition(t) for t in transitions], cluster)

    async def jobs(
        self,
        status: JobStatus | None = None,
        tag: tuple[str, str] | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page[Job]:
        """Jobs without their transitions, the newest first."""
        index = keys.jobs_with(status) if status else keys.JOBS
        cluster = await self.cluster()
        found: list[Job] = []
        last = after
        while len(found) <= limit:
            most = limit + 1 - len(found) if tag is None else 100
            ids = await self._redis.zrevrangebylex(
                index, f"({last}" if last else "+", "-", start=0, num=most
            )
            if not ids:
                break
            pipe = self._redis.pipeline(transaction=False)
            for raw in ids:
                pipe.hgetall(keys.job(raw.decode()))
            for raw, fields in zip(ids, await pipe.execute(), strict=True):
                last = raw.decode()
                if not fields:  # deleted meanwhile
                    continue
                job = rows.job(last, fields, [], cluster)
                if tag is None or job.tags.get(tag[0]) == tag[1]:
                    found.append(job)
        page = found[:limit]
        has_more = len(found) > limit
        return Page(data=page, has_more=has_more, next=page[-1].id if has_more else None)

    async def cluster(self) -> rows.Cluster:
        """What the cluster has, and what of it is promised."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(keys.CLUSTER)
        pipe.hgetall(keys.RESERVATIONS)
        pipe.time()
        announced, reservations, (seconds, micros) = await pipe.execute()
        return rows.Cluster(announced, reservations, seconds * 1000 + micros / 1000)

    async def queue(self, limit: int) -> list[str]:
        """The ids of the first queued jobs, in the order in which they will run."""
        cluster = await self.cluster()
        ids: list[str] = await self._scripts.run("queue", cluster.cpus, cluster.gpus, limit)
        return ids

    async def pause(self, job_id: str) -> Job:
        """Free what the job holds after its running meta-iteration."""
        await self._act(job_id, Action.PAUSE, "user", "paused by its user")
        return await self.get(job_id)

    async def resume(self, job_id: str) -> Job:
        await self._act(job_id, Action.RESUME, "user", "resumed by its user")
        return await self.get(job_id)

    async def cancel(self, job_id: str) -> Job:
        await self._act(job_id, Action.CANCEL, "user", "cancelled by its user")
        return await self.get(job_id)

    async def extend(self, job: Job, spec: JobSpec) -> Job:
        """Queue a job that has ended again, with more meta-iterations in its spec and new time."""
        await self.must_have_room()
        job_id = job.id
        progress = job.progress.model_copy(
            update={"iterations": spec.meta.iterations, "remaining_s": None, "spent_s": 0.0}
        )
        fields = {"spec": spec.model_dump_json(), "progress": progress.model_dump_json()}
        raw = await self._redis.get(keys.job(job_id, "state"))
        state = ""
        if raw is not None:  # whoever asks for more has new patience
            described = json.loads(raw)
            described["scalars"]["stale"] = 0
            state = json.dumps(described)
        message = f"extended to {spec.meta.iterations} meta-iterations"
        seen = str(job.version)
        await self._act(job_id, Action.EXTEND, "extended", message, fields, state=state, seen=seen)
        return await self.get(job_id)

    async def delete(self, job_id: str) -> None:
        outcome, status = await self._scripts.run("delete", job_id, *keys.PARTS)
        if outcome == "unknown":
            raise JobNotFound(job_id)
        if outcome == "refused":
            raise ActionRefused(job_id, "delete", status)

    async def delete_ended_before(self, milliseconds_ago: float) -> int:
        """Delete jobs that ended so long ago. Returns how many."""
        seconds, micros = await self._redis.time()
        horizon = seconds * 1000 + micros / 1000 - milliseconds_ago
        ids = await self._redis.zrangebyscore(keys.ENDED, "-inf", horizon, start=0, num=1000)
        for raw in ids:
            await self._scripts.run("delete", raw.decode(), *keys.PARTS)
        return len(ids)

    async def delete_unused_code(self, milliseconds_ago: float) -> int:
        """Delete code that nobody asked for so long and that no job names. Returns how much."""
        seconds, micros = await self._redis.time()
        horizon = seconds * 1000 + micros / 1000 - milliseconds_ago
        old = {raw.decode() for raw in await self._redis.zrangebyscore(keys.CODES, "-inf", horizon)}
        if not old:
            return 0
        pipe = self._redis.pipeline(transaction=False)
        for raw in await self._redis.zrange(keys.JOBS, 0, -1):
            pipe.hget(keys.job(raw.decode()), "spec")
        for spec in filter(None, await pipe.execute()):
            code = json.loads(spec)["problem"].get("code") or ""
            if (sha256 := code.removeprefix("sha256:")) in old:
                old.remove(sha256)
                await self._touch_code(sha256)  # looked at again when it is old again
        for sha256 in old:
            await self._redis.unlink(keys.code(sha256))
            await self._redis.zrem(keys.CODES, sha256)
        return len(old)

    # Results

    async def history(
        self, job_id: str, after: int | None = None, limit: int = 100, every: int = 1
    ) -> Page[MetaIteration]:
        """MetaIteration records after iteration `after`: those divisible by `every`, in order."""
        await self._must_exist(job_id)
        found: list[tuple[int, bytes]] = []
        start = f"{after + 1}-0" if after is not None else "-"
        while len(found) <= limit:
            entries = await self._redis.xrange(
                keys.job(job_id, "history"), min=start, count=(limit + 1) * min(every, 100)
            )
            if not entries:
                break
            numbered = [(rows.order(entry)[0], fields[b"record"]) for entry, fields in entries]
            found += [(number, record) for number, record in numbered if number % every == 0]
            start = f"({entries[-1][0].decode()}"
        page = found[:limit]
        has_more = len(found) > limit
        kept = (
            await self._redis.hmget(keys.job(job_id, "vectors"), [number for number, _ in page])
            if page
            else []
        )
        records = [
            rows.iteration(record, has_vectors=vectors is not None)
            for (_, record), vectors in zip(page, kept, strict=True)
        ]
        return Page(data=records, has_more=has_more, next=str(page[-1][0]) if has_more else None)

    async def iteration(self, job_id: str, which: str | int) -> MetaIteration:
        """The record of a meta-iteration: its number, "best" or "last".

        Raises:
            ResultNotFound: it has not been committed.
        """
        job = await self.get(job_id)
        if which == "best" and job.best is not None:
            which = job.best.iteration
        elif which == "last":
            newest = await self._redis.xrevrange(keys.job(job_id, "history"), count=1)
            which = rows.order(newest[0][0])[0] if newest else which
        if isinstance(which, int):
            found = await self.history(job_id, after=which - 1 if which else None, limit=1)
            if found.data and found.data[0].iteration == which:
                return found.data[0]
        raise ResultNotFound(
            f"job {job_id} has no meta-iteration {which}: {job.progress.iteration} of "
            f"{job.progress.iterations} are committed and it is {job.status}"
        )

    async def vectors(self, job_id: str, iteration: int, what: str) -> bytes:
        """`what` of "state" or "hypergradient" at a committed meta-iteration, as safetensors."""
        return await self._blobs.get(job_id, (await self._kept(job_id, iteration))[what])

    async def fidelity_report(self, job_id: str) -> dict[str, Any] | None:
        """What was measured of the job's method before its first meta-iteration, or None."""
        await self._must_exist(job_id)
        report = await self._redis.hget(keys.job(job_id), "fidelity")
        return json.loads(report) if report else None

    async def fidelity(self, job_id: str) -> dict[str, Any]:
        """The report, and the choices that auto made in the course of the history."""
        choices: list[dict[str, Any]] = []
        after: int | None = None
        while True:
            page = await self.history(job_id, after, limit=1000)
            choices += [
                {"iteration": record.iteration, **record.choice}
                for record in page.data
                if record.choice is not None
            ]
            if page.next is None:
                return {"report": await self.fidelity_report(job_id), "choices": choices}
            after = int(page.next)

    async def model(self, job_id: str, which: str) -> tuple[int, bytes]:
        """Iteration and safetensors of the "best" or "last" model."""
        await self._must_exist(job_id)
        kept = await self._redis.hget(keys.job(job_id, "models"), which)
        if kept is None:
            raise ResultNotFound(
                f"job {job_id} keeps no {which} model: none was trained yet, or it is larger than "
                "the service keeps"
            )
        described = json.loads(kept)
        return described["iteration"], await self._model_blobs.get(job_id, described["chunks"])

    # Code

    async def put_code(self, sha256: str, content: bytes) -> bool:
        """Keep an archive under the digest of its bytes. Returns whether it is new."""
        await self.must_have_room()
        key = keys.code(sha256)
        is_new = not await self._redis.exists(key)
        if is_new:
            parts = range(0, len(content), CHUNK_BYTES)
            being_written = f"{key}:{new_id('part')}"
            for number, start in enumerate(parts):
                chunk = content[start : start + CHUNK_BYTES]
                await self._redis.hset(being_written, str(number), chunk)
                await self._redis.expire(being_written, COPY_S)
            done = self._redis.pipeline(transaction=True)
            done.persist(being_written)
            done.rename(being_written, key)
            await done.execute()
        await self._touch_code(sha256)
        return is_new

    async def has_code(self, name: str) -> bool:
        """Whether sha256:<digits> was uploaded."""
        return bool(await self._redis.exists(keys.code(name.removeprefix("sha256:"))))

    async def code(self, name: str) -> bytes:
        """
        Raises:
            ResultNotFound: it was never uploaded, or is no longer kept.
        """
        sha256 = name.removeprefix("sha256:")
        chunks = await self._redis.hgetall(keys.code(sha256))
        if not chunks:
            raise ResultNotFound(f"the code {name} is not here; upload it again")
        await self._touch_code(sha256)
        return b"".join(chunks[number] for number in sorted(chunks, key=int))

    async def _touch_code(self, sha256: str) -> None:
        seconds, micros = await self._redis.time()
        await self._redis.zadd(keys.CODES, {sha256: seconds * 1000 + micros // 1000})

    # Events and logs

    async def events(self, job_id: str, after: str | None = None, limit: int = 500) -> list[Event]:
        """Events after the id `after`. Begins with `reset` when earlier ones are no longer kept.

        Raises:
            ValueError: `after` is not an event's id.
        """
        key = keys.job(job_id, "events")
        entries = await self._entries(key, after, limit)
        events = [rows.event(entry, fields) for entry, fields in entries]
        if entries and await self._trimmed(key, after):
            job = await self.get(job_id)
            reset = Event(
                id=after or "0-0", at=events[0].at, type="reset", data=job.model_dump(mode="json")
            )
            return [reset, *events]
        return events

    async def logs(
        self, job_id: str, after: str | None = None, replica: int | None = None, limit: int = 100
    ) -> Page[LogLine]:
        """What the replicas printed after the line `after`.

        Raises:
            ValueError: `after` is not a line's id.
        """
        await self._must_exist(job_id)
        found: list[LogLine] = []
        while len(found) <= limit:
            entries = await self._entries(keys.job(job_id, "logs"), after, limit + 1)
            if not entries:
                break
            lines = [rows.log_line(entry, fields) for entry, fields in entries]
            found += [line for line in lines if replica is None or line.replica == replica]
            after = lines[-1].id
        page = found[:limit]
        return Page(data=page, has_more=len(found) > limit, next=page[-1].id if page else after)

    async def changes(self) -> AsyncIterator[str]:
        """Ids of jobs of which something changed; "" once, when listening has begun."""
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(keys.CHANGES)
            async for message in pubsub.listen():
                if message["type"] == "subscribe":
                    yield ""
                elif message["type"] == "message":
                    yield message["data"].decode()

    # What schedulers do

    async def claim(self, scheduler: str, lease_s: float, capacity: Capacity) -> Lease | None:
        """Take the next job that fits, and reserve what it needs."""
        claimed = await self._scripts.run(
            "claim",
            scheduler,
            int(lease_s * 1000),
            capacity.cpus,
            capacity.gpus,
            _states(Action.CLAIM),
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

    async def begin(
        self, lease: Lease, hyperparameters: Sequence[HyperparameterInfo], start: ResumePoint | None
    ) -> None:
        """Keep what the first look at the problem found, and the state to start from, if new."""
        infos = json.dumps([h.model_dump(mode="json") for h in hyperparameters])
        state = json.dumps(await self._put_state(lease, start)) if start else ""
        await self._update(lease, {"hyperparameters": infos}, state=state)

    async def resume_point(self, job_id: str) -> ResumePoint | None:
        """Where the job goes on; None when it has not begun."""
        raw = await self._redis.get(keys.job(job_id, "state"))
        if raw is None:
            return None
        state = json.loads(raw)
        tensors = await self._blobs.get(job_id, state["chunks"])
        return ResumePoint(state["iteration"], tensors, state["scalars"])

    async def kept_point(self, job_id: str, iteration: int) -> tuple[ResumePoint, bytes]:
        """State and hypergradient of a committed meta-iteration."""
        kept = await self._kept(job_id, iteration)
        state = await self._blobs.get(job_id, kept["state"])
        hypergradient = await self._blobs.get(job_id, kept["hypergradient"])
        return ResumePoint(iteration, state, kept["scalars"]), hypergradient

    async def progress(self, lease: Lease, progress: Progress) -> JobStatus:
        """Show how far the running meta-iteration is. Returns the job's state."""
        return await self._update(lease, {"progress": progress.model_dump_json()})

    async def status(self, lease: Lease) -> JobStatus:
        """The state of a held job."""
        status, fence = await self._redis.hmget(keys.job(lease.job_id), ["status", "fence"])
        if status is None or fence.decode() != lease.fence or status.decode() not in DRIVEN:
            raise LeaseLost(f"job {lease.job_id} is no longer driven under {lease.fence}")
        return JobStatus(status.decode())

    async def warn(self, lease: Lease, code: str, message: str) -> None:
        warning = json.dumps({"code": code, "message": message})
        await self._update(lease, {}, "warning", warning)

    async def keep_fidelity(self, lease: Lease, report: Mapping[str, Any]) -> None:
        """Keep how far the job's method was found to agree with the exact one."""
        await self._update(lease, {"fidelity": json.dumps(report)})

    async def log(self, lease: Lease, replica: int, lines: Sequence[str]) -> None:
        """Keep what a replica printed; of a job, the last LOG_LINES lines."""
        outcome = await self._scripts.run(
            "log", lease.job_id, lease.fence, LOG_LINES, replica, *lines
        )
        if outcome != "ok":
            raise LeaseLost(f"lines of {lease.job_id} refused: {outcome}")

    async def retreat(self, lease: Lease, point: ResumePoint, message: str) -> None:
        """Take a step back: the same meta-iteration begins again, from another state."""
        before = await self._state(lease.job_id)
        state = await self._put_state(lease, point)
        kept = (await self._all_vectors(lease.job_id)).values()
        garbage = set(before["chunks"]) - _needed([*kept], state)
        rejection = {"iteration": point.iteration, "retreat": point.scalars["retreats"]}
        event = json.dumps(rejection | {"message": message})
        await self._update(lease, {}, "rejection", event, json.dumps(state), sorted(garbage))

    async def commit(self, lease: Lease, step: Step) -> None:
        """Commit one meta-iteration. Committing it again under the same lease changes nothing.

        Raises:
            LeaseLost: the job belongs to another scheduler.
        """
        job_id = lease.job_id
        before = await self._state(job_id)
        vectors = {
            "state": before["chunks"],
            "scalars": before["scalars"],
            "hypergradient": await self._blobs.put(job_id, lease.fence, step.hypergradient),
            "state_bytes": before["bytes"],
            "bytes": before["bytes"] + len(step.hypergradient),
        }
        state = await self._put_state(lease, step.next_state)
        models, old_models = await self._put_model(lease, step)
        gone, garbage, vector_bytes = await self._thin(job_id, step, vectors, state)
        fields = {
            "progress": step.progress.model_dump_json(),
            "vector_bytes": str(vector_bytes),
        }
        if step.best is not None:
            fields["best"] = step.best.model_dump_json()
        outcome, detail = await self._scripts.run(
            "commit",
            job_id,
            lease.fence,
            step.iteration,
            json.dumps(step.record, allow_nan=False),
            json.dumps(state),
            json.dumps(vectors),
            json.dumps(models),
            json.dumps(fields),
            json.dumps(gone),
            json.dumps(garbage),
            json.dumps(old_models),
        )
        if outcome != "ok":
            raise LeaseLost(
                f"meta-iteration {step.iteration} of {job_id} refused: {outcome} {detail}"
            )

    # Inside

    async def _create(
        self,
        job_id: str,
        spec: JobSpec,
        fields: Mapping[str, str],
        state: str,
        idempotency_key: str | None,
        tenant: str,
    ) -> tuple[Job, bool]:
        body = spec.model_dump_json()
        if spec.problem.kind == "code":
            await self._touch_code(spec.problem.code.removeprefix("sha256:"))
        described = {
            "spec": body,
            "tenant": tenant,
            "cpus": str(spec.resources.cpus * spec.replicas.count),
            "gpus": str(spec.resources.gpus * spec.replicas.count),
            "progress": Progress(iterations=spec.meta.iterations).model_dump_json(),
        }
        outcome, created_id = await self._scripts.run(
            "create",
            job_id,
            json.dumps(described | dict(fields)),
            state,
            spec.priority,
            spec.priority * PRIORITY_BONUS_MS,
            keys.idempotency(tenant, idempotency_key) if idempotency_key else "",
            hashlib.sha256(body.encode()).hexdigest(),
            IDEMPOTENCY_S,
        )
        if outcome == "other_body":
            raise IdempotencyConflict(idempotency_key or "")
        return await self.get(created_id), outcome == "created"

    async def must_have_room(self) -> None:
        """
        Raises:
            StoreFull: too little of the memory budget is left for anything new.
        """
        memory = await self._redis.info("memory")
        budget, used = memory["maxmemory"], memory["used_memory"]
        if budget and used > FULL * budget:
            raise StoreFull(used, budget)

    async def _must_exist(self, job_id: str) -> None:
        if not await self._redis.exists(keys.job(job_id)):
            raise JobNotFound(job_id)

    async def _kept(self, job_id: str, iteration: int) -> dict[str, Any]:
        """Names of the chunks of a meta-iteration's vectors, and the scalars of its state."""
        await self._must_exist(job_id)
        raw = await self._redis.hget(keys.job(job_id, "vectors"), str(iteration))
        if raw is None:
            raise ResultNotFound(
                f"job {job_id} keeps no vectors of meta-iteration {iteration}; its history says "
                "where has_vectors is true"
            )
        kept: dict[str, Any] = json.loads(raw)
        return kept

    async def _act(
        self,
        job_id: str,
        action: Action,
        reason: str,
        message: str,
        fields: Mapping[str, str] = {},
        fence: str = "",
        state: str = "",
        seen: str = "",
    ) -> JobStatus:
        outcome, status = await self._scripts.run(
            "transition",
            job_id,
            fence,
            _states(action),
            reason,
            message,
            json.dumps(dict(fields)),
            state,
            seen,
        )
        if fence and outcome in ("fenced", "unknown"):
            raise LeaseLost(f"{action} of {job_id} refused: {outcome}")
        if outcome == "unknown":
            raise JobNotFound(job_id)
        if outcome == "refused":
            raise ActionRefused(job_id, action, status)
        return JobStatus(status)

    async def _update(
        self,
        lease: Lease,
        fields: Mapping[str, str],
        event: str = "",
        data: str = "",
        state: str = "",
        garbage: Sequence[str] = (),
    ) -> JobStatus:
        outcome, status = await self._scripts.run(
            "update",
            lease.job_id,
            lease.fence,
            json.dumps(dict(fields)),
            event,
            data,
            state,
            json.dumps(list(garbage)),
        )
        if outcome != "ok":
            raise LeaseLost(f"update of {lease.job_id} refused: {outcome}")
        return JobStatus(status)

    async def _state(self, job_id: str) -> dict[str, Any]:
        raw = await self._redis.get(keys.job(job_id, "state"))
        state: dict[str, Any] = (
            json.loads(raw) if raw else {"chunks": [], "scalars": {}, "bytes": 0}
        )
        return state

    async def _put_state(self, lease: Lease, point: ResumePoint) -> dict[str, Any]:
        return {
            "iteration": point.iteration,
            "scalars": point.scalars,
            "chunks": await self._blobs.put(lease.job_id, lease.fence, point.tensors),
            "bytes": len(point.tensors),
        }

    async def _put_model(self, lease: Lease, step: Step) -> tuple[dict[str, str], list[str]]:
        """New entries of the models hash, and the chunks that nothing needs after them."""
        if step.model is None:
            return {}, []
        kept = await self._models(lease.job_id)
        described = {
            "iteration": step.iteration,
            "chunks": await self._model_blobs.put(lease.job_id, lease.fence, step.model),
        }
        changed = {"last": described} | ({"best": described} if step.best else {})
        entries = {name: json.dumps(value) for name, value in changed.items()}
        return entries, sorted(_chunks(kept) - _chunks(kept | changed))

    async def _models(self, job_id: str) -> dict[str, Any]:
        entries = await self._redis.hgetall(keys.job(job_id, "models"))
        return {name.decode(): json.loads(value) for name, value in entries.items()}

    async def _all_vectors(self, job_id: str) -> dict[int, dict[str, Any]]:
        entries = await self._redis.hgetall(keys.job(job_id, "vectors"))
        return {int(number): json.loads(value) for number, value in entries.items()}

    async def _thin(
        self, job_id: str, step: Step, vectors: dict[str, Any], state: Mapping[str, Any]
    ) -> tuple[list[int], list[str], int]:
        """Iterations whose vectors go to stay within the budget, their chunks, the bytes left."""
        total = int(await self._redis.hget(keys.job(job_id), "vector_bytes") or 0)
        total += vectors["bytes"]
        if total <= self._vector_bytes:
            return [], [], total
        kept = await self._all_vectors(job_id) | {step.iteration: vectors}
        sizes = {number: value["bytes"] for number, value in kept.items()}
        best = step.best or (await self.get(job_id)).best
        protected = {best.iteration} if best else set()
        # A tenth below the budget, so that not every commit has to look through all of them.
        gone = thinned(sizes, self._vector_bytes * 9 // 10, protected)
        left = {number: value for number, value in kept.items() if number not in gone}
        dropped = {c for n in gone for c in (*kept[n]["state"], *kept[n]["hypergradient"])}
        garbage = dropped - _needed([*left.values()], state)
        return gone, sorted(garbage), sum(sizes[number] for number in left)

    async def _entries(self, key: str, after: str | None, limit: int) -> Any:
        if after is not None and not _EVENT_ID.fullmatch(after):
            raise ValueError(f"an id looks like 1763912345678-0, got {after!r}")
        return await self._redis.xrange(key, min=f"({after}" if after else "-", count=limit)

    async def _trimmed(self, key: str, after: str | None) -> bool:
        """Whether events after this one are gone: its place lies before the first one kept."""
        info = await self._redis.xinfo_stream(key)
        if info["entries-added"] == info["length"]:
            return False
        return after is None or rows.order(info["first-entry"][0]) > rows.order(after)


def _states(action: Action) -> str:
    return json.dumps(TRANSITIONS[action])


def _needed(vectors: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> set[str]:
    """Chunks that these name; equal parts of different vectors are one chunk."""
    named = {c for v in vectors for c in (*v["state"], *v["hypergradient"])}
    return named | set(state["chunks"])


def _chunks(models: Mapping[str, Any]) -> set[str]:
    return {chunk for model in models.values() for chunk in model["chunks"]}
