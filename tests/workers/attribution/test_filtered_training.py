"""Retraining without rows, judged by a plain loop over the rows that are left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drmad_workers import Problem, ProblemError, TrainingConfig
from drmad_workers.attribution.filtered_training import FIRST_DRAW, train_without
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hyperparameters.example_weight import ExampleWeight
from drmad_workers.validation.mean_interval import mean_interval
from tests.workers.small import small_problem

TRAINING = TrainingConfig("sgd", steps=30, batch_size=10, learning_rate=0.05, momentum=0.9)


def plainly_trained(problem: Problem, kept: torch.Tensor | None, draw: int) -> float:
    """The validation loss after SGD of torch.optim on the kept rows."""
    model = problem.model
    given = [parameter.detach().clone() for parameter in model.parameters()]
    examples = Examples(problem.train, "train", torch.device("cpu"), torch.float64).part(kept)
    minibatches = Minibatches(examples, TRAINING.batch_size, (0, draw, 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(TRAINING.steps):
        batch = minibatches.join(step)
        assert kept is None or set(batch.index.tolist()) <= set(kept.tolist())
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(problem.valid[0]), problem.valid[1])
        for parameter, before in zip(model.parameters(), given, strict=True):
            parameter.copy_(before)
    return float(loss)


def test_both_arms_are_trained_as_a_plain_loop_does_on_the_rows_that_are_left() -> None:
    problem = small_problem(rows=40)
    dropped = torch.tensor([5, 1, 39])
    found = train_without(
        problem, [ExampleWeight()], TRAINING, dropped, seeds=3, dtype=torch.float64
    )
    assert (found.rows, found.dropped, found.seeds, found.diverged) == (40, 3, 3, 0)
    kept = torch.tensor([row for row in range(40) if row not in (1, 5, 39)])
    draws = range(FIRST_DRAW, FIRST_DRAW + 3)
    whole = [plainly_trained(problem, None, draw) for draw in draws]
    without = [plainly_trained(problem, kept, draw) for draw in draws]
    assert len(set(whole)) == 3
    figure = found.figures["validation_loss"]
    for interval, losses in (
        (figure.all_rows, whole),
        (figure.without, without),
        (figure.difference, [b - a for a, b in zip(whole, without, strict=True)]),
    ):
        expected = mean_interval(losses)
        assert expected is not None
        assert interval.mean == pytest.approx(expected.mean, rel=1e-9)
        assert interval.low == pytest.approx(expected.low, rel=1e-9)


def test_too_few_rows_or_seeds_are_refused() -> None:
    problem = small_problem(rows=12)
    with pytest.raises(ProblemError, match="one minibatch, must be left, got 9 of 12"):
        train_without(problem, [ExampleWeight()], TRAINING, torch.arange(3))
    with pytest.raises(ProblemError, match="seeds must be at least 2"):
        train_without(problem, [ExampleWeight()], TRAINING, torch.arange(1), seeds=1)
