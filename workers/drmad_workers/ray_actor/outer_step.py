"""The outer step of a job: from the results of its replicas to its next state. It knows no Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from drmad_client.spec.job import JobSpec
from drmad_workers import spec_adapter
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.hypergradients.automatic.choice import Choice, draws_doubt, join_choices
from drmad_workers.meta.aggregation import Held, aggregate, covered
from drmad_workers.meta.loss_history import levels, record_loss, stop_reason
from drmad_workers.meta.overfitting import overfitting_doubt
from drmad_workers.meta.rollback import rollback_reason, rolled_back
from drmad_workers.meta.state import MetaState
from drmad_workers.meta.update import Bounds, meta_update, outer_update
from drmad_workers.online.outer_loop import touched
from drmad_workers.ray_actor.iteration_record import (
    finite_means,
    hyperparameter_summary,
    mean,
    not_finite_means,
    replica_figures,
    smoothed_figures,
)
from drmad_workers.ray_actor.messages import (
    Infos,
    PackedState,
    ReplicaResult,
    RollbackRequired,
    StepResult,
)
from drmad_workers.ray_actor.model_keeping import saved_model
from drmad_workers.ray_actor.packed_state import cosine_to_previous, flat, pack, unpack


def meta_step(
    spec: JobSpec,
    infos: Infos,
    packed: PackedState,
    max_model_bytes: int,
    results: Sequence[ReplicaResult],
    artifacts: JobArtifacts | None = None,
    pull_groups: Mapping[str, Tensor] | None = None,
) -> StepResult | RollbackRequired:
    """Aggregates the replicas' hypergradients in the order given and takes one outer step.

    `pull_groups` has those of BoundHyperparameter by name, here and below.
    """
    state = unpack(packed)
    joined = _JoinedResults(spec, infos, packed, results, [0] * len(results))
    if (reason := joined.rollback_reason(state)) is not None:
        return RollbackRequired(reason)
    after = meta_update(
        state,
        joined.validation_loss,
        joined.hypergradient,
        spec_adapter.meta(spec),
        _bounds(infos, pull_groups),
        joined.moved(),
        joined.metrics,
        joined.cost,
        joined.trials,
    )
    return joined.result(state, after, max_model_bytes, artifacts)


def arrival(
    spec: JobSpec,
    infos: Infos,
    packed: PackedState,
    result: ReplicaResult,
    pull_groups: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Any], PackedState] | RollbackRequired:
    """Takes an outer step with one replica's hypergradient, on the coordinates that it holds.

    Returns the fields of drmad_client.records.job.Arrival except its staleness, and the new state.
    """
    state, evaluation = unpack(packed), result.evaluation
    if not math.isfinite(evaluation.validation_loss):
        return RollbackRequired(f"the validation loss is not finite ({evaluation.validation_loss})")
    rows = covered([_held(spec, infos, result.replica)], _shapes(infos))
    bounds = _bounds(infos, pull_groups)
    hyperparameters, memory = outer_update(
        state, evaluation.hypergradient, spec_adapter.meta(spec), bounds, rows
    )
    after = replace(
        state,
        hyperparameters=hyperparameters,
        optimizer=memory,
        choice=state.choice or evaluation.choice,
    )
    figures = {
        "iteration": state.iteration,
        "replica": result.replica,
        "validation_loss": evaluation.validation_loss,
        "hypergradient_norm": float(flat(evaluation.hypergradient).norm()),
        "seconds": evaluation.seconds,
    }
    return figures, pack(after)


def arrivals_step(
    spec: JobSpec,
    infos: Infos,
    packed: PackedState,
    packed_after: PackedState,
    max_model_bytes: int,
    results: Sequence[ReplicaResult],
    staleness: Sequence[int],
    artifacts: JobArtifacts | None = None,
) -> StepResult | RollbackRequired:
    """Completes a meta-iteration whose hypergradients were applied one by one as they arrived.

    Args:
        packed: the state before the first arrival.
        packed_after: the state after the last arrival.
        results, staleness: one entry per arrival, in the order in which they were applied.
    """
    state = unpack(packed)
    joined = _JoinedResults(spec, infos, packed, results, staleness)
    if (reason := joined.rollback_reason(state)) is not None:
        return RollbackRequired(reason)
    figures = joined.validation_loss, joined.metrics, joined.cost
    after = replace(record_loss(unpack(packed_after), *figures), rollbacks=0)
    return joined.result(state, after, max_model_bytes, artifacts)


def roll_back(
    spec: JobSpec,
    infos: Infos,
    state: PackedState,
    best: PackedState,
    hypergradient: bytes,
    replicas: Sequence[int],
    pull_groups: Mapping[str, Tensor] | None = None,
) -> PackedState:
    """The state that repeats a meta-iteration after a rollback; see meta.rollback.

    Args:
        best: the state with which the best meta-iteration trained.
        hypergradient: the aggregated hypergradient of the best meta-iteration, as safetensors.
        replicas: the numbers of the replicas that counted in the best meta-iteration.
    """
    named = load(hypergradient)
    gradients = {info["name"]: named[f"hyperparameters/{info['name']}"] for info in infos}
    held = [_held(spec, infos, replica) for replica in replicas]
    after = rolled_back(
        unpack(state),
        unpack(best),
        gradients,
        spec_adapter.meta(spec),
        _bounds(infos, pull_groups),
        covered(held, _shapes(infos)),
    )
    return pack(after, gradients)


class _JoinedResults:
    """The results of all replicas in one meta-iteration, with the aggregated hypergradient."""

    def __init__(
        self,
        spec: JobSpec,
        infos: Infos,
        packed: PackedState,
        results: Sequence[ReplicaResult],
        staleness: Sequence[int],
    ) -> None:
        self._config = spec_adapter.meta(spec)
        self._infos, self._packed = infos, packed
        self._results, self._staleness = results, staleness
        self._evaluations = [result.evaluation for result in results]
        self.held = [_held(spec, infos, result.replica) for result in results]
        self.hypergradient = aggregate(
            [evaluation.hypergradient for evaluation in self._evaluations],
            spec.replicas.aggregate,
            self.held,
        )
        self.validation_loss = mean([e.validation_loss for e in self._evaluations])
        figures = [e.metrics | e.diagnostics for e in self._evaluations]
        self.metrics, self.not_finite = finite_means(figures), not_finite_means(figures)
        self.trials = [mean(losses) for losses in zip(*(r.trials for r in results), strict=True)]
        self.cost = mean([e.cost for e in self._evaluations]) + len(self.trials)

    def moved(self) -> dict[str, Tensor]:
        """The rows of each λ that the outer step moves; a missing name has all of them."""
        if self._config.mode == "online":
            return touched(self.hypergradient)
        return covered(self.held, _shapes(self._infos))

    def rollback_reason(self, state: MetaState) -> str | None:
        """Why the meta-iteration must be rolled back, or None."""
        reason = rollback_reason(state, self.validation_loss, self._config)
        finite = all(bool(g.isfinite().all()) for g in self.hypergradient.values())
        return "the hypergradient is not finite" if reason is None and not finite else reason

    def result(
        self,
        state: MetaState,
        after: MetaState,
        max_model_bytes: int,
        artifacts: JobArtifacts | None,
    ) -> StepResult:
        """The result of the meta-iteration that led from `state` to `after`."""
        evaluations, hypergradient = self._evaluations, self.hypergradient
        choices = [e.choice for e in evaluations if e.choice is not None]
        choice = join_choices(choices) if choices else None
        after = replace(after, choice=choice)
        model = evaluations[0].model
        is_best = after.best_iteration == state.iteration
        smoothed = smoothed_figures(levels(after))
        finished = stop_reason(after, self._config)
        if self._config.mode == "online":
            # The result is the last window that was measured. Windows are no draws of a figure, and
            # the patience ends with a measured one.
            is_best, smoothed = bool(model), {}
            finished = None if finished == "patience" and not is_best else finished
        return StepResult(
            self._record(state, choice)
            | {"metrics": dict(after.recent_metrics[-1])}
            | {"is_best": is_best, "smoothed": smoothed},
            pack(after, hypergradient),
            save({f"hyperparameters/{name}": tensor for name, tensor in hypergradient.items()}),
            saved_model(model, max_model_bytes, artifacts) if model else None,
            finished,
            _warnings(after, choice if _is_new(choice, state) else None),
        )

    def _record(self, state: MetaState, choice: Choice | None) -> dict[str, Any]:
        evaluations, hypergradient = self._evaluations, self.hypergradient
        parts = zip(self._results, self.held, self._staleness, strict=True)
        return {
            "iteration": state.iteration,
            "validation_loss": self.validation_loss,
            "not_finite": self.not_finite,
            "training_loss": mean([e.training_loss for e in evaluations]),
            "hypergradient_norm": float(flat(hypergradient).norm()),
            "cosine_to_previous": cosine_to_previous(self._packed, hypergradient),
            "hyperparameters": {
                info["name"]: hyperparameter_summary(
                    state.hyperparameters[info["name"]], info, hypergradient[info["name"]]
                )
                for info in self._infos
            },
            "seconds": finite_means([e.seconds for e in evaluations]),
            "replicas": [replica_figures(*part, hypergradient) for part in parts],
            "method": evaluations[0].method,
            "cost": self.cost,
            "choice": choice.as_dict() if choice and _is_new(choice, state) else None,
        }


def _is_new(choice: Choice | None, state: MetaState) -> bool:
    """Whether the meta-iteration of this state made the choice."""
    return choice is not None and choice.last_probe == state.iteration


def _warnings(after: MetaState, choice: Choice | None) -> dict[str, str]:
    doubts = {
        "overfitting": overfitting_doubt(after.start_figures, after.recent_metrics),
        "draws_disagree": None if choice is None else draws_doubt(choice),
    }
    return {code: message for code, message in doubts.items() if message is not None}


def _held(spec: JobSpec, infos: Infos, replica: int) -> Held:
    """The rows of each hyperparameter that belong to the replica's shard; see aggregation.Held."""
    shards = spec_adapter.shards(spec)
    by_example = {h.name or h.kind for h in spec.hyperparameters if h.per_example}
    held: dict[str, Tensor] = {}
    for info in infos:
        if info["name"] in by_example:
            rows = shards.positions("train", info["shape"][0], replica)
            if rows is not None:
                held[info["name"]] = rows
    return held


def _bounds(infos: Infos, pull_groups: Mapping[str, Tensor] | None) -> dict[str, Bounds]:
    groups = pull_groups or {}
    return {i["name"]: Bounds(i["lower"], i["upper"], groups.get(i["name"])) for i in infos}


def _shapes(infos: Infos) -> dict[str, Sequence[int]]:
    return {info["name"]: info["shape"] for info in infos}
