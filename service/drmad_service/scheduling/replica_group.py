"""The replica actors of one job on Ray. Either all of them are placed, or none."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from drmad_client.spec.job import JobSpec
from drmad_service.store.jobs.placement import Placed
from drmad_workers.ray_actor.actor import THREADS, Replica


class Replicas(Protocol):
    """The interface of a job's replicas to their driver. The methods may block.

    Attributes:
        actors: one actor for each replica or each batch of replicas; empty until `create`.
    """

    actors: list[Any]

    def reserve(self, places: Sequence[Placed]) -> Any:
        """Request the resources of all replicas together, on the nodes that the store chose.

        Returns a reference that becomes ready with the reservation; None when one actor holds all
        replicas, because Ray places a single actor without a reservation.
        """
        ...

    def create(self) -> None:
        """Start the actors on the reserved resources."""
        ...

    def first(self, index: int) -> int:
        """The number of the first replica of an actor."""
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


def living_nodes() -> list[dict[str, Any]]:
    """Ray's descriptions of the nodes that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


class ReplicaGroup:
    """Replicas as Ray actors in one placement group."""

    def __init__(
        self,
        spec: JobSpec,
        data_roots: Sequence[str],
        uploads: str,
        code: bytes | None,
        memory_bytes: int = 0,
    ) -> None:
        """`memory_bytes` limits a replica without a GPU whose spec sets no limit; 0 sets none."""
        self._spec = spec
        self._code = code
        self._data_roots = list(data_roots)
        self._uploads = uploads
        self._memory_bytes = (
            0 if spec.resources.gpus else spec.resources.memory_bytes or memory_bytes
        )
        self._group: Any = None
        self._numbers: list[list[int]] = []
        self._nodes: list[str] = []
        self.actors: list[Any] = []

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
        if len(self._numbers) == 1:
            return None
        bundles = [
            {"CPU": resources.cpus * len(batch)}
            | ({"GPU": resources.gpus * len(batch)} if resources.gpus else {})
            for batch in self._numbers
        ]
        self._group = placement_group(
            bundles,
            strategy=replicas.placement.upper(),
            bundle_label_selector=[{"ray.io/node-id": node} for node in self._nodes],
        )
        return self._group.ready()

    def create(self) -> None:
        spec, resources = self._spec.model_dump_json(), self._spec.resources
        code = ray.put(self._code)  # stored once, however many replicas there are
        for index, numbers in enumerate(self._numbers):
            strategy = (
                PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
                if self._group is not None
                else NodeAffinitySchedulingStrategy(self._nodes[index], soft=False)
            )
            cpus = resources.cpus * len(numbers)
            actor = Replica.options(  # type: ignore[attr-defined]
                num_cpus=cpus,
                num_gpus=resources.gpus * len(numbers),
                max_concurrency=THREADS,
                scheduling_strategy=strategy,
                **runtime_options(self._spec),
            )
            data = (self._data_roots, self._uploads)
            self.actors.append(
                actor.remote(spec, numbers, cpus, *data, code, self._memory_bytes * len(numbers))
            )

    def first(self, index: int) -> int:
        return self._numbers[index][0]

    def kill(self) -> None:
        for actor in self.actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)
        self.actors = []
        if self._group is not None:
            with contextlib.suppress(RayError):
                remove_placement_group(self._group)
        self._group = None
