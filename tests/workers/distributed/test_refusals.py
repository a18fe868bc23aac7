"""Workers refuse a training run whose losses are no sums over rows, and name what is in the way."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import L2, Problem, ProblemError, Replay, SampleWeight, TrainingConfig, Tuner
from drmad_workers.problem import Batch
from tests.workers.small import CLASSES, small_problem

ROWS = 24


def refused(problem: Problem, kinds: list[Any] | None = None, workers: int = 2) -> ProblemError:
    config = TrainingConfig(steps=4, batch_size=6, precision="float64")
    tuner = Tuner(problem, kinds or [L2()], config, Replay())
    with pytest.raises(ProblemError) as caught:
        tuner.replica.require_shareable(workers)
    return caught.value


def with_layer(layer: nn.Module) -> Problem:
    model = nn.Sequential(nn.Linear(4, 5), layer, nn.Tanh(), nn.Linear(5, CLASSES))
    return small_problem(model, rows=ROWS)


def test_batch_normalisation_is_refused_by_the_name_of_its_module() -> None:
    for layer in (nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False)):
        error = refused(with_layer(layer))
        assert error.field == "replicas.workers"
        assert "batch normalisation, got 1" in str(error)


def test_dropout_is_refused() -> None:
    error = refused(with_layer(nn.Dropout(0.5)))
    assert error.field == "replicas.workers"
    assert "dropout" in str(error)


class Counting(nn.Module):
    """Averages its inputs over all minibatches in a buffer, which its outputs do not depend on."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * inputs.detach().mean(0)
        return inputs


def test_a_changing_buffer_is_refused_by_name() -> None:
    assert "seen" in str(refused(with_layer(Counting())))


def centred(inputs: Tensor) -> Tensor:
    return inputs - inputs.mean(0)


class Centred(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return centred(inputs)


def test_a_model_whose_rows_depend_on_each_other_is_refused() -> None:
    error = refused(with_layer(Centred()))
    assert error.field == "replicas.workers"
    assert "must be the mean of the losses of its rows" in str(error)


def mixup(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs = torch.stack([inputs for inputs, _ in items])
    targets = torch.stack([target for _, target in items])
    return 0.7 * inputs + 0.3 * inputs.roll(1, 0), targets


def test_mixup_in_the_collate_function_is_refused() -> None:
    problem = small_problem(rows=ROWS)
    problem.collate_fn = mixup
    assert "mixup" in str(refused(problem))


Loss = Callable[[nn.Module, Mapping[str, Tensor], Batch], Tensor]


def total_loss(forward: nn.Module, _: Mapping[str, Tensor], batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(forward(batch.inputs), batch.targets, reduction="sum")


def mean_by_class(forward: nn.Module, _: Mapping[str, Tensor], batch: Batch) -> Tensor:
    counts = 1.0 + torch.eq(batch.targets, 0)
    losses = nn.functional.cross_entropy(forward(batch.inputs), batch.targets, reduction="none")
    mean: Tensor = (losses * counts).sum() / counts.sum()
    return mean


@pytest.mark.parametrize("loss", [total_loss, mean_by_class])
def test_a_training_loss_that_is_no_mean_over_rows_is_refused(loss: Loss) -> None:
    problem = small_problem(rows=ROWS)
    problem.inner_loss = loss
    assert "the training loss must be the mean" in str(refused(problem))


def test_an_outer_loss_that_is_no_mean_over_rows_is_refused() -> None:
    problem = small_problem(rows=ROWS)
    problem.outer_loss = total_loss
    assert "the outer loss must be the mean" in str(refused(problem))


def test_normalised_weights_are_refused_by_name() -> None:
    error = refused(small_problem(rows=ROWS), [SampleWeight("mixture", normalised=True)])
    assert "mixture must not be normalised" in str(error)


def test_more_workers_than_rows_of_a_minibatch_are_refused() -> None:
    error = refused(small_problem(rows=ROWS), workers=7)
    assert error.field == "training.batch_size"
    assert "at least the number of workers, 7" in str(error)
