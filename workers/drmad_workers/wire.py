"""From what a user asks for (drmad_client.specs) to the engine's own settings, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drmad_workers import hypergradients, hyperparameters
from drmad_workers.catalog import build_problem
from drmad_workers.meta import MetaConfig
from drmad_workers.training import TrainingConfig
from drmad_workers.tuning import Tuner

if TYPE_CHECKING:
    from drmad_client.specs import HypergradientSpec, HyperparameterSpec, JobSpec

_KINDS: dict[str, Callable[..., hyperparameters.Kind]] = {
    "l2": hyperparameters.L2,
    "l1": hyperparameters.L1,
    "learning_rate": hyperparameters.LearningRate,
    "momentum": hyperparameters.Momentum,
    "init_scale": hyperparameters.InitScale,
    "sample_weight": hyperparameters.SampleWeight,
    "training_data": hyperparameters.TrainingData,
    "loss_weight": hyperparameters.LossWeight,
}


def tuner(spec: JobSpec, replica: int, data_roots: Sequence[Path], device: str) -> Tuner:
    """The tuner of one replica: problem, kinds, training and method as the spec asks.

    Raises:
        EngineError: what only a worker finds: missing files, too large a batch, ...
    """
    problem = build_problem(
        spec.problem.model.model_dump(),
        spec.problem.data.model_dump(),
        seed=spec.seed,
        data_roots=data_roots,
    )
    return Tuner(
        problem,
        [kind(hyperparameter) for hyperparameter in spec.hyperparameters],
        TrainingConfig(**spec.training.model_dump()),
        method(spec.hypergradient),
        seed=spec.seed,
        replica=replica,
        device=device,
    )


def kind(spec: HyperparameterSpec) -> hyperparameters.Kind:
    options = spec.model_dump(exclude={"kind"})
    bound: hyperparameters.Kind = _KINDS[spec.kind](**options | {"name": spec.name or spec.kind})
    return bound


def method(spec: HypergradientSpec) -> hypergradients.Method:
    return hypergradients.METHODS[spec.method](**spec.model_dump(exclude={"method"}))


def meta(spec: JobSpec) -> MetaConfig:
    return MetaConfig(**spec.meta.model_dump())
