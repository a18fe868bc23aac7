from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.data.data_sets import MnistData
from drmad_client.spec.hyperparameters import L2Hyperparameter, SampleWeightHyperparameter
from drmad_client.spec.inner.models import MlpModel
from drmad_client.spec.inner.training import TrainingSpec
from drmad_client.spec.job import JobSpec
from drmad_client.spec.methods import ShortcutMethod
from drmad_client.spec.outer.meta import MetaSpec
from drmad_client.spec.problem import CatalogProblem, CodeProblem
from tests.client import samples

YAML = """
name: clean-mnist
problem:
  model: {name: mlp, hidden: [50]}
  data: {name: mnist, train: 5000, valid: 1000, test: 4000, label_noise: 0.5}
hyperparameters:
  - {kind: sample_weight}
  - {kind: l2, per: unit, init: -9.0}
training: {optimizer: sgd, steps: 1000, batch_size: 100, learning_rate: 0.05, momentum: 0.9}
hypergradient: {method: shortcut, horizon: 100}
meta: {optimizer: adam, learning_rate: 0.3, iterations: 30, patience: null}
replicas: {count: 1, aggregate: mean}
resources: {cpus: 1, gpus: 0}
tags: {team: vision}
priority: 0
seed: 0
"""


def test_a_job_is_the_same_in_yaml_and_in_python() -> None:
    assert JobSpec.model_validate(yaml.safe_load(YAML)) == JobSpec(
        name="clean-mnist",
        problem=CatalogProblem(
            model=MlpModel(hidden=[50]),
            data=MnistData(train=5000, valid=1000, test=4000, label_noise=0.5),
        ),
        hyperparameters=[
            SampleWeightHyperparameter(),
            L2Hyperparameter(per="unit", init=-9.0),
        ],
        training=TrainingSpec(steps=1000, batch_size=100, learning_rate=0.05, momentum=0.9),
        hypergradient=ShortcutMethod(horizon=100),
        meta=MetaSpec(optimizer="adam", learning_rate=0.3, iterations=30),
        tags={"team": "vision"},
    )


