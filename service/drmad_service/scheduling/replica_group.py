"""The replica actors of one job on Ray. Either all of them are placed, or none."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from drmad_client.spec.job import JobSpec
from drmad_service.ray_driver.connection import Actor, RayDriver, Reference, Reservation
from drmad_service.scheduling.printed_lines import Remains, Worker, request_remains
from drmad_service.store.jobs.placement import Placed
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.ray_actor.messages import THREADS


class Replicas(Protocol):
    """The interface of a job's replicas to their driver.

    Attributes:
        actors: one actor for each replica or each batch of replicas; empty until `create`.
        workers: those of `actors` in their order, then the further workers of the replicas.
    """

    actors: list[Any]
    workers: list[Worker]

    def reserve(self, places: Sequence[Placed]) -> Any:
        """Request the resources of all replicas together, on the nodes that the store chose.

        Returns a reference that becomes ready with the reservation; None when a single actor holds
        all replicas, because Ray places it without a reservation.
        """
        ...

    def create(self) -> None:
        """Start the actors on the reserved resources."""
        ...

    def put(self, value: Any) -> Any:
        """A reference to a value that several calls take, so that it is stored once."""
        ...

    def remains(self, read: Mapping[str, Sequence[int]]) -> list[Remains]:
        """Request what workers that have ended printed last; see request_remains."""
        ...

    def kill(self) -> None:
        """Kill the actors and release their resources. A second call has no effect."""
        ...


def runtime_options(spec: JobSpec) -> dict[str, Any]:
    """The options of an actor in whose environment Ray installs the job's requirements."""
    problem = spec.problem
    if problem.kind != "code" or not problem.requirements:
        return {}
    return {"runtime_env": {"pip": list(problem.requirements)}}


class ReplicaGroup:
    """Replicas as Ray actors in one placement group.

    A replica of several workers has an actor for each, all on its node. The first of them answers
    for the replica, and calls the others.
    """

    def __init__(
        self,
        spec: JobSpec,
        driver: RayDriver,
        data_roots: Sequence[str],
        uploads: str,
        code: bytes | None,
        memory_bytes: int = 0,
        artifacts: JobArtifacts | None = None,
        warm: int = 0,
    ) -> None:
        """
        Args:
            memory_bytes: limits a replica without a GPU whose spec sets no limit; 0 sets none.
            warm: waiting processes that each node keeps, which the actors take.
        """
        self._spec = spec
        self._driver = driver
        self._code = code
        self._data_roots = list(data_roots)
        self._uploads = uploads
        self._artifacts = artifacts
        self._warm = warm
        self._memory_bytes = (
            0 if spec.resources.gpus else spec.resources.memory_bytes or memory_bytes
        )
        self._group: Reservation | None = None
        self._numbers: list[list[int]] = []
        self._nodes: list[str] = []
        self.actors: list[Any] = []
        self.workers: list[Worker] = []
        self._readers: list[Actor] = []

    def reserve(self, places: Sequence[Placed]) -> Any:
        resources, replicas = self._spec.resources, self._spec.replicas
        # More than half of a GPU: a single replica, or an old job.
        batched = replicas.batched == "auto" and resources.gpus <= 0.5
        self._numbers, self._nodes = [], []
        numbers = iter(range(replicas.count))
        for place in places:
            size = place.replicas if batched else 1
            for _ in range(0, place.replicas, size):
                self._numbers.append([*itertools.islice(numbers, size)])
                self._nodes.append(place.node)
        if len(self._numbers) * replicas.workers == 1:
            return None
        bundles, nodes = [], []
        for batch, node in zip(self._numbers, self._nodes, strict=True):
            share = len(batch) / replicas.workers
            bundle = {"CPU": resources.cpus * share}
            if resources.gpus:
                bundle["GPU"] = resources.gpus * share
            bundles += [bundle] * replicas.workers
            nodes += [node] * replicas.workers
        # The nodes are chosen, and several workers of a replica share one.
        strategy = "PACK" if replicas.workers > 1 else replicas.placement.upper()
        self._group = self._driver.reserve(bundles, strategy, nodes)
        return self._group.ready

    def create(self) -> None:
        code = self.put(self._code)
        workers = self._spec.replicas.workers
        leaders: list[Worker] = []
        others: list[Worker] = []
        for index in range(len(self._numbers)):
            following = [self._worker(index, rank, code) for rank in range(1, workers)]
            others += following
            leaders.append(self._worker(index, 0, code, [each.actor for each in following]))
        self.actors = [each.actor for each in leaders]
        self.workers = leaders + others

    def _worker(
        self, index: int, rank: int, code: Reference, followers: Sequence[Actor] = ()
    ) -> Worker:
        """One worker of the replicas that lie at `index`."""
        resources, workers = self._spec.resources, self._spec.replicas.workers
        numbers, node, output = self._numbers[index], self._nodes[index], secrets.token_hex(8)
        place = (
            ("reservation", self._group, index * workers + rank)
            if self._group is not None
            else ("node", node)
        )
        share = len(numbers) / workers
        cpus = resources.cpus * share
        options = {
            "num_cpus": cpus,
            "num_gpus": resources.gpus * share,
            "max_concurrency": THREADS,
            **runtime_options(self._spec),
        }
        if self._warm and "runtime_env" not in options:
            options["warm"] = (node, self._warm)
        actor = self._driver.create(
            "Replica",
            options,
            place,
            self._spec.model_dump_json(),
            numbers,
            cpus,
            self._data_roots,
            self._uploads,
            code,
            int(self._memory_bytes * share),
            followers,
            self._artifacts,
            output,
        )
        source = f"{numbers[0]}.{rank}" if rank else f"{numbers[0]}"
        return Worker(actor, node, output, source, numbers[0])

    def put(self, value: Any) -> Reference:
        return self._driver.put(value)

    def remains(self, read: Mapping[str, Sequence[int]]) -> list[Remains]:
        remains = request_remains(self._driver, self.workers, read)
        self._readers += [each.reader for each in remains]
        return remains

    def kill(self) -> None:
        for actor in (*(worker.actor for worker in self.workers), *self._readers):
            self._driver.kill(actor)
        self.actors, self.workers, self._readers = [], [], []
        if self._group is not None:
            self._driver.remove(self._group)
        self._group = None
