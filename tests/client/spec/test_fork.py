"""Which changes a fork may make to the spec of the forked job, and what a misfit is told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.fork import ForkSpec
from drmad_client.spec.job import JobSpec


def job(*hyperparameters: dict[str, Any], **training: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "problem": {"data": {"name": "digits"}},
            "hyperparameters": [*hyperparameters],
            "training": {"steps": 100} | training,
        }
    )


RATES = [
    {"kind": "learning_rate", "per": "model"},
    {"kind": "momentum", "per": "layer"},
    {"kind": "weight_decay"},
]


@pytest.mark.parametrize(
    ("spec", "changes", "path", "words"),
    [
        pytest.param(
            job({"kind": "learning_rate"}),
            {"training": {"steps": 50}},
            "changes.training.steps",
            "must stay 100, got 50: the kept learning_rate has an entry for every inner step",
            id="schedule to fewer steps",
        ),
        pytest.param(
            job({"kind": "momentum", "name": "gamma", "per": "step_and_layer"}),
            {"training": {"steps": 200}},
            "changes.training.steps",
            "the kept gamma has an entry",
            id="schedule of layers to more steps",
        ),
        pytest.param(
            job(*RATES),
            {"training": {"learning_rate": 0.5}},
            "changes.training.learning_rate",
            "must stay 0.05, got 0.5: it would have no effect, because learning_rate is tuned",
            id="tuned learning rate",
        ),
        pytest.param(
            job(*RATES),
            {"training": {"momentum": 0.5}},
            "changes.training.momentum",
            "momentum is tuned in its place",
            id="tuned momentum",
        ),
        pytest.param(
            job(*RATES, optimizer="adam"),
            {"training": {"betas": [0.5, 0.999]}},
            "changes.training.betas",
            "must stay 0.9, got 0.5",
            id="tuned first beta",
        ),
        pytest.param(
            job({"kind": "l2"}),
            {"training": {"betas": [0.5, 0.999]}},
            "changes.training.betas",
            "has no effect with sgd",
            id="setting of another optimizer",
        ),
        pytest.param(
            job(*RATES),
            {"training": {"weight_decay": 0.1}},
            "changes.training.weight_decay",
            "must stay 0, got 0.1",
            id="tuned weight decay",
        ),
    ],
)
def test_change_that_the_kept_hyperparameters_do_not_fit_is_refused(
    spec: JobSpec, changes: dict[str, Any], path: str, words: str
) -> None:
    fork = ForkSpec(iteration=3, changes=changes)
    with pytest.raises(ValidationError) as caught:
        fork.applied_to(spec)
    (error,) = field_errors(caught.value.errors(), fork.model_dump())
    assert error.path == path
    assert words in error.message


@pytest.mark.parametrize(
    ("spec", "training"),
    [
        (job(*RATES), {"steps": 50}),
        (job({"kind": "learning_rate"}), {"steps": 100, "batch_size": 10, "momentum": 0.5}),
        (job(*RATES, optimizer="adam"), {"betas": [0.9, 0.99]}),
        (job({"kind": "l2"}, momentum=0.5), {"optimizer": "adam"}),
        (
            job({"kind": "weight_decay", "per": "group", "groups": ["*.bias"]}),
            {"weight_decay": 0.1},
        ),
    ],
)
def test_change_that_the_kept_hyperparameters_fit_is_applied(
    spec: JobSpec, training: dict[str, Any]
) -> None:
    forked = ForkSpec(iteration=3, changes={"training": training}).applied_to(spec)
    expected = spec.model_dump()["training"] | training
    expected["betas"] = tuple(expected["betas"])
    assert forked.training.model_dump() == expected
