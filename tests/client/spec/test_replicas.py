"""The settings of replicas that fit together, and the messages about those that do not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.records.job import JobRecord
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_client.spec.replicas import ReplicasSpec
from tests.client import samples

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
        {"count": 2, "workers": 4, "mode": "async"},
    ],
)
def test_replicas_that_fit_are_accepted(replicas: dict[str, Any]) -> None:
    JobSpec.model_validate(JOB | {"replicas": replicas, "resources": {"cpus": 4}})


def test_a_replica_of_several_workers_takes_a_gpu_for_each() -> None:
    parts = {"replicas": {"workers": 4}, "resources": {"cpus": 4, "gpus": 4}}
    assert JobSpec.model_validate(JOB | parts).resources.gpus == 4


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
        (
            {"resources": {"gpus": 4}},
            "resources.gpus",
            "must be at most 1, got 4: a worker uses one GPU; to use more GPUs, raise",
        ),
        (
            {"replicas": {"workers": 4}},
            "resources.cpus",
            "at least replicas.workers, 4, a core for each worker of the replica, got 1",
        ),
        (
            {"replicas": {"workers": 4}, "resources": {"cpus": 4, "memory_bytes": 2**30}},
            "resources.memory_bytes",
            "must be at least 2147483648, 536870912 for each of the 4 workers",
        ),
        (
            {"replicas": {"workers": 4}, "resources": {"cpus": 4, "gpus": 2}},
            "resources.gpus",
            "must be 0 or replicas.workers, 4, a GPU for each worker",
        ),
        (
            {
                "replicas": {"workers": 4},
                "resources": {"cpus": 4},
                "training": {"batch_size": 3},
            },
            "training.batch_size",
            "at least replicas.workers, 4, which split each minibatch, got 3",
        ),
        (
            {"replicas": {"workers": 2, "batched": "auto"}, "resources": {"cpus": 2}},
            "replicas.batched",
            "must be off with workers: 2",
        ),
        (
            {
                "replicas": {"workers": 2},
                "resources": {"cpus": 2},
                "meta": {"mode": "online", "window": 10},
            },
            "replicas.workers",
            "must be 1 with meta.mode: online",
        ),
        (
            {
                "replicas": {"workers": 2},
                "resources": {"cpus": 2},
                "hyperparameters": [{"kind": "sample_weight", "normalised": True}],
            },
            "hyperparameters[0].normalised",
            "must be false with replicas.workers: 2",
        ),
        (
            {
                "replicas": {"workers": 2},
                "resources": {"cpus": 2},
                "problem": {
                    "model": {"name": "cnn", "batch_norm": True},
                    "data": {"name": "digits", "train": 1000, "valid": 100, "test": 0},
                },
            },
            "problem.model.batch_norm",
            "must be false with replicas.workers: 2",
        ),
        (
            {"resources": {"gpus": 1}, "replicas": {"count": 4, "batched": "auto"}},
            "replicas.batched",
            "must be off with gpus: 1, where no two replicas share a GPU; or set resources.gpus to "
            "a fraction, such as 0.25",
        ),
        (
            {"hypergradient": {"method": "shortcut", "budget": 8, "interpolation_nodes": 4}},
            "hypergradient.budget",
            "got 8 beside interpolation_nodes, which take its place: leave one of the two out",
        ),
        (
            {"training": {"batch_size": 50, "optimizer": "adam", "momentum": 0.5}},
            "training.momentum",
            "has no effect with adam, got 0.5: leave it out, or set another optimizer",
        ),
        (
            {"training": {"batch_size": 50, "eps": 1e-3}},
            "training.eps",
            "has no effect with sgd",
        ),
        (
            {"hypergradient": {"method": "implicit", "step_size": 0.1}},
            "hypergradient.step_size",
            "got 0.1 with conjugate_gradient: leave it out, or set solver: neumann",
        ),
        (
            {"resources": {"gpus": 0.5, "memory_bytes": 2**30}},
            "resources.memory_bytes",
            "must be null with gpus: 0.5, got 1073741824",
        ),
        (
            {"replicas": {"data": "overlapping", "train_share": 0.5, "valid_share": 1.0}},
            "replicas.train_share",
            "must be null with count: 1, whose replica holds all examples, got 0.5",
        ),
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


def test_job_that_an_earlier_release_accepted_stays_readable() -> None:
    """The rule against several GPUs for a replica came later; the record is read all the same."""
    record = samples.job(JobStatus.SUCCEEDED).model_dump(mode="json")
    record["spec"]["resources"]["gpus"] = 4
    read = JobRecord.model_validate_json(json.dumps(record))
    assert read.spec.resources.gpus == 4.0
    assert JobSpec.accepted(json.dumps(record["spec"])) == read.spec
    with pytest.raises(ValidationError, match="at most 1"):
        JobSpec.model_validate(record["spec"])
    with pytest.raises(ValidationError, match="Field required"):
        JobSpec.accepted({})


def test_search_over_the_optimizer_may_state_the_settings_of_each() -> None:
    optimizers = {"training.optimizer": {"choices": ["sgd", "adam"]}}
    training = {"batch_size": 50, "momentum": 0.5, "betas": [0.8, 0.999]}
    spec = JobSpec.model_validate(
        JOB | {"training": training, "search": {"parameters": optimizers}}
    )
    started = spec.started_from({"training.optimizer": "adam"})
    assert (started.training.optimizer, started.training.momentum) == ("adam", 0.5)
