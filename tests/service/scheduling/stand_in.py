"""A cluster in this process: the test resolves what its replicas return."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.printed_lines import Remains, Worker
from drmad_service.store import Capacity
from drmad_service.store.jobs.placement import Placed
from drmad_workers.ray_actor.messages import (
    PackedState,
    Prepared,
    ProgressReport,
    StepResult,
)

INFO = {"name": "w", "kind": "l2", "shape": [2], "transform": "exp"}
START = PackedState(b"start", {"iteration": 0, "rollbacks": 0})
PREFLIGHT = {
    "hyperparameters": {"w": [2]},
    "validation_loss": 2.0,
    "training_loss": 1.0,
    "steps": 20,
    "seconds": 0.5,
    "method": "shortcut",
    "fidelity": {},
    "job_seconds": 30.0,
    "memory_bytes": 1000,
}
REPLICA = {
    "replica": 0,
    "validation_loss": 1.0,
    "hypergradient_norm": 1.0,
    "cosine_to_mean": 1.0,
    "seconds": {},
    "peak_memory_bytes": 0,
}


def result(
    iteration: int,
    loss: float = 1.0,
    finished: str | None = None,
    runs: float = 0.0,
    is_best: bool = True,
    model: bytes | None = None,
) -> StepResult:
    """What a replica returns for a meta-iteration; `runs` are the training runs so far."""
    record = {
        "iteration": iteration,
        "validation_loss": loss,
        "training_loss": 1.0,
        "metrics": {},
        "not_finite": {},
        "hypergradient_norm": 1.0,
        "method": "replay",
        "is_best": is_best,
        "smoothed": {"validation_loss": {"mean": loss, "low": None, "high": None}},
        "seconds": {"forward": 0.1},
        "replicas": [REPLICA],
    }
    known = {"version": 3, "recent_losses": [], "recent_metrics": [], "runs": runs}
    scalars = {"iteration": iteration + 1, "rollbacks": 0} | known
    state = PackedState(f"state {iteration + 1}".encode(), scalars)
    return StepResult(record, state, f"gradient {iteration}".encode(), model, finished)


@dataclass
class Call:
    """One remote call of an actor's method, as Ray's reference to its result."""

    arguments: tuple[Any, ...]
    outcome: Future[Any] = field(default_factory=Future)

    def future(self) -> Future[Any]:
        return self.outcome

    def returns(self, value: Any) -> None:
        self.outcome.set_result(value)

    def raises(self, error: Exception) -> None:
        self.outcome.set_exception(error)


class _Method:
    def __init__(self, cluster: StandInCluster, name: str) -> None:
        self._cluster = cluster
        self._name = name

    def remote(self, *arguments: Any) -> Call:
        call = Call(arguments)
        if self._name in self._cluster.answers:
            call.returns(self._cluster.answers[self._name])
        self._cluster.calls[self._name].put_nowait(call)
        return call


class _Actor:
    def __init__(self, cluster: StandInCluster) -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._cluster, name)


class StandInReplicas:
    """One actor that holds every replica."""

    def __init__(self, cluster: StandInCluster) -> None:
        self._cluster = cluster
        self.actors: list[Any] = []
        self.workers: list[Worker] = []

    def reserve(self, places: Sequence[Placed]) -> Any:
        return self._cluster.reservation

    def create(self) -> None:
        self._cluster.created += 1
        self.actors = [_Actor(self._cluster)]
        self.workers = [Worker(actor, "node", "output", "0") for actor in self.actors]

    def put(self, value: Any) -> Any:
        return value

    def remains(self, read: Mapping[str, Sequence[int]]) -> list[Remains]:
        return []

    def kill(self) -> None:
        self._cluster.killed += bool(self.actors)
        self.actors, self.workers = [], []
        for calls in self._cluster.calls.values():
            for call in [calls.get_nowait() for _ in range(calls.qsize())]:
                if call.outcome.done():  # a killed actor answers no other
                    calls.put_nowait(call)


class StandInCluster:
    """Room for one job. Calls of a method in `answers` return at once; others wait for the test.

    Attributes:
        created: how many times replicas were started.
        killed: how many times they were killed.
        specs: the specs for which replicas were asked.
        reservation: the reference that replicas wait for before they start, or None.
    """

    def __init__(self) -> None:
        self.calls: dict[str, asyncio.Queue[Call]] = defaultdict(asyncio.Queue)
        self.answers: dict[str, Any] = {
            "prepare": Prepared([INFO], START),
            "preflight": PREFLIGHT,
            "report": ProgressReport("", 0, 0, []),
        }
        self.created = 0
        self.killed = 0
        self.specs: list[JobSpec] = []
        self.reservation: Call | None = None

    async def capacity(self) -> Capacity:
        return Capacity(4.0, 0.0)

    def replicas(self, spec: JobSpec, code: bytes | None, job_id: str) -> StandInReplicas:
        self.specs.append(spec)
        return StandInReplicas(self)

    async def called(self, method: str) -> Call:
        """The next call of a method, once the driver makes it."""
        async with asyncio.timeout(30):
            return await self.calls[method].get()
