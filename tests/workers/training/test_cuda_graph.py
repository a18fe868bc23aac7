"""Recorded training steps, as far as they can be seen without a GPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from drmad_workers import (
    L2,
    CosineSchedule,
    LearningRate,
    Problem,
    SampleWeight,
    Shortcut,
    TrainingConfig,
)
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.random_streams import WEIGHTS, seed_of
from drmad_workers.training import cuda_graph as capture_module
from drmad_workers.training.cuda_graph import RecordedStep, recordable, training_step
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun
from tests.workers.small import CLASSES, small_problem, tuner_of

SGD = TrainingConfig("sgd", steps=12, batch_size=4, learning_rate=0.2)
CLIPPED = replace(SGD, clip_norm=0.3)


def run_of(problem: Problem, kinds: list[Kind], training: TrainingConfig = SGD) -> TrainingRun:
    tuner = tuner_of(problem, kinds, training, Shortcut())
    objective = tuner.objective
    objective.parameters.attach()
    objective.set_hyperparameters(tuner.initial_values())
    minibatches = Minibatches(tuner.train_examples, training.batch_size, (0, 0, 0))
    run = TrainingRun(objective, training, minibatches, Monitor())
    initialize(objective, seed_of(WEIGHTS, 0, 0, 0))
    return run


def twice(work: Callable[[], None]) -> Callable[[], None]:
    """Records as a GPU does: the work runs beforehand, and moves the state."""
    work()
    work()
    return work


@pytest.mark.parametrize("training", [SGD, CLIPPED], ids=["plain", "clipped"])
def test_recorded_steps_train_as_the_steps_themselves_do(training: TrainingConfig) -> None:
    def problem() -> Problem:
        torch.manual_seed(0)
        layers = (nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, CLASSES))
        return small_problem(nn.Sequential(*layers))

    kinds: list[Kind] = [L2(per="weight"), SampleWeight(), LearningRate(per="layer")]
    plain, run = (run_of(problem(), kinds, training) for _ in range(2))
    assert recordable(run)
    take = RecordedStep(run, record=twice)
    assert torch.equal(run.state, plain.state)
    losses = [float(plain.take(step)) for step in range(SGD.steps)]
    assert [float(take(step)) for step in range(SGD.steps)] == losses
    assert torch.equal(run.state, plain.state)
    assert torch.equal(run.clipped, plain.clipped)
    assert bool(run.clipped.any()) == (training is CLIPPED)
    buffers = [each.objective.parameters.model.buffers() for each in (run, plain)]
    for one, other in zip(*buffers, strict=True):
        assert torch.equal(one, other)


def test_minibatches_of_another_shape_than_the_recorded_one_are_taken_as_they_are() -> None:
    def problem() -> Problem:
        """The longest of each minibatch determines its shape."""
        torch.manual_seed(0)
        inputs, targets = small_problem().train
        lengths = [2, 2, 2, 2, 2, 3] * 2
        items = [
            (row[:length], target)
            for row, length, target in zip(inputs, lengths, targets, strict=True)
        ]

        def collate(items: list[Any]) -> Any:
            rows = nn.utils.rnn.pad_sequence([row for row, _ in items], batch_first=True)
            return {"x": rows, "labels": torch.stack([target for _, target in items])}

        return Problem(
            nn.Linear(2, CLASSES), items, items, collate_fn=collate,
            apply=lambda model, content: model(content["x"][:, :2]) + content["x"].sum(1)[:, None],
            loss=lambda outputs, content: nn.functional.cross_entropy(
                outputs, content["labels"], reduction="none"
            ),
        )  # fmt: skip

    replays: list[int] = []

    def record(work: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            replays.append(1)
            work()

        return replay

    plain, run = (run_of(problem(), [L2(per="weight"), SampleWeight()]) for _ in range(2))
    take = RecordedStep(run, record=record)
    losses = [float(plain.take(step)) for step in range(SGD.steps)]
    assert [float(take(step)) for step in range(SGD.steps)] == losses
    assert torch.equal(run.state, plain.state)
    assert 0 < len(replays) < SGD.steps


@pytest.mark.parametrize(
    ("model", "kind", "training"),
    [
        (None, LearningRate(per="step"), SGD),
        (None, L2(per="weight"), replace(SGD, schedule=CosineSchedule())),
        (None, L2(per="weight"), replace(SGD, accumulate=2)),
        (None, L2(per="weight"), TrainingConfig("adam", steps=12, batch_size=4)),
        (
            nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, CLASSES)),
            L2(per="weight"),
            SGD,
        ),
    ],
    ids=["rates per step", "schedule", "accumulation", "adam", "dropout"],
)
def test_steps_that_differ_in_more_than_their_minibatch_are_not_recorded(
    model: nn.Module | None, kind: Kind, training: TrainingConfig
) -> None:
    assert not recordable(run_of(small_problem(model), [kind], training))


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(small_problem(), [L2(per="weight")])
    assert training_step(run) == run.take

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    before = run.state.clone()
    monkeypatch.setattr(capture_module, "cuda_graph", refuse)
    monkeypatch.setattr(run.objective.parameters, "device", torch.device("cuda"))
    assert training_step(run) == run.take
    assert torch.equal(run.state, before)
