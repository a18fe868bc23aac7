"""No setting of a method or of the training is accepted and ignored.

Each option is moved away from its value in a job. Either the spec refuses the job, or the
meta-iteration has another result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec import capabilities
from drmad_client.spec.inner.training import TrainingSpec
from drmad_client.spec.job import JobSpec
from drmad_client.spec.methods import AutoMethod
from drmad_workers import HypergradientError, spec_adapter
from drmad_workers.hypergradients.automatic.plan import DRAWS
from drmad_workers.problem import Problem

Fields = dict[str, Any]

WEIGHTS: list[Fields] = [{"kind": "l2", "init": 0.0}, {"kind": "sample_weight"}]
RATES: list[Fields] = [{"kind": kind} for kind in ("learning_rate", "momentum", "weight_decay")]
RATES = [rate | {"per": "model"} for rate in RATES]
RATES_WITH_VALUES = [rate | {"init": -2.0} for rate in RATES]
MOMENTUM_BY_STEP: list[Fields] = [{"kind": "momentum", "per": "step"}]

BASE: Fields = {
    "problem": {
        "data": {"name": "iris", "train": 24, "valid": 20},
        "model": {"name": "mlp", "hidden": [4]},
    },
    "hyperparameters": WEIGHTS,
    "training": {"steps": 12, "batch_size": 3},
}
VALUES: dict[str, list[Any]] = {
    "hvp": ["finite_difference"],
    "horizon": [3],
    "min_cosine": [1e-3, 1.0],
    "budget": [2],
    "interpolation_nodes": [3],
    "averaging_window": [1],
    "max_stride": [1, 3],
    "max_adjoint_change": [None, 0.01],
    "minibatch_subsampling": [1, 3],
    "contraction": [True],
    "curvature": ["gauss_newton"],
    "preset": ["paper", "paper_tenth"],
    "solver": ["neumann"],
    "iterations": [2],
    "tolerance": [1e-6, 1.0],
    "damping": [0.5],
    "step_size": [0.05],
    "optimizer": ["sgd", "damped_sgd", "adam", "adamw", "rmsprop", "lion", "muon"],
    "steps": [11],
    "batch_size": [4],
    "learning_rate": [0.06],
    "momentum": [0.5],
    "betas": [(0.8, 0.999), (0.9, 0.99)],
    "eps": [1e-3],
    "smoothing": [0.9],
    "weight_decay": [0.1],
    "precision": ["float64", "bfloat16", "tf32"],
    "deterministic": [False],
    "evaluation_rows": [2],
    "resample": [False],
    "data_workers": [1],
    "schedule": [{"name": "cosine"}],
    "nesterov": [True],
    "accumulate": [2],
    "clip_norm": [1e-3],
    "clip_value": [1e-4],
    "groups": [[{"match": "*.bias", "frozen": True}]],
}
"""Other values than those of the job, by the name of the option."""
BESIDE: dict[str, list[Fields]] = {
    "averaging_window": [{"interpolation_nodes": 3}],
    "max_adjoint_change": [{}, {"max_stride": 1}],
    "minibatch_subsampling": [{}, {"horizon": 5}],
    "step_size": [{}, {"solver": "neumann", "step_size": 0.1}],
}
"""Settings of the method beside which an option is moved; {} are none."""
TRAINING: dict[str, Fields] = {
    "min_cosine": {"steps": 24},
    "min_cosine with adam": {"learning_rate": 1e-3},
    "budget": {"steps": 48},
    "contraction": {"learning_rate": 0.5},
    "max_stride": {"learning_rate": 1e-3},
    "max_adjoint_change": {"learning_rate": 1e-3},
    "minibatch_subsampling": {"steps": 24},
    "optimizer": {"weight_decay": 0.1},
}
"""The training under which a bound binds, or adam and adamw differ."""
KINDS: dict[str, list[list[Fields]]] = {"min_cosine": [WEIGHTS]}
"""Hyperparameters with which the option counts: with a momentum by step `auto` compares no method
here, because none is cheaper than `stored`."""
DAMPED: Fields = {"damping": 1.0}
"""What `implicit` needs here, because 12 steps do not lead to a minimum."""
SECTIONS = ("hypergradient.", "training.")
EXCEPTIONS: dict[tuple[str, Any], str] = {
    ("min_cosine", 1.0): "equals the default where every shortcut misses that, as Adam's do here",
    ("minibatch_subsampling", 1): "states what null takes without convolutions",
    ("max_stride", 1): "states what a momentum by step takes",
    ("max_adjoint_change", None): "states that a stride of one step is taken in full",
    ("precision", "tf32"): "is float32 on a CPU",
    ("deterministic", False): "counts on a GPU; a CPU's operations have the same bits again",
    ("data_workers", 1): "reads the same in another process",
    ("evaluation_rows", 2): "bounds the memory; the loss changes by rounding at most",
}
"""Values that the spec takes although they may leave the result as it is."""


def jobs(
    optimizer: str, kinds: list[list[Fields]], method: Fields, option: str
) -> Iterator[Fields]:
    """The jobs that the spec takes, for each list of hyperparameters."""
    for tuned in kinds:
        stated = BASE["training"] | {"optimizer": optimizer} | TRAINING.get(option, {})
        stated |= TRAINING.get(f"{option} with {optimizer}", {})
        job = BASE | {"hyperparameters": tuned, "training": stated, "hypergradient": method}
        if not refused(job):
            yield job


def refused(job: Mapping[str, Any]) -> set[str]:
    """The paths of the fields that the spec refuses."""
    try:
        JobSpec.model_validate(job)
    except ValidationError as error:
        return {line.path for line in field_errors(error.errors(), job)}
    return set()


@cache
def problem() -> Problem:
    return spec_adapter.problem(JobSpec.model_validate(BASE), None, None)


def result(job: Mapping[str, Any]) -> Any:
    """What a meta-iteration computes and counts, to the bit."""
    return computed(JobSpec.model_validate(job).model_dump_json())


@cache
def computed(spec_json: str) -> Any:
    spec = JobSpec.model_validate_json(spec_json)
    tuner = spec_adapter.tuner(spec, built=problem())
    # `auto` takes a method once it qualified in several draws.
    last = DRAWS + 1 if isinstance(spec.hypergradient, AutoMethod) else 1
    choice = None
    try:
        for iteration in range(1, last + 1):
            found = tuner.evaluate(tuner.initial_values(), iteration, choice=choice)
            choice = found.choice
    except HypergradientError as error:
        return str(error)
    numbers = {name: value.tolist() for name, value in found.hypergradient.items()}
    return found.validation_loss, numbers, found.backward_steps, choice and choice.method


def require_effect(job: Fields, section: str, option: str) -> None:
    """Every other value is refused by the spec, or changes the result."""
    for value in VALUES[option]:
        if value == job[section].get(option):
            continue
        moved = job | {section: job[section] | {option: value}}
        paths = refused(moved)
        if paths:
            assert all(path.startswith((*SECTIONS, "hyperparameters[0].kind")) for path in paths)
        else:
            assert result(moved) != result(job) or (option, value) in EXCEPTIONS, moved


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("method", "option"),
    [
        (method, option)
        for method, spec in capabilities.METHODS.items()
        for option in spec.model_fields
        if option != "method"
    ],
)
def test_no_option_of_a_method_is_accepted_and_ignored(
    method: str, option: str, optimizer: str
) -> None:
    stated = {"method": method} | (DAMPED if method == "implicit" else {})
    tried = 0
    for beside in BESIDE.get(option, [{}]):
        kinds = KINDS.get(option, [WEIGHTS, MOMENTUM_BY_STEP])
        for job in jobs(optimizer, kinds, stated | beside, option):
            require_effect(job, "hypergradient", option)
            tried += 1
    assert tried or (method, optimizer) == ("reversible", "adam")


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        "adam",
        pytest.param("damped_sgd", marks=pytest.mark.full),
        pytest.param("adamw", marks=pytest.mark.full),
        pytest.param("rmsprop", marks=pytest.mark.full),
        pytest.param("muon", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("option", TrainingSpec.model_fields)
def test_no_option_of_the_training_is_accepted_and_ignored(option: str, optimizer: str) -> None:
    for job in jobs(optimizer, [WEIGHTS, RATES, RATES_WITH_VALUES], {"method": "one_step"}, option):
        require_effect(job, "training", option)
