"""A group of workers sums tensors, stops together, and notices a worker that ends."""

import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from drmad_workers.distributed.group import WorkerGroup
from drmad_workers.errors import Stopped, WorkerLost, WorkersDiffer
from tests.workers.distributed.cases import CASES
from tests.workers.distributed.processes import Processes


def summed(group: WorkerGroup) -> tuple[list[float], float]:
    one, other = torch.full((3,), float(group.rank)), torch.ones(())
    group.sum(one, other)
    return [*one.tolist(), float(other)], group.largest(-group.rank)


def test_every_worker_has_the_sums_and_the_largest_number(processes: Processes) -> None:
    found = processes.run(summed)
    size = len(found)
    total = size * (size - 1) / 2
    assert found == [([total, total, total, size], 0.0)] * size


def different(group: WorkerGroup) -> str:
    group.require_same(torch.ones(3))
    with pytest.raises(WorkersDiffer) as caught:
        group.require_same(torch.ones(3) * (1.0 + group.rank))
    return str(caught.value)


def test_workers_with_different_weights_are_refused_by_all(two: Processes) -> None:
    messages = two.run(different)
    assert messages[0] == messages[1]
    assert "must have the same weights" in messages[0]


def stopped(group: WorkerGroup) -> bool:
    """Whether the training ends when the first worker is asked to stop, and the next one runs."""
    tuner = CASES["replay"]("float64")
    with tuner.replica.shared_by(group):
        asked = (lambda: True) if group.rank == 0 else None
        with group.stopped_by(asked), pytest.raises(Stopped):
            tuner.evaluate(tuner.initial_values(), 0)
        return tuner.evaluate(tuner.initial_values(), 0).validation_loss > 0.0


def test_a_request_to_the_first_worker_stops_all_of_them(two: Processes) -> None:
    assert two.run(stopped) == [True, True]


def lost(group: WorkerGroup) -> str:
    tuner = CASES["replay"]("float64")
    if group.rank == 1:
        os._exit(1)
    with tuner.replica.shared_by(group), pytest.raises(WorkerLost) as caught:
        tuner.evaluate(tuner.initial_values(), 0)
    return str(caught.value)


def test_a_worker_that_ends_is_noticed_by_the_others(tmp_path: Path) -> None:
    processes = Processes(tmp_path, 2)
    noticed, ended = processes.begin(lost)
    with pytest.raises(BrokenProcessPool):
        ended.result()
    assert "worker 0 of 2 lost the connection to the others" in noticed.result()
    processes.close()


def left(group: WorkerGroup) -> bool:
    """Whether a worker that failed by itself ends the others too."""
    if group.rank == 1:
        group.close()
        return True
    with pytest.raises(WorkerLost):
        group.sum(torch.ones(2))
    return True


def test_a_worker_that_leaves_the_group_ends_the_work_of_the_others(tmp_path: Path) -> None:
    processes = Processes(tmp_path, 2)
    assert processes.run(left) == [True, True]
    processes.close()
