"""The store against a model: whatever clients and schedulers do, in whatever order.

The model knows the table of transitions and nothing else of the store. Time is not waited for: a
lease is made to expire, and a job's age is written.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import Progress
from drmad_client.records.status import TERMINAL, JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.errors import ActionRefused, JobNotFound, LeaseLost, ResultNotFound
from drmad_service.store import Capacity, Lease, ResumePoint, Store, StoreSettings
from drmad_service.store.access.connection import connect
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import DRIVEN, TRANSITIONS, Action
from tests.service.store.test_store import step

T = TypeVar("T")

SETTINGS = StoreSettings()
CPUS, GPUS = 4.0, 2.0
CAPACITY = Capacity(CPUS, GPUS)
QUICK = settings(
    derandomize=True,
    deadline=None,
    max_examples=25,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)


def job_spec(cpus: float = 1.0, gpus: float = 0.0, priority: int = 0, count: int = 1) -> JobSpec:
    return JobSpec.model_validate(
        {
            "problem": {"data": {"name": "digits"}},
            "hyperparameters": [{"kind": "l2"}],
            "meta": {"iterations": 1000},
            "resources": {"cpus": cpus, "gpus": gpus},
            "replicas": {"count": count},
            "priority": priority,
        }
    )


@dataclass
class Known:
    """What the model knows of a job."""

    cpus: float
    gpus: float
    first: int = 0
    status: JobStatus = JobStatus.QUEUED
    fence: int = 0
    iteration: int = 0
    has_begun: bool = False
    expired: bool = False
    kept: set[int] = field(default_factory=set)

    def holds(self, lease: Lease) -> bool:
        return int(lease.fence) == self.fence and self.status in DRIVEN

    def may(self, action: Action) -> bool:
        return self.status in TRANSITIONS[action]

    def enter(self, action: Action) -> None:
        self.status = TRANSITIONS[action][self.status]


class StoreMachine(RuleBasedStateMachine):
    """Clients and schedulers at once; every refusal is predicted."""

    jobs = Bundle("jobs")
    leases = Bundle("leases")
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.redis: Redis = connect(self.url)
        self.store = Store(self.redis, StoreSettings(vector_bytes=120))
        self.known: dict[str, Known] = {}

    def teardown(self) -> None:
        self.do(self.redis.aclose())
        self.loop.close()

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(call)

    @initialize()
    def empty(self) -> None:
        self.do(_flush(self.redis))

    # Clients

    @rule(
        target=jobs,
        cpus=st.sampled_from([1.0, 2.0, 4.0, 8.0]),
        gpus=st.sampled_from([0.0, 0.5, 1.0]),
        count=st.integers(1, 2),
        priority=st.sampled_from([-3, 0, 5]),
        tenant=st.sampled_from(["a", "b"]),
    )
    def create(self, cpus: float, gpus: float, count: int, priority: int, tenant: str) -> str:
        spec = job_spec(cpus, gpus, priority, count)
        job, _ = self.do(self.store.create(spec, tenant=tenant))
        self.known[job.id] = Known(cpus * count, gpus * count)
        return job.id

    @rule(job=jobs, action=st.sampled_from([Action.PAUSE, Action.RESUME, Action.CANCEL]))
    def ask(self, job: str, action: Action) -> None:
        self.expect(job, action, getattr(self.store, action)(job))

    @rule(job=jobs)
    def extend(self, job: str) -> None:
        async def extended() -> None:
            await self.store.extend(await self.store.get(job), job_spec())

        self.expect(job, Action.EXTEND, extended())

    @rule(target=jobs, job=jobs, iteration=st.integers(0, 5))
    def fork(self, job: str, iteration: int) -> Any:
        source = self.known.get(job)
        forking = self.store.fork(job, iteration, job_spec(), job_spec())
        if source is None or iteration not in source.kept:
            with pytest.raises((JobNotFound, ResultNotFound)):
                self.do(forking)
            return multiple()
        fork = self.do(forking)
        self.known[fork.id] = Known(1.0, 0.0, iteration, iteration=iteration, has_begun=True)
        return fork.id

    @rule(job=jobs)
    def delete(self, job: str) -> None:
        known = self.known.get(job)
        if known is not None and known.status.is_terminal:
            self.do(self.store.delete(job))
            del self.known[job]
        else:
            with pytest.raises((JobNotFound, ActionRefused)):
                self.do(self.store.delete(job))

    @rule()
    def sweep(self) -> None:
        self.do(self.store.delete_ended_before(-1e6))
        self.known = {job: k for job, k in self.known.items() if not k.status.is_terminal}

    # Schedulers

    @rule(target=leases, scheduler=st.sampled_from(["s1", "s2"]))
    def claim(self, scheduler: str) -> Any:
        lease = self.do(self.store.claim(scheduler, 1000.0, CAPACITY))
        if lease is None:
            assert not any(known.expired for known in self.known.values())
            return multiple()
        known = self.known[lease.job_id]
        assert known.expired or known.status is JobStatus.QUEUED
        known.enter(Action.CLAIM)
        known.expired = False
        known.fence += 1
        assert int(lease.fence) == known.fence
        return lease

    @rule(lease=leases)
    def expire(self, lease: Lease) -> None:
        known = self.known.get(lease.job_id)
        if known is not None and known.status in DRIVEN:
            self.do(_set_score(self.redis, keys.LEASES, lease.job_id, 0))
            known.expired = True

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        known = self.known.get(lease.job_id)
        holds = known is not None and known.holds(lease)
        assert self.do(self.store.renew([lease], 1000.0)) == (set() if holds else {lease.job_id})
        if known is not None and holds:
            known.expired = False

    @rule(lease=leases)
    def begin(self, lease: Lease) -> None:
        known = self.known.get(lease.job_id)
        infos = [HyperparameterInfo(name="w", kind="l2", shape=[1], transform="exp")]
        start = None if known and known.has_begun else ResumePoint(0, b"state 0", {"rollbacks": 0})
        if self.written(lease, self.store.begin(lease, infos, start)):
            self.known[lease.job_id].has_begun = True

    @rule(lease=leases)
    def commit(self, lease: Lease) -> None:
        known = self.known.get(lease.job_id)
        if known is None or not known.has_begun:
            return
        at = known.iteration
        if self.written(lease, self.store.commit(lease, step(at))):
            known.iteration = at + 1
            known.kept = self.kept(lease.job_id)
            assert {at, known.first} <= known.kept

    @rule(lease=leases, what=st.sampled_from(["again", "gap"]))
    def commit_out_of_turn(self, lease: Lease, what: str) -> None:
        known = self.known.get(lease.job_id)
        if known is None or not known.has_begun or known.iteration == known.first:
            return
        at = known.iteration - 1 if what == "again" else known.iteration + 1
        committing = self.store.commit(lease, step(at))
        if what == "again":
            self.written(lease, committing)
        else:
            with pytest.raises(LeaseLost):
                self.do(committing)

    @rule(lease=leases, what=st.sampled_from(["progress", "warn", "log", "rollback", "status"]))
    def report(self, lease: Lease, what: str) -> None:
        known = self.known.get(lease.job_id)
        point = ResumePoint(known.iteration if known else 0, b"smaller", {"rollbacks": 1})
        reports: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "progress": lambda: self.store.progress(lease, Progress(iterations=1000)),
            "warn": lambda: self.store.warn(lease, "code", "message"),
            "log": lambda: self.store.log(lease, 0, ["one line", "another"]),
            "rollback": lambda: self.store.roll_back(lease, point, "too far"),
            "status": lambda: self.store.status(lease),
        }
        if what != "rollback" or (known is not None and known.has_begun):
            self.written(lease, reports[what]())

    @rule(
        lease=leases,
        action=st.sampled_from([Action.RUN, Action.YIELD, Action.SUCCEED, Action.FAIL]),
    )
    def act(self, lease: Lease, action: Action) -> None:
        known = self.known.get(lease.job_id)
        if self.written(lease, self.store.act(lease, action, "test")):
            assert known is not None
            known.enter(action)
            known.expired = known.expired and known.status in DRIVEN

    @rule(lease=consumes(leases))
    def forget(self, lease: Lease) -> None:
        """A scheduler dies without a word."""

    # What must hold after each of them

    def written(self, lease: Lease, call: Coroutine[Any, Any, Any]) -> bool:
        """Whether the write was accepted; it is refused to all but the newest holder."""
        known = self.known.get(lease.job_id)
        if known is not None and known.holds(lease):
            self.do(call)
            return True
        with pytest.raises(LeaseLost):
            self.do(call)
        return False

    def expect(self, job: str, action: Action, call: Coroutine[Any, Any, Any]) -> None:
        known = self.known.get(job)
        if known is None:
            with pytest.raises(JobNotFound):
                self.do(call)
        elif known.may(action):
            self.do(call)
            known.enter(action)
        else:
            with pytest.raises(ActionRefused):
                self.do(call)

    def kept(self, job: str) -> set[int]:
        return {r.iteration for r in self.do(self.store.history(job)).data if r.has_vectors}

    @invariant()
    def indexes_agree_with_the_states(self) -> None:
        held = self.do(_everything(self.redis))
        assert set(held.get(keys.JOBS, {})) == set(self.known)
        of_tenants = (held.get(keys.jobs_with(tenant=tenant), {}) for tenant in "ab")
        assert set().union(*of_tenants) == set(self.known)
        for status in JobStatus:
            in_it = {job for job, known in self.known.items() if known.status is status}
            assert set(held.get(keys.jobs_with(status), {})) == in_it
            of_tenants = (held.get(keys.jobs_with(status, tenant), {}) for tenant in "ab")
            assert set().union(*of_tenants) == in_it
        driven = {job for job, known in self.known.items() if known.status in DRIVEN}
        queued = {job for job, k in self.known.items() if k.status is JobStatus.QUEUED}
        ended = {job for job, known in self.known.items() if known.status.is_terminal}
        assert set(held.get(keys.QUEUE, {})) == queued
        assert set(held.get(keys.LEASES, {})) == driven
        for index in (keys.RESERVATIONS, keys.PLACES, keys.RESERVED_AT):
            assert set(held.get(index, {})) == driven, index
        assert set(held.get(keys.ENDED, {})) == ended
        reserved = [value.split() for value in held.get(keys.RESERVATIONS, {}).values()]
        assert sum(float(cpus) for cpus, _, _ in reserved) <= CPUS
        assert sum(float(gpus) for _, gpus, _ in reserved) <= GPUS
        theirs = {key.split(":")[2] for key in held if key.startswith(keys.job(""))}
        assert theirs == set(self.known)
        for job, known in self.known.items():
            self.job_is_whole(job, known, held)

    def job_is_whole(self, job: str, known: Known, held: dict[str, Any]) -> None:
        fields = held[keys.job(job)]
        assert (fields["status"], int(fields["fence"])) == (known.status, known.fence)
        assert int(fields["iteration"]) == known.iteration
        history = held.get(keys.job(job, "history"), [])
        assert history == [f"{n}-1" for n in range(known.first, known.iteration)]
        assert json.loads(held[keys.job(job, "transitions")][-1])["status"] == known.status
        vectors = [json.loads(v) for v in held.get(keys.job(job, "vectors"), {}).values()]
        needed = {chunk for v in vectors for chunk in (*v["state"], *v["hypergradient"])}
        if known.has_begun:
            state = json.loads(held[keys.job(job, "state")])
            assert state["iteration"] == known.iteration
            needed |= set(state["chunks"])
        assert needed == set(held.get(keys.job(job, "chunks"), {}))  # all of them, no others


async def _flush(redis: Redis) -> None:
    await redis.flushall()


async def _set_score(redis: Redis, key: str, member: str, score: float) -> None:
    await redis.zadd(key, {member: score})


async def _everything(redis: Redis) -> dict[str, Any]:
    """All that Redis holds; of a stream the ids, of binary values nothing but their names."""
    found: list[Any] = await redis.keys("*")
    names = [name.decode() for name in found]
    pipe: Any = redis.pipeline(transaction=False)
    for name in names:
        pipe.type(name)
    kinds = [kind.decode() for kind in await pipe.execute()]
    for name, kind in zip(names, kinds, strict=True):
        if kind == "zset":
            pipe.zrange(name, 0, -1, withscores=True)
        elif kind == "hash" and name.endswith("chunks"):
            pipe.hkeys(name)
        elif kind == "hash":
            pipe.hgetall(name)
        elif kind == "stream":
            pipe.xrange(name)
        elif kind == "list":
            pipe.lrange(name, 0, -1)
        else:
            pipe.get(name)
    held: dict[str, Any] = {}
    for name, kind, value in zip(names, kinds, await pipe.execute(), strict=True):
        if kind == "hash" and not name.endswith("chunks"):
            held[name] = {f.decode(): v.decode() for f, v in value.items()}
        elif kind == "hash":
            held[name] = {f.decode(): b"" for f in value}
        elif kind in ("zset", "stream"):
            decoded = {entry.decode(): about for entry, about in value}
            held[name] = decoded if kind == "zset" else list(decoded)
        else:
            held[name] = value
    return held


def test_no_sequence_of_actions_breaks_the_store(redis_url: str) -> None:
    class Machine(StoreMachine):
        url = redis_url

    run_state_machine_as_test(Machine, settings=QUICK)


def test_states_that_hold_a_job_are_the_same_in_both_languages() -> None:
    prelude = (resources.files("drmad_service.store") / "lua" / "prelude.lua").read_text()
    for name, states in (("DRIVEN", DRIVEN), ("TERMINAL", TERMINAL)):
        listed = re.search(rf"local {name} = {{(.*)}}", prelude)
        assert listed is not None
        assert set(re.findall(r"(\w+) = true", listed[1])) == states


@dataclass(frozen=True)
class Arrival:
    """A job of a random workload."""

    cpus: float
    gpus: float
    tenant: str
    priority: int
    minute: float

    @property
    def rank(self) -> float:
        return self.minute * 60_000 - self.priority * 1000 * SETTINGS.point_s


arrivals = st.lists(
    st.builds(
        Arrival,
        st.sampled_from([0.5, 1.0, 2.0, 4.0, 16.0]),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(-100, 100),
        st.floats(0.0, 500.0),
    ),
    min_size=1,
    max_size=16,
    unique_by=lambda arrival: arrival.rank,
)


@settings(parent=QUICK, max_examples=30)
@given(arrivals=arrivals, seed=st.integers(0, 1000), limit=st.sampled_from([2, 1e9]))
def test_nobody_starves(redis_url: str, arrivals: list[Arrival], seed: int, limit: float) -> None:
    """The job whose turn it is runs first, and nobody runs while it waits for its place.

    Its turn comes by rank: a minute of age counts as a point of priority, and five minutes as a
    running job of its tenant. So a job can be passed only by those submitted at most (100 - its
    priority) minutes and 5 minutes for every running job of its tenant after it: they are finitely
    many. Left out are jobs that the cluster can never hold, and those at their tenant's limit.
    """
    capacity = Capacity(CPUS, GPUS, limit)
    asyncio.run(_nobody_starves(redis_url, arrivals, random.Random(seed), capacity))


async def _nobody_starves(
    url: str, arrivals: list[Arrival], ends: random.Random, capacity: Capacity
) -> None:
    async with connect(url) as redis:
        await redis.flushall()
        store = Store(redis)
        waiting: dict[str, Arrival] = {}
        running: dict[str, tuple[Arrival, Lease]] = {}
        coming = sorted(arrivals, key=lambda arrival: arrival.minute)
        possible = [a for a in coming if a.cpus <= CPUS and a.gpus <= GPUS]
        claimed = 0
        while claimed < len(possible):
            for arrival in coming[: ends.randint(0, 3)]:
                spec = job_spec(arrival.cpus, arrival.gpus, arrival.priority)
                job, _ = await store.create(spec, tenant=arrival.tenant)
                await redis.zadd(keys.QUEUE, {job.id: arrival.rank})
                waiting[job.id] = arrival
                coming.remove(arrival)
            lease = await store.claim("scheduler", 1000.0, capacity)
            beside = [arrival for arrival, _ in running.values()]
            wanted = _next(waiting, beside, capacity)
            assert (lease.job_id if lease else None) == wanted
            if lease is not None:
                running[lease.job_id] = (waiting.pop(lease.job_id), lease)
                claimed += 1
            elif running and (not coming or ends.random() < 0.5):
                ended = ends.choice(sorted(running))
                await store.act(running.pop(ended)[1], Action.SUCCEED, "iterations")


def _next(waiting: dict[str, Arrival], running: list[Arrival], capacity: Capacity) -> str | None:
    """Whose turn it is, if there is room: written as simply as the promise."""

    def share(tenant: str) -> int:
        return sum(arrival.tenant == tenant for arrival in running)

    in_turn = sorted(
        (arrival.rank + share(arrival.tenant) * 1000 * SETTINGS.share_s, job)
        for job, arrival in waiting.items()
        if arrival.cpus <= CPUS and arrival.gpus <= GPUS
        if share(arrival.tenant) < capacity.tenant_jobs
    )
    if not in_turn:
        return None
    first = waiting[in_turn[0][1]]
    used_cpus, used_gpus = sum(a.cpus for a in running), sum(a.gpus for a in running)
    fits = used_cpus + first.cpus <= CPUS and used_gpus + first.gpus <= GPUS
    return in_turn[0][1] if fits else None
