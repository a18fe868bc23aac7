"""Rounds and arrivals on the MNIST job, seed by seed, at the same number of training runs."""

from __future__ import annotations

import heapq
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from drmad_client.spec.job import JobSpec
from drmad_workers import spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.meta.state import initial_state
from drmad_workers.ray_actor import outer_step
from drmad_workers.ray_actor.messages import ReplicaResult, RollbackRequired, StepResult
from drmad_workers.ray_actor.packed_state import pack, unpack
from drmad_workers.tuning import Tuner

JOB = Path(__file__).parents[3] / "examples" / "clean-mnist.yaml"
INFO = {
    "name": "sample_weight",
    "kind": "sample_weight",
    "shape": [5000],
    "transform": "sigmoid",
    "lower": None,
    "upper": None,
    "groups": [],
}
COUNT, ITERATIONS, SEEDS = 2, 6, 10


def mnist_job(seed: int, mode: str) -> tuple[JobSpec, list[Tuner]]:
    changes: dict[str, Any] = {"seed": seed, "replicas": {"count": COUNT, "mode": mode}}
    changes["meta"] = {"optimizer": "adam", "learning_rate": 0.3, "iterations": ITERATIONS}
    spec = JobSpec.model_validate(yaml.safe_load(JOB.read_text()) | changes)
    roots = os.environ.get("DRMAD_DATA_ROOTS", "").split(os.pathsep)
    places = Places([Path(root) for root in roots if root])
    problem = spec_adapter.problem(spec, places, None)
    return spec, [spec_adapter.tuner(spec, replica, built=problem) for replica in range(COUNT)]


def result(tuner: Tuner, replica: int, state: Any, iteration: int, draw: int) -> ReplicaResult:
    values = unpack(state).hyperparameters
    evaluation = tuner.evaluate(values, iteration, draw=draw)
    sizes = (tuner.train_examples.rows, tuner.valid_examples.rows)
    return ReplicaResult(replica, evaluation, *sizes, "node", "cpu")


def in_rounds(seed: int) -> float:
    """The best validation loss of so many rounds."""
    spec, tuners = mnist_job(seed, "sync")
    state = pack(initial_state(tuners[0].hyperparameters))
    losses: list[float] = []
    for iteration in range(ITERATIONS):
        results = [result(t, r, state, iteration, iteration) for r, t in enumerate(tuners)]
        step = outer_step.meta_step(spec, [INFO], state, 0, results)
        assert isinstance(step, StepResult)
        losses.append(step.record["validation_loss"])
        state = step.state
    return min(losses)


def as_they_arrive(seed: int) -> tuple[float, list[int]]:
    """The best of as many meta-iterations of arrivals, and the staleness of each arrival.

    Replicas take random times, up to three times as long as each other.
    """
    spec, tuners = mnist_job(seed, "async")
    chance = random.Random(seed)
    state = pack(initial_state(tuners[0].hyperparameters))
    flights: list[tuple[float, int, int, ReplicaResult]] = []
    updates = 0
    losses: list[float] = []
    all_staleness: list[int] = []

    def begin(replica: int, now: float, moved: Any, iteration: int) -> None:
        found = result(tuners[replica], replica, moved, iteration, updates)
        ends = now + chance.uniform(0.5, 1.5)
        heapq.heappush(flights, (ends, replica, updates, found))

    for replica in range(COUNT):
        begin(replica, 0.0, state, 0)
    for iteration in range(ITERATIONS):
        moved, staleness = state, []
        results: list[ReplicaResult] = []
        while len(results) < COUNT:
            now, replica, begun, found = heapq.heappop(flights)
            arrived = outer_step.arrival(spec, [INFO], moved, found)
            assert not isinstance(arrived, RollbackRequired)
            _, moved = arrived
            results.append(found)
            staleness.append(updates - begun)
            updates += 1
            if len(losses) < ITERATIONS - 1 or len(results) < COUNT:
                begin(replica, now, moved, iteration)
        step = outer_step.arrivals_step(spec, [INFO], state, moved, 0, results, staleness)
        assert isinstance(step, StepResult)
        losses.append(step.record["validation_loss"])
        all_staleness += staleness
        state = step.state
    return min(losses), all_staleness


@pytest.mark.full
def test_arrivals_reach_the_validation_loss_of_rounds_within_a_tenth() -> None:
    """Ten seeds of labels, weights, minibatches and times; the ratios paired by seed."""
    torch.set_num_threads(1)
    logarithms, stale = [], []
    for seed in range(SEEDS):
        rounds = in_rounds(seed)
        arrivals, staleness = as_they_arrive(seed)
        print(f"seed {seed}: {rounds:.4f} in rounds, {arrivals:.4f} as they arrive", flush=True)
        logarithms.append(math.log(arrivals / rounds))
        stale += staleness
    assert 0 < max(stale) <= 2 * COUNT
    mean, error = np.mean(logarithms), np.std(logarithms, ddof=1) / math.sqrt(SEEDS)
    print(f"mean log ratio {mean:.4f}, standard error {error:.4f}")
    # Student's t for 9 degrees of freedom, two-sided 95 %.
    assert mean + 2.262 * error < math.log(1.1), (mean, error)
