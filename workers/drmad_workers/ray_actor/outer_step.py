"""From the results of the replicas to the next state of a job. Knows no Ray.

Torch is imported inside the bodies, so that a scheduler imports this file without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drmad_workers.ray_actor.messages import (
    PackedState,
    ReplicaResult,
    RollbackRequired,
    StepResult,
)

if TYPE_CHECKING:
    import torch

    from drmad_client.spec.job import JobSpec
    from drmad_workers.hypergradients.auto import Choice
    from drmad_workers.meta.aggregation import Held
    from drmad_workers.meta.state import MetaState

Infos = Sequence[Mapping[str, Any]]
"""Of the hyperparameters: fields of drmad_client.records.HyperparameterInfo."""

PER_EXAMPLE = ("sample_weight", "training_data")
"""Kinds with one row per training example, which belongs to the shard of the example."""

_PREVIOUS = "previous_hypergradient"


def meta_step(
    spec: JobSpec,
    infos: Infos,
    packed: PackedState,
    max_model_bytes: int,
    results: Sequence[ReplicaResult],
) -> StepResult | RollbackRequired:
    """Join the replicas' hypergradients in the order given and update the hyperparameters once."""
    from drmad_workers import spec_adapter
    from drmad_workers.meta.aggregation import covered
    from drmad_workers.meta.update import meta_update

    state = unpacked(packed)
    outcome = _JoinedResults(spec, infos, packed, results, [0] * len(results))
    if (why := outcome.rollback_reason(state)) is not None:
        return RollbackRequired(why)
    rows = covered(outcome.held, {info["name"]: info["shape"] for info in infos})
    after = meta_update(
        state,
        outcome.validation_loss,
        outcome.hypergradient,
        spec_adapter.meta(spec),
        _bounds(infos),
        rows,
    )
    return outcome.result(state, after, max_model_bytes)


def arrival(
    spec: JobSpec, infos: Infos, packed: PackedState, result: ReplicaResult
) -> tuple[dict[str, Any], PackedState] | RollbackRequired:
    """Apply one replica's hypergradient by itself, to the coordinates that it holds.

    Returns the fields of drmad_client.records.Arrival but its staleness, and the state after.
    """
    from drmad_workers import spec_adapter
    from drmad_workers.meta.aggregation import covered
    from drmad_workers.meta.update import outer_update

    state, evaluation = unpacked(packed), result.evaluation
    if not math.isfinite(evaluation.validation_loss):
        return RollbackRequired(f"the validation loss is {evaluation.validation_loss}")
    rows = covered(
        [_held(spec, infos, result.replica)], {info["name"]: info["shape"] for info in infos}
    )
    hyperparameters, memory = outer_update(
        state, evaluation.hypergradient, spec_adapter.meta(spec), _bounds(infos), rows
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
        "hypergradient_norm": float(_flat(evaluation.hypergradient).norm()),
        "seconds": evaluation.seconds,
    }
    return figures, pack(after)


def arrivals_step(
    spec: JobSpec,
    infos: Infos,
    packed: PackedState,
    packed_moved: PackedState,
    max_model_bytes: int,
    results: Sequence[ReplicaResult],
    staleness: Sequence[int],
) -> StepResult | RollbackRequired:
    """Judge a meta-iteration whose hypergradients have been applied as they arrived.

    `packed` is the state that it began with, `packed_moved` that after its last arrival.
    """
    from drmad_workers.meta.loss_history import record_loss

    state = unpacked(packed)
    outcome = _JoinedResults(spec, infos, packed, results, staleness)
    if (why := outcome.rollback_reason(state)) is not None:
        return RollbackRequired(why)
    after = replace(record_loss(unpacked(packed_moved), outcome.validation_loss), rollbacks=0)
    return outcome.result(state, after, max_model_bytes)


def roll_back(
    spec: JobSpec, infos: Infos, state: PackedState, best: PackedState, hypergradient: bytes
) -> PackedState:
    """The state that begins a meta-iteration again after a rollback; see meta.rollback."""
    from safetensors.torch import load

    from drmad_workers import spec_adapter
    from drmad_workers.meta.rollback import rolled_back

    named = load(hypergradient)
    gradients = {info["name"]: named[f"hyperparameters/{info['name']}"] for info in infos}
    after = rolled_back(
        unpacked(state), unpacked(best), gradients, spec_adapter.meta(spec), _bounds(infos)
    )
    return pack(after, gradients)


