"""Held-out data is taken in passes that follow the memory of the model."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    Implicit,
    Problem,
    ProblemError,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.objective.held_out_rows import MAX_ROWS, PASS_BYTES
from tests.workers.small import relative, small_problem

TRAINING = TrainingConfig(steps=20, batch_size=8, learning_rate=0.1)


class Counted(nn.Module):
    """Notes the rows of every forward pass; raises from `fail_from` rows on, if it is not 0."""

    def __init__(self, fail: Callable[[], BaseException] | None = None, fail_from: int = 0) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)
        self.fail, self.fail_from = fail, fail_from
        self.fails_in_training = False
        self.rows: list[tuple[bool, int]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows.append((self.training, len(inputs)))
        fails = 0 < self.fail_from <= len(inputs) and self.training == self.fails_in_training
        if fails and self.fail is not None:
            raise self.fail()
        outputs: Tensor = self.last(inputs)
        return outputs

    def largest(self, training: bool) -> int:
        return max(rows for mode, rows in self.rows if mode == training)


def tuner_of(model: nn.Module, training: TrainingConfig = TRAINING, rows: int = 100) -> Tuner:
    torch.manual_seed(0)
    problem = small_problem(model, rows)
    inputs = torch.randn(rows, 4, dtype=torch.float64)
    problem.valid = (inputs, torch.randint(3, (rows,)))
    kinds = [L2(per="layer", init=-1.0)]
    return Tuner(problem, kinds, training, Stored(), dtype=torch.float64)


def lacking(kind: type[Exception]) -> Callable[[], BaseException]:
    return lambda: kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, torch.OutOfMemoryError])
def test_rows_halve_on_a_lack_of_memory_and_figures_stay(error: type[Exception]) -> None:
    torch.manual_seed(3)
    model = Counted()
    given = {name: value.clone() for name, value in model.state_dict().items()}
    enough = tuner_of(model)
    expected = enough.evaluate(enough.initial_values(), 0)
    assert model.largest(training=False) == 100

    model = Counted(lacking(error), fail_from=30)
    model.load_state_dict(given)
    tuner = tuner_of(model)
    found = tuner.evaluate(tuner.initial_values(), 0)
    assert model.rows[-1][1] < 30
    assert tuner.objective.held_out.rows == 16  # 4096 halved until below 30
    assert found.validation_loss == pytest.approx(expected.validation_loss, rel=1e-12)
    assert relative(found.hypergradient["l2"], expected.hypergradient["l2"]) < 1e-12


def test_a_stated_number_of_rows_is_kept_and_not_halved() -> None:
    model = Counted()
    tuner = tuner_of(model, replace(TRAINING, evaluation_rows=7))
    tuner.evaluate(tuner.initial_values(), 0)
    tuner.train(tuner.initial_values())
    assert model.largest(training=False) == 8  # the check takes a minibatch
    assert [rows for mode, rows in model.rows if not mode][-15:] == [7] * 14 + [2]
    model.fail, model.fail_from = lacking(MemoryError), 7
    parameters = tuner.objective.parameters
    out, carried = parameters.weights.clone(), parameters.carried_flat.clone()
    with pytest.raises(MemoryError):
        tuner.objective.outer_gradient(tuner.valid_examples, out, carried, lambda: None)
    assert tuner.objective.held_out.rows == 7


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    tuner = tuner_of(Counted(lambda: RuntimeError("sizes differ"), fail_from=9))
    with pytest.raises(RuntimeError, match="sizes differ"):
        tuner.evaluate(tuner.initial_values(), 0)


class Wide(nn.Module):
    """A row needs about a megabyte of graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16384), nn.Linear(16384, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        for _ in range(8):
            hidden = torch.tanh(hidden)
        outputs: Tensor = self.last(hidden)
        return outputs


def test_the_chosen_rows_follow_the_memory_of_a_row() -> None:
    assert tuner_of(Counted()).objective.held_out.rows == MAX_ROWS
    rows = tuner_of(Wide()).objective.held_out.rows
    row_bytes = 8 * 16384 * 8  # eight activations of 16384 numbers of 8 bytes
    assert 0.8 * PASS_BYTES / row_bytes < rows <= PASS_BYTES / row_bytes


def test_the_chosen_rows_are_at_least_a_minibatch() -> None:
    training = replace(TRAINING, batch_size=300, steps=1)
    assert tuner_of(Wide(), training, rows=300).objective.held_out.rows == 300


def quadratic(model: nn.Module) -> Problem:
    draw = torch.Generator().manual_seed(4)
    inputs = torch.randn(64, 4, generator=draw, dtype=torch.float64)
    targets = torch.randn(64, generator=draw, dtype=torch.float64)
    return Problem(
        model,
        (inputs, targets),
        (inputs.flip(0), targets),
        loss=lambda outputs, targets: (outputs.sum(dim=1) - targets).square(),
        initialize="reset",
    )


def test_the_epoch_of_implicit_follows_the_rows_too() -> None:
    found = []
    for fail_from in (0, 20):
        model = Counted(lacking(MemoryError), fail_from)
        model.fails_in_training = True
        problem = quadratic(model)
        training = TrainingConfig(steps=200, batch_size=8, learning_rate=0.02)
        kinds = [L2(per="layer", init=-2.0)]
        tuner = Tuner(problem, kinds, training, Implicit(), dtype=torch.float64)
        found.append(tuner.evaluate(tuner.initial_values(), 0).hypergradient["l2"])
        assert model.largest(training=True) == 64
    assert tuner.objective.held_out.rows == 16
    assert relative(found[1], found[0]) < 1e-9


@pytest.mark.parametrize("rows", [0, -3])
def test_rows_below_one_are_refused(rows: int) -> None:
    with pytest.raises(ProblemError, match="evaluation_rows must be at least 1") as error:
        TrainingConfig(evaluation_rows=rows)
    assert error.value.field == "training.evaluation_rows"
