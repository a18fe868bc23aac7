"""The settings of replicas that fit together, and the messages about those that do not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.job import JobSpec
from drmad_client.spec.replicas import ReplicasSpec

JOB: dict[str, Any] = {
    "problem": {"data": {"name": "digits", "train": 1000, "valid": 100, "test": 0}},
    "hyperparameters": [{"kind": "sample_weight"}],
    "training": {"batch_size": 50},
}


@pytest.mark.parametrize(
    "replicas",
    [
        {"count": 4, "data": "disjoint"},
        {"count": 4, "data": "disjoint", "train_share": 0.25, "valid_share": 1.0},
        {"count": 3, "data": "overlapping", "train_share": 0.5},
        {"count": 4, "wait_for": 3, "placement": "spread", "aggregate": "median"},
        {"count": 4, "mode": "async", "max_staleness": 3},
        {"count": 8, "batched": "auto", "aggregate": "sign"},
        {"count": 1, "data": "disjoint", "mode": "async"},
    ],
)
def test_replicas_that_fit_are_accepted(replicas: dict[str, Any]) -> None:
    JobSpec.model_validate(JOB | {"replicas": replicas})


@pytest.mark.parametrize(
    ("parts", "path", "advice"),
    [
        ({"replicas": {"count": 2, "wait_for": 3}}, "replicas.wait_for", "at most count, 2"),
        (
            {"replicas": {"count": 2, "mode": "async", "wait_for": 2}},
            "replicas.wait_for",
            "async mode, which never waits",
        ),
        (
            {"replicas": {"count": 2, "max_staleness": 2}},
            "replicas.max_staleness",
            "set mode: async",
        ),
        (
            {"replicas": {"count": 4, "mode": "async", "max_staleness": 2}},
            "replicas.max_staleness",
            "at least count - 1, 3",
        ),
        (
            {"replicas": {"count": 2, "mode": "async", "aggregate": "median"}},
            "replicas.aggregate",
            "must be mean in async mode",
        ),
        (
            {"replicas": {"count": 4, "data": "disjoint", "train_share": 0.3}},
            "replicas.train_share",
            "set data: overlapping",
        ),
        (
            {"replicas": {"count": 4, "data": "overlapping", "train_share": 0.2}},
            "replicas.train_share",
            "set data: disjoint",
        ),
        (
            {"replicas": {"count": 4, "data": "overlapping"}},
            "replicas.train_share",
            "such as 0.5",
        ),
        (
            {"replicas": {"count": 4, "valid_share": 0.2}},
            "replicas.valid_share",
            "null with data: shared",
        ),
        (
            {"replicas": {"count": 2, "mode": "async", "batched": "auto"}},
            "replicas.batched",
            "must be off",
        ),
        (
            {"replicas": {"count": 30, "data": "disjoint"}},
            "training.batch_size",
            "33 training examples that a replica holds, got 50; or set fewer replicas",
        ),
        ({"resources": {"gpus": 1.5}}, "resources.gpus", "a whole number above 1"),
    ],
)
def test_misfit_names_its_field_and_what_to_do(
    parts: dict[str, Any], path: str, advice: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(JOB | parts)
    (error,) = field_errors(caught.value.errors(), body=False)
    assert error.path == path
    assert advice in error.message


def test_bound_of_staleness_is_twice_the_replicas_unless_given() -> None:
    assert ReplicasSpec(count=4, mode="async").bound == 8
    assert ReplicasSpec(count=4, mode="async", max_staleness=5).bound == 5