@pytest.mark.parametrize("job", [yaml.safe_load(YAML), samples.SPEC])
def test_json_brings_a_job_back(job: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(job)
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_every_field_says_what_it_is() -> None:
    schema = JobSpec.model_json_schema()
    models = {"JobSpec": schema} | schema["$defs"]
    silent = [
        f"{model}.{name}"
        for model, definition in models.items()
        for name, field in definition.get("properties", {}).items()
        if "description" not in field and "const" not in field
    ]
    assert silent == []
    assert [name for name, definition in models.items() if "description" not in definition] == []


def test_no_text_was_decoded_under_another_encoding() -> None:
    """UTF-8 read as Latin-1 or Windows-1252 can be encoded back, and is UTF-8 again."""
    wrong = []
    for text in strings(JobSpec.model_json_schema()):
        for encoding in ("latin-1", "cp1252"):
            with suppress(UnicodeError):
                if text.encode(encoding).decode() != text:
                    wrong.append(text)
    assert wrong == []


def strings(value: object) -> Iterator[str]:
    """All strings of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def test_every_number_has_bounds() -> None:
    schema = JobSpec.model_json_schema()
    unbounded = [
        f"{model}.{name}"
        for model, definition in ({"JobSpec": schema} | schema["$defs"]).items()
        for name, field in definition.get("properties", {}).items()
        for kind in field.get("anyOf", [field])
        if kind.get("type") in ("integer", "number")
        if not {"minimum", "exclusiveMinimum"} & set(kind)
    ]
    # Bounds of a raw value are the user's to set; how far they reach is no one's business.
    assert {name.partition(".")[2] for name in unbounded} <= {"lower", "upper"}


TABLE: dict[str, Any] = {"name": "table", "data": "sha256:" + "ab" * 32, "target": "price"}
ARRAYS: dict[str, Any] = {"name": "file", "path": "a.npz", "train": 100, "valid": 50}


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"training": {"steps": -5}}, "training.steps", "must be at least 1, got -5"),
        ({"training": {"stepz": 5}}, "training.stepz", "not a known field"),
        ({"training": {"steps": "many"}}, "training.steps", "got 'many'"),
        ({"problem": {}}, "problem.data", "is required"),
        ({"problem": {"data": {"name": "cifar"}}}, "problem.data.name", "'digits', 'mnist'"),
        ({"problem": {"data": {}}}, "problem.data.name", "is required"),
        ({"hyperparameters": []}, "hyperparameters", "at least one hyperparameter"),
        ({"hyperparameters": [{"kind": "l3"}]}, "hyperparameters[0].kind", "got 'l3'"),
        (
            {"hyperparameters": [{"kind": "l2"}, {"kind": "l2", "per": "unit"}]},
            "hyperparameters[1].name",
            "is taken",
        ),
        (
            {"hyperparameters": [{"kind": "l2", "init": 3, "upper": 0}]},
            "hyperparameters[0].init",
            "between lower and upper",
        ),
        (
            {"hyperparameters": [{"kind": "learning_rate", "init": 0.5, "upper": 0}]},
            "hyperparameters[0].init",
            "between lower and upper",
        ),
        (
            {"hyperparameters": [{"kind": "training_data", "init": "zeros"}]},
            "hyperparameters[0].init",
            "'data' or 'noise'",
        ),
        ({"training": {"betas": [0.9, 1.0]}}, "training.betas[1]", "must be below 1"),
        ({"hypergradient": {"method": "guess"}}, "hypergradient.method", "must be one of"),
        (
            {"training": {"steps": 9}, "hypergradient": {"method": "shortcut", "horizon": 10}},
            "hypergradient.horizon",
            "(with mode: online meta.window), 9, got 10",
        ),
        (
            {"hypergradient": {"method": "shortcut", "preset": "paper", "interpolation_nodes": 4}},
            "hypergradient.preset",
            "remove interpolation_nodes",
        ),
        (
            {"hypergradient": {"method": "shortcut", "averaging_window": 4}},
            "hypergradient.averaging_window",
            "set interpolation_nodes too",
        ),
        (
            {"hypergradient": {"method": "shortcut", "knots": 4}},
            "hypergradient.knots",
            "is called interpolation_nodes now",
        ),
        (
            {"hypergradient": {"method": "shortcut", "tolerance": 0.1}},
            "hypergradient.tolerance",
            "is called max_adjoint_change now",
        ),
        (
            {"hypergradient": {"method": "replay", "tolerance": 0.1}},
            "hypergradient.tolerance",
            "not a known field",
        ),
        ({"meta": {"retreats": 3}}, "meta.retreats", "is called max_rollbacks now"),
        (
            {"replicas": {"mode": "async", "staleness": 3}},
            "replicas.staleness",
            "is called max_staleness now",
        ),
        (
            {"training": {"batch_size": 1001}},
            "training.batch_size",
            "at most the 1000 training examples",
        ),
        (
            {"problem": {"data": {"name": "digits", "train": 50}}},  # and batch_size by default
            "training.batch_size",
            "at most the 50 training examples, got 100",
        ),
        (
            {"problem": {"data": {"name": "digits", "train": 1500}}},
            "problem.data.train",
            "digits has 1797 examples",
        ),
        ({"seed": float("nan")}, "seed", "finite"),
        (
            {"hyperparameters": [{"kind": "sample_weight", "per": "group"}]},
            "hyperparameters[0]",
            "column must be given with per: group",
        ),
        (
            {"hyperparameters": [{"kind": "sample_weight", "column": "source"}]},
            "hyperparameters[0]",
            "must be left out otherwise, got per: example",
        ),
        (
            {"hyperparameters": [{"kind": "sample_weight", "per": "source"}]},
            "hyperparameters[0].column",
            "digits hands over no column source",
        ),
        (
            {"problem": {"data": TABLE | {"path": "b.csv"}}},
            "problem.data",
            "data (an upload) or path (a file on the workers)",
        ),
        (
            {"problem": {"data": TABLE | {"numeric": ["price"]}}},
            "problem.data",
            "got price twice",
        ),
        (
            {"problem": {"data": TABLE | {"split": "part", "train": 100}}},
            "problem.data",
            "leave train, valid and test out",
        ),
        (
            {"problem": {"data": TABLE | {"train": 0.9}}},
            "problem.data",
            "at most 1 together, got 1.3",
        ),
        (
            {"problem": {"data": TABLE | {"target": ["a", "b"], "task": "binary"}}},
            "problem.data",
            "binary has one target, got 2",
        ),
        (
            {"problem": {"data": TABLE | {"categorical": ["city"]}}},
            "problem.model.name",
            "mlp takes numbers alone",
        ),
        (
            {
                "problem": {
                    "data": TABLE | {"train": 300, "valid": 10, "test": 0},
                },
                "training": {"batch_size": 301},
            },
            "training.batch_size",
            "at most the 300 training examples",
        ),
        (
            {"problem": {"data": ARRAYS | {"task": "regression", "label_noise": 0.1}}},
            "problem.data",
            "label_noise replaces classes",
        ),
    ],
)
def test_a_bad_field_is_named_and_explained(change: dict[str, Any], path: str, words: str) -> None:
    job = samples.SPEC | change
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(job)
    errors = field_errors(caught.value.errors(), job)
    assert [error.path for error in errors] == [path]
    assert words in errors[0].message


MOMENTUM_BY_STEP = {"hyperparameters": [{"kind": "momentum", "per": "step"}]}
OWN_RATES = [
    {"kind": "learning_rate", "init": -2.0},
    {"kind": "momentum", "init": 1.0},
    {"kind": "weight_decay", "init": -6.0},
]


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        *(
            (
                MOMENTUM_BY_STEP | {"hypergradient": {"method": "shortcut", name: value}},
                f"hypergradient.{name}",
                f"has no effect where a momentum is tuned per step, got {value}",
            )
            for name, value in (
                ("max_stride", 5),
                ("max_adjoint_change", 0.3),
                ("minibatch_subsampling", 2),
            )
        ),
        (
            {"hypergradient": {"method": "shortcut", "max_stride": 1, "max_adjoint_change": 0.3}},
            "hypergradient.max_adjoint_change",
            "has no effect with max_stride 1, got 0.3",
        ),
        (
            {"hypergradient": {"method": "shortcut", "horizon": 9, "minibatch_subsampling": 2}},
            "hypergradient.minibatch_subsampling",
            "has no effect on the last 9 of",
        ),
        (
            {"hyperparameters": OWN_RATES, "training": {"learning_rate": 0.3}},
            "training.learning_rate",
            "has no effect beside hyperparameters[0].init, got 0.3",
        ),
        (
            {"hyperparameters": OWN_RATES, "training": {"optimizer": "adam", "betas": [0.5, 0.99]}},
            "training.betas",
            "has no effect beside hyperparameters[1].init, got 0.5",
        ),
        (
            {"hyperparameters": OWN_RATES, "training": {"weight_decay": 0.1}},
            "training.weight_decay",
            "has no effect beside hyperparameters[2].init, got 0.1",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(change: dict[str, Any], path: str, words: str) -> None:
    job = samples.SPEC | change
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(job)
    errors = field_errors(caught.value.errors(), job)
    assert [error.path for error in errors] == [path]
    assert words in errors[0].message


def test_every_bad_field_is_named_at_once() -> None:
    job = samples.SPEC | {"training": {"steps": 0, "momentum": 1}, "seed": -1, "colour": "red"}
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(job)
    paths = {error.path for error in field_errors(caught.value.errors(), job)}
    assert paths == {"training.steps", "training.momentum", "seed", "colour"}


def test_a_mixture_of_the_sources_of_a_table_is_one_line() -> None:
    job = JobSpec.model_validate(
        {
            "problem": {
                "model": {"name": "tabular"},
                "data": TABLE | {"categorical": ["city"], "columns": ["source"]},
            },
            "hyperparameters": [
                {"kind": "sample_weight", "per": "source", "column": "source", "normalised": True},
                {"kind": "sample_weight", "name": "by_example"},
            ],
        }
    )
    assert JobSpec.model_validate_json(job.model_dump_json()) == job
    assert [h.per_example for h in job.hyperparameters] == [False, True]
    assert job.problem.sizes(10).train is None


SEARCH: dict[str, Any] = {
    "trials": 5,
    "parameters": {
        "training.learning_rate": {"low": 0.01, "high": 1.0, "log": True},
        "hyperparameters[0].init": {"low": -12, "high": -2},
        "problem.model.activation": {"choices": ["tanh", "relu"]},
    },
}


def test_values_of_a_search_stand_in_the_job_that_it_starts() -> None:
    job = yaml.safe_load(YAML) | {"search": SEARCH}
    job["hyperparameters"] = [{"kind": "l2", "init": -9.0}]
    spec = JobSpec.model_validate(job)
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    started = spec.started_from({"training.learning_rate": 0.5, "hyperparameters[0].init": -3.0})
    assert started.search is None
    assert started.training.learning_rate == 0.5
    assert started.hyperparameters == [L2Hyperparameter(init=-3.0)]
    assert started.problem == spec.problem


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "at least 1"),
        ({"training.learning_rate": {"low": 1.0, "high": 0.1}}, "low must be below high"),
        ({"training.learning_rate": {"low": 0.0, "high": 0.1, "log": True}}, "above 0 where log"),
        ({"training.learning_rate": {"low": 0.01, "high": 1e9}}, "at an end of its range"),
        ({"training.rate": {"low": 0.01, "high": 1.0}}, "at an end of its range"),
        ({"hyperparameters[7].init": {"low": -9.0, "high": 1.0}}, "hyperparameters[7].init"),
        ({"problem.model.activation": {"choices": ["tanh", "sin"]}}, "at an end of its range"),
        ({"problem.data.seed": {"low": 0, "high": 9}}, "cannot be searched"),
        ({"meta.iterations": {"low": 1, "high": 9}}, "cannot be searched"),
        ({"training.batch_size": {"low": 1.5, "high": 9, "integer": True}}, "must be whole"),
        ({"training.batch_size": {"low": 10, "high": 1e5, "integer": True}}, "at most the 5000"),
        ({"training.eps": {"low": 1e-8, "high": 1e-3}}, "training.eps has no effect with sgd"),
    ],
)
def test_a_search_that_cannot_start_a_job_is_refused(
    parameters: dict[str, Any], words: str
) -> None:
    job = yaml.safe_load(YAML) | {"search": {"parameters": parameters}}
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(job)
    errors = field_errors(caught.value.errors(), job)
    assert words in f"{errors[0].path} {errors[0].message}"
    assert errors[0].path.startswith("search")


@pytest.mark.parametrize(
    ("requirement", "fits"),
    [
        ("einops==0.8.1", True),
        ("pandas[performance]>=2,<3", True),
        ("six", True),
        ("six @ https://evil.example/six.whl", False),
        ("--index-url=https://evil.example", False),
        ("-r requirements.txt", False),
        ("./local", False),
        ("git+https://evil.example/x", False),
        ("six; python_version>'3'", False),
        ("six\n--pre", False),
    ],
)
def test_requirements_are_packages_of_the_index_alone(requirement: str, fits: bool) -> None:
    fields = {
        "entrypoint": "m:build",
        "code": "sha256:" + "0" * 64,
        "requirements": [requirement],
    }
    try:
        problem = CodeProblem.model_validate(fields)
    except ValidationError:
        assert not fits
    else:
        assert fits
        assert problem.requirements == [requirement]


def test_a_pull_to_the_class_needs_weights_of_examples_and_a_strength() -> None:
    pulled = {"kind": "sample_weight", "pull_to": "class"}
    fields = {"problem": {"data": {"name": "digits"}}, "meta": {"regularization": 0.1}}
    JobSpec.model_validate(fields | {"hyperparameters": [pulled]})
    for changes, field in (
        ({"meta": {}, "hyperparameters": [pulled]}, "pull_to"),
        ({"hyperparameters": [pulled | {"per": "class"}]}, "sample_weight"),
    ):
        with pytest.raises(ValidationError, match=r"pull_to|regularization") as caught:
            JobSpec.model_validate(fields | changes)
        assert field in caught.value.errors()[0]["loc"]


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"seed": True}, "seed", "must be a whole number, got 'true'"),
        ({"timeout_s": False}, "timeout_s", "must be a number, got 'false'"),
        ({"meta": {"iterations": True}}, "meta.iterations", "must be a whole number, got 'true'"),
        ({"tags": {"a": True}}, "tags.a", "must be text, got True"),
        ({"name": " \u00a0\u200b"}, "name", "must hold a character that can be seen"),
        ({"name": ""}, "name", "must have a length of at least 1"),
        ({"name": "x" * 201}, "name", "must have a length of at most 200"),
    ],
)
def test_booleans_are_no_numbers_and_names_can_be_seen(
    fields: dict[str, Any], path: str, message: str
) -> None:
    body = samples.SPEC | fields
    with pytest.raises(ValidationError) as refused:
        JobSpec.model_validate(body)
    (error,) = field_errors(refused.value.errors(), body)
    assert error.path == path
    assert error.message.startswith(message)
