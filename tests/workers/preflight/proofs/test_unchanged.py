"""Proof 5 names what training or a loss wrote into."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Problem, ProblemError, spec_adapter
from drmad_workers.preflight.proofs.finding import Finding
from drmad_workers.preflight.proofs.unchanged import Belongings, digest, unchanged
from drmad_workers.problem import Batch
from tests.workers.preflight.proofs.jobs import CLASSES, Calls, job, net, stated


def found(problem: Problem, between: Callable[[Problem], object] = lambda problem: None) -> Any:
    """The finding, with something done to the problem after it was first read."""
    tuner = spec_adapter.tuner(job(), built=problem)
    before = Belongings(problem, tuner)
    between(problem)
    return unchanged(tuner, problem, before)


def moved(_: Any, inputs: Tensor) -> Tensor:
    inputs += 0.1
    return inputs


def bounded(_: Any, inputs: Tensor) -> Tensor:
    return inputs.clamp_(-0.5, 0.5)


def in_the_loss(forward: nn.Module, _: Any, batch: Batch) -> Tensor:
    batch.inputs.mul_(1.5)
    return nn.functional.cross_entropy(forward(batch.inputs), batch.targets)


def relabelled(forward: nn.Module, _: Any, batch: Batch) -> Tensor:
    batch.targets[:1] = (batch.targets[:1] + 1) % CLASSES
    return nn.functional.cross_entropy(forward(batch.inputs), batch.targets)


WRITES: dict[str, Callable[[], Problem]] = {
    "x += in forward": lambda: stated(nn.Sequential(Calls(moved), net())),
    "clamp_ in forward": lambda: stated(nn.Sequential(Calls(bounded), net())),
    "inputs in the loss": lambda: stated(inner_loss=in_the_loss),
    "targets in the loss": lambda: stated(inner_loss=relabelled),
    "held-out inputs": lambda: stated(outer_loss=in_the_loss),
}


@pytest.mark.parametrize("name", WRITES)
def test_rows_that_a_loss_writes_into_are_named_or_refused(name: str) -> None:
    try:
        finding = found(WRITES[name]())
    except ProblemError as error:
        finding = Finding("failed", str(error), error.field, str(error))
    assert finding.result == "failed"
    assert "targets" in finding.detail if "targets" in name else "inputs" in finding.detail
    assert "x = x + " in finding.remedy


class Teacher(nn.Module):
    """A teacher that moves and is neither trained nor a buffer, and a sum in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = net(), nn.Linear(4, CLASSES).requires_grad_(False)
        self.seen = torch.zeros(4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.student(inputs)  # type: ignore[no-any-return]


CHANGES: dict[str, Callable[[Any], object]] = {
    "teacher.weight": lambda problem: problem.model.teacher.weight.data.mul_(0.99),
    "train inputs": lambda problem: problem.train[0][7].add_(1.0),
    "valid targets": lambda problem: problem.valid[1][:2].zero_().add_(1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_named(name: str) -> None:
    problem = stated(Teacher())
    problem.valid = (problem.valid[0], torch.zeros_like(problem.valid[1]))
    finding = found(problem, CHANGES[name])
    assert (finding.result, finding.where) == ("failed", name)


def test_a_tensor_in_an_attribute_is_put_back() -> None:
    problem: Any = stated(Teacher())
    assert found(problem, lambda _: problem.model.seen.add_(1.0)).result == "passed"
    assert torch.equal(problem.model.seen, torch.zeros(4))


def test_an_attribute_that_is_bound_anew_passes() -> None:
    def assign(problem: Any) -> None:
        problem.model.seen = torch.ones(4)

    assert found(stated(Teacher()), assign).result == "passed"


def test_running_statistics_pass() -> None:
    problem = stated(net(nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Tanh()))

    def train(problem: Problem) -> None:
        tuner = spec_adapter.tuner(job(), built=problem)
        tuner.evaluate(tuner.initial_values(), 0)

    assert found(problem, train).result == "passed"


def test_a_large_tensor_is_read_in_blocks() -> None:
    large = torch.zeros(2**23)
    before = digest(large)
    large[-1] = 1.0
    assert digest(large) != before
