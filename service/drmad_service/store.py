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
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from redis.asyncio import Redis

from drmad_client.records import (
    Best,
    Event,
    HyperparameterInfo,
    Job,
    JobError,
    JobStatus,
    MetaIteration,
    Page,
    Progress,
    Transition,
)
from drmad_client.specs import JobSpec
from drmad_service import keys
from drmad_service.errors import (
    ActionRefused,
    IdempotencyConflict,
    JobNotFound,
    LeaseLost,
    ResultNotFound,
)
from drmad_service.ids import new_id
from drmad_service.transitions import TRANSITIONS, Action

CHUNK_BYTES = 1 << 20
IDEMPOTENCY_S = 24 * 3600
PRIORITY_BONUS_MS = 60_000
"""One point of priority counts as much as a minute of waiting."""

_EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")


@dataclass(frozen=True)
class Lease:
    """The right to drive a job, as long as no newer fence exists."""

    job_id: str
    fence: str


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
    when it is too large to keep; `record` is a MetaIteration without its time.
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

    def __init__(self, redis: Redis, events_kept: int = 10_000) -> None:
        # redis-py types its answers as bytes, str or None; this client answers bytes.
        self._redis: Any = redis
        names = {
            "jobs": keys.JOBS,
            "queue": keys.QUEUE,
            "leases": keys.LEASES,
            "reservations": keys.RESERVATIONS,
            "changes": keys.CHANGES,
            "job": keys.job(""),
            "events_kept": events_kept,
        }
        lua = resources.files("drmad_service") / "lua"
        prelude = f"local K = cjson.decode('{json.dumps(names)}')\n" + _read(lua / "prelude.lua")
        self._scripts = {
            path.name.removesuffix(".lua"): redis.register_script(prelude + _read(path))
            for path in lua.iterdir()
            if path.name.endswith(".lua") and path.name != "prelude.lua"
        }

    async def ping(self) -> None:
        await self._redis.ping()

    # What clients do

    async def create(self, spec: JobSpec, idempotency_key: str | None = None) -> tuple[Job, bool]:
        """Accept a job. Returns it and whether it is new.

        Raises:
            IdempotencyConflict: the key was used with another spec.
        """
        body = spec.model_dump_json()
        fields = {
            "spec": body,
            "cpus": str(spec.resources.cpus * spec.replicas.count),
            "gpus": str(spec.resources.gpus * spec.replicas.count),
            "progress": Progress(iterations=spec.meta.iterations).model_dump_json(),
        }
        outcome, job_id = await self._run(
            "create",
            new_id("job"),
            json.dumps(fields),
            spec.priority * PRIORITY_BONUS_MS,
            keys.idempotency(idempotency_key) if idempotency_key else "",
            hashlib.sha256(body.encode()).hexdigest(),
            IDEMPOTENCY_S,
        )
        if outcome == "other_body":
            raise IdempotencyConflict(idempotency_key or "")
        return await self.get(job_id), outcome == "created"

    async def get(self, job_id: str) -> Job:
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(keys.job(job_id))
        pipe.lrange(keys.job(job_id, "transitions"), 0, -1)
        fields, transitions = await pipe.execute()
        if not fields:
            raise JobNotFound(job_id)
        return _job(job_id, fields, [_transition(t) for t in transitions])

    async def jobs(
        self,
        status: JobStatus | None = None,
        tag: tuple[str, str] | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page[Job]:
        """Jobs without their transitions, the newest first."""
        index = keys.jobs_with(status) if status else keys.JOBS
        found: list[Job] = []
        last = after
        while len(found) <= limit:
            ids = await self._redis.zrevrangebylex(
                index, f"({last}" if last else "+", "-", start=0, num=max(limit + 1, 100)
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
                job = _job(last, fields, [])
                if tag is None or job.tags.get(tag[0]) == tag[1]:
                    found.append(job)
        page = found[:limit]
        has_more = len(found) > limit
        return Page(data=page, has_more=has_more, next=page[-1].id if has_more else None)

    async def cancel(self, job_id: str) -> Job:
        await self._act(job_id, Action.CANCEL, "user", "cancelled by its user")
        return await self.get(job_id)

    async def delete(self, job_id: str) -> None:
        outcome, status = await self._run("delete", job_id, *keys.PARTS)
        if outcome == "unknown":
            raise JobNotFound(job_id)
        if outcome == "refused":
            raise ActionRefused(job_id, "delete", status)

    # Results

    async def history(
        self, job_id: str, after: int | None = None, limit: int = 100, every: int = 1
    ) -> Page[MetaIteration]:
        """MetaIteration records after iteration `after`: those divisible by `every`, in order."""
        await self._must_exist(job_id)
        found: list[MetaIteration] = []
        start = f"{after + 1}-0" if after is not None else "-"
        while len(found) <= limit:
            rows = await self._redis.xrange(
                keys.job(job_id, "history"), min=start, count=(limit + 1) * min(every, 100)
            )
            if not rows:
                break
            found += [
                _iteration(fields[b"record"])
                for row_id, fields in rows
                if int(row_id.split(b"-")[0]) % every == 0
            ]
            start = f"({rows[-1][0].decode()}"
        page = found[:limit]
        has_more = len(found) > limit
        return Page(
            data=page, has_more=has_more, next=str(page[-1].iteration) if has_more else None
        )

    async def iteration(self, job_id: str, which: str | int) -> MetaIteration:
        """The record of a meta-iteration: its number, "best" or "last".

        Raises:
            ResultNotFound: it has not been committed.
        """
        job = await self.get(job_id)
        if which == "best" and job.best is not None:
            which = job.best.iteration
        elif which == "last" and job.progress.iteration > 0:
            which = job.progress.iteration - 1
        if isinstance(which, int):
            rows = await self._redis.xrange(
                keys.job(job_id, "history"), min=f"{which}-1", max=f"{which}-1"
            )
            if rows:
                return _iteration(rows[0][1][b"record"])
        raise ResultNotFound(
            f"job {job_id} has no meta-iteration {which}: {job.progress.iteration} of "
            f"{job.progress.iterations} are committed and it is {job.status}"
        )

    async def vectors(self, job_id: str, iteration: int, what: str) -> bytes:
        """`what` of "state" or "hypergradient" at a committed meta-iteration, as safetensors."""
        names = await self._redis.hget(keys.job(job_id, "vectors"), str(iteration))
        if names is None:
            raise ResultNotFound(f"the vectors of meta-iteration {iteration} are not kept")
        return await self._blob(job_id, json.loads(names)[what])

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
        return described["iteration"], await self._blob(job_id, described["chunks"])

    # Events

    async def events(self, job_id: str, after: str | None = None, limit: int = 500) -> list[Event]:
        """Events after the id `after`. Begins with `reset` when earlier ones are no longer kept.

        Raises:
            ValueError: `after` is not an event's id.
        """
        if after is not None and not _EVENT_ID.fullmatch(after):
            raise ValueError(f"an event id looks like 1763912345678-0, got {after!r}")
        key = keys.job(job_id, "events")
        rows = await self._redis.xrange(key, min=f"({after}" if after else "-", count=limit)
        events = [_event(row_id, fields) for row_id, fields in rows]
        if after and rows and await self._trimmed(key, after):
            job = await self.get(job_id)
            reset = Event(id=after, at=events[0].at, type="reset", data=job.model_dump(mode="json"))
            return [reset, *events]
        return events

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

    async def claim(self, scheduler: str, lease_s: float, cpus: float, gpus: float) -> Lease | None:
        """Take the next job that fits a cluster of so many CPUs and GPUs, and reserve them."""
        claimed = await self._run(
            "claim", scheduler, int(lease_s * 1000), cpus, gpus, _states(Action.CLAIM)
        )
        return Lease(*claimed) if claimed else None

    async def renew(self, leases: Iterable[Lease], lease_s: float) -> set[str]:
        """Hold the leases for another `lease_s` seconds. Returns the ids of the lost ones."""
        pairs = [part for lease in leases for part in (lease.job_id, lease.fence)]
        return set(await self._run("renew", int(lease_s * 1000), *pairs)) if pairs else set()

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
        self, lease: Lease, hyperparameters: Sequence[HyperparameterInfo], start: ResumePoint
    ) -> None:
        """Keep what the first look at the problem found, and the state to start from."""
        infos = json.dumps([h.model_dump(mode="json") for h in hyperparameters])
        state = await self._put_state(lease.job_id, start)
        await self._update(lease, {"hyperparameters": infos}, state=state)

    async def resume_point(self, job_id: str) -> ResumePoint | None:
        """Where the job goes on; None when it has not begun."""
        raw = await self._redis.get(keys.job(job_id, "state"))
        if raw is None:
            return None
        state = json.loads(raw)
        tensors = await self._blob(job_id, state["chunks"])
        return ResumePoint(state["iteration"], tensors, state["scalars"])

    async def progress(self, lease: Lease, progress: Progress) -> JobStatus:
        """Show how far the running meta-iteration is. Returns the job's state."""
        return await self._update(lease, {"progress": progress.model_dump_json()})

    async def status(self, lease: Lease) -> JobStatus:
        """The state of a held job."""
        status, fence = await self._redis.hmget(keys.job(lease.job_id), ["status", "fence"])
        if status is None or fence.decode() != lease.fence:
            raise LeaseLost(f"job {lease.job_id} is no longer driven under {lease.fence}")
        return JobStatus(status.decode())

    async def warn(self, lease: Lease, code: str, message: str) -> None:
        warning = json.dumps({"code": code, "message": message})
        await self._update(lease, {}, "warning", warning)

    async def commit(self, lease: Lease, step: Step) -> None:
        """Commit one meta-iteration. Committing it again under the same lease changes nothing.

        Raises:
            LeaseLost: the job belongs to another scheduler.
        """
        job_id = lease.job_id
        before = await self._redis.get(keys.job(job_id, "state"))
        vectors = {
            "state": json.loads(before)["chunks"] if before else [],
            "hypergradient": await self._put_blob(job_id, step.hypergradient),
        }
        state = await self._put_state(job_id, step.next_state)
        models, garbage = await self._put_model(job_id, step)
        fields = {"progress": step.progress.model_dump_json()}
        if step.best is not None:
            fields["best"] = step.best.model_dump_json()
        outcome, detail = await self._run(
            "commit",
            job_id,
            lease.fence,
            step.iteration,
            json.dumps(step.record, allow_nan=False),
            state,
            json.dumps(vectors),
            json.dumps(models),
            json.dumps(fields),
            json.dumps(garbage),
        )
        if outcome != "ok":
            raise LeaseLost(
                f"meta-iteration {step.iteration} of {job_id} refused: {outcome} {detail}"
            )

    # Inside

    async def _run(self, script: str, *args: str | float) -> Any:
        return _decoded(await self._scripts[script](args=args))

    async def _must_exist(self, job_id: str) -> None:
        if not await self._redis.exists(keys.job(job_id)):
            raise JobNotFound(job_id)

    async def _act(
        self,
        job_id: str,
        action: Action,
        reason: str,
        message: str,
        fields: Mapping[str, str] = {},
        fence: str = "",
    ) -> JobStatus:
        outcome, status = await self._run(
            "transition", job_id, fence, _states(action), reason, message, json.dumps(dict(fields))
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
    ) -> JobStatus:
        outcome, status = await self._run(
            "update", lease.job_id, lease.fence, json.dumps(dict(fields)), event, data, state
        )
        if outcome != "ok":
            raise LeaseLost(f"update of {lease.job_id} refused: {outcome}")
        return JobStatus(status)

    async def _put_state(self, job_id: str, point: ResumePoint) -> str:
        chunks = await self._put_blob(job_id, point.tensors)
        described = {"iteration": point.iteration, "scalars": point.scalars, "chunks": chunks}
        return json.dumps(described)

    async def _put_model(self, job_id: str, step: Step) -> tuple[dict[str, str], list[str]]:
        """New entries of the models hash, and the chunks that nothing needs after them."""
        kept = {
            name.decode(): json.loads(value)
            for name, value in (await self._redis.hgetall(keys.job(job_id, "models"))).items()
        }
        before = {chunk for model in kept.values() for chunk in model["chunks"]}
        if step.model is None:
            return {}, []
        described = {
            "iteration": step.iteration,
            "chunks": await self._put_blob(job_id, step.model),
        }
        changed = {"last": described} | ({"best": described} if step.best else {})
        needed = {chunk for model in (kept | changed).values() for chunk in model["chunks"]}
        entries = {name: json.dumps(value) for name, value in changed.items()}
        return entries, sorted(before - needed)

    async def _put_blob(self, job_id: str, blob: bytes) -> list[str]:
        names = []
        for start in range(0, len(blob), CHUNK_BYTES):
            chunk = blob[start : start + CHUNK_BYTES]
            names.append(hashlib.sha256(chunk).hexdigest())
            await self._redis.hset(keys.job(job_id, "chunks"), names[-1], chunk)
        return names

    async def _blob(self, job_id: str, names: Sequence[str]) -> bytes:
        parts = [await self._redis.hget(keys.job(job_id, "chunks"), name) for name in names]
        if any(part is None for part in parts):
            raise ResultNotFound(f"a part of this result of job {job_id} is no longer kept")
        return b"".join(parts)

    async def _trimmed(self, key: str, after: str) -> bool:
        """Whether `after` lies before the first event kept: others after it may be gone too."""
        info = await self._redis.xinfo_stream(key)
        return _order(info["first-entry"][0]) > _order(after)


def _read(path: Any) -> str:
    return str(path.read_text(encoding="utf-8"))


def _states(action: Action) -> str:
    return json.dumps(TRANSITIONS[action])


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _order(event_id: bytes | str) -> tuple[int, int]:
    text = event_id.decode() if isinstance(event_id, bytes) else event_id
    milliseconds, number = text.split("-")
    return int(milliseconds), int(number)


def _time(milliseconds: float | str | bytes) -> datetime:
    return datetime.fromtimestamp(float(milliseconds) / 1000, tz=UTC)


def _transition(raw: bytes) -> Transition:
    fields = json.loads(raw)
    return Transition(**fields | {"at": _time(fields["at"])})


def _iteration(raw: bytes) -> MetaIteration:
    fields = json.loads(raw)
    return MetaIteration(**fields | {"at": _time(fields["at"])})


def _event(row_id: bytes, fields: Mapping[bytes, bytes]) -> Event:
    kind, data = fields[b"type"].decode(), fields[b"data"]
    if kind == "status":
        payload = _transition(data).model_dump(mode="json")
    elif kind == "iteration":
        payload = _iteration(data).model_dump(mode="json")
    else:
        payload = json.loads(data)
    at = _time(fields[b"at"])
    return Event.model_validate({"id": row_id.decode(), "at": at, "type": kind, "data": payload})


def _job(job_id: str, fields: Mapping[bytes, bytes], transitions: list[Transition]) -> Job:
    def at(name: bytes) -> datetime | None:
        return _time(fields[name]) if name in fields else None

    spec = JobSpec.model_validate_json(fields[b"spec"])
    best, error = fields.get(b"best"), fields.get(b"error")
    return Job(
        id=job_id,
        name=spec.name,
        status=JobStatus(fields[b"status"].decode()),
        reason=fields[b"reason"].decode(),
        message=fields[b"message"].decode(),
        created_at=_time(fields[b"created_at"]),
        started_at=at(b"started_at"),
        finished_at=at(b"finished_at"),
        progress=Progress.model_validate_json(fields[b"progress"]),
        best=Best.model_validate_json(best) if best else None,
        error=JobError.model_validate_json(error) if error else None,
        hyperparameters=json.loads(fields.get(b"hyperparameters", b"[]")),
        transitions=transitions,
        tags=spec.tags,
        spec=spec,
        version=int(fields[b"version"]),
    )
