"""The methods of a replica's actor that take outer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray

from drmad_workers.artifacts.job_artifacts import Kept
from drmad_workers.ray_actor import failures
from drmad_workers.ray_actor.messages import (
    Failure,
    Infos,
    PackedState,
    ReplicaResult,
    RollbackRequired,
    StepResult,
    WorkerResults,
)
from drmad_workers.ray_actor.replica_worker import ReplicaWorker

if TYPE_CHECKING:
    from torch import Tensor


class OuterMethods(ReplicaWorker):
    """Aggregates results, and changes the state of the outer loop."""

    def warm_start(
        self, tensors: Kept, infos: Mapping[str, Mapping[str, Any]], schedules: Sequence[str]
    ) -> tuple[PackedState, list[str]] | Failure:
        """The state before the first meta-iteration, at what another job has tuned.

        Returns also what of it was adapted to this problem; see hyperparameters.warm_start.
        """

        def body() -> tuple[PackedState, list[str]]:
            from drmad_workers.ray_actor.packed_state import warm_state

            content = self._states.content(tensors)
            first, adapted = warm_state(self._tuners[0].hyperparameters, content, infos, schedules)
            return self._states.keep(first), adapted

        return self._guarded(body, None)

    def meta_step(
        self,
        infos: Infos,
        state: PackedState,
        max_model_bytes: int,
        *results: WorkerResults,
    ) -> StepResult | RollbackRequired | Failure:
        """Aggregates the replicas in the order of their numbers and takes one outer step."""
        return self._outer_step(infos, state, max_model_bytes, results)

    @ray.method(num_returns=2)
    def arrival(
        self, infos: Infos, state: PackedState, results: WorkerResults
    ) -> tuple[dict[str, Any] | RollbackRequired | Failure, PackedState | None]:
        """Applies the hypergradient of one replica by itself.

        Returns the fields of its record, and the new state; see outer_step.arrival.
        """
        if isinstance(results, Failure):
            return results, None
        (result,) = results

        def apply() -> tuple[dict[str, Any], PackedState] | RollbackRequired:
            from drmad_workers.ray_actor import outer_step

            begun = self._states.read(state)
            return outer_step.arrival(self._spec, infos, begun, result, self._pull_groups())

        applied = failures.guarded(apply, state.scalars["iteration"])
        if isinstance(applied, RollbackRequired | Failure):
            return applied, None
        return applied

    def arrivals_step(
        self,
        infos: Infos,
        state: PackedState,
        after: PackedState,
        max_model_bytes: int,
        staleness: Sequence[int],
        *results: WorkerResults,
    ) -> StepResult | RollbackRequired | Failure:
        """Completes a meta-iteration of arrivals; see outer_step.arrivals_step."""
        arrived = [result for part in results if not isinstance(part, Failure) for result in part]

        def complete() -> StepResult | RollbackRequired:
            from drmad_workers.ray_actor import outer_step

            found = outer_step.arrivals_step(
                self._spec,
                infos,
                self._states.read(state),
                self._states.read(after),
                max_model_bytes,
                arrived,
                staleness,
                self._artifacts,
            )
            return self._states.step(found) if isinstance(found, StepResult) else found

        return failures.guarded(complete, state.scalars["iteration"])

    def roll_back(
        self,
        infos: Infos,
        state: PackedState,
        best: PackedState,
        hypergradient: Kept,
        replicas: Sequence[int],
    ) -> PackedState | Failure:
        """The state that repeats a meta-iteration after a rollback; see outer_step.roll_back."""

        def restart() -> PackedState:
            from drmad_workers.ray_actor import outer_step

            gradient = self._states.content(hypergradient)
            points = self._states.read(state), self._states.read(best)
            after = outer_step.roll_back(
                self._spec, infos, *points, gradient, replicas, self._pull_groups()
            )
            return self._states.keep(after)

        return failures.guarded(restart, state.scalars["iteration"])

    def propose(
        self,
        parameters: Mapping[str, Mapping[str, Any]],
        sampler: str,
        seed: int,
        number: int,
        known: Sequence[tuple[Mapping[str, Any], float | None]],
    ) -> dict[str, Any]:
        """The values of the next trial of a search; see drmad_workers.meta.search."""
        from drmad_workers.meta import search

        return search.propose(parameters, sampler, seed, number, known)

    def _pull_groups(self) -> dict[str, Tensor]:
        """By name, see BoundHyperparameter; only a worker that has built the problem knows them."""
        bound = self._tuners[0].hyperparameters if self._tuners else {}
        return {name: b.pull_groups for name, b in bound.items() if b.pull_groups is not None}

    def _outer_step(
        self,
        infos: Infos,
        state: PackedState,
        max_model_bytes: int,
        results: Sequence[WorkerResults],
    ) -> StepResult | RollbackRequired | Failure:
        arrived: list[ReplicaResult] = []
        for part in results:
            if isinstance(part, Failure):
                return part
            arrived += part
        arrived.sort(key=lambda result: result.replica)

        def take() -> StepResult | RollbackRequired:
            from drmad_workers.ray_actor import outer_step

            begun = self._states.read(state)
            found = outer_step.meta_step(
                self._spec,
                infos,
                begun,
                max_model_bytes,
                arrived,
                self._artifacts,
                self._pull_groups(),
            )
            return self._states.step(found) if isinstance(found, StepResult) else found

        return failures.guarded(take, int(state.scalars["iteration"]))
