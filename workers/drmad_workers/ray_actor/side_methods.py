"""The methods of a replica's actor beside its meta-iterations: preflight, trials, confirmation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray

from drmad_client.spec.job import JobSpec
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.ray_actor.messages import (
    AttributionResult,
    Failure,
    PackedState,
    Retrained,
    TrialResult,
)
from drmad_workers.ray_actor.replica_worker import ReplicaWorker

if TYPE_CHECKING:
    from drmad_workers.attribution.attribution import DrawAttribution


class SideMethods(ReplicaWorker):
    """Uses the problem of the replica for other runs than meta-iterations."""

    def preflight(self, max_model_bytes: int) -> dict[str, Any] | Failure:
        """The preflight report of the job; see preflight.short_run.

        It prepares the replica first if necessary, and changes nothing of the job.
        """
        with self._computing:
            return self._guarded(lambda: self._preflight(max_model_bytes), None)

    def examples(self, rows: Sequence[int], with_groups: bool) -> dict[str, Any] | Failure:
        """What the page of a job shows of its training examples; see example_runs.shown."""

        def body() -> dict[str, Any]:
            from drmad_workers.ray_actor.side_runs import example_runs

            if not self._tuners:
                self._prepare()
            return example_runs.shown(self._spec, self._tuners[0].replica, rows, with_groups)

        with self._computing:
            return self._guarded(body, None)

    def recipe_data(self, artifacts: JobArtifacts, most_bytes: int) -> Artifact | Failure:
        """The file of the data that recipe.py reads; see retraining.recipe_data."""

        def body() -> Artifact:
            from drmad_workers.retraining.recipe_data import kept_recipe_data

            places, _, _ = self._places()
            return kept_recipe_data(self._spec, places, artifacts, most_bytes)

        with self._computing:
            return self._guarded(body, None)

    def fidelity(self, state: PackedState, iteration: int) -> dict[str, Any] | Failure:
        """The agreement of the job's method with the exact one; see preflight.fidelity."""
        return self._guarded(lambda: self._fidelity(state, iteration), iteration)

    def trial(self, spec: str) -> TrialResult | Failure:
        """One training run of another spec, instead of the job's own."""
        with self._computing:
            return self._guarded(lambda: self._trial(spec), None)

    def retrain(
        self, state: PackedState, iteration: int, draw: int, max_model_bytes: int = 0
    ) -> Retrained | Failure:
        """One draw of a confirmation, at a state's hyperparameters; see plain_runs.retrained."""
        with self._computing:
            return self._shared.beside(
                lambda follower: follower.follow_retraining.remote(state, iteration, draw),
                lambda: self._guarded(
                    lambda: self._retrain(state, draw, max_model_bytes), iteration
                ),
            )

    def follow_retraining(self, state: PackedState, iteration: int, draw: int) -> Failure | None:
        """Computes the rows of this worker in one draw of a confirmation."""
        with self._computing:
            found = self._guarded(lambda: self._retrain(state, draw, 0), iteration)
        return found if isinstance(found, Failure) else None

    @ray.method(num_returns=2)
    def attribute(self, most_bytes: int) -> tuple[Failure | None, list[DrawAttribution] | Failure]:
        """The attribution of the draws of this worker's replicas, whose failure comes first.

        Args:
            most_bytes: bounds the scores of the job.
        """

        def body() -> list[DrawAttribution]:
            from drmad_workers.ray_actor.side_runs import attribution_runs

            assert self._problem is not None
            made = attribution_runs.attributor_of(
                self._spec, self._problem, self._device, most_bytes
            )
            self._attributor = made
            return attribution_runs.draws_of(self._spec, made, self._numbers, self._note)

        with self._computing:
            found = self._guarded(body, None)
        return (found if isinstance(found, Failure) else None), found

    def attribution_step(
        self, *parts: list[DrawAttribution] | Failure
    ) -> AttributionResult | Failure:
        """The attribution of the job, from those of all workers in the order of their replicas."""
        draws = [draw for part in parts if not isinstance(part, Failure) for draw in part]

        def body() -> AttributionResult:
            from drmad_workers.ray_actor.side_runs import attribution_runs

            assert self._attributor is not None
            return attribution_runs.whole(self._spec, self._attributor, draws)

        with self._computing:
            return self._guarded(body, None)

    def _preflight(self, max_model_bytes: int) -> dict[str, Any]:
        from drmad_workers.preflight import short_run
        from drmad_workers.ray_actor.model_keeping import model_refusal

        if not self._tuners:
            self._prepare()
        assert self._problem is not None
        report = short_run.report(self._spec, self._problem, self._tuners[0], self._device)
        if self._spec.kind == "attribution":
            return report | {"model_bytes": None}
        refusal = model_refusal(report["model_bytes"], max_model_bytes, self._artifacts)
        return report | {"model_refusal": refusal}

    def _trial(self, spec_json: str) -> TrialResult:
        from drmad_workers import spec_adapter
        from drmad_workers.ray_actor.side_runs import plain_runs

        spec = JobSpec.accepted(spec_json)
        built = self._problem_of(spec)
        tuner = spec_adapter.tuner(spec, 0, device=self._device, built=built)
        try:
            return plain_runs.trial(tuner, self._note)
        finally:
            tuner.close()

    def _retrain(self, state: PackedState, draw: int, max_model_bytes: int) -> Retrained:
        from drmad_workers.ray_actor.side_runs import plain_runs

        if self._session is not None:
            self._session.close()
        with self._shared.of(self._tuners[0].replica):
            return plain_runs.retrained(
                self._tuners,
                self._states.read(state),
                draw,
                max_model_bytes,
                self._note,
                self._artifacts,
            )

    def _fidelity(self, state: PackedState, iteration: int) -> dict[str, Any]:
        from drmad_workers.ray_actor.side_runs import plain_runs

        begun = self._states.read(state)
        return plain_runs.fidelity(self._spec, self._tuners[0], begun, iteration, self._note)
