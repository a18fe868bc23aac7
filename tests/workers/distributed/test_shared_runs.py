"""Workers that share a training run find what one worker finds."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from drmad_workers import Evaluation, Tuner
from drmad_workers.distributed.group import WorkerGroup
from tests.workers.distributed.cases import CASES
from tests.workers.distributed.processes import Processes

BOUNDS = {"float64": 1e-12, "float32": 1e-6}
DIFFERENCES = 10.0
"""A difference of two gradients magnifies their rounding, which depends on the order of sums."""


@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.full)])
@pytest.mark.parametrize("case", CASES)
def test_shared_training_has_the_hypergradient_of_one_worker(
    processes: Processes, case: str, precision: str
) -> None:
    tuner = CASES[case](precision)
    expected = evaluated(tuner)
    found = processes.run(shared, case, precision)
    bound = BOUNDS[precision] * (DIFFERENCES if case == "finite differences" else 1.0)

    for evaluation in found:
        assert_close(evaluation.hypergradient, expected.hypergradient, bound)
        assert_close(evaluation.model, expected.model, bound)
        assert evaluation.validation_loss == pytest.approx(expected.validation_loss, rel=bound)
        assert evaluation.training_loss == pytest.approx(expected.training_loss, rel=bound)
        assert evaluation.metrics == pytest.approx(expected.metrics, rel=bound)
        assert evaluation.method == expected.method
        assert evaluation.backward_steps == expected.backward_steps
    first = found[0].hypergradient
    for other in found[1:]:
        assert all(torch.equal(other.hypergradient[name], first[name]) for name in first)


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], bound: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        error = torch.linalg.vector_norm(found[name] - tensor)
        assert error <= bound * torch.linalg.vector_norm(tensor), name


def evaluated(tuner: Tuner) -> Evaluation:
    return tuner.evaluate(tuner.initial_values(), 1)


def shared(group: WorkerGroup, case: str, precision: str) -> Evaluation:
    tuner = CASES[case](precision)
    tuner.replica.require_shareable(group.size)
    with tuner.replica.shared_by(group):
        return evaluated(tuner)
