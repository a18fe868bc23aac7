"""What the operator's limits refuse, in the job itself and in the trials of its search."""

from __future__ import annotations

from typing import Any

import pytest

from drmad_client.spec.job import JobSpec
from drmad_service.job_limits import JobLimits

LIMITS = JobLimits(steps=1000, replicas=4, hyperparameters=1000)
JOB: dict[str, Any] = {
    "problem": {"model": {"name": "mlp", "hidden": [10]}, "data": {"name": "digits"}},
    "hyperparameters": [{"kind": "l2"}],
    "training": {"steps": 100},
}


def refused(**changes: Any) -> dict[str, str]:
    spec = JobSpec.model_validate(JOB | changes)
    return {".".join(path): message for path, message in LIMITS.violations(spec)}


def search(path: str, parameter: dict[str, Any]) -> dict[str, Any]:
    return {"trials": 2, "parameters": {path: parameter}}


@pytest.mark.parametrize(
    ("parameter", "found"),
    [
        ({"low": 10, "high": 1000, "integer": True}, {}),
        (
            {"low": 10, "high": 1_000_000, "integer": True},
            {
                "search.parameters.training.steps": "this service accepts at most 1,000 steps per "
                "job, got 1,000,000"
            },
        ),
        (
            {"choices": [50, 2000]},
            {
                "search.parameters.training.steps": "this service accepts at most 1,000 steps per "
                "job, got 2,000"
            },
        ),
    ],
)
def test_a_search_does_not_step_over_a_limit(
    parameter: dict[str, Any], found: dict[str, str]
) -> None:
    assert refused(search=search("training.steps", parameter)) == found


def test_a_job_over_a_limit_is_named_once() -> None:
    rates = search("training.learning_rate", {"low": 0.1, "high": 1})
    over = refused(training={"steps": 5000}, search=rates)
    assert list(over) == ["training.steps"]
