"""From what a user asks for (drmad_client.specs) to the engine's own settings, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drmad_workers import hypergradients, hyperparameters
from drmad_workers.batched import Replicas
from drmad_workers.catalog import Places, build_problem
from drmad_workers.catalog.sources import tensors_of
from drmad_workers.code import load_problem
from drmad_workers.errors import ProblemError
from drmad_workers.meta import MetaConfig
from drmad_workers.problem import Problem
from drmad_workers.shards import Shards
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
    "tensor": hyperparameters.CustomTensor,
}


def tuner(
    spec: JobSpec,
    replica: int = 0,
    places: Places | None = None,
    device: str = "cpu",
    code: Path | None = None,
    built: Problem | None = None,
) -> Tuner:
    """The tuner of one replica: problem, kinds, training and method as the spec asks.

    `places` is where data may be read; `code` the folder of the user's own code, for a problem that
    names an entrypoint in it; `built` the problem, where it is there already.

    Raises:
        EngineError: what only a worker finds: missing files, too large a batch, ...
        UserCodeError: the user's code raised.
    """
    return Tuner(
        built or problem(spec, places, code),
        [kind(hyperparameter) for hyperparameter in spec.hyperparameters],
        training(spec),
        method(spec.hypergradient),
        seed=spec.seed,
        replica=replica,
        device=device,
        shards=shards(spec),
    )


def batched(
    spec: JobSpec,
    replicas: Sequence[int],
    places: Places | None = None,
    device: str = "cpu",
    code: Path | None = None,
    built: Problem | None = None,
) -> Replicas:
    """The tuners of several replicas on one device; see `tuner`."""
    return Replicas(
        built or problem(spec, places, code),
        [kind(hyperparameter) for hyperparameter in spec.hyperparameters],
        training(spec),
        method(spec.hypergradient),
        seed=spec.seed,
        replicas=replicas,
        device=device,
        shards=shards(spec),
    )


def shards(spec: JobSpec) -> Shards:
    train, valid = spec.replicas.shares()
    return Shards(spec.replicas.data, spec.replicas.count, train, valid, spec.seed)


def problem(spec: JobSpec, places: Places | None, code: Path | None) -> Problem:
    stated = spec.problem
    if stated.kind == "catalog":
        model, data = stated.model.model_dump(), stated.data.model_dump()
        return build_problem(model, data, seed=spec.seed, places=places)
    if code is None:
        raise ProblemError("the job's code is not here; submit it with --code", "problem.code")
    options = dict(stated.options)
    if stated.data is not None:
        path = (places or Places()).upload(stated.data, "problem.data")
        options["data"] = tensors_of(path, "problem.data")
    return load_problem(code, stated.entrypoint, options)


def training(spec: JobSpec) -> TrainingConfig:
    return TrainingConfig(**spec.training.model_dump())


def kind(spec: HyperparameterSpec) -> hyperparameters.Kind:
    options = spec.model_dump(exclude={"kind"})
    bound: hyperparameters.Kind = _KINDS[spec.kind](**options | {"name": spec.name or spec.kind})
    return bound


def method(spec: HypergradientSpec) -> hypergradients.Method:
    return hypergradients.METHODS[spec.method](**spec.model_dump(exclude={"method"}))


def meta(spec: JobSpec) -> MetaConfig:
    return MetaConfig(**spec.meta.model_dump())
