"""Translates a JobSpec (drmad_client.spec) into the settings of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drmad_workers.catalog import Places, build_problem
from drmad_workers.catalog.sources import tensors_of
from drmad_workers.catalog.weights import load_weights
from drmad_workers.data.shards import Shards
from drmad_workers.errors import ProblemError
from drmad_workers.hypergradients.method import Method
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.example_weight import ExampleWeight
from drmad_workers.hyperparameters.groups import ParameterGroup
from drmad_workers.meta.config import MetaConfig
from drmad_workers.problem import Initialize, Problem
from drmad_workers.random_streams import Purpose, seed_of
from drmad_workers.replica_batch import ReplicaBatch
from drmad_workers.training.config import TrainingConfig
from drmad_workers.tuning import Tuner
from drmad_workers.user_code import load_problem

if TYPE_CHECKING:
    from drmad_client.spec.hyperparameters import HyperparameterSpec
    from drmad_client.spec.inner.schedules import ScheduleSpec
    from drmad_client.spec.inner.training import TrainingSpec
    from drmad_client.spec.job import JobSpec
    from drmad_client.spec.methods import HypergradientSpec
    from drmad_client.spec.problem import CodeProblem
    from drmad_workers.training.schedules import Schedule


def tuner(
    spec: JobSpec,
    replica: int = 0,
    places: Places | None = None,
    device: str = "cpu",
    code: Path | None = None,
    built: Problem | None = None,
) -> Tuner:
    """The tuner of one replica: problem, kinds, training and method as the spec asks.

    `places` limits where data may be read. `code` is the folder of the user's own code, for a
    problem that names an entrypoint. `built` is the problem, if it has been built before.

    Raises:
        EngineError: only a worker can find the fault, such as a missing file or too large a batch.
        UserCodeError: the user's code raised.
    """
    made = Tuner(
        built or problem(spec, places, code),
        kinds(spec),
        training(spec),
        method(spec.hypergradient),
        seed=spec.seed,
        replica=replica,
        device=device,
        shards=shards(spec),
    )
    if spec.replicas.workers > 1:
        made.replica.require_shareable(spec.replicas.workers)
    return made


def batched(
    spec: JobSpec,
    replicas: Sequence[int],
    places: Places | None = None,
    device: str = "cpu",
    code: Path | None = None,
    built: Problem | None = None,
) -> ReplicaBatch:
    """The tuners of several replicas on one device; see `tuner`."""
    return ReplicaBatch(
        built or problem(spec, places, code),
        kinds(spec),
        training(spec),
        method(spec.hypergradient),
        seed=spec.seed,
        replicas=replicas,
        device=device,
        shards=shards(spec),
    )


def shards(spec: JobSpec) -> Shards:
    train, valid = spec.replicas.shares()
    judging = 0.0 if spec.kind == "attribution" else spec.meta.judging_share
    return Shards(spec.replicas.data, spec.replicas.count, train, valid, judging, spec.seed)


def problem(spec: JobSpec, places: Places | None, code: Path | None) -> Problem:
    stated, places = spec.problem, places or Places()
    if stated.kind == "catalog":
        model, data = stated.model.model_dump(), stated.data.model_dump()
        initialize: Initialize = "reset" if stated.weights is None else None
        built = build_problem(model, data, spec.seed, places, initialize)
    else:
        built = users_problem(stated, spec.seed, places, code)
    if stated.weights is not None:
        if built.initialize == "reset":
            raise ProblemError(
                "the weights of the file would be drawn again, because the problem has initialize="
                '"reset": state initialize=None, or leave out problem.weights',
                "problem.weights",
            )
        load_weights(built.model, stated.weights, places)
    return built


def users_problem(stated: CodeProblem, seed: int, places: Places, code: Path | None) -> Problem:
    """The problem that the user's own code builds; `code` is its folder."""
    if code is None:
        raise ProblemError(
            "the job's code is missing on the worker; submit it with --code", "problem.code"
        )
    options = dict(stated.options)
    if stated.data is not None:
        path = places.upload(stated.data, "problem.data")
        options["data"] = tensors_of(path, "problem.data")
    built = load_problem(code, stated.entrypoint, options, seed_of(Purpose.BUILD, seed))
    if built.initialize is None and stated.initialize is not None:
        return replace(built, initialize=stated.initialize)
    return built


def training(spec: JobSpec) -> TrainingConfig:
    return training_config(spec.training)


def training_config(spec: TrainingSpec) -> TrainingConfig:
    fields = spec.model_dump(exclude={"schedule", "groups"})
    groups = tuple(ParameterGroup(**group.model_dump()) for group in spec.groups)
    return TrainingConfig(**fields, schedule=schedule(spec.schedule), groups=groups)


def schedule(spec: ScheduleSpec) -> Schedule:
    made: Schedule = engine_class("training", spec.engine)(**spec.model_dump(exclude={"name"}))
    return made


def kinds(spec: JobSpec) -> list[Kind]:
    """The hyperparameters of a job; of an attribution a weight of one for every example."""
    if spec.kind == "attribution":
        return [ExampleWeight()]
    return [kind(hyperparameter) for hyperparameter in spec.hyperparameters]


def kind(spec: HyperparameterSpec) -> Kind:
    options = spec.model_dump(exclude={"kind"}) | {"name": spec.name or spec.kind}
    made: Kind = engine_class("hyperparameters", spec.engine)(**options)
    return made


def method(spec: HypergradientSpec) -> Method:
    made: Method = engine_class("hypergradients", spec.engine)(
        **spec.model_dump(exclude={"method"})
    )
    return made


def engine_class(package: str, place: str) -> Callable[..., Any]:
    """The class that a row of the table names as "module:class", below a package of the engine."""
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"drmad_workers.{package}.{module}"), name)
    return found


def meta(spec: JobSpec) -> MetaConfig:
    return MetaConfig(**spec.meta.model_dump(exclude={"checkpoint_every"}))