class _JoinedResults:
    """What the replicas of one meta-iteration found, joined."""

    def __init__(
        self,
        spec: JobSpec,
        infos: Infos,
        packed: PackedState,
        results: Sequence[ReplicaResult],
        staleness: Sequence[int],
    ) -> None:
        from drmad_workers import spec_adapter
        from drmad_workers.meta.aggregation import aggregate

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
        self.validation_loss = _mean([e.validation_loss for e in self._evaluations])

    def rollback_reason(self, state: MetaState) -> str | None:
        """Why it should be taken back, or None."""
        from drmad_workers.meta.rollback import rollback_reason

        why = rollback_reason(state, self.validation_loss, self._config)
        if why is None and not all(bool(g.isfinite().all()) for g in self.hypergradient.values()):
            why = "the hypergradient is not finite"
        return why

    def result(self, state: MetaState, after: MetaState, max_model_bytes: int) -> StepResult:
        """What it leaves behind, having led from one state to the other."""
        from safetensors.torch import save

        from drmad_workers.hypergradients.auto import join_choices
        from drmad_workers.meta.loss_history import stop_reason

        evaluations, hypergradient = self._evaluations, self.hypergradient
        choices = [e.choice for e in evaluations if e.choice is not None]
        choice = join_choices(choices) if choices else None
        after = replace(after, choice=choice)
        model = evaluations[0].model
        size = sum(t.numel() * t.element_size() for t in model.values())
        return StepResult(
            self._record(state, choice) | {"is_best": after.best_iteration == state.iteration},
            pack(after, hypergradient),
            save({f"hyperparameters/{name}": tensor for name, tensor in hypergradient.items()}),
            save({name: t.contiguous() for name, t in model.items()})
            if size <= max_model_bytes
            else None,
            stop_reason(after, self._config),
        )

    def _record(self, state: MetaState, choice: Choice | None) -> dict[str, Any]:
        evaluations, hypergradient = self._evaluations, self.hypergradient
        parts = zip(self._results, self.held, self._staleness, strict=True)
        return {
            "iteration": state.iteration,
            "validation_loss": self.validation_loss,
            "training_loss": _mean([e.training_loss for e in evaluations]),
            "metrics": _means([e.metrics | e.diagnostics for e in evaluations]),
            "hypergradient_norm": float(_flat(hypergradient).norm()),
            "cosine_to_previous": _cosine_to_previous(self._packed, hypergradient),
            "hyperparameters": {
                info["name"]: _summary(
                    state.hyperparameters[info["name"]], info, hypergradient[info["name"]]
                )
                for info in self._infos
            },
            "seconds": _means([e.seconds for e in evaluations]),
            "replicas": [_figures(*part, hypergradient) for part in parts],
            "method": evaluations[0].method,
            "cost": _mean([e.cost for e in evaluations]),
            "choice": choice.as_dict() if choice and choice.last_probe == state.iteration else None,
        }


def _held(spec: JobSpec, infos: Infos, replica: int) -> Held:
    """Rows of the hyperparameters that belong to the replica's shard; nothing where it is all."""
    from drmad_workers import spec_adapter

    shards = spec_adapter.shards(spec)
    held: dict[str, torch.Tensor] = {}
    for info in infos:
        if info["kind"] in PER_EXAMPLE:
            rows = shards.positions("train", info["shape"][0], replica)
            if rows is not None:
                held[info["name"]] = rows
    return held


def _bounds(infos: Infos) -> dict[str, tuple[float | None, float | None]]:
    return {info["name"]: (info["lower"], info["upper"]) for info in infos}


def _figures(
    result: ReplicaResult, held: Held, staleness: int, mean: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Fields of drmad_client.records.ReplicaFigures; the cosine is over what the replica holds."""
    evaluation = result.evaluation

    def kept(gradient: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return _flat({n: g[held[n]] if n in held else g for n, g in gradient.items()})

    own, join_choices = kept(evaluation.hypergradient), kept(mean)
    lengths = float(own.norm() * join_choices.norm())
    return {
        "replica": result.replica,
        "validation_loss": evaluation.validation_loss,
        "hypergradient_norm": float(own.norm()),
        "cosine_to_mean": float(own @ join_choices) / lengths if lengths > 0.0 else 0.0,
        "staleness": staleness,
        "seconds": evaluation.seconds,
        "peak_memory_bytes": evaluation.peak_memory_bytes,
        "train_examples": result.train_examples,
        "valid_examples": result.valid_examples,
        "node": result.node,
        "device": result.device,
    }


def _summary(
    raw: torch.Tensor, info: Mapping[str, Any], hypergradient: torch.Tensor
) -> dict[str, Any]:
    """Fields of drmad_client.records.HyperparameterSummary."""
    import numpy as np

    from drmad_client.spec.transforms import to_user_units

    values, gradient = to_user_units(raw.numpy(), info["transform"]), hypergradient.flatten()
    quantiles = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    names = ("minimum", "lower_quartile", "median", "upper_quartile", "maximum")
    return {
        **dict(zip(names, quantiles, strict=True)),
        "hypergradient_norm": float(gradient.norm()),
        "groups": [
            {
                "label": group["label"],
                "median": float(np.median(values.ravel()[group["start"] : group["stop"]])),
                "hypergradient_norm": float(gradient[group["start"] : group["stop"]].norm()),
            }
            for group in info.get("groups", ())
        ],
    }


def _cosine_to_previous(
    packed: PackedState, hypergradient: Mapping[str, torch.Tensor]
) -> float | None:
    """None in the first meta-iteration, and where one of the two is zero."""
    from safetensors.torch import load

    kept = load(packed.tensors)
    before = {
        name: kept[f"{_PREVIOUS}/{name}"].float()
        for name in hypergradient
        if f"{_PREVIOUS}/{name}" in kept
    }
    if before.keys() != hypergradient.keys():
        return None
    one, other = _flat(before).double(), _flat(hypergradient).double()
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths > 0.0 else None


def _flat(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    means = {name: _mean([figure[name] for figure in figures]) for name in figures[0]}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}


def pack(state: MetaState, hypergradient: Mapping[str, torch.Tensor] | None = None) -> PackedState:
    """With the direction of the hypergradient that led here, for the next one to be compared with.

    Half precision does for a direction.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in state.tensors().items()}
    if hypergradient:
        largest = float(_flat(hypergradient).abs().max()) or 1.0
        for name, tensor in hypergradient.items():
            tensors[f"{_PREVIOUS}/{name}"] = (tensor / largest).half().contiguous()
    return PackedState(save(tensors), state.scalars())


def unpacked(state: PackedState) -> MetaState:
    from safetensors.torch import load

    from drmad_workers.meta.state import MetaState

    return MetaState.restore(load(state.tensors), state.scalars)
