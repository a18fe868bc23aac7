"""Replicas on GPUs through Ray, and workers that share a training run by NCCL."""

import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.replica_group import ReplicaGroup
from drmad_service.store.jobs.placement import Placed
from drmad_workers import Evaluation, TrainingConfig, Tuner
from drmad_workers.distributed.group import WorkerGroup
from drmad_workers.ray_actor.messages import Failure, Prepared
from tests.driver_here import DriverHere
from tests.gpu.problems import METHODS, error, problem

TIMEOUT_S = 600
JOB: dict[str, Any] = {
    "problem": {"data": {"name": "digits", "train": 200, "valid": 60, "test": 0}},
    "hyperparameters": [{"kind": "l2"}, {"kind": "sample_weight"}],
    "training": {"steps": 20, "batch_size": 20},
    "hypergradient": {"method": "replay"},
}


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
    yield ray.nodes()[0]["NodeID"]  # type: ignore[no-untyped-call]
    ray.shutdown()


def evaluations(node: str, **parts: Any) -> list[Evaluation]:
    spec = JobSpec.model_validate(JOB | parts)
    driver: Any = DriverHere()
    group = ReplicaGroup(spec, driver, [], "", None)
    ready = group.reserve([Placed(node, spec.replicas.count)])
    if ready is not None:
        ray.get(ready, timeout=TIMEOUT_S)
    group.create()
    try:
        answers = ray.get([a.prepare.remote() for a in group.actors], timeout=TIMEOUT_S)
        assert all(isinstance(answer, Prepared) for answer in answers), answers
        asked = [a.meta_iteration.remote(answers[0].start, 0, 1) for a in group.actors]
        found = ray.get([results for _, results in asked], timeout=TIMEOUT_S)
    finally:
        group.kill()
    assert not any(isinstance(results, Failure) for results in found), found
    results = [result for of_worker in found for result in of_worker]
    assert {result.device for result in results} == {"cuda" if spec.resources.gpus else "cpu"}
    return [result.evaluation for result in results]


def test_a_replica_on_a_gpu_has_the_results_of_one_on_the_cpu(node: str) -> None:
    (expected,) = evaluations(node)
    (found,) = evaluations(node, resources={"gpus": 1})
    assert error(found, expected) < 1e-3


def test_replicas_share_a_gpu(node: str) -> None:
    expected = evaluations(node, replicas={"count": 2})
    found = evaluations(node, replicas={"count": 2}, resources={"gpus": 0.5})
    assert all(error(one, other) < 1e-3 for one, other in zip(found, expected, strict=True))


@pytest.mark.gpus(2)
def test_two_workers_with_a_gpu_each_have_the_results_of_one(node: str) -> None:
    (expected,) = evaluations(node, resources={"gpus": 1})
    (found,) = evaluations(node, replicas={"workers": 2}, resources={"cpus": 2, "gpus": 2})
    assert error(found, expected) < 1e-4


def shared(rank: int, folder: str) -> None:
    method, kinds = METHODS["replay"]
    config = TrainingConfig(steps=12, batch_size=10, precision="float64")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    tuner = Tuner(problem(), kinds, config, method, device=device)
    expected = tuner.evaluate(tuner.initial_values(), 1)
    group = WorkerGroup(Path(folder), rank, 2, device)
    with tuner.replica.shared_by(group):
        found = tuner.evaluate(tuner.initial_values(), 1)
    assert error(found, expected) < 1e-12


@pytest.mark.gpus(2)
def test_workers_that_sum_by_nccl_have_the_hypergradient_of_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool:
        for done in [pool.submit(shared, rank, str(tmp_path)) for rank in range(2)]:
            done.result(timeout=TIMEOUT_S)
